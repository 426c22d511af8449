"""The process that a run lives in: its threads, its memory, and the noise its libraries make.

Belongs here: what must be settled before the libraries are imported, with the standard library alone.
Does not belong here: what several processes do together (`distributed.py`), and the arguments.
"""

import atexit
import contextlib
import ctypes
import gc
import logging
import math
import os
import re
import socket
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

from qa.corrections.launchers import threads_were_chosen
from qa.start.errors import UsageError


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


def prepare_process():
    """Settle what the libraries read as they are imported; every command calls it before anything else.

    Raises:
        UsageError: an environment variable makes no sense.
    """
    _check_environment(os.environ)
    # What the libraries make as they are imported stays. To look through it for garbage again and again, and once more
    # before the process ends, takes a third of the time of importing them.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
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


def _check_environment(environ):
    allowed = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), r"[1-9]\d*") | {"RANK": r"\d+"}
    for name, pattern in {**allowed, "OMP_NUM_THREADS": r"(\s*[1-9]\d*\s*(,|$))*"}.items():
        value = environ.get(name)
        if value and not re.fullmatch(pattern, value, re.ASCII):
            raise UsageError(f"the environment variable {name} is {value!r}; give a whole number, or unset it")
        if value == "" and name in allowed:
            del environ[name]  # as if it were not there
    count, rank = (environ.get(name) for name in ("WORLD_SIZE", "RANK"))
    if (rank is None and int(count or 1) > 1) or int(rank or 0) >= int(count or 1):
        raise UsageError(
            f"the environment variable WORLD_SIZE is {count} and RANK is {rank}; unset both, or start the processes "
            "with torchrun or accelerate launch"
        )


def chosen_threads():
    """Return the number of threads that this process computes with, by its own choice or the user's."""
    chosen = os.environ.get("OMP_NUM_THREADS") or str(default_threads(os.environ, os.sched_getaffinity(0)))
    return int(chosen.split(",")[0])  # "4,2": so many on each level


def is_first_process():
    """Tell whether this is the one process of a run that prints and writes; torchrun calls it rank 0."""
    return os.environ.get("RANK", "0") == "0"


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


def keep_freed_memory():
    """Let glibc keep the memory of freed tensors for the next ones.

    By itself it gives each large block back to the system, and gets it again page by page for the next tensor: 10 to
    20 % of a forward pass. Where sizes differ from step to step, what is kept grows (`return_freed_memory`).
    """
    # glibc's numbers of M_MMAP_THRESHOLD and M_TRIM_THRESHOLD; other C libraries have no such function.
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)
        libc.mallopt(-1, 2**31 - 1)


def return_freed_memory():
    """Give the memory of freed tensors that is kept back to the system, once."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def quiet_libraries():
    """Keep the libraries' banners and repeated warnings off the terminal; call it before they are imported.

    Errors still come through. `--log_level info` skips this call and so brings everything back.
    """
    os.environ.setdefault("LOGLEVEL", "ERROR")  # read by neural-compressor
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # IPEX overrides kernels of torch, which says so
    warnings.simplefilter("ignore")
    for name in (
        "neural_compressor",
        "optimum.intel",
        "torch.utils.cpp_extension",
        "IPEX",
        "transformers.training_args",
    ):
        logging.getLogger(name).setLevel(logging.ERROR)


def go_offline_without_hub():
    """Put the hub's libraries in offline mode if the hub cannot be reached; call it before they are imported.

    What is cached is still found then, and what is not is answered at once, not after half a minute of retries.
    """
    if "HF_HUB_OFFLINE" in os.environ or urllib.request.getproxies().keys() & {"http", "https", "all"}:
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
