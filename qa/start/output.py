"""The output folder of a run, and whose it is.

Belongs here: telling what these scripts wrote from all else, and keeping two runs out of one folder.
Does not belong here: how files get into it (`writing.py`), what is written, and what a run was made from
(`qa/models/identity.py`).

`run.json` in the folder holds what the run was made from, whether it is being written, and, once it was finished, the
names and sizes of all its files. Only these are ever removed. What is overwritten waits in `.replaced` until the new
run is whole.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

from qa.start.errors import UsageError
from qa.start.process import is_first_process
from qa.start.writing import MODEL_FILES, saving, write_text

# What the folder's run was made from, and its files.
RUN_FILE = "run.json"
# File of a checkpoint with what neither model nor optimizer knows: pruners, random generators, the loss so far, and of
# fp16 the factor of its gradients.
PROGRESS_NAME = "progress.pt"
# Holds a lock while its run lives.
LOCK_FILE = ".lock"
# What is overwritten waits here until the new run is finished.
REPLACED = ".replaced"
# Open lock files by folder: closed, they would give their locks back.
_LOCKS = {}
# Seconds in which a file that one machine wrote is seen on another; NFS keeps what it knows of a folder for 30 to 60.
SEEN_AFTER = 70
# What is written of answers, for each split.
ANSWERS = ("predictions", "nbest_predictions", "null_odds")
PLOTS = {plot: f"report_{plot}.png" for plot in ("scores", "cost", "sparsity", "loss", "pareto")}
REPORT_FILES = (*(f"report.{kind}" for kind in ("json", "md", "html")), *PLOTS.values())
# What a run may write, by name.
WRITTEN = (
    RUN_FILE,
    "checkpoint-*",
    ".unfinished*",
    "config.json",
    "inc_config.json",
    *MODEL_FILES,
    "training_args.bin",
    "trainer_state.json",
    *(f"{split}_results.json" for split in ("train", "eval", "predict", "export", "all")),
    *(f"{split}_{kind}.json" for split in ("eval", "predict") for kind in ANSWERS),
    "README.md",
    "runs",
    *REPORT_FILES,
    # Tokenizers of the BERT, RoBERTa and SentencePiece kinds.
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)


def is_written(name):
    """Tell whether a file or folder of this name, in an output folder, is of the kind that runs write."""
    if name.startswith("checkpoint-"):
        return re.fullmatch(r"checkpoint-\d+", name, re.ASCII) is not None  # checkpoint-3-best is somebody's own
    return any(Path(name).match(pattern) for pattern in WRITTEN)


def read_run(folder):
    """Return what `run.json` in a folder holds, an empty dictionary if there is none or it is no run's."""
    try:
        content = json.loads((Path(folder) / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and "made_from" in content else {}


def files_of(folder):
    """Return the names and sizes of all files that a run may have written, by their paths in the folder."""
    folder, places = Path(folder), []
    for top in folder.iterdir():
        if top.is_dir() and not top.is_symlink() and is_written(top.name):
            places += top.rglob("events.out.tfevents*" if top.name == "runs" else "*")
        elif is_written(top.name) and top.name != RUN_FILE:
            places.append(top)
    return {str(place.relative_to(folder)): place.lstat().st_size for place in places if not place.is_dir()}


def check_owner(path, made_from, overwrite, inputs=(), resumed=False):
    """See that a run may use the output folder, without changing anything.

    Args:
        path: the folder, which need not exist.
        made_from: dictionary of dictionaries of JSON values, from `identity.made_from`.
        overwrite: value of --overwrite_output_dir.
        inputs: pairs of flags and paths of what the run reads.
        resumed: the run goes on from a checkpoint that was named.

    Raises:
        UsageError: it holds something else, or a run made from something else, and is not to be overwritten; what
            would be replaced is not of these scripts' making, or is an input of the run; another run is using it.
    """
    folder = Path(path)
    present = sorted(place.name for place in folder.iterdir() if place.name != LOCK_FILE) if folder.is_dir() else []
    for flag, name in inputs:
        _refuse_input(path, flag, name)
    if not present:
        return
    # To close the file would give back a lock that this process has.
    if is_first_process() and (folder / LOCK_FILE).exists() and folder.resolve() not in _LOCKS:
        os.close(_lock(folder))
    earlier = read_run(folder)
    same = earlier.get("made_from") == made_from
    if resumed and not same:
        raise UsageError(
            f"--resume_from_checkpoint lies in --output_dir {path}, which holds a run with other settings: "
            f"{_differences(earlier.get('made_from', {}), made_from, 'now')}; name another output folder"
        )
    if not overwrite:
        way_out = "name another folder, or give --overwrite_output_dir, which replaces what these scripts wrote"
        if not earlier:
            names = ", ".join(present[:3]) + (", ..." if len(present) > 3 else "")
            raise UsageError(f"--output_dir {path} holds other things ({names}); {way_out}")
        if not same:
            differences = _differences(earlier["made_from"], made_from, "now")
            raise UsageError(f"--output_dir {path} holds a run with other settings: {differences}; {way_out}")
    if not (same and resumed) and (foreign := _foreign(folder, earlier)):
        raise UsageError(
            f"--output_dir {path}: {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''} would be replaced, "
            "and was not written by a run in this folder, or was changed since; move it away or name another folder"
        )


def _refuse_input(path, flag, name):
    """Refuse an input that lies where the run is going to write."""
    folder, place = Path(path).resolve(), Path(name).resolve()
    if place == folder:
        raise UsageError(f"--output_dir {path} is also --{flag}, which would be replaced; name another folder")
    top = place.relative_to(folder).parts[0] if folder in place.parents else None
    if top and (top == REPLACED or flag == "cache_dir" or is_written(top)):
        raise UsageError(f"--{flag} {name} lies in --output_dir {path}, where the run writes; name another folder")
    if flag == "dataset_name" and place in folder.parents:
        raise UsageError(
            f"--output_dir {path} lies in --dataset_name {name}, whose files are all read; name another folder"
        )


def _foreign(folder, earlier):
    """Return the names of what a run would replace and no run in this folder has left as it is."""
    found = files_of(folder)
    if not earlier:
        return sorted(found)
    if "files" not in earlier or "writing" in earlier:
        return []  # all is its own, since it began in a folder without such names
    return sorted(name for name, size in found.items() if earlier["files"].get(name) != size)


def _differences(earlier, made_from, label):
    """Tell what differs between what two runs were made from as "NAME VALUE (LABEL VALUE); ..."."""
    flat, others = (
        {name: value for part in each.values() for name, value in part.items()} for each in (earlier, made_from)
    )
    return "; ".join(
        f"{name} {flat.get(name)} ({label} {others.get(name)})"
        for name in sorted(flat.keys() | others.keys())
        if flat.get(name) != others.get(name)
    )


def claim_output_dir(path, made_from, overwrite, resumed=False):
    """Make the output folder that of this run; call `check_owner` first, in all processes.

    The first process does it, and the others see that they have the same folder and the same settings.

    Args:
        path, made_from, overwrite, resumed: as in `check_owner`.

    Returns:
        What `run.json` said if the folder holds this very run, finished; else an empty dictionary.

    Raises:
        SaveError: it cannot be made or written to.
        UsageError: another run has come first; or this process is on another machine and does not see the folder, or
            was made from something else.
    """
    from qa.start.distributed import gather, wait_for_all

    folder = Path(path)
    wait_for_all()
    earlier = gather(_make_own(folder, made_from, overwrite, resumed) if is_first_process() else None)[0]
    if not is_first_process():
        _join(folder, made_from)
    return earlier


def _make_own(folder, made_from, overwrite, resumed):
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() not in _LOCKS:
            _LOCKS[folder.resolve()] = _lock(folder)
        check_owner(folder, made_from, overwrite, resumed=resumed)
        earlier = read_run(folder)
        # What was not finished goes on: the same command, given again after a kill, shall lose nothing.
        goes_on = earlier.get("made_from") == made_from and (resumed or not overwrite or "files" not in earlier)
        for place in folder.glob(".unfinished*"):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        if earlier and not goes_on:
            _set_aside(folder, earlier)
        content = {**(earlier if goes_on else {}), "made_from": made_from, "writing": True}
        write_text(folder / RUN_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")
        model = [name for name in earlier.get("files", {}) if name in ("config.json", *MODEL_FILES)]
        finished = goes_on and "files" in earlier and all((folder / name).exists() for name in model)
        return earlier if finished else {}


def _lock(folder):
    """Return the open lock file of a folder.

    The lock is one of POSIX, which NFS knows, which no child inherits, and which a kill gives back.

    Raises:
        UsageError: another process has the lock.
    """
    while True:
        file = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            os.close(file)
            raise UsageError(
                f"--output_dir {folder} is in use by another run; wait for its end, or name another folder"
            ) from error
        except OSError as error:
            print(f"note: files in {folder} cannot be locked ({error.strerror}); let no other run write there")
        # The run that had it may have removed the file in between.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), (folder / LOCK_FILE).stat()):
                return file
        os.close(file)


def _set_aside(folder, earlier):
    """Move the files of an earlier run out of the way; if it was not finished, those that it was to replace stay."""
    replaced = folder / REPLACED
    if "files" in earlier and all((folder / name).exists() for name in earlier["files"]):
        shutil.rmtree(replaced, ignore_errors=True)  # else a kill came in the middle of this
    names = [*files_of(folder), RUN_FILE]
    for name in names:
        if "files" not in earlier and replaced.is_dir():
            (folder / name).unlink()
            continue
        (replaced / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(replaced / name)
    for top in {Path(name).parts[0] for name in names if len(Path(name).parts) > 1}:
        _drop_empty(folder / top)


def _drop_empty(top):
    below = sorted((place for place in top.rglob("*") if place.is_dir()), reverse=True)
    for place in [*below, top]:
        with contextlib.suppress(OSError):
            place.rmdir()


def leave_folders(failed):
    """Give the claimed folders back at the end of a command, and what they held before if it came to nothing."""
    for folder, file in _LOCKS.items():
        if failed:
            _put_back(folder)
        (folder / LOCK_FILE).unlink(missing_ok=True)
        os.close(file)
    _LOCKS.clear()


def _put_back(folder):
    """Put back what was set aside, unless there is a model, or a checkpoint to go on from."""
    begun = last_checkpoint(folder) or any((folder / name).exists() for name in MODEL_FILES)
    if begun or not (folder / REPLACED).is_dir():
        return
    for name in [*files_of(folder), RUN_FILE]:
        (folder / name).unlink(missing_ok=True)
    for place in [place for place in (folder / REPLACED).rglob("*") if not place.is_dir()]:
        target = folder / place.relative_to(folder / REPLACED)
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)
    shutil.rmtree(folder / REPLACED)


def finish(path, verified, **known):
    """Write down that a run is whole, with all its files, and remove what it replaces; for the first process.

    Args:
        path: the folder.
        verified: whether its model was loaded again and compared.
        known: what else is to be known of the run, by name.
    """
    folder = Path(path)
    content = {"made_from": read_run(folder)["made_from"], "verified": verified, **known, "files": files_of(folder)}
    write_text(folder / RUN_FILE, json.dumps(content, indent=2, sort_keys=True) + "\n")
    shutil.rmtree(folder / REPLACED, ignore_errors=True)


def _join(folder, made_from):
    """See in another process than the first that the run is the same."""
    file = folder / RUN_FILE
    last = time.monotonic() + SEEN_AFTER
    while not file.is_file() and time.monotonic() < last:
        time.sleep(1)
    if not (first := read_run(folder)):
        raise UsageError(
            f"--output_dir {folder} on {socket.gethostname()} is not the folder that the first process writes to; "
            "name one that all machines share"
        )
    if differences := _differences(made_from, first["made_from"], "rank 0:"):
        raise UsageError(f"the processes of this run have different arguments: {differences}; give all the same")


def check_checkpoint(path, made_from):
    """Refuse a checkpoint of another run than the one that is to go on from it.

    Raises:
        UsageError: it was made from something else, or does not say from what.
    """
    if not (earlier := read_run(path)) or not (Path(path) / PROGRESS_NAME).is_file():
        raise UsageError(
            f"--resume_from_checkpoint {path} is no checkpoint that says what it was made from ({RUN_FILE}); name one "
            "of run_qa.py"
        )
    if differences := _differences(earlier["made_from"], made_from, "now"):
        raise UsageError(f"--resume_from_checkpoint {path} is of a run with other settings: {differences}")


def last_checkpoint(path):
    """Return the path of the checkpoint with the highest step in an output folder, or `None`."""
    steps = [step for place in Path(path).glob("checkpoint-*") if (step := step_of(place)) is not None]
    return str(Path(path) / f"checkpoint-{max(steps)}") if steps else None


def step_of(checkpoint):
    """Return the optimizer step that a checkpoint's name tells, `None` if it is not called like one of ours."""
    name = Path(checkpoint).name
    return int(name.removeprefix("checkpoint-")) if name.startswith("checkpoint-") and is_written(name) else None
