"""The benchmark's stages that take seconds at a small size: they run, and both forms come to the same."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.recipe


def test_stages_of_the_benchmark_run(tmp_path):
    sizes = ["--questions", "100", "--teacher_features", "200", "--repetitions", "1"]
    words = [ROOT / "benchmarks" / "bench.py", "--stages", "postprocessing", "teacher", *sizes, "--folder", "bench"]
    finished = subprocess.run(
        [sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]
    rows = (tmp_path / "bench" / "RESULTS.md").read_text(encoding="utf-8").splitlines()
    assert sum("files equal |" in row for row in rows) == 2
    assert any("0 passes and 0.0 s the second time" in row for row in rows)
