"""`prune_encoder_qa.py`: an encoder with the same share of zeros in each operator, ready to be trained on."""

import json
import subprocess
import sys
from pathlib import Path

import forked_main
import pytest
from small_models import LAYOUTS

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


def language_model(folder, tokenizer):
    """Save a small language model with a head that guesses words, and return its folder."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("distilbert", vocab_size=len(tokenizer), **LAYOUTS["distilbert"])
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEXT = ["--train_file", SAMPLE / "train.json"]


def zeros_of(folder):
    """Return {name without the model's own prefix: where the weight is zero} of the linear operators of the layers."""
    import torch

    weights = torch.load(folder / "pytorch_model.bin", weights_only=False)
    return {
        name.removeprefix("distilbert."): weight == 0
        for name, weight in weights.items()
        if "layer." in name and "lin" in name and name.endswith("weight")
    }


@pytest.mark.recipe
def test_sparsity_grows_and_stays_through_a_kill_and_stage_1(tmp_path, tokenizer):
    import torch

    encoder, whole = language_model(tmp_path / "encoder", tokenizer), tmp_path / "whole"
    words = ["--model_name_or_path", encoder, "--train_file", SAMPLE / "train.json", "--bf16", "--no_cuda"]
    words += ["--target_sparsity", "0.75", "--steps", "12", "--learning_rate", "1e-3", "--max_seq_length", "64"]
    words += ["--per_device_train_batch_size", "4", "--logging_steps", "1", "--verify_loading"]
    words += ["--save_steps", "4", "--save_total_limit", "3"]
    finished = forked_main.run("prune_encoder_qa.py", *words, "--output_dir", whole, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "largest difference 0, tolerance 0: passed" in finished.stdout
    assert f"{whole}: sparsity 0.750000 in 12 linear operators" in finished.stdout
    log = json.loads((whole / "trainer_state.json").read_text(encoding="utf-8"))["log_history"][:-1]
    assert {"loss_hidden", "loss_relations", "loss_language"} <= log[0].keys()
    assert log[0]["loss_hidden"] == 0 < log[6]["loss_hidden"]  # its dense self teaches it
    # Rewound when the second of two rises, six steps apart, is over.
    rates = [1e-3 * (1 - step / 6) for step in (1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6)]
    assert [entry["learning_rate"] for entry in log] == pytest.approx(rates)
    zeros = zeros_of(whole)
    assert [float(each.float().mean()) for each in zeros.values()] == pytest.approx([0.75] * 12, abs=1e-6)

    cut = tmp_path / "cut"
    words += ["--resume_from_checkpoint", whole / "checkpoint-4", "--output_dir", cut]
    finished = forked_main.run("prune_encoder_qa.py", *words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    first, second = (torch.load(folder / "pytorch_model.bin", weights_only=False) for folder in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)

    words = ["--model_name_or_path", whole, "--train_file", SAMPLE / "train.json", "--do_train", "--max_steps", "2"]
    words += ["--apply_pruning", "--pruning_approach", "pattern_lock", "--max_train_samples", "8", "--no_cuda"]
    finished = forked_main.run("run_qa.py", *words, "--output_dir", tmp_path / "stage1", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    kept = zeros_of(tmp_path / "stage1")
    assert kept.keys() == zeros.keys() and all(torch.equal(kept[name], zeros[name]) for name in zeros)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--target_sparsity", "1.5"], "--target_sparsity is 1.5"),
        (["--model_name_or_path", "no-such"], "no-such"),
        (["--steps", "-1"], "--steps is -1"),
        (["--steps", "5"], "--train_file"),
        (["--train_file", "text.txt"], "--train_file text.txt: there is no such file"),
        (
            ["--do_eval", "--validation_file", SAMPLE / "dev.json"],
            "--validation_file does not work here: no question is answered",
        ),
        (["--doc_stride", "5"], "--doc_stride does not work here: no question"),
        (["--pruning_approach", "snip"], "--pruning_approach is for a training"),
        (
            ["--train_file", SAMPLE / "train.json", "--steps", "0", "--start_step", "1"],
            "--start_step is for a training",
        ),
        (["--train_file", SAMPLE / "train.json", "--torch_compile"], "--torch_compile goes without pruning only"),
        (["--train_file", SAMPLE / "train.json", "--start_step", "-1"], "--start_step is -1"),
        (["--train_file", SAMPLE / "train.json", "--pruning_approach", "lottery"], "lottery"),
        (["--train_file", SAMPLE / "train.json", "--pruning_config", "prune_slim.yml"], "takes heads or channels out"),
        (["--train_file", ROOT / "README.md"], ".txt"),
        ([*TEXT, "--eval_strategy", "epoch"], "--eval_strategy does not work here: no question"),
        ([*TEXT, "--max_eval_samples", "5"], "--max_eval_samples does not work here: no question"),
        ([*TEXT, "--per_device_eval_batch_size", "4"], "--per_device_eval_batch_size does not work here: no question"),
        (["--report"], "--report does not work here: no question"),
        ([*TEXT, "--gradient_checkpointing"], "--gradient_checkpointing does not work here"),
        ([*TEXT, "--neftune_noise_alpha", "5"], "--neftune_noise_alpha does not work here"),
        ([*TEXT, "--steps", "5", "--max_steps", "6"], "--steps and --max_steps"),
    ],
)
@pytest.mark.recipe
def test_wrong_words_are_refused(words, named, tmp_path):
    defaults = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--output_dir", tmp_path / "out"]
    finished = forked_main.run("prune_encoder_qa.py", *defaults, *words, cwd=tmp_path, kind="arguments")
    assert finished.returncode == 2 and named in finished.stderr and finished.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.recipe
def test_what_only_the_model_tells_is_refused_in_a_line(tmp_path, tokenizer):
    """Windows without room, a sparse model that would be made denser, one without a mask, one without operators."""
    from small_models import small_model

    def refused(model, *words):
        words = ["--model_name_or_path", model, "--no_cuda", "--output_dir", tmp_path / "out", *words]
        finished = forked_main.run("prune_encoder_qa.py", *words, cwd=tmp_path)
        assert finished.returncode == 2, finished.stderr
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*model*"))
        return finished.stderr

    for layout in ("fnet", "squeezebert"):
        small_model(layout, tokenizer).save_pretrained(tmp_path / layout)
        tokenizer.save_pretrained(tmp_path / layout)
    assert "takes no attention mask" in refused(tmp_path / "fnet", *TEXT, "--steps", "2")
    assert "uses no linear operator" in refused(tmp_path / "squeezebert", *TEXT, "--steps", "2")
    assert "--max_seq_length is 2; give at least 3" in refused(
        SAMPLE / "distilbert-qa", *TEXT, "--max_seq_length", "2"
    )
    words = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--target_sparsity", "0.5"]
    finished = forked_main.run("prune_encoder_qa.py", *words, "--output_dir", tmp_path / "half", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "0.5000 zeros already" in refused(tmp_path / "half", "--target_sparsity", "0.25")
