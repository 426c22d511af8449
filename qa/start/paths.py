"""What lies at a path that the user named, and whether one can write there.

Belongs here: looking, before anything is loaded.
Does not belong here: what an output folder holds (`output.py`).
"""

import tempfile
from pathlib import Path

from qa.start.errors import UsageError


def kind_of(path):
    """Return `"file"` or `"folder"`, or `None` where there is neither, also for names that no system takes."""
    try:
        return "folder" if Path(path).is_dir() else "file" if Path(path).is_file() else None
    except (OSError, ValueError):
        return None


def names_of(folders):
    """Call folders by their names, or by their paths where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def is_lfs_pointer(path):
    """Tell whether a file is what Git LFS leaves in place of a large file that was not fetched."""
    try:
        with Path(path).open("rb") as file:
            return file.read(40).startswith(b"version https://git-lfs.github.com/spec")
    except (OSError, ValueError):
        return False  # a folder, or nothing that can be read


def check_output_dir(path):
    """See that the output folder can be made and written to, without making it yet.

    Raises:
        UsageError: it is a file, its name is none, or it or the nearest folder above it cannot be written to.
    """
    if not path:
        raise UsageError("--output_dir is empty; name a folder")
    if "\0" in str(path):
        raise UsageError("--output_dir holds a NUL character, which no name may; name another folder")
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"--output_dir {path}: the name is not UTF-8, which the libraries ask for; name another folder"
        ) from error
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
