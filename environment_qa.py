"""The process a run lives in: the stack it needs, the way it fails, the noise its libraries make.

Belongs here: what must be settled before the libraries are imported. Only the standard library is imported, so that
a wrong stack or a wrong argument is answered at once.
Does not belong here: the arguments themselves (`arguments_qa.py`) and anything about questions or models.
"""

import contextlib
import functools
import importlib.metadata
import logging
import os
import socket
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from pathlib import Path

# IPEX imports torch's compiler, which would start idle workers of 600 MB each.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

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


class UsageError(Exception):
    """Input that a run cannot work with.

    The message is one line for the user: the flag or file, what was found there, and what to do about it. White space
    in it is folded, because names and the libraries' own messages may bring line ends along.
    """

    def __init__(self, message):
        super().__init__(" ".join(message.split()))


def command(main):
    """Decorate `main` so that a `UsageError` ends the process with its message on standard error and exit code 2."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return run


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


def quiet_libraries():
    """Keep the libraries' banners and repeated warnings off the terminal; call it before they are imported.

    Errors still come through. `--log_level info` skips this call and so brings everything back.
    """
    os.environ.setdefault("LOGLEVEL", "ERROR")  # read by neural-compressor
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # IPEX overrides kernels of torch, which says so
    os.environ.setdefault("TQDM_DELAY", "2")  # no progress bars for what is done in a moment
    warnings.simplefilter("ignore")
    for name in ("neural_compressor", "optimum.intel", "torch.utils.cpp_extension", "IPEX"):
        logging.getLogger(name).setLevel(logging.ERROR)


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
    folder = Path(path).absolute()
    try:
        existing = next(place for place in (folder, *folder.parents) if place.exists())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", error)
        raise UsageError(f"--output_dir {path} cannot be made: {reason}; name another folder") from error
    if not existing.is_dir():
        raise UsageError(f"--output_dir {path}: {existing} is a file; name another folder")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"--output_dir {path}: {existing} cannot be written to; name another folder")


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
