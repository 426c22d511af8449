"""Rows in, examples out.

Belongs here: loading the splits of a run, and what a row must hold to become an example.
Does not belong here: file formats (`files.py`), data sets (`data_sets.py`), what must be true of a whole split
(`checks.py`), tokens and features (`features.py`).

An example is a dictionary: `id` (str), `context` (str), `question` (str) and `answers`, which is
`{"text": [str, ...], "answer_start": [int, ...]}` with character positions, empty lists for a question without an
answer, or `None` where the file gives no answers at all. No answer's text is blank; -1 is the position of one whose
file tells none, which is looked for before it is learned from (`checks.py`).
"""

import itertools
import re
import unicodedata

from qa.questions.answers_as_text import MISSING, ShortenedError, value_of_text
from qa.questions.checks import check_for_scoring, refuse_blank, refuse_duplicate_ids
from qa.questions.columns import ExampleError, find_columns, first_named, has_name
from qa.questions.data_sets import open_data_set, rows_of_split
from qa.questions.files import kind_of_value, reading, rows_of_file
from qa.start.arguments import FILE_FLAGS
from qa.start.errors import UsageError


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
    rows_of = open_data_set(data_args, model_args) if data_args.dataset_name and splits else None
    loaded = {}
    for split in splits:
        source = source_of(data_args, split)
        if rows_of is None:
            loaded[split] = read_examples(getattr(data_args, FILE_FLAGS[split]), source, limits[split])
        else:
            loaded[split] = _examples_of(rows_of_split(rows_of, split, source), source, limits[split])
        refuse_blank(loaded[split], source)
    if "validation" in loaded:
        check_for_scoring(loaded["validation"], source_of(data_args, "validation"), data_args.version_2_with_negative)
    if "test" in loaded:
        refuse_duplicate_ids(loaded["test"], source_of(data_args, "test"))
    return loaded


def source_of(data_args, split):
    """Name the place that a split comes from, for messages."""
    if data_args.dataset_name is not None:
        return f"--dataset_name {data_args.dataset_name}, split {split}"
    return f"--{FILE_FLAGS[split]} {getattr(data_args, FILE_FLAGS[split])}"


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
    return _examples_of(rows_of_file(path), source, max_samples)


def _examples_of(rows, source, max_samples):
    """Check rows one by one; `rows` yields `(place, row)` with `place` a text such as "line 3"."""
    examples, names, without_id = [], {}, None
    with reading(source):
        for place, row in itertools.islice(rows, max_samples):
            try:
                if not isinstance(row, dict):
                    raise ExampleError(
                        f"expected a mapping with question, context and answers, found {kind_of_value(row)}"
                    )
                if not names or not row.keys() <= names.keys():  # rows need not have the same columns
                    names |= dict.fromkeys(row)
                    columns, by_position = _columns_of(list(names), row)
                examples.append(_example_of(row, columns))
                if examples[-1]["id"] is None:
                    without_id = without_id or place
            except ExampleError as error:
                raise UsageError(f"{source}, {place}: {error}") from error
    if not examples:
        raise UsageError(f"{source}: there is no question in it")
    if without_id:
        if any(example["id"] is not None for example in examples):
            raise UsageError(
                f"{source}, {without_id}: 'id' is missing, and other questions have one; give all one, or none"
            )
        for number, example in enumerate(examples):
            example["id"] = str(number)
    if any(example["answers"] and example["answers"]["text"] for example in examples):
        for example in examples:  # where others have answers, none is no answer
            example["answers"] = example["answers"] or {"text": [], "answer_start": []}
    _refuse_swapped(examples, columns, source)
    if by_position:
        taken = ", ".join(f"{role} from {columns[role]!r}" for role in by_position)
        print(f"note: {source}: no column has a known name for these, which are taken by position: {taken}")
    return examples


def _columns_of(names, row):
    """Find the columns, but no answers by position where the row that brought them has none there."""
    columns, by_position = find_columns(names)
    value = _cell(row, columns, "answers")
    if "answers" in by_position and not (_is_missing(value) or (value and _holds_more(value))):
        del columns["answers"]
        by_position.remove("answers")
    return columns, by_position


def _refuse_swapped(examples, columns, source):
    """Refuse columns that are taken for question and context, and seem to be the other way round."""
    if all(columns[role] == role for role in ("question", "context")):
        return
    longer = sum(len(example["question"]) > len(example["context"]) for example in examples)
    if 2 * longer > len(examples):
        raise UsageError(
            f"{source}: in {longer} of {len(examples)} rows the question (column {columns['question']!r}) is longer "
            f"than its context (column {columns['context']!r}); call the columns 'question' and 'context'"
        )


def _cell(row, columns, role):
    return row.get(columns[role]) if role in columns else None


def _is_missing(value):
    """Tell whether a value stands for none; NaN is what differs from itself, if it has not become text."""
    if isinstance(value, str):
        return value.strip() in ("", "nan", "NaN", "NAN")
    return value is None or value != value


def _example_of(row, columns):
    """Turn a row into an example, whose id is `None` if the row has none."""
    identifier = _cell(row, columns, "id")
    if isinstance(identifier, float) and identifier.is_integer():
        identifier = int(identifier)
    identifier = str(identifier) if isinstance(identifier, int) else identifier
    return {
        "id": None if _is_missing(identifier) else _text(identifier, "id"),
        "context": _text(_cell(row, columns, "context"), columns["context"]),
        "question": _text(_cell(row, columns, "question"), columns["question"]),
        "answers": _answers_of_row(row, columns),
    }


