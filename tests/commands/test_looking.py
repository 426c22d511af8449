"""What only looks at a training, or saves memory in it, changes not one bit of the weights that come out."""

import forked_main
import pytest
from conftest import SAMPLE
from test_resume import differences

QUANTIZATION = ("--apply_quantization",)
PRUNING = ("--apply_pruning", "--target_sparsity", "0.5")
DISTILLATION = ("--apply_distillation", "--teacher_model_name_or_path", str(SAMPLE / "distilbert-qa-teacher"))
COMPRESSIONS = {
    "quantization": QUANTIZATION,
    "pruning": PRUNING,
    "distillation": DISTILLATION,
    "all three": QUANTIZATION + PRUNING + DISTILLATION,
}
# All of it in one run: what moves a weight here is to be found by leaving lines out.
LOOKING = (
    *("--do_eval", "--eval_strategy", "steps", "--eval_steps", "1"),
    *("--logging_steps", "1", "--report_to", "tensorboard"),
    *("--save_strategy", "steps", "--save_steps", "3"),
    "--verify_loading",
    "--gradient_checkpointing",
    *("--dataloader_num_workers", "2"),
    *("--disable_tqdm", "false"),
)
STEPS = 6

pytestmark = pytest.mark.recipe


def train(folder, *flags):
    """Run `run_qa.py` for a few steps, into `folder`, and return what it printed on standard error."""
    words = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--output_dir", folder, "--do_train", "--no_cuda"]
    words += ["--train_file", SAMPLE / "train.json", "--validation_file", SAMPLE / "dev.json"]
    words += ["--max_train_samples", 12, "--max_eval_samples", 4, "--max_seq_length", 64, "--doc_stride", 16]
    words += ["--max_steps", STEPS, "--per_device_train_batch_size", 2, "--learning_rate", "1e-4"]
    # In a process of its own, since data loaders fork: not from one that has run other engines.
    finished = forked_main.run("run_qa.py", *map(str, words), *flags, cwd=folder.parent)
    assert finished.returncode == 0, finished.stderr
    return finished.stderr


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_looking_changes_no_weight(compression, tmp_path):
    flags = COMPRESSIONS[compression]
    quiet = ("--save_strategy", "no", "--disable_tqdm", "true")
    plain, looked = tmp_path / "plain", tmp_path / "looked"
    train(plain, *flags, *quiet)
    reported = ()
    if compression == "all three":  # once, since it times models in processes of their own
        reported = ("--report",)
    shown = train(looked, *flags, *LOOKING, *reported)
    assert differences(plain, looked) == []
    # The flags did what they are for.
    assert f"{STEPS}/{STEPS}" in shown
    assert (looked / f"checkpoint-{STEPS}").is_dir()
    assert list((looked / "runs").rglob("*tfevents*"))
    assert (looked / "report.md").is_file() == bool(reported)
