"""`run_qa.py` in this process: pruning approaches, mixes of the three compressions, and the distillation loss."""

import json
import sys
from pathlib import Path

import pytest

import run_qa
from qa.compression.schedule import fit_schedule
from qa.compression.settings import settings_for_pruning
from qa.start.errors import UsageError

SAMPLE = Path(__file__).resolve().parents[2] / "sample"
TEACHER = ("--apply_distillation", "--teacher_model_name_or_path", str(SAMPLE / "distilbert-qa-teacher"))
PRUNING = ("--apply_pruning", "--target_sparsity", "0.3")
QUANTIZATION = ("--apply_quantization",)
MIXES = {
    "quantization": QUANTIZATION,
    "pruning": PRUNING,
    "distillation": TEACHER,
    "quantization and pruning": QUANTIZATION + PRUNING,
    "quantization and distillation": QUANTIZATION + TEACHER,
    "pruning and distillation": PRUNING + TEACHER,
    "pruning and distillation in bf16": (*PRUNING, *TEACHER, "--generate_teacher_logits", "--bf16"),
    "all three": QUANTIZATION + PRUNING + TEACHER + ("--generate_teacher_logits",),
}
SCHEDULED = [approach for approach in run_qa.PRUNING_APPROACHES if approach != "pattern_lock"]


def train(monkeypatch, folder, *flags, samples=48):
    """Run `run_qa.py` on a few questions of sample/ and return its results."""
    words = ["--model_name_or_path", str(SAMPLE / "distilbert-qa"), "--train_file", str(SAMPLE / "train.json")]
    words += ["--validation_file", str(SAMPLE / "dev.json"), "--do_train", "--do_eval", "--verify_loading"]
    words += ["--max_train_samples", str(samples), "--max_eval_samples", "40", "--per_device_train_batch_size", "4"]
    words += ["--num_train_epochs", "1", "--learning_rate", "1e-5", "--save_strategy", "no", "--no_cuda"]
    monkeypatch.setattr(sys, "argv", ["run_qa.py", *words, "--output_dir", str(folder), *flags])
    monkeypatch.chdir(folder.parent)
    run_qa.main()
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


