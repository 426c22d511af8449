"""Question files in, checked examples out.

Belongs here: the file formats of `--train_file`, `--validation_file` and `--test_file`, hub and local data sets, and
every check of a single example. Reading a file needs the standard library alone (`pyarrow` for Parquet), so that a bad
file is answered before a model is loaded.
Does not belong here: tokens and features (`utils_qa.py`).

An example is a dictionary: `id` (str), `title` (str), `context` (str), `question` (str) and `answers`, which is
`{"text": [str, ...], "answer_start": [int, ...]}` with character positions, empty lists for a question without an
answer, or `None` where the file gives no answers at all.
"""

import ast
import csv
import itertools
import json
import re
from pathlib import Path

from environment_qa import UsageError, kind_of


class _ExampleError(Exception):
    """One row cannot become an example; whoever catches it adds the file and the place."""


class _FileError(Exception):
    """The layout of a file is broken; the message starts with the place, whoever catches it adds the file."""


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
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if kind_of(name) is None and datasets.config.HF_HUB_OFFLINE:
            reason = "it is not in the cache, and the hub cannot be reached (offline)"
        raise UsageError(f"--dataset_name {name} cannot be loaded: {reason}; give a local folder or files") from error
    if isinstance(loaded, datasets.Dataset):
        raise UsageError(f"--dataset_name {name} is a single split; save a DatasetDict with the splits it stands for")
    return loaded


def _dataset_rows(dataset, source):
    """Yield the rows of one split of a data set."""
    arrow = dataset.with_format("arrow")
    try:
        yield from _table_rows(dataset.column_names, lambda needed: arrow.select_columns(needed).iter(1000))
    except _ExampleError as error:
        raise UsageError(f"{source}: {error}") from error
    except (ValueError, OSError, OverflowError, KeyError) as error:  # of which Arrow's own are kinds
        raise UsageError(f"{source} cannot be read: {error}") from error


