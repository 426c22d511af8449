"""Digests: the same for the same content, another for any other."""

import hashlib

import pytest

from qa.start import digests


def test_other_values_have_other_digests():
    values = [None, False, True, 0, 1, 0.5, "", "a", "A", [], [1, 2], [2, 1], {}, {"a": 1}, {"a": 2}, {"b": 1}]
    assert len({digests.digest(value) for value in values}) == len(values)


def test_a_digest_depends_on_no_order_of_keys_and_takes_any_text():
    assert digests.digest({"a": 1, "b": {"c": 2, "d": 3}}) == digests.digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digests.digest("") == hashlib.sha256(b"").hexdigest()[:16]
    assert digests.digest("\ud800") != digests.digest("\ud801")


FILES = {
    "qa/questions/answers.py": "a = 1",
    "qa/questions/features.py": "b = 2",
    "qa/models/passes.py": "c = 3",
    "qa/results/course.py": "d = 4",
    **dict.fromkeys(digests.MAKERS, "e = 5"),
}


def code_of(folder, files, monkeypatch, *rooms):
    """The digest of the project with these files."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(digests, "PROJECT_DIR", folder)
    return digests.code_of(*rooms)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"qa/questions/answers.py": "a = 2"}, False),
        ({"qa/questions/features.py": "b = 3"}, False),
        ({"qa/questions/more.py": ""}, False),
        ({"qa/results/course.py": "d = 5"}, False),
        ({"qa/results/card.py": "d = 5"}, True),
        ({"trainer_qa.py": "e = 6"}, False),
        ({"qa/models/passes.py": "c = 4"}, True),
        ({"qa/questions/notes.txt": "no code"}, True),
        ({"run_qa.py": "f = 6"}, False),
        ({"my_plots.py": "the user's own"}, True),
    ],
)
def test_the_digest_of_code_changes_with_the_files_of_its_rooms(changes, same, tmp_path, monkeypatch):
    before = code_of(tmp_path / "before", FILES, monkeypatch, "questions")
    after = code_of(tmp_path / "after", FILES | changes, monkeypatch, "questions")
    assert (before == after) == same
    assert len(before) == digests.DIGITS


def test_all_that_makes_models_is_in_the_digest_of_code():
    others = {"answer_qa.py", "report_qa.py", "utils_qa.py"}
    assert {*digests.MAKERS} == {path.name for path in digests.PROJECT_DIR.glob("*_qa*.py")} - others


def test_the_digest_of_code_knows_which_file_holds_what(tmp_path, monkeypatch):
    swapped = {**FILES, "qa/questions/answers.py": "b = 2", "qa/questions/features.py": "a = 1"}
    found = {
        code_of(tmp_path / str(number), files, monkeypatch, "questions", "models")
        for number, files in enumerate((FILES, swapped, FILES))
    }
    assert len(found) == 2
    assert code_of(tmp_path / "0", {}, monkeypatch, "questions") not in found
