"""Data sets of `--dataset_name`: on the hub, saved on disk, or a local folder of question files.

Belongs here: opening one and giving out the rows of its splits.
Does not belong here: file formats (`files.py`) and what a row must hold (`examples.py`).
"""

import contextlib
import functools
import os
from pathlib import Path

from qa.questions.columns import ExampleError
from qa.questions.files import FileError, rows_of_file, table_rows
from qa.start.arguments import TEXT_FILE_SUFFIXES
from qa.start.errors import UsageError
from qa.start.hub_answers import why_not_given
from qa.start.paths import is_lfs_pointer, kind_of


def rows_of_split(rows_of, split, source):
    """Return the rows of a split; parameters from `open_data_set` and `source_of`.

    Raises:
        UsageError: there is no such split.
    """
    if split not in rows_of:
        raise UsageError(f"{source}: there is no such split; found {', '.join(rows_of)}")
    return rows_of[split]()


def open_data_set(data_args, model_args):
    """Open a data set.

    Args:
        data_args: `DataTrainingArguments`; of these `dataset_name` and `dataset_config_name`.
        model_args: `ModelArguments` (cache folder and token for the hub).

    Returns:
        Dictionary from the name of a split to a callable that yields its rows, as `files.rows_of_file` does.

    Raises:
        UsageError: there is no such data set, or it cannot be loaded.
    """
    import datasets

    name = data_args.dataset_name
    if name in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        # One of these readers, "pandas", unpickles whatever lies in the working directory.
        raise UsageError(f"--dataset_name {name} is a file format, no data set; give --train_file and its like")
    if kind_of(name) == "file" and name.endswith(TEXT_FILE_SUFFIXES):
        raise UsageError(f"--dataset_name {name} is a file; give it to --train_file, --validation_file or --test_file")
    saved = any((Path(name) / marker).is_file() for marker in ("dataset_dict.json", "state.json"))
    if kind_of(name) == "folder":
        files = None if saved or data_args.dataset_config_name else _files_of_folder(name)
        if files:
            return {split: functools.partial(_rows_of_files, paths, name) for split, paths in files.items()}
        pointer = next(filter(is_lfs_pointer, sorted(Path(name).rglob("*"))), None)
        if pointer is not None:
            raise UsageError(
                f"--dataset_name {name}: {pointer.relative_to(name)} is a Git LFS pointer and not the file itself; "
                "run git lfs pull in that folder"
            )
    try:
        if saved:
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(
                name,
                data_args.dataset_config_name,
                cache_dir=model_args.cache_dir,
                token=model_args.token or model_args.use_auth_token or None,
                trust_remote_code=False,
            )
    except Exception as error:  # builders raise whatever their format's parser raises
        reason, hint = " ".join(str(error).split())[:300] or type(error).__name__, "give a local folder or files"
        if kind_of(name) is None:
            reason, hint = why_not_given(error, hint) or (reason, hint)
        raise UsageError(f"--dataset_name {name} cannot be loaded: {reason}; {hint}") from error
    if isinstance(loaded, datasets.Dataset):
        raise UsageError(f"--dataset_name {name} is a single split; save a DatasetDict with the splits it stands for")
    return {split: functools.partial(_rows_of, rows) for split, rows in loaded.items()}


def _files_of_folder(name):
    """Find the question files of a local folder.

    `datasets` itself reads no nested layout, and of the flat ones only files that all have the same columns.

    Returns:
        Dictionary from split to paths, by the names that `datasets` knows splits by; `None` where it has to read the
        folder: there are files of other kinds, a script, or a README.md that says what belongs together.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    card, script = Path(name) / "README.md", Path(name) / f"{Path(name).resolve().name}.py"
    if script.is_file():  # it would make another data set of the files, and `datasets` says that it is not run
        return None
    if card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith("---"):
        return None
    with contextlib.suppress(Exception):  # there is nothing, or names that no pattern fits
        files = DataFilesDict.from_patterns(get_data_patterns(name), base_path=name)
        files = {str(split): sorted(map(str, paths)) for split, paths in files.items()}
        if all(path.endswith(TEXT_FILE_SUFFIXES) for paths in files.values() for path in paths):
            return files
    return None


def _rows_of_files(paths, folder):
    for path in paths:
        file = os.path.relpath(path, folder)
        try:
            for place, row in rows_of_file(path):
                yield f"{file}, {place}", row
        except FileError as error:
            raise FileError(f", {file}{error}") from error


def _rows_of(dataset):
    arrow = dataset.with_format("arrow")
    try:
        yield from table_rows(dataset.column_names, lambda needed: arrow.select_columns(needed).iter(1000))
    except ExampleError as error:
        raise FileError(f": {error}") from error
    except (ValueError, OSError, OverflowError, KeyError) as error:  # of which Arrow's own are kinds
        raise FileError(f" cannot be read: {error}") from error
