"""--push_to_hub of the scripts, against a stand-in for the hub on loopback."""

import json
import os
import subprocess
import sys

import forked_main
import pytest
from conftest import ROOT, SAMPLE
from huggingface_hub import ModelCard
from stand_in_hub import TOKEN, metadata_errors, running_hub

import run_qa
import run_qa_post_training

QUESTIONS = ["--train_file", str(SAMPLE / "train.json"), "--validation_file", str(SAMPLE / "dev.json"), "--do_eval"]
BASE = ["--model_name_or_path", str(SAMPLE / "distilbert-qa"), *QUESTIONS, "--max_eval_samples", "40", "--no_cuda"]
PUSHED = [*BASE, "--push_to_hub"]
DYNAMIC = ["run_qa_post_training.py", *PUSHED, "--apply_quantization"]
PRUNING = ["run_qa.py", *PUSHED, "--do_train", "--max_train_samples", "48", "--num_train_epochs", "1"]
PRUNING += ["--apply_pruning", "--target_sparsity", "0.3", "--save_steps", "2", "--logging_steps", "2"]
EXPORT = ["export_qa.py", *PUSHED, "--apply_quantization"]
MODEL = {
    "README.md",
    "all_results.json",
    "config.json",
    "eval_nbest_predictions.json",
    "eval_predictions.json",
    "eval_results.json",
    "inc_config.json",
    "pytorch_model.bin",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
}


@pytest.fixture(scope="module")
def hub_of_all():
    with running_hub() as hub:
        variables = {**os.environ, "HF_ENDPOINT": hub.url}
        del variables["HF_HUB_OFFLINE"]
        hub.variables = variables
        yield hub


@pytest.fixture
def hub(hub_of_all):
    hub_of_all.forget()
    return hub_of_all


def run(words, tmp_path, hub, **environment):
    script, *flags = words
    flags += ["--output_dir", tmp_path / "out"]
    environment = {**hub.variables, **environment}
    return forked_main.run(script, *flags, cwd=tmp_path, imported_in=hub.variables, env=environment)


def assert_arrived(hub, out, name, files):
    assert hub.commits == 1
    assert set(hub.files) == files
    for path, content in hub.files.items():
        assert content == (out / path).read_bytes()
        for place in (out.parent, ROOT):
            assert str(place).encode() not in content, path
    assert len(hub.files["model.onnx" if "model.onnx" in files else "pytorch_model.bin"]) > 300_000
    text = hub.files["README.md"].decode()
    assert metadata_errors(text) == []
    card = ModelCard(text)
    assert card.data.model_name == name and f'"{name}"' in text
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    results = json.loads(hub.files["all_results.json"])
    assert scores == {kind: round(results[f"eval_{kind}"], 2) for kind in ("f1", "exact_match")}


@pytest.mark.recipe
def test_a_quantized_model_arrives(hub, tmp_path):
    finished = run([*DYNAMIC, "--report", "--hub_token", TOKEN, "--hub_private_repo"], tmp_path, hub)
    assert finished.returncode == 0, finished.stderr
    assert f"sent to {hub.url}/tester/out" in finished.stdout
    assert hub.repositories.keys() == {"tester/out"} and hub.repositories["tester/out"]["private"]
    report = {"report.json", "report.html", "report.md", "report_scores.png", "report_cost.png"}
    assert_arrived(hub, tmp_path / "out", "tester/out", MODEL | report)
    original = json.loads(hub.files["report.json"])["models"]["original"]
    assert f"the original F1 {original['f1']:.2f} and exact match" in hub.files["README.md"].decode()


@pytest.mark.recipe
def test_a_trained_model_arrives_once_and_without_checkpoints(hub, tmp_path):
    flags = ["--hub_model_id", "tester/pruned", "--report_to", "tensorboard"]
    finished = run([*PRUNING, *flags], tmp_path, hub, HF_TOKEN=TOKEN)
    assert finished.returncode == 0, finished.stderr
    assert hub.repositories.keys() == {"tester/pruned"} and not hub.repositories["tester/pruned"].get("private")
    assert list((tmp_path / "out").glob("checkpoint-*")) and (tmp_path / "out" / "runs").is_dir()
    assert_arrived(hub, tmp_path / "out", "tester/pruned", MODEL | {"train_results.json"})


@pytest.mark.recipe
def test_an_exported_model_arrives(hub, tmp_path):
    finished = run([*EXPORT, "--hub_token", TOKEN], tmp_path, hub)
    assert finished.returncode == 0, finished.stderr
    files = MODEL - {"inc_config.json", "pytorch_model.bin"} | {"model.onnx"}
    assert_arrived(hub, tmp_path / "out", "tester/out", files)


@pytest.mark.recipe
def test_a_hub_that_fails_at_the_end_leaves_the_model_in_its_folder(hub, tmp_path):
    hub.is_full = True
    finished = run([*DYNAMIC, "--hub_token", TOKEN], tmp_path, hub)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(f"error: the model is in {tmp_path / 'out'}, but {hub.url}")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= MODEL
    assert hub.commits == 0


@pytest.mark.recipe
@pytest.mark.parametrize("script", [DYNAMIC, PRUNING, EXPORT], ids=lambda words: words[0])
def test_a_token_that_the_hub_does_not_know_is_refused_at_once(script, hub, tmp_path):
    assert_refused(run([*script, "--hub_token", "hf_wrong"], tmp_path, hub), tmp_path, [hub.url, "--hub_token"])
    assert hub.requests == ["/api/whoami-v2"]


@pytest.mark.recipe
def test_a_hub_that_does_not_answer_is_refused_at_once(tmp_path):
    with running_hub() as gone:
        pass
    script, *flags = DYNAMIC
    variables = {**os.environ, "HF_ENDPOINT": gone.url}
    del variables["HF_HUB_OFFLINE"]
    words = [sys.executable, str(ROOT / script), *flags, "--hub_token", TOKEN, "--output_dir", str(tmp_path / "out")]
    finished = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert_refused(finished, tmp_path, ["--push_to_hub", gone.url, "cannot be reached"])


def assert_refused(finished, tmp_path, expected):
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert all(part in finished.stderr for part in expected)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("script", "flags", "expected"),
    [
        # The tests run offline.
        (run_qa_post_training, DYNAMIC[1:], "HF_HUB_OFFLINE"),
        (run_qa, PRUNING[1:], "HF_HUB_OFFLINE"),
        (run_qa_post_training, PUSHED, "--apply_quantization"),
        (run_qa, PUSHED, "--do_train"),
        (run_qa_post_training, [*DYNAMIC[1:], "--report_to", "tensorboard"], "--report_to"),
        (run_qa, [*BASE, "--do_train", "--report_to", "tensorbord"], "--report_to tensorbord"),
    ],
)
def test_what_cannot_be_sent_or_shown_is_refused_before_anything_is_read(
    script, flags, expected, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(sys, "argv", ["script", *flags, "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and expected in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
