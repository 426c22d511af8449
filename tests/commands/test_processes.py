"""Several processes as one run, on loopback: the same results as with one, one voice, and one end."""

import collections
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import forked_main
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from conftest import ROOT, SAMPLE
from shared_work import BATCH_SIZE, work
from torch.utils.data import BatchSampler
from transformers import AutoConfig, AutoModelForQuestionAnswering

from qa.corrections.launchers import others_are_missing
from qa.start import output
from qa.start.errors import UsageError
from qa.training.batches import (
    FeatureCollator,
    TrainingOrder,
    features_per_epoch,
    settle_batches,
    share_of_last_batch,
    steps_per_epoch,
)

WATCHED = str(ROOT / "tests" / "watched_run.py")
SCRIPT = str(ROOT / "run_qa.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")
TEACHER = ("--apply_distillation", "--teacher_model_name_or_path", str(SAMPLE / "distilbert-qa-teacher"))
ALL_THREE = (
    *("--apply_quantization", "--apply_pruning", "--target_sparsity", "0.3", "--verify_loading"),
    *(*TEACHER, "--generate_teacher_logits"),
)


def arguments(count, processes=1, rank=0, accumulation=1, grouped=True, drop_last=False):
    return SimpleNamespace(
        train_batch_size=count,
        world_size=processes,
        process_index=rank,
        gradient_accumulation_steps=accumulation,
        group_by_length=grouped,
        dataloader_drop_last=drop_last,
        seed=0,
        data_seed=None,
    )


def batches_of(args, order):
    """The batches that accelerate gives to a process."""
    batches = BatchSampler(order, args.train_batch_size, args.dataloader_drop_last)
    return BatchSamplerShard(batches, args.world_size, args.process_index)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("count", [1, 3, 7, 8, 12, 23, 40, 41])
def test_each_feature_counts_once_in_an_epoch(count, size, processes):
    values = np.random.default_rng(count).normal(size=count)
    counted, last_loss = [], 0.0
    for rank in range(processes):
        args = arguments(size, processes, rank)
        batches = list(batches_of(args, range(count)))
        assert len(batches) == steps_per_epoch(args, count) == -(-count // (size * processes))
        rows, weight = share_of_last_batch(args, count)
        last = batches[-1][:rows]
        last_loss += weight * values[last].mean() / processes
        counted += [row for batch in batches[:-1] for row in batch] + (last if weight else [])
    assert sorted(counted) == list(range(count))
    # The mean over processes is that of one batch.
    left = count % (size * processes) or size * processes
    assert last_loss == pytest.approx(values[count - left :].mean())


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("count", [24, 31, 48, 50, 71])
def test_the_steps_of_an_epoch_are_those_of_the_loop(count, grouped, drop_last, accumulation, processes):
    lengths, orders = [], []
    for rank in range(processes):
        torch.manual_seed(rank)  # of which no order depends
        args = arguments(4, processes, rank, accumulation, grouped, drop_last)
        order = TrainingOrder(args, count, [9] * count if grouped else None)
        orders.append(list(order))
        batches = list(batches_of(args, order))
        assert len(batches) == len(batches_of(args, order))
        lengths.append(len(batches))
        used = {row for batch in batches for row in batch}
        assert len(used) <= features_per_epoch(args, count)
    assert len(set(lengths)) == 1
    assert all(order == orders[0] for order in orders)
    assert len(set(orders[0])) == len(orders[0])
    assert steps_per_epoch(args, count) == max(lengths[0] // accumulation, 1)


@pytest.mark.parametrize("lengths", [None, [9] * 40], ids=["ungrouped", "grouped"])
def test_the_order_changes_with_the_epoch_and_the_seed_of_data(lengths):
    args = arguments(4)
    order = TrainingOrder(args, 40, lengths)
    first = list(order)
    assert first == list(TrainingOrder(args, 40, lengths)) and sorted(first) == list(range(40))
    order.set_epoch(1)
    args.data_seed = 7
    assert first != list(order) != list(TrainingOrder(args, 40, lengths)) != first


@pytest.mark.parametrize(("accumulation", "used"), [(2, 2), (3, 3), (4, 3)])
def test_a_step_takes_no_more_than_an_epoch_has(accumulation, used, capsys):
    args = arguments(4, accumulation=accumulation)
    settle_batches(args, 12)
    assert args.gradient_accumulation_steps == used
    said = "note: --gradient_accumulation_steps is 4, and an epoch has 3 batches; 3 is used\n"
    assert capsys.readouterr().out == (said if accumulation == 4 else "")


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_of_another_width_is_the_one_padded_to_it(side, tokenizer, left_tokenizer):
    tokenizer = tokenizer if side == "right" else left_tokenizer
    features = [
        {
            "input_ids": [101] * length,
            "attention_mask": [1] * length,
            "start_positions": 1,
            "end_positions": length - 1,
            "teacher_logits": [[0.5] * length, [1.5] * length],
        }
        for length in (5, 9, 7)
    ]
    longest = FeatureCollator(tokenizer)
    for rows, width in ((slice(0, 3), 12), (slice(0, 1), 6), (slice(2, 3), 7)):
        resized = longest.resized({name: values[rows] for name, values in longest(features).items()}, width)
        expected = FeatureCollator(tokenizer, width)(features[rows])
        assert resized.keys() == expected.keys()
        assert all(torch.equal(values, expected[name]) for name, values in resized.items())


@pytest.mark.parametrize(
    ("environ", "missing"),
    [
        ({}, False),
        ({"ACCELERATE_USE_CPU": "False", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"ACCELERATE_USE_CPU": "False"}, False),  # one process was asked for
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "RANK": "1"}, False),
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "PMI_SIZE": "2"}, False),
        ({"MASTER_ADDR": "10.0.0.1"}, False),
    ],
)
def test_accelerate_that_starts_one_process_of_several_is_noticed(environ, missing):
    assert others_are_missing(environ) is missing


