"""Which column of a question file holds what.

Belongs here: the names that people give their columns, and what is made of columns with other names.
Does not belong here: reading files (`files.py`) and what the values mean (`examples.py`).
"""

import re


class ExampleError(Exception):
    """One row cannot become an example; whoever catches it adds the file and the place."""


# Names by what they stand for, the preferred ones first; `normalized` names are compared.
NAMES = {
    "id": ("id", "qid", "question_id", "query_id", "example_id", "qas_id", "uid", "uuid", "guid"),
    "title": ("title", "document_title", "article_title"),
    "question": (
        *("question", "query", "question_text", "query_text", "input_question", "user_question", "question_en", "q"),
        *("questions", "prompt"),
    ),
    "context": (
        *("context", "passage", "paragraph", "context_text", "passage_text", "paragraph_text", "document"),
        *("document_text", "article", "article_text", "doc", "contexts", "context_paragraph", "para", "ctx", "body"),
        *("content", "story", "evidence", "excerpt", "abstract", "snippet", "text"),
    ),
    "answers": ("answers", "answer"),
    "answer_text": (
        *("answers_text", "answer_text", "answer_texts", "answers_answer_text", "answer_span", "answer_string"),
        *("answer", "answers", "text"),
    ),
    "answer_start": (
        *("answers_answer_start", "answer_start", "answers_start", "answer_starts", "answer_begin", "answer_offset"),
        *("answer_start_index", "answer_start_idx", "answer_start_char", "answer_start_position", "start_char"),
        *("char_start", "start_index", "start_idx", "start_pos", "start_offset", "start", "offset"),
    ),
    "answerable": ("answerable", "is_answerable", "has_answer"),
    "is_impossible": ("is_impossible", "impossible", "is_unanswerable", "unanswerable", "no_answer"),
}
# Row numbers that pandas writes beside the data, under no name or under one of its own.
_ROW_NUMBERS = ("", "index", "level_0", "index_level_0")


def normalized(name):
    """Return a name as `NAMES` spells it: `Answers.Text`, `answersText` and `answers text` are `answers_text`."""
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name))
    return re.sub(r"[\W_]+", "_", name).strip("_").lower()


def find_columns(names):
    """Find the columns of question, context and answers: by name, else by position, as the transformers example.

    Args:
        names: of all columns, in their order.

    Returns:
        `(columns, by_position)`: a dictionary from the keys of `NAMES` to the columns that were found, and the list of
        those keys whose column no name told. `answer_text` and `answer_start` come together only; texts alone are
        `answers`.

    Raises:
        ExampleError: there is no question, or no context.
    """
    by_name = {normalized(name): name for name in reversed(names)} | {name: name for name in names}
    columns = {
        role: next(by_name[known] for known in spellings if known in by_name)
        for role, spellings in NAMES.items()
        if any(known in by_name for known in spellings)
    }
    if columns.get("answer_text") == columns.get("context"):  # both may be called "text"
        columns.pop("answer_text", None)
    if not {"answer_text", "answer_start"} <= columns.keys():
        columns.pop("answer_start", None)
        texts = columns.pop("answer_text", None)
        if texts is not None and normalized(texts) != "text":  # which may be anything's
            columns.setdefault("answers", texts)
    unknown = [
        name
        for name in names
        if name not in columns.values()
        and normalized(name) not in _ROW_NUMBERS
        and not re.fullmatch(r"unnamed_\d+", normalized(name))
        and not any(normalized(name) in spellings for spellings in NAMES.values())
    ]
    by_position = []
    for role in ("question", "context"):
        if role in columns:
            continue
        if not unknown:
            raise ExampleError(f"no {role!r} column; found {', '.join(map(repr, names)) or 'none'}")
        columns[role] = unknown.pop(0)
        by_position.append(role)
    third = unknown and (by_position or names[2:3] == unknown[:1])
    if third and not {"answers", "answer_text"} & columns.keys():
        columns["answers"] = unknown[0]
        by_position.append("answers")
    return columns, by_position


def has_name(mapping, role):
    """Tell whether a mapping has a key for a role of `NAMES`."""
    return any(normalized(name) in NAMES[role] for name in mapping)


def first_named(mapping, role):
    """Return the value that a mapping has for a role of `NAMES`, `None` if it has none."""
    known = {normalized(name): name for name in mapping}
    return next((mapping[known[name]] for name in NAMES[role] if name in known), None)
