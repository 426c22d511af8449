"""What it costs to run a model, and how sure a score is.

Belongs here: latency and memory, taken in a fresh process for each model, and bootstrap intervals.
Does not belong here: scoring answers (`squad_scores.py`), tables (`tables.py`) and drawing (`plots.py`).

Run as a module, this file is that process: it imports nothing but what loading and running the model takes.
"""

import contextlib
import importlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from qa.corrections.py_cpuinfo import ask_about_processor
from qa.start.engines import ENGINES
from qa.start.errors import SaveError
from qa.start.process import chosen_threads, prepare_process, quiet_libraries
from qa.start.stack import PROJECT_DIR

# Batches that are timed, spread evenly over the lengths of the features.
TIMED_BATCHES = 12
# The first pass over a shape prepares kernels. A TorchScript graph (IPEX) is profiled there, and fused in the second.
WARM_UP_ROUNDS, TORCHSCRIPT_ROUNDS = 1, 2
# Passes are timed for so many seconds, and over each batch so many times at least. One second would be no steadier:
# from process to process it differs by 12 % for single windows of a small model, by 5 % for its batches.
TIMED_SECONDS, TIMED_ROUNDS = 0.5, 2
RESAMPLES = 2000
CONFIDENCE = 0.95


def timed_rows(batches):
    """Choose the batches that stand for an evaluation.

    Args:
        batches: `passes.Batches`.

    Returns:
        List of row numbers by batch: the one with the longest features, whose memory counts, and behind it up to
        `TIMED_BATCHES` others from the middles of equal parts of all full batches in order of length.
    """
    batches_by_length = list(batches.by_length())
    # The last batch may be smaller than the others, and so faster.
    full = [rows for rows in batches_by_length if len(rows) == len(batches_by_length[0])]
    count = min(TIMED_BATCHES, len(full))
    return [full[0], *(full[int((part + 0.5) * len(full) / count)] for part in range(count))]