@pytest.mark.parametrize(
    ("content", "settings", "named"),
    [
        (None, {}, "is not the folder that the first process writes to"),
        (
            {"learning_rate": 1e-5, "seed": 42},
            {"learning_rate": 2e-5, "seed": 42},
            "learning_rate 2e-05 (rank 0: 1e-05)",
        ),
    ],
)
def test_another_process_must_have_the_folder_and_the_arguments(content, settings, named, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "SEEN_AFTER", 0)
    monkeypatch.setenv("RANK", "1")
    if content:
        (tmp_path / "run.json").write_text(json.dumps({"made_from": {"settings": content}}))
    with pytest.raises(UsageError, match=re.escape(named)):
        output.claim_output_dir(tmp_path, {"settings": settings}, overwrite=False)


# From here on whole commands.


def words(folder, *flags):
    """Flags of a training on 61 questions, 66 features: with two processes the last step has two of them."""
    return [
        *("--model_name_or_path", str(SAMPLE / "distilbert-qa"), "--train_file", str(SAMPLE / "train.json")),
        *("--validation_file", str(SAMPLE / "dev.json"), "--do_train", "--do_eval", "--max_train_samples", "61"),
        *("--max_eval_samples", "400", "--per_device_train_batch_size", "4", "--num_train_epochs", "2"),
        *("--learning_rate", "1e-4", "--save_strategy", "no", "--no_cuda", "--output_dir", str(folder), *flags),
    ]


