"""Distillation: INC's configuration, the loss, and a teacher's logits, kept beside the training features.

Belongs here: comparing a student with its teacher, and running the teacher once over all features.
Does not belong here: the step in which a student learns from them (`trainer_qa.py`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from neural_compressor import DistillationConfig
from neural_compressor.config import KnowledgeDistillationLossConfig

from qa.models.inputs import LABELS, TEACHER_TYPES, columns_taken
from qa.models.passes import Batches, forward_passes
from qa.questions.features import feature_cache, prepare_features
from qa.start.digests import code_of
from qa.start.distributed import check_same, gather, own_share, wait_for_all
from qa.start.errors import SaveError, UsageError
from qa.start.process import is_first_process


def distillation_config(settings, teacher):
    """Build the distillation configuration for a teacher model; `settings` as from `settings.py`."""
    return DistillationConfig(
        teacher_model=teacher,
        criterion=KnowledgeDistillationLossConfig(
            temperature=settings["temperature"],
            loss_types=settings["loss_types"],
            loss_weights=settings["loss_weights"],
        ),
        optimizer={},
    )


def distillation_loss(student, teacher, tokens, kind, temperature):
    """Compare a student's scores with its teacher's, feature by feature (Hinton et al. 2015, arXiv:1503.02531).

    INC's criterion averages `KL` and `MSE` over all positions of a batch, so that they shrink as padding grows. Here
    each feature counts alike: `CE` is INC's own, `KL` is that less the teacher's entropy.

    Args:
        student, teacher: `(batch, width)` float logits, the same very negative number in both where there is padding.
        tokens: `(batch,)` how many positions of each feature are no padding.
        kind: `CE`, `KL` or `MSE`.
        temperature: what logits are divided by before; gradients stay as large as without.

    Returns:
        Scalar, the mean over features.
    """
    student, teacher = student / temperature, teacher / temperature
    if kind == "MSE":
        losses = (student - teacher).square().sum(dim=-1) / tokens
    else:
        target = teacher.softmax(dim=-1)
        losses = (-target * student.log_softmax(dim=-1)).sum(dim=-1)
        if kind == "KL":
            losses = losses + (target * teacher.log_softmax(dim=-1)).sum(dim=-1)
    return losses.mean() * temperature**2


# Seconds of work that a killed run may lose.
MARK_EVERY = 10.0


def features_of_teacher(features, examples, tokenizer, data_args, cache_dir=None):
    """Prepare training features as the teacher's own tokenizer makes them; if it is the student's, from the cache.

    Args:
        features: those of the student.
        examples: `datasets.Dataset` from `dataset_of`.
        tokenizer: the teacher's, which `qa.models.inputs.settle_inputs` has told what the teacher takes.
        data_args, cache_dir: as in `prepare_features`.

    Returns:
        `datasets.Dataset` with the same windows and columns of the teacher's own.

    Raises:
        UsageError: the tokenizers make other tokens of the same text.
    """
    seen = prepare_features(examples, tokenizer, data_args, cache_dir, "teacher features")
    if seen._fingerprint != features._fingerprint and seen.data["input_ids"] != features.data["input_ids"]:
        raise UsageError(
            "--teacher_model_name_or_path: the teacher's tokenizer has the student's vocabulary, but splits the "
            "training texts in another way; use a teacher with the same tokenizer"
        )
    return seen


def add_teacher_types(features, seen, teacher):
    """Add the column `teacher_token_type_ids` to training features if the teacher takes others than the student.

    Args:
        features: `datasets.Dataset` of the student.
        seen: from `features_of_teacher`.
        teacher: the model.

    Returns:
        The features, with int8 lists as long as the tokens where they are needed.
    """
    name = "token_type_ids"
    own, given = (each.data[name] if name in each.column_names else None for each in (seen, features))
    if own is None and given is not None and columns_taken(teacher, [name]):
        ends = np.concatenate(([0], np.cumsum(pc.list_value_length(given).to_numpy())))
        own = pa.ListArray.from_arrays(pa.array(ends, type=pa.int32()), pa.array(np.zeros(ends[-1], dtype=np.int8)))
    if own is None or own == given:
        return features
    table = datasets.table.InMemoryTable(pa.table({TEACHER_TYPES: own}))
    return datasets.concatenate_datasets([features, datasets.Dataset(table, fingerprint=seen._fingerprint)], axis=1)


def inputs_of_teacher(teacher, inputs):
    """Choose what a teacher is given of a student's batch.

    Args:
        teacher: the model.
        inputs: dictionary of `(b, l)` tensors from `FeatureCollator`.

    Returns:
        Dictionary of those that it takes, with token types of its own if there are any.
    """
    seen = {name: values for name, values in inputs.items() if name not in LABELS}
    if TEACHER_TYPES in seen:
        seen["token_type_ids"] = seen.pop(TEACHER_TYPES)
    return {name: seen[name] for name in columns_taken(teacher, seen)}


def add_teacher_logits(features, teacher, tokenizer, batch_size, cache_dir=None, device="cpu", seen=None):
    """Add the column `teacher_logits` to training features.

    The logits of all features lie one behind the other in one float32 file in the cache, start before end logits,
    named after the teacher's weights and the features; it is mapped into memory, not read. A run that was killed is
    taken up where it stopped, by any number of processes.

    The processes of a run share the features out and exchange what they compute, so that each machine gets the whole
    file, whether it has a cache of its own or all have one.

    Args:
        features: `datasets.Dataset` from `prepare_features`, n rows.
        teacher: fp32 model in evaluation mode.
        tokenizer: the teacher's.
        batch_size: features in a forward pass.
        cache_dir: folder of the feature cache; that of `datasets` if `None`.
        device: where the teacher is.
        seen: the features with the teacher's own columns, from `features_of_teacher`, if it takes others.

    Returns:
        The features with `teacher_logits`: for each row two lists of as many float32 as it has tokens.

    Raises:
        SaveError: there is no room for the file.
        UsageError: the processes have different teachers.
    """
    seen = features if seen is None else seen
    made_by = (
        seen._fingerprint,
        teacher.config.to_json_string(),
        torch.__version__,
        code_of("models", "compression"),
    )
    digest = hashlib.sha256(json.dumps(made_by).encode())
    for name, values in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().numpy().tobytes())
    key = digest.hexdigest()[:32]
    check_same(key, "the teachers of --teacher_model_name_or_path")
    path = feature_cache(cache_dir) / f"{key}.teacher_logits"

    batches = Batches(seen, tokenizer, batch_size)
    first = np.concatenate(([0], np.cumsum(batches.lengths, dtype=np.int64)))
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
    finished features behind them; it is renamed when all are there, so that a file called `path` is complete. One
    process of each machine writes; where two machines have one file, both write the same into it.

    Args:
        path: of the file to be.
        teacher, batches, device: as in `forward_passes`.
        first: `(n + 1,)` int64, tokens before each feature.
    """
    size = 2 * np.dtype(np.float32).itemsize * int(first[-1])
    file = mark = None
    with contextlib.ExitStack() as opened:
        if os.environ.get("LOCAL_RANK", "0") == "0" and not path.is_file():
            file = opened.enter_context(_open_unfinished(path, size))
            mark = int.from_bytes(os.pread(file.fileno(), 8, size), "little") if file else None
        # Machines with caches of their own may have come to different places, or to the end.
        marks = [mark for mark in gather(mark) if mark is not None]
        if not marks:
            return
        done = min(marks)
        done -= done % batches.batch_size  # the run that was killed may have had other batches
        left = own_share(list(batches.by_length())[done // batches.batch_size :])
        passes = forward_passes(teacher, batches, device, "Teacher logits", left)
        marked = time.monotonic()
        while parts := [part for part in gather(next(passes, None)) if part is not None]:
            for rows, mask, logits in parts:
                done += len(rows)
                if file is None:
                    continue
                # Not through mapped memory, whose pages would all count as the process's own.
                for row, tokens, start, end in zip(
                    rows, mask, logits["start_logits"], logits["end_logits"], strict=True
                ):
                    stored = np.concatenate((start[tokens], end[tokens]))
                    os.pwrite(file.fileno(), stored, 8 * int(first[row]))
            if file is not None and time.monotonic() - marked >= MARK_EVERY:
                os.fdatasync(file.fileno())
                os.pwrite(file.fileno(), done.to_bytes(8, "little"), size)
                marked = time.monotonic()
        if file is not None:
            file.truncate(size)
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):  # another machine with the same file was faster
                path.with_suffix(".unfinished").replace(path)
    wait_for_all()


@contextlib.contextmanager
def _open_unfinished(path, size):
    """Open the file beside `path` with room for `size` bytes and the mark behind them.

    Other runs with the same teacher and features wait here, and find the logits in place.

    Yields:
        The file, or `None` if another run has finished it.

    Raises:
        SaveError: there is no room for it.
    """
    unfinished = path.with_suffix(".unfinished")
    with os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as file:
        if is_first_process():  # one of each run, or two machines with one file would wait for each other
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.is_file():
            unfinished.unlink(missing_ok=True)
            yield None
            return
        try:
            os.posix_fallocate(file.fileno(), 0, size + 8)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise SaveError(
                f"the teacher's logits take {size / 1e6:.0f} MB in {path.parent}: {error.strerror}; make room there, "
                "name another --cache_dir or leave --generate_teacher_logits out"
            ) from error
        yield file
