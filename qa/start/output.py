"""The output folder of a run: whether it may be used, and how files get into it whole.

Belongs here: telling a folder that these scripts wrote from any other, emptying it, and writing so that neither a kill
nor a full disk leaves anything half done.
Does not belong here: what is written.
"""

import contextlib
import json
import os
import shutil
import socket
import time
from pathlib import Path

from qa.start.errors import SaveError, UsageError
from qa.start.process import is_first_process

# Holds the settings of the run that a folder belongs to.
RUN_FILE = "run.json"
# Seconds in which a file that one machine wrote is seen on another; NFS keeps what it knows of a folder for 30 to 60.
SEEN_AFTER = 70
# What holds a saved model, in the order in which it gets its place: without the last of its files there is no model.
MODEL_FILES = ("pytorch_model.bin", "model.onnx", "openvino_model.bin", "openvino_model.xml")
# What --overwrite_output_dir removes, and nothing else.
WRITTEN = (
    RUN_FILE,
    "checkpoint-*",
    ".unfinished*",
    "config.json",
    "inc_config.json",
    *MODEL_FILES,
    "training_args.bin",
    "trainer_state.json",
    "*_results.json",
    "*_predictions.json",
    "*_null_odds.json",
    "README.md",
    "runs",
    "report.json",
    "report.md",
    "report*.png",
    # Tokenizers of the BERT, RoBERTa and SentencePiece kinds.
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
)
# Arguments that the outcome depends on. The others, of logging, saving and evaluating, may change between two parts of
# a run.
# fmt: off
DECISIVE = (
    "model_name_or_path", "config_name", "tokenizer_name", "model_revision", "dataset_name",
    "dataset_config_name", "train_file", "max_seq_length", "doc_stride", "pad_to_max_length",
    "max_train_samples", "version_2_with_negative", "num_train_epochs", "max_steps",
    "per_device_train_batch_size", "gradient_accumulation_steps", "group_by_length", "dataloader_drop_last",
    "seed", "data_seed", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_ratio",
    "warmup_steps", "label_smoothing_factor", "use_ipex", "bf16", "do_train",
)
# fmt: on


def decisive_settings(run):
    """Collect what the outcome of a `Run` depends on, arguments and settings, as a dictionary of JSON values."""
    everything = {**vars(run.model_args), **vars(run.data_args), **vars(run.training_args)}
    settings = {name: everything[name] for name in DECISIVE}
    settings["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    for name, value in vars(run.optimization_args).items():
        if name not in ("given", "verify_loading", "report"):
            settings[name] = value
    return json.loads(json.dumps({**settings, **run.settings}, default=str))


def check_owner(path, settings, overwrite):
    """See that a run may use the output folder, without changing anything.

    Args:
        path: the folder, which need not exist.
        settings: from `decisive_settings`.
        overwrite: value of --overwrite_output_dir.

    Raises:
        UsageError: it holds something else, or a run with other settings, and is not to be overwritten.
    """
    folder = Path(path)
    present = sorted(place.name for place in folder.iterdir()) if folder.is_dir() else []
    if overwrite or not present:
        return
    way_out = "name another folder, or give --overwrite_output_dir, which removes what these scripts wrote"
    try:
        earlier = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        names = ", ".join(present[:3]) + (", ..." if len(present) > 3 else "")
        raise UsageError(f"--output_dir {path} holds other things ({names}); {way_out}") from None
    if differences := _differences(earlier, settings, "now"):
        raise UsageError(f"--output_dir {path} holds a run with other settings: {differences}; {way_out}")


def _differences(settings, others, label):
    """Tell what differs between two runs' settings as "NAME VALUE (LABEL VALUE); ...", the empty string if nothing."""
    return "; ".join(
        f"{name} {settings.get(name)} ({label} {others.get(name)})"
        for name in sorted(settings.keys() | others.keys())
        if settings.get(name) != others.get(name)
    )


def claim_output_dir(path, settings, overwrite):
    """Make the output folder that of this run; call `check_owner` first, in all processes.

    The first process does it, and the others see that they have the same folder and the same settings.

    Args:
        path, settings, overwrite: as in `check_owner`.

    Raises:
        SaveError: it cannot be made or written to.
        UsageError: this process is on another machine and does not see the folder, or was started with other settings.
    """
    from qa.start.processes import wait_for_all

    folder = Path(path)
    wait_for_all()
    if is_first_process():
        _make_own(folder, settings, overwrite)
    wait_for_all()
    if not is_first_process():
        _join(folder, settings)


def _make_own(folder, settings, overwrite):
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in WRITTEN if overwrite else (".unfinished*",):
            for place in folder.glob(pattern):
                shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        write_text(folder / RUN_FILE, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def _join(folder, settings):
    """See in another process than the first that the run is the same."""
    file = folder / RUN_FILE
    last = time.monotonic() + SEEN_AFTER
    while not file.is_file() and time.monotonic() < last:
        time.sleep(1)
    try:
        first = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"--output_dir {folder} on {socket.gethostname()} is not the folder that the first process writes to; "
            "name one that all machines share"
        ) from error
    if differences := _differences(settings, first, "rank 0:"):
        raise UsageError(f"the processes of this run have different arguments: {differences}; give all the same")


def last_checkpoint(path):
    """Return the path of the checkpoint with the highest step in an output folder, or `None`."""
    steps = [int(place.name.rpartition("-")[2]) for place in Path(path).glob("checkpoint-[0-9]*")]
    return str(Path(path) / f"checkpoint-{max(steps)}") if steps else None


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
