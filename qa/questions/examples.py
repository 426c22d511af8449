"""Rows in, checked examples out.

Belongs here: loading the splits of a run, from files or data sets, and every check of a single example.
Does not belong here: file formats (`files.py`), tokens and features (`features.py`).

An example is a dictionary: `id` (str), `title` (str), `context` (str), `question` (str) and `answers`, which is
`{"text": [str, ...], "answer_start": [int, ...]}` with character positions, empty lists for a question without an
answer, or `None` where the file gives no answers at all.
"""

import ast
import itertools
import json
import re
from pathlib import Path

from qa.questions.files import ExampleError, FileError, find_columns, kind_of_value, rows_of_file, table_rows
from qa.start.errors import UsageError
from qa.start.hub_answers import why_not_given
from qa.start.paths import kind_of

FILE_FLAGS = {"train": "train_file", "validation": "validation_file", "test": "test_file"}


def load_examples(data_args, model_args, splits):
    """Load the splits that a run needs, from files or from a data set.

    Args:
        data_args: `DataTrainingArguments`.
        model_args: `ModelArguments` (cache folder and token for the hub).
        splits: names among `train`, `validation` and `test`.

    Returns:
        Dictionary from split to list of examples. Those of `validation` can be scored, those of `test` answered;
        whether those of `train` can be learned from is for `check_for_training` to say.

    Raises:
        UsageError: a split is missing, unreadable, or holds a broken example.
    """
    limits = {
        "train": data_args.max_train_samples,
        "validation": data_args.max_eval_samples,
        "test": data_args.max_predict_samples,
    }
    dataset = _load_dataset(data_args, model_args) if data_args.dataset_name and splits else None
    loaded = {}
    for split in splits:
        source = source_of(data_args, split)
        if dataset is None:
            loaded[split] = read_examples(getattr(data_args, FILE_FLAGS[split]), source, limits[split])
        elif split in dataset:
            loaded[split] = _examples_of(_dataset_rows(dataset[split], source), source, limits[split])
        else:
            raise UsageError(f"{source}: there is no such split; found {', '.join(dataset)}")
        _refuse_blank(loaded[split], source)
    if "validation" in loaded:
        check_for_scoring(loaded["validation"], source_of(data_args, "validation"), data_args.version_2_with_negative)
    if "test" in loaded:
        _refuse_duplicate_ids(loaded["test"], source_of(data_args, "test"))
    return loaded


def source_of(data_args, split):
    """Name the place that a split comes from, for messages."""
    if data_args.dataset_name is not None:
        return f"--dataset_name {data_args.dataset_name}, split {split}"
    return f"--{FILE_FLAGS[split]} {getattr(data_args, FILE_FLAGS[split])}"


