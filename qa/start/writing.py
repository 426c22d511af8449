"""Writing so that neither a kill nor a full disk leaves anything half done.

Belongs here: how files get into a folder whole, and what is said where they cannot.
Does not belong here: whose the folder is (`output.py`), and what is written.
"""

import contextlib
import os
import shutil
from pathlib import Path

from qa.start.engines import ENGINES
from qa.start.errors import SaveError
from qa.start.process import is_first_process

# What holds a saved model, in the order in which it gets its place: without the last of its files there is no model.
MODEL_FILES = (
    *("pytorch_model.bin", "model.safetensors"),
    *(file for engine in ENGINES.values() for file in engine.files),
)


@contextlib.contextmanager
def saving(place):
    """Turn failures to write to `place` into a `SaveError`, those of torch and safetensors included."""
    try:
        yield
    except Exception as error:
        # torch raises plain RuntimeErrors when it cannot open a file or write on; only their text tells.
        torchs = isinstance(error, RuntimeError) and ("inline_container" in str(error) or "directory" in str(error))
        if not (isinstance(error, OSError) or torchs or type(error).__name__ == "SafetensorError"):
            raise
        reason = str(error).splitlines()[0]
        raise SaveError(
            f"{place} cannot be written ({reason}); make room or mend the folder, and start again"
        ) from error


def write_text(path, text):
    """Write a small file whole: beside its place first, then renamed. Of several processes the first one does it.

    Raises:
        SaveError: it cannot be written.
    """
    if not is_first_process():
        return
    unfinished = Path(path).with_name(f".unfinished-{Path(path).name}")
    with saving(path):
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)


@contextlib.contextmanager
def written_beside(output_dir, name=None):
    """Give a folder to write to, whose content appears in `output_dir` only when all of it is written.

    Args:
        output_dir: existing folder.
        name: the folder to become, in `output_dir`; if `None` the files go into `output_dir` itself, those with the
            weights last.

    Yields:
        Path of the folder to write to.

    Raises:
        SaveError: something cannot be written; what was there before is untouched.
    """
    output_dir = Path(output_dir)
    unfinished = output_dir / f".unfinished-{name}"
    with saving(output_dir / name if name else output_dir):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            yield unfinished
            for path in unfinished.iterdir():
                # Else a machine that loses power may have the new names without the data.
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if name:
                shutil.rmtree(output_dir / name, ignore_errors=True)
                unfinished.rename(output_dir / name)
            else:
                names = [path.name for path in unfinished.iterdir()]
                others = [name for name in names if name not in MODEL_FILES]
                for file in (*others, *(file for file in MODEL_FILES if file in names)):
                    (unfinished / file).replace(output_dir / file)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
