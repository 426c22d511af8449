"""A teacher's logits, computed once and kept beside the training features.

Belongs here: running the teacher over all features and giving its logits back as a column of them.
Does not belong here: the distillation loss (`trainer_qa.py`).
"""

import hashlib
import os

import datasets
import numpy as np
import pyarrow as pa

from inference_qa import Batches, forward_passes
from utils_qa import feature_cache


def add_teacher_logits(features, teacher, tokenizer, batch_size, cache_dir=None, device="cpu"):
    """Add the column `teacher_logits` to training features.

    The logits of all features lie one behind the other in one float32 file in the cache, start before end logits,
    named after the teacher's weights and the features; it is mapped into memory, not read.

    Args:
        features: `datasets.Dataset` from `prepare_features`, n rows.
        teacher: fp32 model in evaluation mode.
        tokenizer: that of student and teacher.
        batch_size: features in a forward pass.
        cache_dir: folder of the feature cache; that of `datasets` if `None`.
        device: where the teacher is.

    Returns:
        The features with `teacher_logits`: for each row two lists of as many float32 as it has tokens.
    """
    digest = hashlib.sha256(features._fingerprint.encode())
    for name, values in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().numpy().tobytes())
    path = feature_cache(cache_dir) / f"{digest.hexdigest()[:32]}.teacher_logits"

    batches = Batches(features, tokenizer, batch_size)
    first = np.concatenate(([0], np.cumsum(batches.lengths)))
    if not path.is_file():
        # Written beside and renamed: a file that bears the name is complete.
        unfinished = path.with_suffix(f".{os.getpid()}")
        stored = np.memmap(unfinished, dtype=np.float32, mode="w+", shape=(2 * int(first[-1]),))
        for rows, mask, logits in forward_passes(teacher, batches, device, desc="Teacher logits"):
            for row, tokens, start, end in zip(rows, mask, logits["start_logits"], logits["end_logits"], strict=True):
                stored[2 * first[row] : 2 * first[row + 1]] = np.concatenate((start[tokens], end[tokens]))
        stored.flush()
        unfinished.replace(path)

    values = pa.Array.from_buffers(
        pa.float32(), 2 * int(first[-1]), [None, pa.py_buffer(np.memmap(path, dtype=np.float32, mode="r"))]
    )
    # Two lists for each feature, both of its length.
    ends = np.concatenate(([0], np.cumsum(np.repeat(batches.lengths, 2))))
    sides = pa.LargeListArray.from_arrays(pa.array(ends, type=pa.int64()), values)
    column = pa.LargeListArray.from_arrays(pa.array(np.arange(len(first)) * 2, type=pa.int64()), sides)
    logits = datasets.Dataset(datasets.table.InMemoryTable(pa.table({"teacher_logits": column})))
    return datasets.concatenate_datasets([features, logits], axis=1)
