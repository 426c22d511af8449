"""Trainings that are killed, stopped or run out of disk, and go on: the weights of a run that was never cut off.

The tests kill once for each recipe. By hand, 20 times at random moments, every second one during a save:

    python tests/commands/test_resume.py 20
"""

import atexit
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])  # of the run by hand

import forked_main  # noqa: E402
import pytest  # noqa: E402
from conftest import ROOT, SAMPLE  # noqa: E402

TEACHER = ("--apply_distillation", "--teacher_model_name_or_path", str(SAMPLE / "distilbert-qa-teacher"))
RECIPES = {
    "quantization": ("--apply_quantization",),
    "distillation": TEACHER,
    "pruning and distillation in bf16": ("--apply_pruning", "--target_sparsity", "0.5", *TEACHER, "--bf16"),
    "all three": (
        *("--apply_quantization", "--apply_pruning", "--pruning_approach", "snip_momentum_progressive"),
        *("--prune_heads", "0.5", "--prune_ffn", "0.5", *TEACHER, "--generate_teacher_logits"),
    ),
    **{
        f"pruning, {approach}": ("--apply_pruning", "--target_sparsity", "0.5", "--pruning_approach", approach)
        for approach in ("snip_momentum", "magnitude_progressive", "gradient")
    },
    "pruning, pattern_lock": ("--apply_pruning", "--pruning_approach", "pattern_lock"),
}
LAST_STEP = 24
VERIFIED = ("--verify_loading", "--test_file", str(SAMPLE / "dev.json"), "--max_predict_samples", "2")
UNGROUPED = ("--group_by_length", "false", "--gradient_accumulation_steps", "3")
# An epoch has 11 steps.
PLATEAU = (
    *("--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", "f1", "--eval_strategy", "epoch"),
    *("--lr_scheduler_kwargs", '{"mode": "max", "patience": 0}', "--do_eval", "--max_eval_samples", "4"),
    *("--validation_file", str(SAMPLE / "dev.json"), "--save_steps", "11"),
)
# Of the runs by hand, long enough for 20 kills.
LONG_STEPS = 240

pytestmark = pytest.mark.recipe


