"""The processes that models are measured in."""

import signal

import numpy as np
import pytest
from conftest import SAMPLE

from qa.results.measure import measure, start_measuring
from qa.start.errors import SaveError

pytestmark = pytest.mark.recipe


def test_models_are_measured_in_processes_of_their_own(tmp_path):
    # Files of the user's where it runs, which are no modules of ours.
    (tmp_path / "token.py").write_text("raise SystemExit")
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "__init__.py").touch()
    models = [("fp32", SAMPLE / "distilbert-qa"), ("fp32", SAMPLE / "distilbert-qa-teacher")]
    batches = [
        {"input_ids": np.full((2, width), 5), "attention_mask": np.ones((2, width), int)} for width in (9, 9, 7)
    ]
    small, large = measure(start_measuring(models, tmp_path), [{2: batches}, {2: batches[:2]}])
    assert small["speed"][0]["passes"] % 2 == 0 and small["speed"][0]["batch_size"] == 2
    assert 0 < small["speed"][0]["p50_ms"] <= small["speed"][0]["p95_ms"]
    assert small["libraries_memory_mb"] < small["speed"][0]["peak_memory_mb"] < large["speed"][0]["peak_memory_mb"]


def test_a_model_that_cannot_be_loaded_is_said(tmp_path, capfd):
    with pytest.raises(SaveError, match=f"--report: the process that measures {tmp_path} ended with 1"):
        measure(start_measuring([("fp32", tmp_path)], tmp_path), [{}])
    assert "config.json" in capfd.readouterr().err


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_process_that_is_never_asked_ends_in_silence(interrupted, tmp_path, capfd):
    (process,) = start_measuring([("fp32", SAMPLE / "distilbert-qa")], tmp_path)
    if interrupted:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == (-signal.SIGINT if interrupted else 0)
    assert capfd.readouterr().err == ""
