"""--report_to tensorboard: what is in the event files, compared with what the run says of itself."""

import math
from pathlib import Path

import pytest
from test_run_qa import PRUNING, QUANTIZATION, TEACHER, train


def scalars_of(folder):
    """Return `{tag: {step: value}}` of the event files in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


@pytest.mark.recipe
def test_scores_losses_sparsity_and_ranges_are_shown_over_steps(monkeypatch, tmp_path):
    flags = [*QUANTIZATION, *PRUNING, *TEACHER, "--report_to", "tensorboard", "--logging_steps", "2"]
    flags += ["--eval_strategy", "epoch", "--logging_dir", str(tmp_path / "events")]
    results = train(monkeypatch, tmp_path / "out", *flags)
    shown = scalars_of(tmp_path / "events")
    last = max(shown["train/loss"])
    steps = list(range(2, last + 1, 2))

    parts = [list(shown[f"train/{part}"]) for part in ("loss", "loss_student", "loss_distillation", "sparsity")]
    assert parts == [steps] * 4
    # The settings of distillation.yml: both parts count the same. What is logged is rounded to four digits.
    for step in steps:
        mean = (shown["train/loss_student"][step] + shown["train/loss_distillation"][step]) / 2
        assert shown["train/loss"][step] == pytest.approx(mean, abs=2e-4)

    sparsity = list(shown["train/sparsity"].values())
    assert sparsity == sorted(sparsity) and sparsity[0] < 0.1
    assert sparsity[-1] == pytest.approx(results["sparsity"], abs=1e-6)
    assert shown["saved/sparsity"] == {last: pytest.approx(results["sparsity"], abs=1e-6)}
    assert shown["saved/f1"] == {last: pytest.approx(results["eval_f1"], abs=1e-4)}
    assert list(shown["eval/f1"]) == [last]

    names = {tag.partition("/")[2] for tag in shown if tag.startswith("activation_")}
    # Twelve places of one layer, however many layers there are: in front of and behind six linear operators.
    assert len(names) == 12
    block = "distilbert.transformer.layer.*"
    for name in names:
        low, high = shown[f"activation_min/{name}"], shown[f"activation_max/{name}"]
        assert list(low) == list(high) == steps
        assert all(low[step] < 0 < high[step] and math.isfinite(high[step] - low[step]) for step in steps)
        # In the second half of the training they are kept.
        assert len({(low[step], high[step]) for step in steps if step > last / 2}) == 1
    # Query, key and value have the same input.
    for bound in ("min", "max"):
        inputs = [shown[f"activation_{bound}/{block}.attention.{side}_lin.0"] for side in "qkv"]
        assert inputs[0] == inputs[1] == inputs[2]


@pytest.mark.recipe
def test_without_it_nothing_is_written_beside_the_model(monkeypatch, tmp_path):
    train(monkeypatch, tmp_path / "out", *QUANTIZATION)
    assert not list(Path(tmp_path).rglob("*tfevents*"))
    assert not (tmp_path / "out" / "runs").exists()