def start_measuring(models, workspace):
    """Start a process for each model that is to be measured; it imports its libraries, and waits to be asked.

    Args:
        models: pairs of a kind, `fp32` (a transformers model), `compressed` (one that `load_compressed` loads) or one
            of `ENGINES` (one that `load_exported` loads, without PyTorch), and the folder of the model.
        workspace: folder that they run in, for what INC writes.

    Returns:
        List of `subprocess.Popen` for `measure`.
    """
    # -P: no file of the user's is taken for a module.
    words = [sys.executable, "-P", "-m", "qa.results.measure"]
    paths = [str(PROJECT_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "cwd": workspace}
    return [subprocess.Popen([*words, kind, str(Path(folder).resolve())], **how) for kind, folder in models]


def measure(processes, inputs):
    """Let processes load their models on the CPU, time the passes and weigh them, one after the other.

    Args:
        processes: from `start_measuring`; they end with this.
        inputs: for each of them a dictionary from batch size to model inputs, dictionaries of `(b, l)` int64 arrays
            in the order of `timed_rows`.

    Returns:
        List of dictionaries: `threads`; `libraries_memory_mb`, what the process occupied before it loaded the model;
        and `speed`, for each batch size a dictionary of `batch_size`, `passes` (how many were timed), `p50_ms` and
        `p95_ms` (percentiles of the duration of a pass), `features_per_second`, and `peak_memory_mb`, the most that
        the process, its libraries included, occupied until then. The sizes come in ascending order.

    Raises:
        SaveError: a process failed; its message is on standard error.
    """
    # While one of them still imports, none is timed.
    for process in processes:
        process.stdout.readline()
    answers = []
    for process, inputs_by_size in zip(processes, inputs, strict=True):
        answer, _ = process.communicate(pickle.dumps(inputs_by_size))
        if process.returncode:
            raise SaveError(
                f"--report: the process that measures {process.args[-1]} ended with {process.returncode}; the model "
                "is saved, and the same command measures again"
            )
        answers.append(json.loads(answer))
    return answers


def _measure_here(kind, folder):
    prepare_process()
    quiet_libraries()
    mode, rounds, tensor = contextlib.nullcontext(), WARM_UP_ROUNDS, np.asarray
    # The libraries come first: they are no part of the model's memory.
    if kind in ENGINES:
        importlib.import_module(ENGINES[kind].runtime)

        from qa.models.export import load_exported as load
    else:
        if kind == "compressed":
            ask_about_processor()
        import torch

        mode, tensor = torch.inference_mode(), torch.from_numpy
        if kind == "fp32":
            from transformers import AutoModelForQuestionAnswering

            load = AutoModelForQuestionAnswering.from_pretrained
        else:
            from transformers import AutoConfig

            from qa.models.compressed import import_inc, is_ipex
            from qa.models.compressed import load_compressed as load

            ipex = is_ipex(AutoConfig.from_pretrained(folder))
            rounds = TORCHSCRIPT_ROUNDS if ipex else rounds
            import_inc(ipex)

    yield "ready"
    libraries = _memory_mb("VmRSS")
    if not (sent := sys.stdin.buffer.read()):
        return  # the process that started this one is gone
    inputs_by_size = pickle.loads(sent)
    model = load(folder)
    measured = {"threads": chosen_threads(), "libraries_memory_mb": libraries, "speed": []}
    # Ascending, because the peak never falls again.
    for size, batches in sorted(inputs_by_size.items()):
        inputs = [{name: tensor(array) for name, array in batch.items()} for batch in batches]
        with mode:
            seconds = _time(model, inputs, rounds)
        measured["speed"].append(
            {
                "batch_size": size,
                "passes": len(seconds),
                "p50_ms": 1000 * float(np.percentile(seconds, 50)),
                "p95_ms": 1000 * float(np.percentile(seconds, 95)),
                "features_per_second": len(inputs[0]["input_ids"]) * len(seconds) / sum(seconds),
                "peak_memory_mb": _memory_mb("VmHWM"),
            }
        )
    yield json.dumps(measured)


def _time(model, inputs, warm_up_rounds):
    """Return the seconds of each timed pass; the first batch is run but not timed."""
    longest, *timed = inputs
    seconds = []
    for batch in [longest, *timed] * warm_up_rounds:
        model(**batch)
    while sum(seconds) < TIMED_SECONDS or len(seconds) < TIMED_ROUNDS * len(timed):
        for batch in timed:
            begin = time.perf_counter()
            model(**batch)
            seconds.append(time.perf_counter() - begin)
    return seconds


def _memory_mb(entry):
    """Read an entry of this process's status: `VmRSS` (occupied now) or `VmHWM` (the most so far), in megabytes.

    `resource.getrusage` has no use here: its maximum survives the start of a program, and would be that of the run.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{entry}:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def bootstrap_means(scores, seed):
    """Resample questions with replacement, all columns together, and average (Efron 1979; paired: Koehn 2004).

    Args:
        scores: `(questions, columns)` float, one column for each model and metric.
        seed: of the draws.

    Returns:
        `(RESAMPLES, columns)` float64. Differences of columns are those of models on the same drawn questions.
    """
    generator = np.random.default_rng(seed)
    count = len(scores)
    # One draw at a time: all at once would take 200 MB for the questions of SQuAD.
    return np.stack([scores[generator.integers(count, size=count)].mean(axis=0) for _ in range(RESAMPLES)])


def interval(means):
    """Return `[low, high]`, the percentile interval at `CONFIDENCE` of `(RESAMPLES,)` means."""
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(means, [tail, 1 - tail]).tolist()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent process reports Ctrl-C
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        # What loading prints was printed by the parent process already.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with contextlib.suppress(BrokenPipeError):  # the parent process is gone
            for answer in _measure_here(*sys.argv[1:]):
                print(answer, file=answers, flush=True)
