"""`prune_encoder_qa.py`: an encoder with the same share of zeros in each operator, ready to be trained on."""

import subprocess
import sys
from pathlib import Path

import forked_main
import pytest

from prune_encoder_qa import prune

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample"


def test_the_smallest_weights_of_each_operator_go():
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(10, 7), torch.nn.Linear(7, 3))
    before = [layer.weight.detach().clone() for layer in model]
    prune(model, 0.3)
    for layer, weight in zip(model, before, strict=True):
        zeros = layer.weight == 0
        assert int(zeros.sum()) == round(0.3 * weight.numel())
        assert weight[zeros].abs().max() <= weight[~zeros].abs().min()
        assert torch.equal(layer.weight[~zeros], weight[~zeros])


@pytest.mark.recipe
def test_the_command_leaves_a_sparse_encoder_without_a_head(tmp_path):
    from transformers import AutoModelForQuestionAnswering

    folder = tmp_path / "sparse"
    words = [sys.executable, ROOT / "prune_encoder_qa.py", "--model_name_or_path", SAMPLE / "distilbert-qa"]
    words += ["--target_sparsity", "0.9", "--output_dir", folder]
    finished = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=forked_main.PATIENCE)
    assert finished.returncode == 0, finished.stderr
    assert "in 18 linear operators" in finished.stdout
    auto_class = AutoModelForQuestionAnswering
    model, info = auto_class.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"qa_outputs.weight", "qa_outputs.bias"}
    for name, weight in model.named_parameters():
        if name.endswith((".lin1.weight", ".lin2.weight", "_lin.weight")):
            assert float((weight == 0).float().mean()) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--target_sparsity", "1.5"], "--target_sparsity is 1.5"), (["--model_name_or_path", "no-such"], "no-such")],
)
def test_wrong_words_are_refused(words, named, tmp_path):
    defaults = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--output_dir", tmp_path / "out"]
    finished = forked_main.run("prune_encoder_qa.py", *defaults, *words, cwd=tmp_path, kind="arguments")
    assert finished.returncode == 2 and named in finished.stderr and finished.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()