def read_examples(path, source, max_samples=None):
    """Read a question file in any of the known formats.

    Args:
        path: file name ending in `.json` (official nested SQuAD v1.1 or v2.0, flat rows under `data`, a list of rows,
            or JSON Lines), `.jsonl`, `.csv` or `.parquet`.
        source: what to call the file in messages.
        max_samples: stop after so many examples, if given.

    Returns:
        List of examples (see the module's docstring).

    Raises:
        UsageError: the file is none of these, or a row in it is broken; the message says where.
    """
    readers = {".json": _json_rows, ".jsonl": _json_lines_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    try:
        reader = next(reader for suffix, reader in readers.items() if str(path).endswith(suffix))
        return _examples_of(reader(path), source, max_samples)
    except _FileError as error:
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
                raise _ExampleError(f"expected a mapping with question, context and answers, found {_kind(row)}")
            if columns is None:
                columns = _find_columns(list(row))
            examples.append(_example_of(row, columns, len(examples)))
        except _ExampleError as error:
            raise UsageError(f"{source}, {place}: {error}") from error
    if not examples:
        raise UsageError(f"{source}: there is no question in it")
    return examples


def _find_columns(names):
    """Map question, context and answers to column names: by name, else by position, as the transformers example."""
    columns = {}
    for position, role in enumerate(("question", "context", "answers")):
        if role in names:
            columns[role] = role
        elif position < len(names) and names[position] not in ("id", "title", "question", "context", "answers"):
            columns[role] = names[position]
        elif role != "answers":
            raise _ExampleError(f"no {role!r} column; found {', '.join(map(repr, names)) or 'none'}")
    return columns


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
        raise _ExampleError(f"{name!r} is {_kind(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _ExampleError(f"{name!r} holds half a character (a lone surrogate) at position {error.start}") from error
    return value


def _answers_of(answers):
    """Bring the known layouts (two parallel lists, a list of pairs, either one written as text) to the first one."""
    if isinstance(answers, str):
        answers = _literal(answers)
    if isinstance(answers, list):
        if not all(isinstance(answer, dict) for answer in answers):
            raise _ExampleError("'answers' must hold pairs of 'text' and 'answer_start'")
        answers = {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")}
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= answers.keys():
        raise _ExampleError(f"'answers' is {_kind(answers)}, expected 'text' and 'answer_start'")
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise _ExampleError("'answers' needs as many 'text' as 'answer_start' entries, in two lists")
    for start in starts:
        if not isinstance(start, int) or isinstance(start, bool):
            raise _ExampleError(f"'answer_start' is {_kind(start)}, expected a whole number")
        if not -(2**31) <= start < 2**31:
            raise _ExampleError(f"'answer_start' is {_kind(start)}, expected a position in the context")
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
        raise _ExampleError(f"'answers' is neither JSON nor a Python literal: {text[:40]!r}") from error


def _kind(value):
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "missing", bool: "true or false"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, int) and abs(value) >= 10**1000:
        return "a number of over a thousand digits"
    return f"a number ({value})" if isinstance(value, (int, float)) else type(value).__name__


def _json_rows(path):
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Several documents in one file: JSON Lines under the other name.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and error.lineno > 1:
            yield from _json_lines_rows(path)
            return
        raise _FileError(f": not valid JSON ({error}); expected SQuAD JSON, flat JSON or JSON Lines") from error
    rows = content.get("data", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise _FileError(
            f': expected SQuAD JSON ({{"data": [articles]}}), flat JSON ({{"data": [rows]}}) or JSON Lines, '
            f"found {_kind(rows)}"
        )
    if rows and isinstance(rows[0], dict) and "paragraphs" in rows[0]:
        yield from _squad_rows(rows)
    else:
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row


def _squad_rows(articles):
    """Walk the nested layout of the official SQuAD files: articles, their paragraphs, their questions."""
    for article_number, article in enumerate(articles, start=1):
        place = f"article {article_number}"
        for paragraph_number, paragraph in enumerate(_child_list(article, "paragraphs", place), start=1):
            place = f"article {article_number}, paragraph {paragraph_number}"
            for number, question in enumerate(_child_list(paragraph, "qas", place), start=1):
                place = f"article {article_number}, paragraph {paragraph_number}, question {number}"
                if not isinstance(question, dict):
                    raise _FileError(f", {place}: expected a mapping, found {_kind(question)}")
                yield (
                    place,
                    {
                        "id": question.get("id"),
                        "title": article.get("title"),
                        "context": paragraph.get("context"),
                        "question": question.get("question"),
                        "answers": question.get("answers"),
                    },
                )


def _child_list(parent, name, place):
    children = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(children, list):
        raise _FileError(f", {place}: expected a list {name!r}, found {_kind(children)}")
    return children


def _json_lines_rows(path):
    with Path(path).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _FileError(f", line {number}: not valid JSON ({error}); expected one question a line") from error
            yield f"line {number}", row


def _csv_rows(path):
    csv.field_size_limit(2**31 - 1)
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise _FileError(f", line {reader.line_num}: more fields than the header has names")
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise _FileError(f", line {reader.reader.line_num}: not valid CSV ({error})") from error


def _parquet_rows(path):
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        yield from _table_rows(file.schema_arrow.names, lambda needed: file.iter_batches(columns=needed))
    except UnicodeDecodeError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise _FileError(f": not a readable Parquet file ({error})") from error
    except _ExampleError as error:
        raise _FileError(f", row 1: {error}") from error


def _table_rows(names, read):
    """Yield the rows of Arrow tables; `read` gives those with the columns that it gets the names of.

    The other columns may hold what Python cannot, dates in the year 300,000 for instance, or images to be decoded.
    """
    needed = {"id", "title", *_find_columns(names).values()}
    rows = itertools.chain.from_iterable(
        table.to_pylist() for table in read([name for name in names if name in needed])
    )
    yield from ((f"row {number}", {**dict.fromkeys(names), **row}) for number, row in enumerate(rows, start=1))
