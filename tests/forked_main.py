"""Run a script's `main` in a process forked from one that has imported what a run imports before it sees its input.

Belongs here: what runs in the forked process, and starting it; kept small, since every process imports it.
"""

import multiprocessing
import os
import resource
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
# What takes most of the start-up time, and tells nothing about input.
HEAVY = ("neural_compressor", "optimum", "intel_extension_for_pytorch", "onnxruntime", "openvino", "nncf")
# No refusal needs much; a bomb that unfolds does.
MEMORY_LIMIT = 1 << 30
SECONDS_LIMIT = 60
PRELOADED = [
    *(
        "forked_main",
        "run_qa",
        "run_qa_post_training",
        "export_qa",
        "qa.results.evaluation",
        "transformers.training_args",
    ),
    *("transformers.integrations", "pyarrow.parquet", "pandas"),
    *(f"transformers.models.auto.{part}_auto" for part in ("modeling", "tokenization")),
    *(f"transformers.models.distilbert.{part}_distilbert" for part in ("modeling", "tokenization")),
    "transformers.models.distilbert.tokenization_distilbert_fast",
]


def start_server():
    """Start the process that the others are forked from, once."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


def run(script, words, workdir, capture):
    """Run a script with command-line words.

    Args:
        script: `run_qa`, `run_qa_post_training` or `export_qa`.
        words: list of text.
        workdir: existing folder to run in.
        capture: existing folder for what comes out.

    Returns:
        `code` the exit code, `stdout` and `stderr` as text, `heavy` the names among `HEAVY` that were imported.
    """
    process = multiprocessing.get_context("forkserver").Process(target=_main, args=(script, words, workdir, capture))
    process.start()
    process.join()
    stdout, stderr, heavy = ((capture / name).read_text(encoding="utf-8") for name in ("stdout", "stderr", "heavy"))
    return SimpleNamespace(code=process.exitcode, stdout=stdout, stderr=stderr, heavy=heavy.split())


def _main(script, words, workdir, capture):
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (memory + MEMORY_LIMIT, memory + MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_LIMIT, SECONDS_LIMIT))
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(capture / name, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(workdir)
    sys.argv = [f"{script}.py", *words]
    try:
        __import__(script).main()
    finally:
        (capture / "heavy").write_text(" ".join(name for name in HEAVY if name in sys.modules), encoding="utf-8")
