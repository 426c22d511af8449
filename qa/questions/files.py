"""Question files in, rows out, each with its place in the file.

Belongs here: the formats of `--train_file`, `--validation_file` and `--test_file`. Reading needs the standard library
alone (`pyarrow` for Parquet), so that a bad file is answered before a model is loaded.
Does not belong here: which column holds what (`columns.py`) and what a row must hold (`examples.py`).
"""

import contextlib
import csv
import itertools
import json
import re
from pathlib import Path

from qa.questions.answers_as_text import MISSING
from qa.questions.columns import ExampleError, find_columns, first_named, has_name
from qa.start.errors import UsageError
from qa.start.paths import is_lfs_pointer


class FileError(Exception):
    """The layout of a file is broken; the message starts with the place, whoever catches it adds the file."""


@contextlib.contextmanager
def reading(source):
    """Turn what goes wrong while rows are read into a `UsageError` that names the source."""
    try:
        yield
    except FileError as error:
        raise UsageError(f"{source}{error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{source}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror or error}") from error


def kind_of_value(value):
    """Say in words what a value is, for messages."""
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "missing", bool: "true or false"}
    if type(value) in names:
        return names[type(value)]
    if isinstance(value, int) and abs(value) >= 10**1000:
        return "a number of over a thousand digits"
    return f"a number ({value})" if isinstance(value, (int, float)) else type(value).__name__