def start(launcher, folder, *flags, script=WATCHED, forked=True, cwd=None, preexec_fn=None, **environ):
    """Start a launcher; what is forked has the order of sets in common and pays for no imports."""
    program = forked_main.words_for(Path(script).name) if forked else [script]
    return subprocess.Popen(
        [*launcher, *program, *words(folder, *flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        preexec_fn=preexec_fn,
        env={**os.environ, **environ},
    )


def ended(process):
    """Wait for a process; return what came out and its exit code."""
    stdout, stderr = process.communicate(timeout=300)
    return SimpleNamespace(stdout=stdout, stderr=stderr, returncode=process.returncode)


def run(*args, **kwargs):
    return ended(start(*args, **kwargs))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def two(*flags):
    return [*TORCHRUN, "--standalone", "--nproc_per_node", "2", *flags]


def results(folder):
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


def assert_one_voice(finished):
    """One of the processes has printed, and nobody else."""
    assert finished.returncode == 0, finished.stderr
    for title in ("train metrics", "eval metrics"):
        assert finished.stdout.count(f"***** {title} *****") == 1
    assert "[rank" not in finished.stderr and "Traceback" not in finished.stderr, finished.stderr


def assert_alike(seen, processes=2):
    """All processes have come to the same model and masks, and each feature has been learned once in each epoch."""
    assert len(seen) == processes
    assert len({(each["model"], each["masks"], each["zeros"], each["steps"]) for each in seen}) == 1
    times = collections.Counter(row for each in seen for row in each["learned"])
    assert len(times) == 66 and set(times.values()) == {2}


def assert_ended_with(finished, line, root_cause):
    """One process has said what was wrong, and torchrun's last words are about it."""
    assert finished.returncode != 0
    said = [each for each in finished.stderr.splitlines() if each.startswith("error: ")]
    assert len(said) == 1 and said[0].startswith(line), finished.stderr
    assert root_cause in finished.stderr.split("Root Cause (first observed failure):")[1]


@pytest.mark.recipe
def test_all_three_at_once_end_alike_everywhere(tmp_path):
    workdir = tmp_path / "cwd"
    workdir.mkdir()
    finished = run(two(), tmp_path / "two", *ALL_THREE, forked=False, cwd=workdir, SEEN=str(tmp_path / "seen.json"))
    assert_one_voice(finished)
    assert "verify_loading: largest logit difference 0, tolerance 0: passed" in finished.stdout
    assert not list(workdir.iterdir())
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert_alike(seen)
    assert seen[0]["zeros"] > 0
    assert results(tmp_path / "two")["sparsity"] == pytest.approx(0.3, abs=0.001)


@pytest.mark.recipe
def test_int8_answers_as_well_as_from_one_process(tmp_path):
    # All questions of sample/: one alone of the 400 in dev.json is 0.25 F1. At higher rates the order in which
    # gradients are summed decides two or three in 1200, whether processes or threads change it.
    parts = [json.loads((SAMPLE / f"{name}.json").read_text(encoding="utf-8")) for name in ("dev", "train")]
    questions = tmp_path / "questions.json"
    questions.write_text(json.dumps({"version": "1.1", "data": parts[0]["data"] + parts[1]["data"]}), encoding="utf-8")
    flags = ["--apply_quantization", "--learning_rate", "1e-6"]
    flags += ["--validation_file", str(questions), "--max_eval_samples", "1200"]
    size = ("--per_device_train_batch_size", "8")
    alone = run([sys.executable], tmp_path / "one", *flags, *size, script=SCRIPT)
    together = run(two(), tmp_path / "two", *flags, script=SCRIPT)
    assert alone.returncode == 0, alone.stderr
    assert_one_voice(together)
    assert results(tmp_path / "two")["eval_samples"] == 1200
    assert abs(results(tmp_path / "one")["eval_f1"] - results(tmp_path / "two")["eval_f1"]) <= 0.2


@pytest.mark.recipe
def test_two_machines_learn_what_one_process_learns(tmp_path):
    """Two torchruns with one process each, as on two machines."""
    launcher = [*TORCHRUN, "--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1"]
    launcher += ["--master_port", str(free_port()), "--node_rank"]
    environ = {"SEEN": str(tmp_path / "seen.json"), "OMP_NUM_THREADS": "1"}
    machines = [start([*launcher, rank], tmp_path / "two", *TEACHER, **environ) for rank in "01"]
    first, second = map(ended, machines)
    assert_one_voice(first)
    assert second.returncode == 0, second.stderr
    assert "metrics" not in second.stdout and "[rank" not in second.stderr
    assert_alike(json.loads((tmp_path / "seen.json").read_text()))

    size = ("--per_device_train_batch_size", "8")
    one = run([sys.executable], tmp_path / "one", *TEACHER, *size, script=SCRIPT)
    assert one.returncode == 0, one.stderr
    alone, together = results(tmp_path / "one"), results(tmp_path / "two")
    assert 80 < alone["eval_f1"] < 100
    for name in ("eval_f1", "eval_exact_match", "eval_samples", "eval_features", "model_size_mb"):
        assert together[name] == pytest.approx(alone[name], abs=1e-6), name
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    weights = [torch.load(tmp_path / name / "pytorch_model.bin", weights_only=True) for name in ("one", "two")]
    before = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa").state_dict()

    def distance(some, others):
        return sum(float((some[name] - others[name]).square().sum()) for name in some) ** 0.5

    assert distance(*weights) <= 0.02 * distance(weights[0], before)


@pytest.mark.recipe
def test_accelerate_stopped_and_continued_learns_what_torchrun_learns(tmp_path):
    config = AutoConfig.from_pretrained(SAMPLE / "distilbert-qa", dropout=0.1, attention_dropout=0.1)
    config.save_pretrained(tmp_path / "config")
    flags = (
        *("--apply_quantization", "--apply_pruning", "--pruning_approach", "magnitude_progressive"),
        *("--config_name", str(tmp_path / "config"), "--save_strategy", "steps", "--save_steps", "4"),
    )
    whole = run(two(), tmp_path / "whole", *flags, SEEN=str(tmp_path / "whole.json"))
    assert whole.returncode == 0, whole.stderr
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    accelerate += ["--main_process_port", str(free_port())]
    process = start(accelerate, tmp_path / "cut", *flags)
    while not (tmp_path / "cut" / "checkpoint-4").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stopped = ended(process)
    assert stopped.returncode != 0
    step = int(re.search(r"stopped after step (\d+) of 18", stopped.stdout)[1])
    assert 4 <= step < 18
    continued = run(accelerate, tmp_path / "cut", *flags, SEEN=str(tmp_path / "cut.json"))
    assert_one_voice(continued)
    whole, cut = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "cut"))
    for each, other in zip(whole, cut, strict=True):
        assert (each["model"], each["masks"]) == (other["model"], other["masks"])
    losses = [results(tmp_path / name)["train_loss"] for name in ("whole", "cut")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("environ", "line", "root_cause"),
    [
        ({"FAIL_IN": "1"}, "error: rank 1: ValueError: this step is too much", None),
        ({"FAIL_IN": "0"}, "error: rank 0: ValueError: this step is too much", None),
        ({"FAIL_IN": "0", "FAIL_BY": "kill"}, "error: rank 1: another process was killed", "Signal 9 (SIGKILL)"),
    ],
)
def test_an_error_in_one_process_ends_all_with_its_message(environ, line, root_cause, tmp_path):
    # A progress bar is open when it happens, and it is the first process's.
    finished = run(two(), tmp_path / "out", FAIL_AT="4", TQDM_DELAY="0", **environ)
    assert_ended_with(finished, line, root_cause or line)
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()


