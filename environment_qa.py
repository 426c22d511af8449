"""The process a run lives in: the stack it needs, the way it fails, the noise its libraries make.

Belongs here: what must be settled before the libraries are imported. Only the standard library is imported, so that
a wrong stack or a wrong argument is answered at once.
Does not belong here: the arguments themselves (`arguments_qa.py`) and anything about questions or models.
"""

import concurrent.futures
import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import urllib.request
import warnings
from datetime import timedelta
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent

# Release prefixes of the packages that only work together (README.md, "Why the pins").
STACK = {
    "torch": "2.8.0",
    "intel-extension-for-pytorch": "2.8.0",
    "neural-compressor": "3.7.1",
    "optimum-intel": "1.27.0",
    "transformers": "4.45",
    "numpy": "1.26",
}
# Modules that each format of export_qa.py needs besides; requirements-FORMAT.txt brings them.
EXTRAS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino", "nncf")}


def physical_cores(cpus, root=Path("/")):
    """Count the cores behind some logical processors; two hardware threads of one core do not compute twice as much.

    Args:
        cpus: numbers of logical processors.
        root: where `sys` is.
    """
    siblings = set()
    for cpu in cpus:
        path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        siblings.add(path.read_text() if path.is_file() else cpu)
    return len(siblings)


def cpu_quota(root=Path("/")):
    """Return how many processors' time the process may use, as a container's limit sets it; infinity without one.

    Args:
        root: where `proc` and `sys` are.
    """
    quotas = [math.inf]
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        # The limits of all groups above hold as well. Inside a container the path may be that of the machine outside.
        place = top / group.lstrip("/")
        for folder in (place, *place.parents):
            if (folder / "cpu.max").is_file():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            elif (folder / "cpu.cfs_quota_us").is_file():  # version 1
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
            else:
                continue
            if quota not in ("max", "-1"):
                quotas.append(int(quota) / int(period))
    return min(quotas)