@functools.cache
def sparse_model():
    """Make a folder with the sample model, half of the weights of its layers zero: a pattern to be locked."""
    from safetensors.torch import load_file, save_file

    folder = Path(tempfile.mkdtemp(prefix="qa-sparse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(SAMPLE / "distilbert-qa", folder / "model")
    weights = load_file(folder / "model" / "model.safetensors")
    for name, weight in weights.items():
        if "lin" in name and name.endswith("weight"):
            weight[weight.abs() < weight.abs().float().median()] = 0.0
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    return folder / "model"


def words(folder, *flags):
    """Return the flags of a training of 24 steps with a checkpoint after every fifth."""
    words = ["--model_name_or_path", str(sparse_model() if "pattern_lock" in flags else SAMPLE / "distilbert-qa")]
    words += ["--train_file", str(SAMPLE / "train.json"), "--do_train", "--max_train_samples", "80", "--no_cuda"]
    words += ["--max_steps", str(LAST_STEP), "--per_device_train_batch_size", "4", "--learning_rate", "1e-4"]
    words += ["--gradient_accumulation_steps", "2", "--save_steps", "5", "--disable_tqdm", "true"]
    return [*words, "--output_dir", str(folder), *flags]


def start(folder, *flags, forked=True):
    if forked:
        return forked_main.start("run_qa.py", *words(folder, *flags), cwd=folder.parent)
    command = [sys.executable, str(ROOT / "run_qa.py"), *words(folder, *flags)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder, *flags, **kwargs):
    process = start(folder, *flags, **kwargs)
    _, stderr = process.communicate()
    return SimpleNamespace(returncode=process.returncode, stderr=stderr)


def same(value, other):
    """Tell whether two saved values agree in every bit, packed int8 weights and INC's settings included."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_quantized:
            value, other = value.dequantize(), other.dequantize()
        return torch.equal(value, other)
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(same(value[key], other[key]) for key in value)
    if isinstance(value, (list, tuple)):
        return len(value) == len(other) and all(map(same, value, other))
    return value == other


def differences(folder, other):
    """Return the names of the saved values that differ."""
    import torch

    first, second = (torch.load(Path(place) / "pytorch_model.bin", weights_only=False) for place in (folder, other))
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not same(value, second[name])]


def losses_of(*folders):
    return [json.loads((folder / "train_results.json").read_text())["train_loss"] for folder in folders]


def state_of(folder):
    return json.loads((folder / "trainer_state.json").read_text())


def kill_after_checkpoint(folder, flags, step, forked=True):
    process = start(folder, *flags, forked=forked)
    while not (folder / f"checkpoint-{step}").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_training_ends_with_the_weights_of_one_that_was_not(name, tmp_path):
    # What is forked from one process has the order of sets in common; those of one recipe have not.
    flags, forked = RECIPES[name], name != "all three"
    assert run(tmp_path / "whole", *flags, forked=forked).returncode == 0
    kill_after_checkpoint(tmp_path / "cut", flags, 10, forked)
    assert not (tmp_path / "cut" / "pytorch_model.bin").exists()
    finished = run(tmp_path / "cut", *flags, forked=forked)
    assert finished.returncode == 0, finished.stderr
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    whole, cut = losses_of(tmp_path / "whole", tmp_path / "cut")
    assert whole == pytest.approx(cut, rel=1e-4)


def test_a_training_that_ended_within_an_epoch_is_over(tmp_path):
    """Asked for more, its last checkpoint, which the loop would take one more step from, is the end."""
    flags = ("--max_steps", "7", "--lr_scheduler_type", "constant")
    assert run(tmp_path / "out", *flags).returncode == 0
    shutil.copytree(tmp_path / "out", tmp_path / "first")
    assert run(tmp_path / "out", *flags, "--do_predict", *VERIFIED).returncode == 0
    assert differences(tmp_path / "first", tmp_path / "out") == []
    assert state_of(tmp_path / "out")["global_step"] == 7
    first, out = losses_of(tmp_path / "first", tmp_path / "out")
    assert first == pytest.approx(out)
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-7"]


@pytest.mark.parametrize(("flags", "step"), [(UNGROUPED, 10), (PLATEAU, 11)], ids=["ungrouped", "plateau"])
def test_order_and_scores_are_those_of_a_training_that_was_not_killed(flags, step, tmp_path):
    """Batches that steps do not go into, and a schedule that waits for a score where a checkpoint is saved."""
    assert run(tmp_path / "whole", *flags).returncode == 0
    kill_after_checkpoint(tmp_path / "cut", flags, step)
    assert run(tmp_path / "cut", *flags).returncode == 0
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    logs = [state_of(tmp_path / name)["log_history"] for name in ("whole", "cut")]
    steps, others = ([entry["step"] for entry in log if "eval_f1" in entry] for log in logs)
    assert steps == others == ([11, 22, 24] if flags is PLATEAU else [])


def test_the_command_that_named_a_checkpoint_goes_on_once_more(tmp_path):
    kill_after_checkpoint(tmp_path / "other", (), 5)
    named = ("--resume_from_checkpoint", str(tmp_path / "other" / "checkpoint-5"))
    kill_after_checkpoint(tmp_path / "out", named, 15)
    own = ("--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-5"))
    for flags in (named, own):
        process = start(tmp_path / "out", *flags)
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        goes_on = f"the training goes on from {tmp_path / 'out' / 'checkpoint-'}"
        assert goes_on in output if flags is named else "its model is not made again" in output


def test_a_training_that_is_told_to_stop_saves_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "out"
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = set(folder.glob("checkpoint-*"))
        process = start(folder)
        while not set(folder.glob("checkpoint-*")) - before:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code
        assert "the same command continues there" in output
        step = int(output.split("stopped after step ")[1].split()[0])
        assert (folder / f"checkpoint-{step}" / "model.safetensors").exists()
    assert run(folder).returncode == 0


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "out"
    kill_after_checkpoint(folder, (), 5)
    good = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    content = {path.name: path.read_bytes() for path in good.iterdir()}

    program = """
import resource, signal, run_qa
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
run_qa.main()
"""
    finished = forked_main.run("-c", program, *words(folder), cwd=tmp_path)
    assert finished.returncode == 1
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot be written" in errors[0] and "Traceback" not in finished.stderr
    assert {path.name: path.read_bytes() for path in good.iterdir()} == content
    assert not (folder / "pytorch_model.bin").exists()
    assert not list(folder.glob(".unfinished*"))


def test_another_run_is_not_continued(tmp_path):
    folder = tmp_path / "out"
    kill_after_checkpoint(folder, ("--apply_pruning",), 5)
    kept = sorted(folder.rglob("*"))
    finished = run(folder, "--apply_pruning", "--target_sparsity", "0.3", "--pruning_approach", "snip")
    assert finished.returncode == 2
    for difference in ("target_sparsity 0.1 (now 0.3)", "pruning_approach snip_momentum (now snip)"):
        assert difference in finished.stderr
    assert sorted(folder.rglob("*")) == kept


def kill_at(process, folder, seconds, in_save):
    """Kill a training after some seconds, or so long after it began a save; tell whether it was in a save then."""
    if in_save:
        while process.poll() is None and not list(folder.glob(".unfinished-checkpoint-*")):
            time.sleep(0.0005)
    time.sleep(seconds)
    alive = process.poll() is None
    process.kill()
    process.wait()
    assert alive, "the training was over before it was to be killed"
    return bool(list(folder.glob(".unfinished*")))


def main(kills):
    long = ("--max_steps", str(LONG_STEPS))
    # The imports would count as a part of the first training.
    forked_main.run("-c", "", cwd=".")
    for name, flags in RECIPES.items():
        with tempfile.TemporaryDirectory() as place:
            whole, cut = Path(place) / "whole", Path(place) / "cut"
            begin = time.monotonic()
            process = start(whole, *flags, *long)
            while process.poll() is None and not list(whole.glob("checkpoint-*")):
                time.sleep(0.01)
            first = time.monotonic() - begin
            process.wait()
            seconds = time.monotonic() - begin
            assert process.returncode == 0
            draw = random.Random(name)
            saves = 0
            for number in range(kills):
                # Half of the training is left for the saves that every second kill waits for.
                moments = (0, 0.03) if number % 2 else (first / 2, first + (seconds - first) / kills)
                saves += kill_at(start(cut, *flags, *long), cut, draw.uniform(*moments), in_save=number % 2)
            steps = [int(path.name.split("-")[1]) for path in cut.glob("checkpoint-*")]
            process = start(cut, *flags, *long)
            process.wait()
            assert process.returncode == 0
            different = differences(whole, cut)
        print(
            f"{name}: {kills} kills up to step {max(steps, default=0)} of {LONG_STEPS}, {saves} of them in a save; "
            f"{len(different)} tensors differ",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]))