@pytest.mark.recipe
@pytest.mark.parametrize("flags", MIXES.values(), ids=MIXES)
def test_each_mix_trains_and_answers_after_loading(flags, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FORCE_BF16", "1")  # INC then takes this processor for one with bf16 instructions
    results = train(monkeypatch, tmp_path / "out", *flags)
    assert "verify_loading: largest logit difference 0, tolerance 0: passed" in capsys.readouterr().out
    assert results["eval_f1"] >= 85
    if "--apply_pruning" in flags:
        assert results["sparsity"] == pytest.approx(0.3, abs=0.001)


@pytest.mark.recipe
@pytest.mark.parametrize("approach", SCHEDULED)
def test_each_approach_reaches_its_target(approach, monkeypatch, tmp_path):
    flags = ("--apply_pruning", "--pruning_approach", approach, "--target_sparsity", "0.5")
    results = train(monkeypatch, tmp_path / "out", *flags)
    assert results["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert not [name for name in results["sparsity_per_op"] if "qa_outputs" in name]


@pytest.mark.recipe
@pytest.mark.parametrize("width", [None, 256], ids=["longest of the batch", "padded"])
def test_stored_teacher_logits_give_the_loss_of_a_live_teacher(width, tmp_path):
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, TrainingArguments

    from qa.compression.distillation import add_teacher_logits, distillation_config
    from qa.questions.examples import read_examples
    from qa.questions.features import dataset_of, prepare_features
    from qa.start.arguments import DataTrainingArguments
    from qa.training.batches import FeatureCollator
    from trainer_qa import QuestionAnsweringINCTrainer

    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    student = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa")
    teacher = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa-teacher").eval()
    examples = dataset_of(read_examples(SAMPLE / "train.json", "train", 20))
    features = prepare_features(examples, tokenizer, DataTrainingArguments(max_seq_length=256))
    stored = add_teacher_logits(features, teacher, tokenizer, batch_size=7)
    settings = {"temperature": 2.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]}
    trainer = QuestionAnsweringINCTrainer(
        model=student,
        args=TrainingArguments(str(tmp_path), do_train=True, use_cpu=True, report_to=[]),
        distillation_config=distillation_config(settings, teacher),
        processing_class=tokenizer,
    )
    collate = FeatureCollator(tokenizer, width)
    rows = list(range(0, len(features), 3))
    columns = [*tokenizer.model_input_names, "start_positions", "end_positions"]
    losses = []
    with torch.no_grad():
        for source, names in ((features, columns), (stored, [*columns, "teacher_logits"])):
            batch = collate([{name: source[row][name] for name in names} for row in rows])
            losses.append(float(trainer.compute_loss(student.eval(), batch)))
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
        # Without the loss on the labels, which padding takes part in, the width of a batch makes no difference.
        trainer.distillation_callback.criterion.loss_weights = [0.0, 1.0]
        taught = {}
        for kind in ("CE", "KL", "MSE"):
            trainer.distillation_callback.criterion.loss_types[1] = kind
            batches = (FeatureCollator(tokenizer, wide)([features[row] for row in rows]) for wide in (None, 256))
            narrow, padded = (float(trainer.compute_loss(student, batch)) for batch in batches)
            assert narrow == pytest.approx(padded, rel=1e-4)
            taught[kind] = narrow
        assert 0 < taught["KL"] < taught["CE"]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--generate_teacher_logits"], "--apply_distillation"),
        (["--apply_distillation"], "--teacher_model_name_or_path"),
        (["--apply_pruning", "--pruning_approach", "lottery"], "pattern_lock"),
        (["--apply_pruning", "--target_sparsity", "1.5"], "--target_sparsity"),
        (["--pruning_config", "prune.yml"], "--apply_pruning"),
        (["--quantization_config", "quantization.yml"], "--apply_quantization"),
        (["--distillation_config", "distillation.yml"], "--apply_distillation"),
        (["--apply_pruning", "--pruning_config", "no-such.yml"], "no-such.yml"),
        (["--apply_quantization", "--use_ipex"], "--use_ipex"),
    ],
)
def test_what_cannot_be_trained_is_refused(flags, named, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(monkeypatch, tmp_path / "out", *flags)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


class Arguments(run_qa.OptimizationArguments):
    """Arguments of which none was given on the command line."""

    given = frozenset()


@pytest.mark.parametrize("approach", SCHEDULED)
@pytest.mark.parametrize("steps", [5, 12, 50, 101])
def test_a_schedule_ends_inside_the_training(approach, steps):
    arguments = Arguments(pruning_approach=approach)
    arguments.given = {"pruning_approach"}
    settings = fit_schedule(settings_for_pruning(arguments)["pruning"], steps, steps)
    assert settings["pruning_type"] == approach
    assert 0 < settings["end_step"] < steps
    if approach.endswith("_progressive"):
        assert settings["pruning_frequency"] == (4 if steps >= 8 else 1)
        assert (settings["end_step"] + 1) % settings["pruning_frequency"] == 0


def test_flags_win_over_the_file_and_the_file_over_their_defaults(tmp_path):
    path = tmp_path / "prune.yml"
    path.write_text("target_sparsity: 0.4\npruning_type: magnitude\nstart_step: 3\n", encoding="utf-8")
    arguments = Arguments(pruning_config=str(path), target_sparsity=0.7)
    arguments.given = {"pruning_config", "target_sparsity"}
    settings = fit_schedule(settings_for_pruning(arguments)["pruning"], 20, 20)
    assert (settings["target_sparsity"], settings["pruning_type"], settings["start_step"]) == (0.7, "magnitude", 3)


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="does not fit into 20 training steps"):
        fit_schedule(settings_for_pruning(Arguments(start_step=30))["pruning"], 20, 20)