def default_threads(environ, cpus, root=Path("/")):
    """Return the number of threads that a process should compute with where the user did not say.

    That is the physical cores that it may run on, within its container's limit, shared among the processes that
    torchrun starts on the machine. PyTorch by itself looks at neither of the last two.

    Args:
        environ: environment variables (`LOCAL_WORLD_SIZE`, set by torchrun).
        cpus: logical processors that the process may run on.
        root: where `proc` and `sys` are.
    """
    cores = min(physical_cores(cpus, root), cpu_quota(root))
    return max(int(cores) // int(environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def threads_were_chosen(environ, started_with):
    """Tell whether `OMP_NUM_THREADS` is the user's choice.

    torchrun and `accelerate launch` set it to 1 where the user did not, which leaves most of a large machine idle.

    Args:
        environ: environment variables of the process.
        started_with: path of the environment that the parent process, torchrun for instance, was started with.
    """
    launched = int(environ.get("LOCAL_WORLD_SIZE", 1)) > 1 or "ACCELERATE_MIXED_PRECISION" in environ
    if environ.get("OMP_NUM_THREADS") != "1" or not launched:
        return "OMP_NUM_THREADS" in environ
    try:
        variables = started_with.read_bytes().split(b"\0")
    except OSError:
        return True
    return any(variable.startswith(b"OMP_NUM_THREADS=") for variable in variables)


def others_are_missing(environ):
    """Tell whether `accelerate launch` was asked for several processes and started one.

    That is what it does on a machine without GPUs, unless it gets --multi_gpu, which starts them on CPUs as well.

    Args:
        environ: environment variables of the process.
    """
    launched_alone = "ACCELERATE_USE_CPU" in environ and "RANK" not in environ
    mpi = any(name in environ for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"))
    return launched_alone and "MASTER_ADDR" in environ and not mpi


def is_first_process():
    """Tell whether this is the one process of a run that prints and writes; torchrun calls it rank 0."""
    return os.environ.get("RANK", "0") == "0"


def keep_freed_memory():
    """Let glibc keep the memory of freed tensors for the next ones.

    By itself it gives each large block back to the system, and gets it again page by page for the next tensor: 10 to
    20 % of a forward pass. The peak stays what it was.
    """
    # glibc's numbers of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; other C libraries have no such function.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, 2**31 - 1)


if not any(name.startswith("MALLOC_") for name in os.environ):
    keep_freed_memory()
# IPEX imports torch's compiler, which would start idle workers of 600 MB each.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
# No progress bars for what is done in a moment; tqdm reads it when it is imported.
os.environ.setdefault("TQDM_DELAY", "2")
if not is_first_process():
    os.environ["TQDM_DISABLE"] = "1"
# OpenVINO and NNCF send word of their use to their makers, unless this package of theirs cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)
if not threads_were_chosen(os.environ, Path(f"/proc/{os.getppid()}/environ")):
    os.environ["OMP_NUM_THREADS"] = str(default_threads(os.environ, os.sched_getaffinity(0)))


def chosen_threads():
    """Return the number of threads that this process computes with, by its own choice or the user's."""
    return int(os.environ["OMP_NUM_THREADS"].split(",")[0])  # "4,2": so many on each level


class UsageError(Exception):
    """Input that a run cannot work with.

    The message is one line for the user: the flag or file, what was found there, and what to do about it. Names and
    the libraries' own messages may bring anything along: white space is folded, what a terminal could take for a
    command is replaced, and of what is very long the middle is left out.
    """

    def __init__(self, message):
        line = "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for character in " ".join(message.split())
        )
        super().__init__(line if len(line) <= 900 else f"{line[:600]} ... {line[-250:]}")


class SaveError(Exception):
    """Something that a run made cannot be written, for want of room or rights."""


# Seconds in which torchrun sees that a process has ended, and ends the others.
LINGER = 2.0


def command(main):
    """Decorate `main` so that errors end the process with one line on standard error.

    The exit code is 2 for a `UsageError`, 1 for a `SaveError`, and 130 for Ctrl-C. Of several processes of one run the
    first alone prints, and the one that fails first ends all, with its line and its code.
    """

    @functools.wraps(main)
    def run(*args, **kwargs):
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        rank = f"rank {os.environ['RANK']}: " if several else ""
        trace, lost = "", False
        if not is_first_process():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            return main(*args, **kwargs)
        except (UsageError, SaveError) as error:
            code, line = 2 if isinstance(error, UsageError) else 1, f"error: {rank}{error}"
        except KeyboardInterrupt:
            code, line = 130, f"{rank}interrupted; the same command starts again"
        except SystemExit as ended:
            if not several or not ended.code:
                raise
            code, line = ended.code, ""
        except Exception as error:
            if not several:
                raise
            reason = " ".join(str(error).split())
            # What gloo and nccl say when the other end of a connection is gone; there is no type for it.
            lost = any(text in reason for text in ("Connection closed by peer", "Connection reset", "ncclRemoteError"))
            if lost:
                reason = f"another process was killed, or its machine is gone ({reason})"
            else:
                reason, trace = f"{type(error).__name__}: {reason}", traceback.format_exc()
            code, line = 1, f"error: {rank}{reason}"
        _close_progress_bars()
        if several:
            _end_all(code, line, trace, lost)
        print(line, file=sys.stderr)
        sys.exit(code)

    return run


def _close_progress_bars():
    """Let what is said next have a line of its own, not the rest of a progress bar's."""
    if "tqdm" in sys.modules:
        for bar in list(sys.modules["tqdm"].tqdm._instances):
            bar.close()


def _end_all(code, line, trace, lost):
    """End this process as one of several, and let the one that failed first speak for all.

    torchrun ends the others when one of them has ended. Those that were waiting for it fail in their turn, with errors
    that do not tell the reason, and bad input fails them all.

    Args:
        code: exit code.
        line: what to say; empty if all was said.
        trace: what to print before it.
        lost: whether the error is no more than the end of another process.
    """
    # Those that come now are torchrun's, which has seen another process end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    first_code, first_line = _first_failure(code, line)
    speaks = first_line == line
    if speaks and line:
        # A line of its own, also where another process has left a progress bar open.
        print(f"\n{trace}{line}", file=sys.stderr, flush=True)
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and first_line:
        # torchrun shows it at the end of all that it prints itself.
        shown = {"message": first_line, "extraInfo": {"py_callstack": first_line, "timestamp": str(int(time.time()))}}
        Path(file).write_text(json.dumps({"message": shown}), encoding="utf-8")
    if lost or not speaks:
        # For torchrun to name the process that failed first, and no other.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(LINGER)
    # Connections that somebody still waits on can hold up the interpreter's own end.
    os._exit(first_code)


def _first_failure(code, line):
    """Return code and line of the process that came here first, through the key-value store of torchrun."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return code, line
    from torch.distributed import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=10)))
        return json.loads(store.compare_set("failure of run_qa", "", json.dumps([code, line])))
    except Exception:  # the machine with the store is gone
        return code, line


def check_one_process(script):
    """Refuse to be one of several processes of a run.

    Args:
        script: its name, for the message.

    Raises:
        UsageError: torchrun or accelerate has started several.
    """
    if (count := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(
            f"{script} runs in one process, and {count} were started: start it with python; run_qa.py is for several"
        )


def check_stack(version_of=importlib.metadata.version):
    """Compare the installed packages with `STACK` by their metadata, importing none of them.

    Args:
        version_of: callable from a distribution's name to its version string, raising `PackageNotFoundError`.

    Raises:
        UsageError: some package is missing or is of another release.
    """
    problems = []
    for name, needed in STACK.items():
        try:
            found = version_of(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        # "2.8.0+cpu" is a build of 2.8.0, and 4.45 stands for every 4.45.x.
        if f"{found.split('+')[0]}.".startswith(f"{needed}."):
            continue
        problems.append(f"{name} {found} (needed: {needed})")
    if problems:
        raise UsageError(
            f"this set of packages does not work together: {', '.join(problems)}; "
            f"mend it with: {sys.executable} -m pip install -r {PROJECT_DIR / 'requirements.txt'}"
        )


def check_extra(export_format):
    """See that what an export format needs is installed, importing none of it.

    Args:
        export_format: one of `EXTRAS`.

    Raises:
        UsageError: something is missing.
    """
    missing = [name for name in EXTRAS[export_format] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--export_format {export_format} needs {' and '.join(missing)}, not installed here; "
            f"mend it with: {sys.executable} -m pip install -r {PROJECT_DIR / f'requirements-{export_format}.txt'}"
        )


def quiet_libraries():
    """Keep the libraries' banners and repeated warnings off the terminal; call it before they are imported.

    Errors still come through. `--log_level info` skips this call and so brings everything back.
    """
    os.environ.setdefault("LOGLEVEL", "ERROR")  # read by neural-compressor
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # IPEX overrides kernels of torch, which says so
    warnings.simplefilter("ignore")
    for name in ("neural_compressor", "optimum.intel", "torch.utils.cpp_extension", "IPEX"):
        logging.getLogger(name).setLevel(logging.ERROR)


def ask_about_processor():
    """Let py-cpuinfo find out about the processor in a thread, once, while other things are done.

    INC asks it twice as it is imported, and each time waits for a second in which a clock is measured.
    """
    import cpuinfo

    get_cpu_info, answer = cpuinfo.get_cpu_info, concurrent.futures.Future()

    def ask():
        try:
            answer.set_result(get_cpu_info())
        except Exception as error:
            answer.set_exception(error)

    # Not an executor, whose threads a process that has come to an error would wait for.
    threading.Thread(target=ask, daemon=True).start()
    cpuinfo.get_cpu_info = answer.result


@contextlib.contextmanager
def without_ipex(hidden=True):
    """Import INC inside this context without IPEX, which it imports wherever it is installed.

    IPEX brings torch's compiler along: 2 s, and 1,500 modules, that nothing but a model on IPEX needs.

    Args:
        hidden: false where such a model is what is wanted; nothing happens then.
    """
    name = "intel_extension_for_pytorch"
    hidden = hidden and name not in sys.modules
    if hidden:
        sys.modules[name] = None  # Python's own way to say that there is none
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def trace_without_stacks():
    """Keep torch from noting the Python stack of each operation that it traces for quantization.

    To format the first one it imports its compiler: a second, for stacks that nobody reads.
    """
    from torch.ao.quantization.fx.tracer import QuantizationTracer

    # Each tracer switches them on for itself; this attribute cannot be switched.
    QuantizationTracer.record_stack_traces = property(lambda tracer: False, lambda tracer, value: None)


def go_offline_without_hub():
    """Put the hub's libraries in offline mode if the hub cannot be reached; call it before they are imported.

    What is cached is still found then, and what is not is answered at once, not after half a minute of retries.
    """
    if "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies():
        return
    hub = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    address = (hub.hostname, hub.port or (80 if hub.scheme == "http" else 443))
    reached = threading.Event()

    def knock():
        with contextlib.suppress(OSError):
            socket.create_connection(address, timeout=3).close()
            reached.set()

    # In a thread of its own: looking up a name may take far longer than the timeout allows.
    knocking = threading.Thread(target=knock, daemon=True)
    knocking.start()
    knocking.join(timeout=4)
    if not reached.is_set():
        os.environ["HF_HUB_OFFLINE"] = "1"


def kind_of(path):
    """Return `"file"` or `"folder"`, or `None` where there is neither, also for names that no system takes."""
    try:
        return "folder" if Path(path).is_dir() else "file" if Path(path).is_file() else None
    except (OSError, ValueError):
        return None


def check_output_dir(path):
    """See that the output folder can be made and written to, without making it yet.

    Raises:
        UsageError: it is a file, its name is none, or it or the nearest folder above it cannot be written to.
    """
    if "\0" in str(path):
        raise UsageError("--output_dir holds a NUL character, which no name may; name another folder")
    folder = Path(path).absolute()
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        raise UsageError(f"--output_dir {path} cannot be made: {error.strerror}; name another folder") from error
    if not existing.is_dir():
        raise UsageError(f"--output_dir {path}: {existing} is a file; name another folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # only trying tells, of /proc for one
    except OSError as error:
        raise UsageError(
            f"--output_dir {path}: {existing} cannot be written to ({error.strerror}); name another folder"
        ) from error


def make_output_dir(path):
    """Create the output folder, if need be, and return its path.

    Raises:
        UsageError: it cannot be created.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {path} cannot be made: {error.strerror}; name another folder") from error
    return path