def _load_dataset(data_args, model_args):
    import datasets

    name = data_args.dataset_name
    if name in datasets.packaged_modules._PACKAGED_DATASETS_MODULES:
        # One of these readers, "pandas", unpickles whatever lies in the working directory.
        raise UsageError(f"--dataset_name {name} is a file format, no data set; give --train_file and its like")
    try:
        if any((Path(name) / marker).is_file() for marker in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(
                name,
                data_args.dataset_config_name,
                cache_dir=model_args.cache_dir,
                token=True if model_args.use_auth_token else None,
                trust_remote_code=False,
            )
    except Exception as error:  # builders raise whatever their format's parser raises
        reason, hint = " ".join(str(error).split())[:300] or type(error).__name__, "give a local folder or files"
        if kind_of(name) is None and datasets.config.HF_HUB_OFFLINE:
            reason = "it is not in the cache, and the hub cannot be reached (offline)"
        elif kind_of(name) is None:
            reason, hint = why_not_given(error) or (reason, hint)
        raise UsageError(f"--dataset_name {name} cannot be loaded: {reason}; {hint}") from error
    if isinstance(loaded, datasets.Dataset):
        raise UsageError(f"--dataset_name {name} is a single split; save a DatasetDict with the splits it stands for")
    return loaded


def _dataset_rows(dataset, source):
    """Yield the rows of one split of a data set."""
    arrow = dataset.with_format("arrow")
    try:
        yield from table_rows(dataset.column_names, lambda needed: arrow.select_columns(needed).iter(1000))
    except ExampleError as error:
        raise UsageError(f"{source}: {error}") from error
    except (ValueError, OSError, OverflowError, KeyError) as error:  # of which Arrow's own are kinds
        raise UsageError(f"{source} cannot be read: {error}") from error


def read_examples(path, source, max_samples=None):
    """Read a question file in any of the known formats.

    Args:
        path: as in `files.rows_of_file`.
        source: what to call the file in messages.
        max_samples: stop after so many examples, if given.

    Returns:
        List of examples (see the module's docstring).

    Raises:
        UsageError: the file is none of these, or a row in it is broken; the message says where.
    """
    try:
        return _examples_of(rows_of_file(path), source, max_samples)
    except FileError as error:
        raise UsageError(f"{source}{error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror or error}") from error


def check_for_scoring(examples, source, version_2_with_negative):
    """Refuse examples whose predictions could not be told apart or scored.

    Raises:
        UsageError: two examples share an id, answers are missing, or a question has none outside SQuAD 2.0.
    """
    _refuse_duplicate_ids(examples, source)
    _refuse_missing_answers(examples, source, version_2_with_negative)
    misplaced = [example["id"] for example in examples if _misplaced_answers(example)]
    if misplaced:
        print(
            f"note: {source}: {_count_misplaced(examples)} answers do not stand at their answer_start, "
            f"the first in question {misplaced[0]}; they are scored by their text"
        )


def check_for_training(examples, source, version_2_with_negative):
    """Refuse examples that would teach wrong spans; mend an `answer_start` where the text stands in one place only.

    Args:
        examples: list of examples; the answers of misplaced ones are corrected in place.

    Raises:
        UsageError: answers are missing, or some stand neither at their `answer_start` nor in exactly one other place.
    """
    _refuse_missing_answers(examples, source, version_2_with_negative)
    misplaced_count = _count_misplaced(examples)
    if not misplaced_count:
        return
    beyond_repair = []
    for example in examples:
        for number in _misplaced_answers(example):
            text = example["answers"]["text"][number]
            first = example["context"].find(text)
            if first < 0 or example["context"].find(text, first + 1) >= 0:
                beyond_repair.append(example["id"])
            else:
                example["answers"]["answer_start"][number] = first
    if beyond_repair:
        raise UsageError(
            f"{source}: {misplaced_count} answers do not stand at their answer_start, and for {len(beyond_repair)} of "
            f"them the right place cannot be told (the first: question {beyond_repair[0]}); correct the file"
        )
    print(f"note: {source}: {misplaced_count} answers did not stand at their answer_start and were realigned")


def _misplaced_answers(example):
    """Return the numbers (from 0) of the answers whose text does not stand at their `answer_start`."""
    answers = example["answers"]
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    return [
        number
        for number, (text, start) in enumerate(pairs)
        if start < 0 or not example["context"].startswith(text, start)
    ]


def _count_misplaced(examples):
    return sum(len(_misplaced_answers(example)) for example in examples)


def _refuse_blank(examples, source):
    """Refuse texts of white space and invisible characters alone: they have no tokens to answer from."""
    for example in examples:
        for name in ("question", "context"):
            if not any(character.isprintable() and character != " " for character in example[name]):
                raise UsageError(
                    f"{source}: question {example['id']}: its {name} has no visible character; correct or remove it"
                )


def _refuse_duplicate_ids(examples, source):
    seen = set()
    for example in examples:
        if example["id"] in seen:
            raise UsageError(f"{source}: two questions have the id {example['id']!r}; ids must be unique")
        seen.add(example["id"])


def _refuse_missing_answers(examples, source, version_2_with_negative):
    for example in examples:
        if example["answers"] is None:
            raise UsageError(
                f"{source}: question {example['id']} has no 'answers'; "
                "files without answers are for --do_predict with --test_file"
            )
    if version_2_with_negative:
        return
    unanswerable = [example["id"] for example in examples if not example["answers"]["text"]]
    if unanswerable:
        raise UsageError(
            f"{source}: {len(unanswerable)} questions have no answer (the first: {unanswerable[0]}); "
            "for SQuAD 2.0 data give --version_2_with_negative"
        )


def _examples_of(rows, source, max_samples):
    """Check rows one by one; `rows` yields `(place, row)` with `place` a text such as "line 3"."""
    examples = []
    columns = None
    for place, row in itertools.islice(rows, max_samples):
        try:
            if not isinstance(row, dict):
                raise ExampleError(
                    f"expected a mapping with question, context and answers, found {kind_of_value(row)}"
                )
            if columns is None:
                columns = find_columns(list(row))
            examples.append(_example_of(row, columns, len(examples)))
        except ExampleError as error:
            raise UsageError(f"{source}, {place}: {error}") from error
    if not examples:
        raise UsageError(f"{source}: there is no question in it")
    return examples


def _example_of(row, columns, number):
    identifier = row.get("id", number)
    if isinstance(identifier, int):
        identifier = str(identifier)
    example = {
        "id": _text(identifier, "id"),
        "title": _text(row.get("title") or "", "title"),
        "context": _text(row.get(columns["context"]), columns["context"]),
        "question": _text(row.get(columns["question"]), columns["question"]),
    }
    answers = row.get(columns.get("answers"))
    example["answers"] = None if answers is None or answers == "" else _answers_of(answers)
    return example


def _text(value, name):
    if not isinstance(value, str):
        raise ExampleError(f"{name!r} is {kind_of_value(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExampleError(f"{name!r} holds half a character (a lone surrogate) at position {error.start}") from error
    return value


def _answers_of(answers):
    """Bring the known layouts (two parallel lists, a list of pairs, either one written as text) to the first one."""
    if isinstance(answers, str):
        answers = _literal(answers)
    if isinstance(answers, list):
        if not all(isinstance(answer, dict) for answer in answers):
            raise ExampleError("'answers' must hold pairs of 'text' and 'answer_start'")
        answers = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
        raise ExampleError(f"'answers' is {kind_of_value(answers)}, expected 'text' and 'answer_start'")
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ExampleError("'answers' needs as many 'text' as 'answer_start' entries, in two lists")
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool):
            raise ExampleError(f"'answer_start' is {kind_of_value(start)}, expected a whole number")
        if not -(2**31) <= start < 2**31:
            raise ExampleError(f"'answer_start' is {kind_of_value(start)}, expected a position in the context")
    return {"text": [_text(text, "answers") for text in texts], "answer_start": list(starts)}


def _literal(text):
    """Read JSON or a Python literal, the two forms in which CSV writers leave nested values."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        # pandas writes "array(['x'], dtype=object)" for the lists of a data set's rows.
        return ast.literal_eval(re.sub(r"array\((\[.*?\]),?\s*dtype=\w+\)", r"\1", text, flags=re.DOTALL))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ExampleError(f"'answers' is neither JSON nor a Python literal: {text[:40]!r}") from error
