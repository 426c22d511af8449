"""The packages that a run needs, looked at by their metadata; none of them is imported.

Belongs here: which releases work together, and whether what an export needs besides is there.
Does not belong here: mending what is wrong inside them (`qa/corrections/`).
"""

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from qa.start.engines import ENGINES
from qa.start.errors import UsageError

PROJECT_DIR = Path(__file__).resolve().parents[2]
# Release prefixes of the packages that only work together (docs/development.md, "Why the pins").
STACK = {
    "torch": "2.8.0",
    "intel-extension-for-pytorch": "2.8.0",
    "neural-compressor": "3.7.1",
    "optimum-intel": "1.27.0",
    "transformers": "4.45",
    "numpy": "1.26",
}


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
        raise UsageError(f"this set of packages does not work together: {', '.join(problems)}; {how_to_install()}")


def check_extra(export_format):
    """See that what an export format needs is installed, importing none of it.

    Args:
        export_format: one of `ENGINES`.

    Raises:
        UsageError: something is missing.
    """
    missing = [name for name in ENGINES[export_format].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--export_format {export_format} needs {' and '.join(missing)}, not installed here; "
            f"{how_to_install(f'requirements-{export_format}.txt')}"
        )


def how_to_install(requirements="requirements.txt"):
    """Return the end of a message: the command that installs the packages of a file."""
    return f"mend it with: {sys.executable} -m pip install -r {PROJECT_DIR / requirements}"
