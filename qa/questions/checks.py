"""What must be true of all examples of a split before they are learned from, answered or scored.

Belongs here: refusing, mending and counting, with every offending question named.
Does not belong here: what a single row must hold (`examples.py`).
"""

import contextlib
import hashlib
import tempfile
from pathlib import Path

from qa.start.errors import UsageError
from qa.start.process import is_first_process

# What is said of answers whose text does not begin where the file says, or whose file does not say it.
NOT_THERE = "answers do not stand at their answer_start, or have none"


def check_for_scoring(examples, source, version_2_with_negative):
    """Refuse examples whose predictions could not be told apart or scored.

    Raises:
        UsageError: two examples share an id, answers are missing, or a question has none outside SQuAD 2.0.
    """
    refuse_duplicate_ids(examples, source)
    _refuse_missing_answers(examples, source, version_2_with_negative)
    misplaced = [example["id"] for example in examples for _ in _misplaced_answers(example)]
    if misplaced:
        print(
            f"note: {source}: {len(misplaced)} {NOT_THERE}, the first in question {misplaced[0]}; they are scored by "
            f"their text{ids_in_a_file(list(dict.fromkeys(misplaced)))}"
        )


def check_for_training(examples, source, version_2_with_negative):
    """Refuse examples that would teach wrong spans; mend an `answer_start` where the text stands in one place only.

    Training learns from the first answer of each example; where the others stand does no harm.

    Args:
        examples: list of examples; the answers of misplaced ones are corrected in place.

    Raises:
        UsageError: answers are missing, or the first of some example stands neither at its `answer_start` nor in
            exactly one other place.
    """
    _refuse_missing_answers(examples, source, version_2_with_negative)
    misplaced, realigned, beyond_repair = [], 0, []
    for example in examples:
        for number in _misplaced_answers(example):
            if number and example["answers"]["answer_start"][number] < 0:
                continue  # nobody said where, and nobody looks
            misplaced.append(example["id"])
            text, shift = _without_white(example["answers"]["text"][number])
            first = example["context"].find(text)
            if first >= 0 and example["context"].find(text, first + 1) < 0:
                example["answers"]["answer_start"][number] = first - shift
                realigned += 1
            elif number == 0:
                beyond_repair.append(example["id"])
    if beyond_repair:
        raise UsageError(
            f"{source}: {len(misplaced)} {NOT_THERE}, and for {len(beyond_repair)} of "
            f"them the right place cannot be told (the first: question {beyond_repair[0]}); correct the file"
            f"{ids_in_a_file(beyond_repair)}"
        )
    if not misplaced:
        return
    outcome = "they were realigned"
    if realigned < len(misplaced):
        outcome = (
            f"{realigned} were realigned, and training does not look at the others, which are not the first of their "
            "questions"
        )
    print(f"note: {source}: {len(misplaced)} {NOT_THERE}; {outcome}{ids_in_a_file(misplaced)}")


def _misplaced_answers(example):
    """Return the numbers (from 0) of the answers whose text does not stand at their `answer_start`."""
    answers = example["answers"]
    pairs = zip(answers["text"], answers["answer_start"], strict=True)
    misplaced = []
    for number, (text, start) in enumerate(pairs):
        text, shift = _without_white(text)
        if start + shift < 0 or not example["context"].startswith(text, start + shift):
            misplaced.append(number)
    return misplaced


def _without_white(text):
    """Take white space off both ends of an answer, which labels have not either; return how much went in front."""
    return text.strip(), len(text) - len(text.lstrip())


def is_blank(text):
    """Tell whether a text has no visible character."""
    return not any(character.isprintable() and character != " " for character in text)


def refuse_blank(examples, source):
    """Refuse texts of white space and invisible characters alone: they have no tokens to answer from.

    Raises:
        UsageError: there are some.
    """
    for name in ("question", "context"):
        blank = [example["id"] for example in examples if is_blank(example[name])]
        if blank:
            raise UsageError(
                f"{source}: question {blank[0]}: its {name} has no visible character; correct or remove it"
                f"{ids_in_a_file(blank)}"
            )


def refuse_duplicate_ids(examples, source):
    """Refuse examples whose predictions, which go by their ids, could not be told apart.

    Raises:
        UsageError: two have the same id.
    """
    seen, twice = set(), {}
    for example in examples:
        if example["id"] in seen:
            twice[example["id"]] = None
        seen.add(example["id"])
    if twice:
        first = next(iter(twice))
        raise UsageError(
            f"{source}: two questions have the id {first!r}; ids must be unique{ids_in_a_file(list(twice))}"
        )


def _refuse_missing_answers(examples, source, version_2_with_negative):
    without = [example["id"] for example in examples if example["answers"] is None]
    if without:
        raise UsageError(
            f"{source}: question {without[0]} has no 'answers'; "
            f"files without answers are for --do_predict with --test_file{ids_in_a_file(without)}"
        )
    if version_2_with_negative:
        return
    unanswerable = [example["id"] for example in examples if not example["answers"]["text"]]
    if unanswerable:
        raise UsageError(
            f"{source}: {len(unanswerable)} questions have no answer (the first: {unanswerable[0]}); "
            f"for SQuAD 2.0 data give --version_2_with_negative{ids_in_a_file(unanswerable)}"
        )


def ids_in_a_file(ids):
    """Write ids into a file, one a line, if they are more than the one that a message names.

    The same ids get the same file, in the folder for temporary files: nothing else of the user's is touched.

    Returns:
        The end of a message, which names the file; empty if there is none.
    """
    if len(ids) < 2 or not is_first_process():
        return ""
    content = "".join(f"{' '.join(identifier.split())}\n" for identifier in dict.fromkeys(ids)).encode()
    folder = Path(tempfile.gettempdir())
    path = folder / f"questions-{hashlib.sha256(content).hexdigest()[:12]}.txt"
    with contextlib.suppress(OSError):  # no room: the message names the first one
        with contextlib.suppress(FileExistsError), path.open("xb") as file:
            file.write(content)
        if path.is_symlink() or path.read_bytes() != content:  # somebody else's
            with tempfile.NamedTemporaryFile(prefix="questions-", suffix=".txt", delete=False) as file:
                file.write(content)
                path = Path(file.name)
        return f"; all ids are in {path}"
    return ""
