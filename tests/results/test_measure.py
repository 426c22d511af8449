"""The processes that models are measured in."""

import subprocess

import numpy as np
import pytest
from conftest import SAMPLE

from qa.results.measure import measure, start_measuring

pytestmark = pytest.mark.recipe


def test_models_are_measured_in_processes_of_their_own():
    models = [("fp32", SAMPLE / "distilbert-qa"), ("fp32", SAMPLE / "distilbert-qa-teacher")]
    batches = [
        {"input_ids": np.full((2, width), 5), "attention_mask": np.ones((2, width), int)} for width in (9, 9, 7)
    ]
    small, large = measure(start_measuring(models), [{2: batches}, {2: batches[:2]}])
    assert small["speed"][0]["passes"] % 2 == 0 and small["speed"][0]["batch_size"] == 2
    assert 0 < small["speed"][0]["p50_ms"] <= small["speed"][0]["p95_ms"]
    assert small["libraries_memory_mb"] < small["speed"][0]["peak_memory_mb"] < large["speed"][0]["peak_memory_mb"]


def test_a_model_that_cannot_be_loaded_is_said(tmp_path, capfd):
    with pytest.raises(subprocess.CalledProcessError):
        measure(start_measuring([("fp32", tmp_path)]), [{}])
    assert "config.json" in capfd.readouterr().err


def test_a_process_that_is_never_asked_ends_in_silence(capfd):
    (process,) = start_measuring([("fp32", SAMPLE / "distilbert-qa")])
    process.communicate()
    assert process.returncode == 0
    assert capfd.readouterr().err == ""