def _text(value, name):
    if value != value:
        value = None
    if not isinstance(value, str):
        raise ExampleError(f"{name!r} is {kind_of_value(value)}, expected text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExampleError(f"{name!r} holds half a character (a lone surrogate) at position {error.start}") from error
    return value


def _answers_of_row(row, columns):
    impossible, answerable = (
        str(_cell(row, columns, role)).strip().lower() for role in ("is_impossible", "answerable")
    )
    if impossible in ("true", "1", "1.0", "yes") or answerable in ("false", "0", "0.0", "no"):
        return {"text": [], "answer_start": []}
    answers = _cell(row, columns, "answers")
    if isinstance(answers, str) and not _is_missing(answers) and columns["answers"] != columns.get("answer_text"):
        answers = _list_in(answers, row[columns["context"]], columns["answers"])
    if "answer_start" in columns and not _holds_more(answers):
        texts, starts = _cell(row, columns, "answer_text"), _cell(row, columns, "answer_start")
        starts = None if _is_missing(starts) else _literal(starts, columns["answer_start"])
        if isinstance(starts, list):
            texts = _literal(texts, columns["answer_text"])
        found = {"text": [], "answer_start": []}
        if not (_is_missing(texts) and _is_missing(starts)):
            found = _answers_of({"text": texts, "answer_start": starts})
        # Right answers beside the one with a position.
        others = answers if isinstance(answers, list) and columns["answers"] != columns["answer_text"] else []
        more = _answers_of([text for text in others if isinstance(text, str) and text not in found["text"]])
        return {name: found[name] + more[name] for name in found}
    return None if _is_missing(answers) else _answers_of(answers)


def _list_in(text, context, name):
    """Read answers that are written as one text: a notation of them, or the only answer itself."""
    if not _holds_more(text) and not text.lstrip().startswith(("[", "{", "array(")):
        return [text]
    try:
        return _literal(text, name)
    except ExampleError as error:
        if isinstance(error.__cause__, ShortenedError) or text.strip() not in context:
            raise
        return [text]


def _holds_more(answers):
    """Tell whether a value holds more than texts: their starts as well, or names for what it holds."""
    if isinstance(answers, str):
        return "{" in answers and ":" in answers
    return isinstance(answers, dict) or (isinstance(answers, list) and all(isinstance(each, dict) for each in answers))


def _literal(value, name):
    """Read a value that may be written as text."""
    if not isinstance(value, str):
        return value
    try:
        return value_of_text(value)
    except ShortenedError as error:
        raise ExampleError(
            f"{name!r} is shortened by three dots, its writer left values out; write the file as JSON Lines or Parquet"
        ) from error
    except ValueError as error:
        raise ExampleError(f"{name!r} is neither JSON nor a Python literal: {value[:40]!r}") from error


def _answers_of(answers):
    """Bring the known layouts (parallel lists, one pair, a list of pairs or texts) to the first, without blanks."""
    if (isinstance(answers, list) and all(map(_says_nothing, answers))) or answers == {}:
        return {"text": [], "answer_start": []}
    if isinstance(answers, list):
        answers = [answer if isinstance(answer, (dict, list)) else {"text": answer} for answer in answers]
        if not all(isinstance(answer, dict) and has_name(answer, "answer_text") for answer in answers):
            raise ExampleError("'answers' must hold texts, or pairs of 'text' and 'answer_start'")
        pairs = [(first_named(answer, "answer_text"), first_named(answer, "answer_start")) for answer in answers]
    else:
        pairs = _parallel(answers)
    pairs = [(text, start) for text, start in pairs if not _is_blank(text)]
    return {
        "text": [_text(text, "answers") for text, _ in pairs],
        "answer_start": [_position(start) for _, start in pairs],
    }


def _says_nothing(answer):
    """Tell whether an entry of a list of answers is none: blank, or a mapping without a text and a place."""
    if isinstance(answer, dict):
        return not has_name(answer, "answer_text") and first_named(answer, "answer_start") in (None, -1)
    return _is_blank(answer)


def _parallel(answers):
    """Return the pairs in two parallel lists, or the one pair of two single values."""
    if not isinstance(answers, dict) or not has_name(answers, "answer_text"):
        raise ExampleError(f"'answers' is {kind_of_value(answers)}, expected 'text' and 'answer_start'")
    texts, starts = first_named(answers, "answer_text"), first_named(answers, "answer_start")
    if _is_missing(starts) and isinstance(texts, list):
        starts = [None] * len(texts)
    if not isinstance(texts, list) and not (isinstance(starts, list) and len(starts) != 1):
        texts = [texts]
    if not isinstance(starts, list) and isinstance(texts, list) and len(texts) == 1:
        starts = [starts]
    if _is_blank(texts) or (isinstance(texts, list) and all(map(_is_blank, texts))):
        return []
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ExampleError("'answers' needs as many 'text' as 'answer_start' entries, in two lists")
    return list(zip(texts, starts, strict=True))


def _is_blank(text):
    if not isinstance(text, str):
        return _is_missing(text)
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in text)


def _position(start):
    if _is_missing(start) or (isinstance(start, str) and start.strip() in MISSING):
        return -1
    if isinstance(start, str) and re.fullmatch(r"\s*-?\d{1,18}(\.0*)?\s*", start, re.ASCII):
        start = float(start)
    if isinstance(start, float) and start.is_integer():
        start = int(start)  # as pandas has them in a column with gaps
    if not isinstance(start, int) or isinstance(start, bool):
        raise ExampleError(f"'answer_start' is {kind_of_value(start)}, expected a whole number")
    if not -(2**31) <= start < 2**31:
        raise ExampleError(f"'answer_start' is {kind_of_value(start)}, expected a position in the context")
    return start
