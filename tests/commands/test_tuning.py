"""Quantization with an accuracy criterion: each trial shows its F1, and only what meets the criterion is saved."""

import json
import re
import sys

import pytest
from conftest import SAMPLE
from neural_compressor.adaptor.pytorch import PyTorch_FXAdaptor

import run_qa_post_training

pytestmark = pytest.mark.recipe


@pytest.fixture
def quantize(monkeypatch, tmp_path):
    """Return a function that quantizes the sample model after some YAML text, in this process."""

    def run(text):
        (tmp_path / "quantization.yml").write_text(text, encoding="utf-8")
        words = ["--model_name_or_path", str(SAMPLE / "distilbert-qa"), "--train_file", str(SAMPLE / "train.json")]
        words += ["--validation_file", str(SAMPLE / "dev.json"), "--max_eval_samples", "40", "--do_eval", "--no_cuda"]
        words += ["--apply_quantization", "--quantization_approach", "static", "--num_calibration_samples", "16"]
        words += ["--quantization_config", str(tmp_path / "quantization.yml"), "--verify_loading"]
        monkeypatch.setattr(sys, "argv", ["run_qa_post_training.py", *words, "--output_dir", str(tmp_path / "out")])
        monkeypatch.chdir(tmp_path)
        run_qa_post_training.main()
        return json.loads((tmp_path / "out" / "all_results.json").read_text(encoding="utf-8"))

    return run


def scores_in_turn(monkeypatch, *scores):
    """Have INC see these F1 values, that of the fp32 model first, whatever the models answer."""
    from qa.results import evaluation

    waiting = list(scores)
    monkeypatch.setattr(evaluation, "f1_of_trials", lambda prepared, data_args: lambda model: waiting.pop(0))
    return waiting


def test_the_f1_of_each_trial_is_shown_and_the_one_that_meets_the_criterion_is_saved(quantize, capsys):
    results = quantize(
        "accuracy_criterion: {criterion: relative, tolerable_loss: 0.05}\ntuning_criterion: {max_trials: 3}\n"
    )
    output = capsys.readouterr().out
    fp32, *trials = (float(value) for value in re.findall(r"^(?:fp32|trial \d+): F1 ([\d.]+)$", output, re.MULTILINE))
    assert len(trials) <= 3
    assert trials[-1] >= fp32 * 0.95
    assert results["eval_f1"] == pytest.approx(trials[-1], abs=1e-4)
    assert "passed" in output


def test_trials_go_on_until_one_meets_the_criterion(quantize, monkeypatch, capsys):
    waiting = scores_in_turn(monkeypatch, 90.0, 50.0, 60.0, 89.5, 90.0)
    quantize("accuracy_criterion: {criterion: absolute, tolerable_loss: 1}\ntuning_criterion: {max_trials: 9}\n")
    assert waiting == [90.0]
    assert "passed" in capsys.readouterr().out


def test_when_no_trial_meets_the_criterion_nothing_is_saved(quantize, monkeypatch, tmp_path, capsys):
    # INC's strategy tries the default once, and only then counts the trials.
    waiting = scores_in_turn(monkeypatch, 90.0, 50.0, 60.0, 88.9)
    with pytest.raises(SystemExit) as ended:
        quantize("accuracy_criterion: {criterion: absolute, tolerable_loss: 1}\ntuning_criterion: {max_trials: 2}\n")
    assert ended.value.code == 1
    assert waiting == []
    assert "no trial met the accuracy criterion; nothing was saved" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]


def test_a_trial_that_crashes_is_no_trial_that_failed_the_criterion(quantize, monkeypatch, tmp_path, capfd):
    waiting = scores_in_turn(monkeypatch, 90.0)  # and nothing to give for the first trial
    with pytest.raises(IndexError, match="pop from empty list"):
        quantize("accuracy_criterion: {criterion: absolute, tolerable_loss: 1}\ntuning_criterion: {max_trials: 2}\n")
    assert waiting == []
    assert "no trial met" not in capfd.readouterr().out

    def fail(*args, **kwargs):
        raise AssertionError("no such operator")

    monkeypatch.setattr(PyTorch_FXAdaptor, "quantize", fail)
    scores_in_turn(monkeypatch, 90.0)
    with pytest.raises(SystemExit) as ended:
        quantize("accuracy_criterion: {criterion: absolute, tolerable_loss: 1}\ntuning_criterion: {max_trials: 2}\n")
    assert ended.value.code == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "error: --apply_quantization: INC cannot quantize this model: AssertionError: no such oper"
    )
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