@pytest.mark.recipe
def test_a_full_disk_ends_all_with_the_message_of_the_one_that_writes(tmp_path):
    def no_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    # Features of few questions fit, whoever else has filled the cache; a checkpoint does not.
    flags = ("--save_strategy", "steps", "--save_steps", "3", "--max_eval_samples", "20")
    finished = run(two(), tmp_path / "out", *flags, forked=False, preexec_fn=no_room)
    assert_ended_with(
        finished, f"error: rank 0: {tmp_path / 'out' / 'checkpoint-3'} cannot be written", "exitcode  : 1"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.json"]


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("script", "flags", "line"),
    [
        ("run_qa.py", ("--target_sparsity", "3"), "--target_sparsity is 3.0; give a number from 0 to below 1"),
        ("run_qa.py", ("--no_such_flag",), "unrecognized: --no_such_flag"),
        ("run_qa_post_training.py", (), "run_qa_post_training.py runs in one process, and 2 were started"),
        ("export_qa.py", (), "export_qa.py runs in one process, and 2 were started"),
    ],
)
def test_bad_input_is_answered_once(script, flags, line, tmp_path):
    finished = run(two(), tmp_path / "out", *flags, script=script)
    line = re.search(rf"^error: rank [01]: {re.escape(line)}", finished.stderr, re.MULTILINE)[0]
    assert_ended_with(finished, line, "exitcode  : 2")
    assert not (tmp_path / "out").exists()


@pytest.mark.recipe
def test_teacher_logits_and_predictions_are_shared_out_and_put_in_order(tmp_path):
    alone = work(tmp_path / "alone", str(tmp_path / "features"))
    (whole,) = (tmp_path / "alone" / "qa_features").iterdir()
    content = whole.read_bytes()
    for where in ("own", "mounted", "one"):
        (tmp_path / where).mkdir()
    # Three machines: one has all, the others were killed after 8 and after 4 features.
    for machine, done in enumerate((8, None, 4)):
        cache = tmp_path / "own" / f"cache-{machine}" / "qa_features"
        cache.mkdir(parents=True)
        if done is None:
            (cache / whole.name).write_bytes(content)
        else:
            known = bytearray(len(content))
            lengths = (alone["start"] > -np.inf).sum(axis=1)
            ends = 8 * np.cumsum(lengths)
            for row in np.argsort(-lengths, kind="stable")[:done]:
                begin = ends[row] - 8 * lengths[row]
                known[begin : ends[row]] = content[begin : ends[row]]
            (cache / f"{whole.stem}.unfinished").write_bytes(bytes(known) + done.to_bytes(8, "little"))

    launcher = [*TORCHRUN, "--standalone", "--nproc_per_node", "3", str(ROOT / "tests" / "shared_work.py")]
    finished = subprocess.run([*launcher, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    for where, done in (("own", 4), ("mounted", 0), ("one", 0)):
        got = [np.load(tmp_path / where / f"{rank}.npz") for rank in range(3)]
        seen = [int(each["seen"]) for each in got]
        assert sum(seen) == alone["count"] - done
        assert max(seen) - min(seen) <= BATCH_SIZE, seen
        for each in got:
            for name in ("stored", "start", "end"):
                np.testing.assert_allclose(each[name], alone[name], atol=1e-4)
        files = list((tmp_path / where).glob("cache*/qa_features/*"))
        assert {path.name for path in files} == {whole.name} and len(files) == (3 if where == "own" else 1)
        assert all(path.stat().st_size == len(content) for path in files)
