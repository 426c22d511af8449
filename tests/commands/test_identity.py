"""No run stands in for another: what a finished run was made from, and what becomes of it when that changes."""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from conftest import SAMPLE
from transformers import AutoConfig, TrainingArguments

import run_qa
import run_qa_post_training
from qa.models import identity
from qa.models.identity import weights_of
from qa.questions import features as features_room
from qa.questions.examples import read_examples
from qa.results import asking
from qa.results.comparison import print_results
from qa.start.arguments import DataTrainingArguments, ModelArguments, OutcomeArguments
from qa.start.errors import UsageError
from qa.start.run import Run

pytestmark = pytest.mark.recipe


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a model, its training questions, and a run of `run_qa.py` made from them."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copytree(SAMPLE / "distilbert-qa", place / "model")
    shutil.copy(SAMPLE / "train.json", place / "train.json")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, place)
    return place


@pytest.fixture
def place(finished, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


EVALUATED = ["--model_name_or_path", "model", "--train_file", "train.json", "--validation_file", SAMPLE / "dev.json"]
EVALUATED += ["--max_eval_samples", "6", "--do_eval"]


def run(patch, place, *flags, script=run_qa, words=EVALUATED):
    words = [*words, "--max_train_samples", "6", "--no_cuda", "--max_seq_length", "96", "--doc_stride", "32"]
    words += ["--output_dir", "out"]
    if script is run_qa:
        words += ["--do_train", "--max_steps", "2", "--save_steps", "1", "--per_device_train_batch_size", "2"]
        words += ["--apply_pruning", "--target_sparsity", "0.1"]
    patch.setattr(sys, "argv", ["x.py", *map(str, words), *map(str, flags)])
    patch.chdir(place)
    script.main.__wrapped__()


def refusal(monkeypatch, place, *flags):
    before = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*")}
    with pytest.raises(UsageError) as refused:
        run(monkeypatch, place, *flags)
    assert {path: path.stat().st_mtime_ns for path in (place / "out").rglob("*")} == before
    return str(refused.value)


def change_weights(place):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(place / "model" / "model.safetensors")
    torch.manual_seed(0)
    noise = {name: torch.randn_like(each) for name, each in weights.items()}
    save_file(noise, place / "model" / "model.safetensors", {"format": "pt"})


def test_a_finished_run_says_so_and_only_evaluates(monkeypatch, place, capsys):
    weights = (place / "out" / "pytorch_model.bin").stat().st_mtime_ns
    run(monkeypatch, place, "--max_eval_samples", "4")
    output = capsys.readouterr().out
    assert "note: out holds this run, finished, made from --model_name_or_path" in output
    assert (place / "out" / "pytorch_model.bin").stat().st_mtime_ns == weights
    results = json.loads((place / "out" / "all_results.json").read_text(encoding="utf-8"))
    assert results["eval_samples"] == 4 and results["sparsity"] == pytest.approx(0.1, abs=0.001)
    run(monkeypatch, place, "--verify_loading")
    assert "tolerance 0: passed" in capsys.readouterr().out


def test_a_finished_run_answers_other_questions_and_its_card_keeps_the_scores(monkeypatch, place):
    card = (place / "out" / "README.md").read_text(encoding="utf-8")
    assert "6 questions of `dev.json`" in card
    words = ["--model_name_or_path", "model", "--train_file", "train.json", "--do_train", "--do_predict"]
    words += ["--test_file", SAMPLE / "dev.json", "--max_predict_samples", "3"]
    run(monkeypatch, place, words=words)
    assert (place / "out" / "README.md").read_text(encoding="utf-8") == card
    assert len(json.loads((place / "out" / "predict_predictions.json").read_text(encoding="utf-8"))) == 3
    # As the transformers example calls them.
    results = json.loads((place / "out" / "predict_results.json").read_text(encoding="utf-8"))
    assert results.keys() >= {"test_f1", "test_exact_match", "test_runtime", "predict_samples"}


def test_a_report_on_other_questions_does_not_outlive_its_scores(monkeypatch, place):
    run(monkeypatch, place, "--report")
    for flags, left in (([], True), (["--max_eval_samples", "4"], False)):
        run(monkeypatch, place, *flags)
        assert (place / "out" / "report.html").exists() == (place / "out" / "report_cost.png").exists() == left


def test_what_tensorboard_shows_is_the_runs_own(monkeypatch, place):
    flags = ["--report_to", "tensorboard", "--output_dir", "shown"]
    for more in ([], [], ["--overwrite_output_dir"]):
        run(monkeypatch, place, *flags, *more)
    files = json.loads((place / "shown" / "run.json").read_text(encoding="utf-8"))["files"]
    assert {path for path in files if "tfevents" in path} == {
        str(path.relative_to(place / "shown")) for path in (place / "shown" / "runs").rglob("*tfevents*")
    }


def test_questions_that_decide_over_the_model_are_part_of_the_run(monkeypatch, place):
    (place / "criterion.yml").write_text("accuracy_criterion: {criterion: absolute, tolerable_loss: 100}\n")
    flags = ["--apply_quantization", "--quantization_config", "criterion.yml", "--output_dir", "tuned"]
    run(monkeypatch, place, *flags, script=run_qa_post_training)
    with pytest.raises(UsageError, match=r"--validation_file or --dataset_name \w+ \(now \w+\)"):
        run(monkeypatch, place, *flags, "--max_eval_samples", "4", script=run_qa_post_training)
    with pytest.raises(UsageError, match=r"max_answer_length 30 \(now 3\)"):
        run(monkeypatch, place, *flags, "--max_answer_length", "3", script=run_qa_post_training)


def test_an_evaluated_model_is_asked_only_while_it_is_the_same(monkeypatch, place):
    run(monkeypatch, place, "--output_dir", "fp32", script=run_qa_post_training)
    assert asking.load(place / "fp32", "original", "fp32").model is not None
    change_weights(place)
    with pytest.raises(UsageError, match=r"fp32: \S+model is another model now than the one evaluated"):
        asking.load(place / "fp32", "original", "fp32")


def test_an_evaluated_model_keeps_the_configuration_and_tokenizer_that_were_named(monkeypatch, place, tmp_path):
    for name in ("config", "tokenizer"):
        (place / name).mkdir()
    config = json.loads((place / "model" / "config.json").read_text(encoding="utf-8"))
    (place / "config" / "config.json").write_text(json.dumps(config | {"n_heads": 2}), encoding="utf-8")
    for path in (place / "model").iterdir():
        if path.suffix in (".json", ".txt") and path.name != "config.json":
            path.rename(place / "tokenizer" / path.name)
    flags = ["--config_name", "config", "--tokenizer_name", "tokenizer", "--output_dir", "fp32"]
    run(monkeypatch, place, *flags, script=run_qa_post_training)
    predictions = json.loads((place / "fp32" / "eval_predictions.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    asked = asking.load(place / "fp32", asking.kind_of_model(place / "fp32"), "fp32")
    assert asked.model.config.n_heads == 2 != config["n_heads"]
    for example in read_examples(str(SAMPLE / "dev.json"), "dev", 6):
        assert asking.ask(asked, example["question"], example["context"])["answer"] == predictions[example["id"]]


def test_runs_on_the_same_questions_in_other_files_are_compared(monkeypatch, place, capsys):
    rows = read_examples(str(SAMPLE / "dev.json"), "dev", 6)
    for row in rows:
        row["answers"]["answer_start"] = [-1] * len(row["answers"]["text"])
    (place / "flat.json").write_text(json.dumps(rows), encoding="utf-8")
    for name, flags in (("nested", []), ("flat", ["--validation_file", "flat.json"])):
        run(monkeypatch, place, *flags, "--output_dir", name, script=run_qa_post_training)
    print_results([place / "nested", place / "flat"])
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == "flat"


def test_other_weights_in_the_same_folder_are_another_run(monkeypatch, place):
    change_weights(place)
    assert "--model_name_or_path" in refusal(monkeypatch, place)


def test_shards_of_any_name_are_weights(place):
    name = str(place / "model")
    before = weights_of(name, None)
    (place / "model" / "encoder-1-of-2.safetensors").write_bytes(b"weights")
    assert weights_of(name, None) != before


def test_the_tokenizer_of_a_teacher_is_part_of_the_run(monkeypatch, place):
    shutil.copytree(place / "model", place / "teacher")
    words = ["--apply_distillation", "--teacher_model_name_or_path", "teacher", "--overwrite_output_dir"]
    run(monkeypatch, place, *words)
    file = place / "teacher" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": ["input_ids", "token_type_ids"]}))
    assert "--teacher_model_name_or_path" in refusal(monkeypatch, place, *words[:-1])


def test_a_model_on_the_hub_is_told_by_its_commit_also_beside_another_configuration(tokenizer, monkeypatch):
    asked = []

    def from_hub(auto_class, flag, name, model_args):
        asked.append((auto_class.__name__, flag, name))
        return SimpleNamespace(_commit_hash="c0ffee")

    monkeypatch.setattr(identity, "from_pretrained", from_hub)
    config = AutoConfig.from_pretrained(SAMPLE / "distilbert-qa")
    model_args = ModelArguments("someone/else", config_name=str(SAMPLE / "distilbert-qa"))
    training_args = TrainingArguments("out", use_cpu=True, report_to=[])
    run = Run(
        model_args, DataTrainingArguments(), training_args, OutcomeArguments(), config=config, tokenizer=tokenizer
    )
    found = identity.made_from(run)
    assert found["inputs"]["--model_name_or_path"] == "someone/else c0ffee"
    assert asked == [("AutoConfig", "model_name_or_path", "someone/else")]


def test_other_questions_in_the_same_file_are_another_run(monkeypatch, place):
    text = (place / "train.json").read_text(encoding="utf-8")
    content = json.loads(text)
    content["data"][0]["paragraphs"][0]["qas"][0]["question"] += "?"
    (place / "train.json").write_text(json.dumps(content), encoding="utf-8")
    assert "--train_file or --dataset_name" in refusal(monkeypatch, place)


def test_a_flag_that_nobody_thought_of_is_another_run(monkeypatch, place):
    assert "neftune_noise_alpha None (now 3.0)" in refusal(monkeypatch, place, "--neftune_noise_alpha", "3")


def test_a_checkpoint_goes_on_as_the_run_that_it_is_of(monkeypatch, place):
    flags = ["--resume_from_checkpoint", "out/checkpoint-1", "--overwrite_output_dir"]
    assert "target_sparsity 0.1 (now 0.5)" in refusal(monkeypatch, place, *flags, "--target_sparsity", "0.5")
    assert "target_sparsity 0.1 (now 0.5)" in refusal(
        monkeypatch, place, *flags[:2], "--target_sparsity", "0.5", "--output_dir", "elsewhere"
    )
    run(monkeypatch, place, *flags)
    assert (place / "out" / "checkpoint-1").is_dir()


def test_a_source_is_not_replaced_by_what_is_made_from_it(monkeypatch, place):
    shutil.copytree(place / "model", place / "hf" / "checkpoint-500")
    before = sorted((place / "hf").rglob("*"))
    flags = ["--model_name_or_path", "hf/checkpoint-500", "--output_dir", "hf", "--overwrite_output_dir"]
    with pytest.raises(UsageError, match=r"--model_name_or_path hf/checkpoint-500 lies in --output_dir hf"):
        run(monkeypatch, place, *flags, "--apply_quantization", script=run_qa_post_training)
    assert sorted((place / "hf").rglob("*")) == before


def test_an_encoder_is_not_pruned_into_its_own_folder(monkeypatch, place):
    import prune_encoder_qa

    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["x.py", "--model_name_or_path", "model", "--output_dir", "model"])
    with pytest.raises(UsageError, match="--output_dir model"):
        prune_encoder_qa.main.__wrapped__()
    assert (place / "model" / "vocab.txt").is_file()


def test_features_of_other_code_are_not_taken_from_the_cache(tokenizer, tmp_path, monkeypatch):
    rows = [{"id": "1", "context": "Ann met Bob.", "question": "Who?", "answers": None}]

    def prepare():
        examples = features_room.dataset_of(rows)
        return features_room.prepare_features(examples, tokenizer, DataTrainingArguments(), str(tmp_path))

    first = prepare()._fingerprint
    assert prepare()._fingerprint == first
    monkeypatch.setattr(features_room, "code_of", lambda *rooms: "changed")
    assert prepare()._fingerprint != first