def rows_of_file(path):
    """Yield `(place, row)` from a question file, `place` a text such as "line 3".

    Args:
        path: file name ending in `.json` (official nested SQuAD v1.1 or v2.0, flat rows under `data`, a list of rows,
            of articles or of paragraphs, a table by columns as pandas writes it, or JSON Lines), `.jsonl` (each line
            any of these), `.csv`, `.parquet`, or `.txt` (paragraphs with a blank line between them, each a row with
            `text`).

    Raises:
        FileError: it is none of these.
        UnicodeDecodeError, OSError: it cannot be read.
    """
    if is_lfs_pointer(path):
        raise FileError(": it is a Git LFS pointer and not the file itself; run git lfs pull where it lies")
    readers = {".json": _json_rows, ".jsonl": _json_lines_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    readers[".txt"] = _paragraphs
    yield from next(reader for suffix, reader in readers.items() if str(path).endswith(suffix))(path)


def _parsed(text):
    return json.loads(text, parse_constant=lambda name: None)  # NaN is how pandas says that something is missing


def _json_rows(path):
    text = Path(path).read_text(encoding="utf-8-sig").lstrip("\ufeff")
    try:
        content = _parsed(text)
    except (ValueError, RecursionError) as error:
        # Several documents in one file: JSON Lines under the other name.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and error.lineno > 1:
            yield from _json_lines_rows(path)
            return
        raise FileError(f": not valid JSON ({error}); expected SQuAD JSON, flat JSON or JSON Lines") from error
    rows = _rows_of_mapping(content) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise FileError(
            f': expected SQuAD JSON ({{"data": [articles]}}), flat JSON ({{"data": [rows]}}) or JSON Lines, '
            f"found {kind_of_value(rows)}"
        )
    yield from _unnested(rows, "")


def _rows_of_mapping(content):
    """Return what is under `data`, else the rows of a table by columns or row numbers, else the one row itself."""
    if "data" in content:
        rows, names = content["data"], content.get("columns")
        if isinstance(names, list) and isinstance(rows, list):  # to_json(orient="split")
            return [dict(zip(names, row, strict=False)) if isinstance(row, list) else row for row in rows]
        return rows
    columns = list(content.values())
    if has_name(content, "question") and all(isinstance(column, dict) for column in columns):  # to_json()
        return [{name: column.get(row) for name, column in content.items()} for row in columns[0]]
    if has_name(content, "question") and all(isinstance(column, list) for column in columns):  # to_dict("list")
        return [dict(zip(content, row, strict=True)) for row in itertools.zip_longest(*columns)]
    if columns and all(isinstance(row, dict) and has_name(row, "question") for row in columns):  # orient="index"
        return columns
    return [content]


def _unnested(values, prefix):
    """Yield the questions in a list of rows, of articles (the official SQuAD files) or of paragraphs.

    Args:
        values: list, of which the first tells what all of them are.
        prefix: of the places, if the list is only a part of the file.
    """
    first = values[0] if values and isinstance(values[0], dict) else {}
    if "paragraphs" in first:
        for number, article in enumerate(values, start=1):
            place = f"{prefix}article {number}"
            yield from _paragraph_rows(_child_list(article, "paragraphs", place), f"{place}, ")
    elif "qas" in first:
        yield from _paragraph_rows(values, prefix)
    else:
        for number, row in enumerate(values, start=1):
            yield f"{prefix}row {number}", row


def _paragraph_rows(paragraphs, prefix):
    for paragraph_number, paragraph in enumerate(paragraphs, start=1):
        place = f"{prefix}paragraph {paragraph_number}"
        for number, question in enumerate(_child_list(paragraph, "qas", place), start=1):
            if not isinstance(question, dict):
                raise FileError(f", {place}, question {number}: expected a mapping, found {kind_of_value(question)}")
            named = {**question, "context": first_named(paragraph, "context")}
            named |= {role: None for role in ("question", "answers") if not has_name(named, role)}
            yield f"{place}, question {number}", named


def _child_list(parent, name, place):
    children = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(children, list):
        raise FileError(f", {place}: expected a list {name!r}, found {kind_of_value(children)}")
    return children


def _row_or_more(row, place):
    """Yield the row of a line or a table, or the questions in it if it holds a file, an article or a paragraph."""
    if isinstance(row, list):
        yield from _unnested(row, f"{place}, ")
    elif isinstance(row, dict) and isinstance(row.get("data"), list) and "context" not in row:
        yield from _unnested(row["data"], f"{place}, ")
    elif isinstance(row, dict) and ("paragraphs" in row or "qas" in row):
        yield from _unnested([row], f"{place}, ")
    else:
        yield place, row


def _is_one_document(path):
    try:
        _parsed(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


def _json_lines_rows(path):
    nothing_yet = True
    with Path(path).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.strip().lstrip("\ufeff")
            if not line:
                continue
            try:
                row = _parsed(line)
            except (ValueError, RecursionError) as error:
                if nothing_yet and _is_one_document(path):
                    yield from _json_rows(path)
                    return
                raise FileError(f", line {number}: not valid JSON ({error}); expected one question a line") from error
            nothing_yet = False
            yield from _row_or_more(row, f"line {number}")


def _paragraphs(path):
    with Path(path).open(encoding="utf-8-sig") as lines:
        groups = itertools.groupby(enumerate(lines, start=1), key=lambda line: bool(line[1].strip()))
        for number, group in ((next(group), group) for full, group in groups if full):
            yield f"line {number[0]}", {"text": "".join([number[1], *(line for _, line in group)]).strip()}


def _delimiter(lines):
    """Return what stands between the names of a CSV file's first line; the file is read from there on."""
    first = lines.readline()
    if told := re.fullmatch(r"sep=(.)\s*", first):  # which Excel reads and writes
        return told[1]
    lines.seek(0)
    return next((mark for mark in (",", ";", "\t") if mark in first), ",")


def _csv_rows(path):
    csv.field_size_limit(2**31 - 1)
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True, delimiter=_delimiter(lines))
        try:
            for row in reader:
                if None in row:
                    raise FileError(f", line {reader.line_num}: more fields than the header has names")
                yield f"line {reader.line_num}", {name: _cell_value(cell) for name, cell in row.items()}
        except csv.Error as error:
            raise FileError(f", line {reader.reader.line_num}: not valid CSV ({error})") from error


def _cell_value(cell):
    """Return the text of a cell, `None` for the words by which pandas and others say that there is none."""
    return None if cell is None or cell.strip() in MISSING else cell


def _parquet_rows(path):
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        yield from table_rows(file.schema_arrow.names, lambda needed: file.iter_batches(columns=needed))
    except UnicodeDecodeError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise FileError(f": not a readable Parquet file ({error})") from error
    except ExampleError as error:
        raise FileError(f", row 1: {error}") from error


def _columns_to_read(names):
    try:
        return set(find_columns(names)[0].values())
    except ExampleError:
        # Text without questions; whoever wants questions will say that there are none.
        if text := {name for name in names if has_name([name], "context")}:
            return text
        raise


def table_rows(names, read):
    """Yield the rows of Arrow tables, or the questions in them where they hold the nested layout.

    The other columns may hold what Python cannot, dates in the year 300,000 for instance, or images to be decoded.

    Args:
        names: of all columns.
        read: callable from the names of those needed to an iterable of tables.

    Raises:
        ExampleError: no column holds questions, or none holds contexts.
    """
    nested = next((name for name in ("data", "paragraphs", "qas") if name in names), None)
    needed = {nested, "context"} if nested and "question" not in names else _columns_to_read(names)
    number = 0
    for table in read([name for name in names if name in needed]):
        for row in table.to_pylist():
            number += 1
            yield from _row_or_more({**dict.fromkeys(names), **row} if not nested else row, f"row {number}")
