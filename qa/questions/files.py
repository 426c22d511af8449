"""Question files in, rows out, each with its place in the file.

Belongs here: the formats of `--train_file`, `--validation_file` and `--test_file`. Reading needs the standard library
alone (`pyarrow` for Parquet), so that a bad file is answered before a model is loaded.
Does not belong here: what a row must hold (`examples.py`).
"""

import csv
import itertools
import json
from pathlib import Path


class ExampleError(Exception):
    """One row cannot become an example; whoever catches it adds the file and the place."""


class FileError(Exception):
    """The layout of a file is broken; the message starts with the place, whoever catches it adds the file."""


def find_columns(names):
    """Map question, context and answers to column names: by name, else by position, as the transformers example."""
    columns = {}
    for position, role in enumerate(("question", "context", "answers")):
        if role in names:
            columns[role] = role
        elif position < len(names) and names[position] not in ("id", "title", "question", "context", "answers"):
            columns[role] = names[position]
        elif role != "answers":
            raise ExampleError(f"no {role!r} column; found {', '.join(map(repr, names)) or 'none'}")
    return columns


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
            or JSON Lines), `.jsonl`, `.csv` or `.parquet`.

    Raises:
        FileError: it is none of these.
        UnicodeDecodeError, OSError: it cannot be read.
    """
    readers = {".json": _json_rows, ".jsonl": _json_lines_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
    yield from next(reader for suffix, reader in readers.items() if str(path).endswith(suffix))(path)


def _json_rows(path):
    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Several documents in one file: JSON Lines under the other name.
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and error.lineno > 1:
            yield from _json_lines_rows(path)
            return
        raise FileError(f": not valid JSON ({error}); expected SQuAD JSON, flat JSON or JSON Lines") from error
    rows = content.get("data", [content]) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise FileError(
            f': expected SQuAD JSON ({{"data": [articles]}}), flat JSON ({{"data": [rows]}}) or JSON Lines, '
            f"found {kind_of_value(rows)}"
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
                    raise FileError(f", {place}: expected a mapping, found {kind_of_value(question)}")
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
        raise FileError(f", {place}: expected a list {name!r}, found {kind_of_value(children)}")
    return children


def _json_lines_rows(path):
    with Path(path).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise FileError(f", line {number}: not valid JSON ({error}); expected one question a line") from error
            yield f"line {number}", row


def _csv_rows(path):
    csv.field_size_limit(2**31 - 1)
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if None in row:
                    raise FileError(f", line {reader.line_num}: more fields than the header has names")
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise FileError(f", line {reader.reader.line_num}: not valid CSV ({error})") from error


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


def table_rows(names, read):
    """Yield the rows of Arrow tables; `read` gives those with the columns that it gets the names of.

    The other columns may hold what Python cannot, dates in the year 300,000 for instance, or images to be decoded.
    """
    needed = {"id", "title", *find_columns(names).values()}
    rows = itertools.chain.from_iterable(
        table.to_pylist() for table in read([name for name in names if name in needed])
    )
    yield from ((f"row {number}", {**dict.fromkeys(names), **row}) for number, row in enumerate(rows, start=1))
