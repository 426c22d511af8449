"""Run a script's `main`, or a short program, in a process forked from one that has imported the libraries.

A run of its own pays 8 s of imports before it does anything. A forked one has a memory, a working directory, an
environment, standard streams, signals and an exit code of its own as well, and shares with a run of its own all that
is worth testing but the imports. `python tests/forked_main.py serve KIND SOCKET PID` is the process that is forked
from; it listens at a socket, for all workers of a test run, until the process PID has ended. `python
tests/forked_main.py SCRIPT FLAGS` stands for a run where others start it, as torchrun does: same streams, same end.

Belongs here: what runs in the forked process, and starting it.
Does not belong here: flags of runs, and what is expected of them.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
# What takes most of the start-up time, and tells nothing about input.
HEAVY = ("neural_compressor", "optimum", "intel_extension_for_pytorch", "onnxruntime", "openvino", "nncf")
# No refusal needs much; a bomb that unfolds does.
MEMORY_LIMIT = 1 << 30
SECONDS_LIMIT = 60
# Seconds that a run may take, on a machine where all cores are busy.
PATIENCE = 600
# What a run imports before it has looked at its input.
ARGUMENTS = (
    *(
        "run_qa",
        "run_qa_post_training",
        "export_qa",
        "prune_encoder_qa",
        "qa.results.evaluation",
        "transformers.training_args",
    ),
    *("transformers.integrations", "pyarrow.parquet", "pandas"),
    *(f"transformers.models.auto.{part}_auto" for part in ("modeling", "tokenization")),
    *(f"transformers.models.distilbert.{part}_distilbert" for part in ("modeling", "tokenization")),
    "transformers.models.distilbert.tokenization_distilbert_fast",
)
# What it imports when it gets to work. The engines of exports stay out: they are quick, and start threads.
LIBRARIES = (
    *ARGUMENTS,
    *(
        "optimum.intel",
        "trainer_qa",
        "qa.compression.distillation",
        "qa.compression.post_training",
        "qa.models.passes",
    ),
    *("qa.results.card", "qa.results.plots", "qa.results.comparison", "transformers.pipelines.question_answering"),
    *("optimum.exporters.onnx.model_configs", "onnx", "torch.utils.tensorboard"),
    # What PyTorch brings in with the first optimizer, and accelerate and INC with the first training.
    *("torch._dynamo", "torch._inductor.standalone_compile", "torch.distributed.fsdp"),
)
# `ipex` is as its users' processes are, where INC finds it: with what it changes in PyTorch.
KINDS = {"arguments": ARGUMENTS, "libraries": LIBRARIES, "ipex": ("intel_extension_for_pytorch", *LIBRARIES)}


class Run:
    """A forked process, with the part of `subprocess.Popen` that tests use; `heavy` is there once it has ended."""

    def __init__(self, connection, outputs=None):
        self._connection, self._outputs = connection, outputs
        self._answers = connection.makefile("r")
        self.pid, self.returncode = int(self._answers.readline()), None

    def poll(self):
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout=PATIENCE):
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                self.kill()
                raise subprocess.TimeoutExpired("a forked run", timeout)
            self.returncode = int(self._answers.readline())
            self._connection.close()
            if self._outputs:
                self.stdout, self.stderr, self.heavy = map(_content, self._outputs)
                self.heavy = self.heavy.split()
        return self.returncode

    def communicate(self, timeout=PATIENCE):
        self.wait(timeout)
        return self.stdout, self.stderr

    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def _content(file):
    file.seek(0)
    return file.read().decode()


def start(script, *words, cwd, kind="libraries", env=None, limited=False, imported_in=None):
    """Start a run; it is killed when nobody waits for it any more.

    Args:
        script: name of a script in the project's root, or `-c`, with a program as the first word.
        words: its command line; turned into text.
        cwd: existing folder to run in.
        kind: of `KINDS`: what has been imported before.
        env: environment variables; `imported_in`, or those of this process, if `None`. What the libraries read as they
            are imported (`HF_ENDPOINT`, `OMP_NUM_THREADS`) comes too late here.
        limited: whether memory and processor time are kept to what a refusal needs.
        imported_in: environment variables that the libraries are imported in; those of the tests if `None`. There is
            one more process to be forked from for each such environment.

    Returns:
        `Run`.
    """
    outputs = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  a `Run` reads them in the end
    asked = {"script": script, "words": list(map(str, words)), "cwd": str(cwd), "limited": limited}
    asked["env"] = dict(env or imported_in or os.environ)
    return Run(_asked(_connected(kind, imported_in), asked, [file.fileno() for file in outputs]), outputs)


def _asked(connection, asked, outputs):
    socket.send_fds(connection, [b"."], outputs)
    connection.sendall(json.dumps(asked).encode() + b"\n")
    return connection


def run(script, *words, **kwargs):
    """Start a run as `start` does and wait for its end; a `Run` has `returncode`, `stdout` and `stderr` then."""
    process = start(script, *words, **kwargs)
    process.wait()
    return process


def words_for(script):
    """Return the words by which others start a process that stands for a run; its flags go behind them."""
    run("-c", "", cwd=ROOT)  # the process to be forked from is there then
    return [__file__, script]


def _connected(kind, variables):
    """Return a connection to the process of a kind, which the first of all workers to ask for it starts."""
    folder = Path(os.environ["QA_TESTS_FOLDER"])
    name = kind if variables is None else f"{kind}-{zlib.crc32(json.dumps(variables, sort_keys=True).encode())}"
    path = folder / f"{name}.socket"
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            from conftest import VARIABLES

            words = [sys.executable, __file__, "serve", kind, str(path), os.environ["QA_TESTS_PID"]]
            paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment = {**(VARIABLES if variables is None else variables), "PYTHONPATH": paths}
            with (folder / f"{name}.log").open("wb") as log:
                server = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            while not path.exists():
                assert server.poll() is None, (folder / f"{name}.log").read_text()
                time.sleep(0.02)
            # Else its imports would be heard in no run at all.
            assert not (printed := (folder / f"{name}.log").read_text()), printed
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


# --- the process that is forked from ---


def serve(kind, path, pid):
    """Import what a kind of runs needs, then fork one for whoever connects; return when process `pid` has ended."""
    from qa.corrections.ipex import without_ipex
    from qa.start.process import prepare_process, quiet_libraries

    prepare_process()
    quiet_libraries()
    with without_ipex(kind == "libraries"):
        for name in KINDS[kind]:
            importlib.import_module(name)
    # Else each forked process would look through, and so copy, all that was imported.
    gc.collect()
    gc.freeze()
    server = socket.socket(socket.AF_UNIX)
    # Bound to another name until it listens: the name is the sign for that.
    server.bind(f"{path}-")
    server.listen(64)
    Path(f"{path}-").rename(path)
    server.settimeout(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while Path(f"/proc/{pid}").exists():
        with contextlib.suppress(TimeoutError):
            connection, _ = server.accept()
            if not os.fork():
                server.close()
                _watch(connection)
            connection.close()


def _watch(connection):
    """Fork the run that was asked for, and tell its number and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
    connection.setblocking(True)
    _, outputs, _, _ = socket.recv_fds(connection, 1, 3)
    asked = b""
    while not asked.endswith(b"\n"):
        asked += connection.recv(1 << 16)
    if not (pid := os.fork()):
        connection.close()
        _run(outputs, **json.loads(asked))
    connection.sendall(f"{pid}\n".encode())
    ended = os.pidfd_open(pid)
    if ended not in select.select([connection, ended], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):  # nobody waits any more
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _run(outputs, script, words, cwd, limited, env):
    code = 0
    try:
        if limited:
            memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (memory + MEMORY_LIMIT, memory + MEMORY_LIMIT))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_LIMIT, SECONDS_LIMIT))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, output in enumerate(outputs[:2], 1):
            os.dup2(output, number)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        if script == "-c":
            program, *words = words
            sys.argv = ["-c", *words]
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [str(ROOT / script), *words]
            importlib.import_module(script.removesuffix(".py")).main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os.write(outputs[2], " ".join(name for name in HEAVY if name in sys.modules).encode())
        sys.stdout.flush()
        sys.stderr.flush()
        # What this process has registered for its end is the server's.
        os._exit(code)


def stand_for(script, *words):
    """Be a run to whoever has started this process and will end it."""
    asked = {"script": script, "words": words, "cwd": str(Path.cwd()), "limited": False, "env": dict(os.environ)}
    with Path(os.devnull).open("wb") as nothing:
        process = Run(_asked(_connected("libraries", None), asked, [1, 2, nothing.fileno()]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    code = process.wait()
    if code < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no other handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        stand_for(*sys.argv[1:])
