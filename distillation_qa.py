"""A teacher's logits, computed once and kept beside the training features.

Belongs here: running the teacher over all features and giving its logits back as a column of them.
Does not belong here: the distillation loss (`trainer_qa.py`).
"""

import fcntl
import hashlib
import os
import time

import datasets
import numpy as np
import pyarrow as pa

from environment_qa import SaveError
from inference_qa import Batches, forward_passes
from utils_qa import feature_cache

# Seconds of work that a killed run may lose.
MARK_EVERY = 10.0


def add_teacher_logits(features, teacher, tokenizer, batch_size, cache_dir=None, device="cpu"):
    """Add the column `teacher_logits` to training features.

    The logits of all features lie one behind the other in one float32 file in the cache, start before end logits,
    named after the teacher's weights and the features; it is mapped into memory, not read. A run that was killed is
    taken up where it stopped.

    Args:
        features: `datasets.Dataset` from `prepare_features`, n rows.
        teacher: fp32 model in evaluation mode.
        tokenizer: that of student and teacher.
        batch_size: features in a forward pass.
        cache_dir: folder of the feature cache; that of `datasets` if `None`.
        device: where the teacher is.

    Returns:
        The features with `teacher_logits`: for each row two lists of as many float32 as it has tokens.

    Raises:
        SaveError: there is no room for the file.
    """
    digest = hashlib.sha256(features._fingerprint.encode())
    for name, values in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().numpy().tobytes())
    key = digest.hexdigest()[:32]
    path = feature_cache(cache_dir) / f"{key}.teacher_logits"

    batches = Batches(features, tokenizer, batch_size)
    first = np.concatenate(([0], np.cumsum(batches.lengths, dtype=np.int64)))
    if not path.is_file():
        _store_logits(path, teacher, batches, first, device)

    values = pa.Array.from_buffers(
        pa.float32(), 2 * int(first[-1]), [None, pa.py_buffer(np.memmap(path, dtype=np.float32, mode="r"))]
    )
    # Two lists for each feature, both of its length.
    ends = np.concatenate(([0], np.cumsum(np.repeat(batches.lengths, 2), dtype=np.int64)))
    sides = pa.LargeListArray.from_arrays(pa.array(ends, type=pa.int64()), values)
    column = pa.LargeListArray.from_arrays(pa.array(np.arange(len(first)) * 2, type=pa.int64()), sides)
    table = datasets.table.InMemoryTable(pa.table({"teacher_logits": column}))
    # With a fingerprint, or `datasets` would read all of the logits to compute one.
    return datasets.concatenate_datasets([features, datasets.Dataset(table, fingerprint=key)], axis=1)


def _store_logits(path, teacher, batches, first, device):
    """Write the logits of all features, or those that are missing where an earlier run was killed.

    They are put into a file beside `path`, batch by batch in an order that is always the same, with the number of
    finished features behind them; it is renamed when all are there, so that a file called `path` is complete.

    Args:
        path: of the file to be.
        teacher, batches, device: as in `forward_passes`.
        first: `(n + 1,)` int64, tokens before each feature.
    """
    size = 2 * np.dtype(np.float32).itemsize * int(first[-1])
    unfinished = path.with_suffix(".unfinished")
    with os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        # Other processes of the same training wait here, and find the logits in place.
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.is_file():
            unfinished.unlink(missing_ok=True)
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size + 8)
        except OSError as error:
            unfinished.unlink()
            raise SaveError(
                f"the teacher's logits take {size / 1e6:.0f} MB in {path.parent}: {error.strerror}; make room there, "
                "name another --cache_dir or leave --generate_teacher_logits out"
            ) from error
        done = int.from_bytes(os.pread(file.fileno(), 8, size), "little")
        done -= done % batches.batch_size  # the run that was killed may have had other batches
        marked = time.monotonic()
        # Not through mapped memory, whose pages would all count as the process's own.
        for rows, mask, logits in forward_passes(teacher, batches, device, desc="Teacher logits", done=done):
            for row, tokens, start, end in zip(rows, mask, logits["start_logits"], logits["end_logits"], strict=True):
                stored = np.concatenate((start[tokens], end[tokens]))
                os.pwrite(file.fileno(), stored, 8 * int(first[row]))
            done += len(rows)
            if time.monotonic() - marked >= MARK_EVERY:
                os.fdatasync(file.fileno())
                os.pwrite(file.fileno(), done.to_bytes(8, "little"), size)
                marked = time.monotonic()
        file.truncate(size)
        os.fsync(file.fileno())
        unfinished.replace(path)
