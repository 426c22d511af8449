"""Stored teacher logits: those of a plain loop over the teacher, kept, taken up after a kill, and used again."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, SAMPLE

from qa.compression import distillation
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.start.arguments import DataTrainingArguments
from qa.start.errors import SaveError

BATCH_SIZE = 4


@pytest.fixture(scope="module")
def teacher():
    from transformers import AutoModelForQuestionAnswering

    return AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa-teacher").eval()


@pytest.fixture(scope="module")
def features(tokenizer, tmp_path_factory):
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 20))
    data_args = DataTrainingArguments(max_seq_length=128, doc_stride=32)
    return prepare_features(examples, tokenizer, data_args, str(tmp_path_factory.mktemp("features")))


def add(features, teacher, tokenizer, folder, batch_size=BATCH_SIZE):
    return distillation.add_teacher_logits(features, teacher, tokenizer, batch_size, str(folder))


def files(folder):
    return {path.suffix: path.read_bytes() for path in (folder / "qa_features").iterdir()}


@pytest.fixture
def complete(features, teacher, tokenizer, tmp_path):
    """The file that a run without interruption writes."""
    folder = tmp_path / "complete"
    add(features, teacher, tokenizer, folder)
    found = files(folder)
    assert found.keys() == {".teacher_logits"}
    return found[".teacher_logits"]


def test_the_column_holds_what_the_teacher_says_feature_by_feature(features, teacher, tokenizer, tmp_path):
    stored = add(features, teacher, tokenizer, tmp_path)
    assert len(set(map(len, features["input_ids"]))) > 3, "the batches should hold several lengths"
    for row, feature in zip(stored, features, strict=True):
        with torch.no_grad():
            outputs = teacher(**{name: torch.tensor([feature[name]]) for name in ("input_ids", "attention_mask")})
        expected = [outputs[name][0].tolist() for name in ("start_logits", "end_logits")]
        assert [len(side) for side in row["teacher_logits"]] == [len(feature["input_ids"])] * 2
        np.testing.assert_allclose(row["teacher_logits"], expected, atol=1e-5)


class Interrupted:
    """A teacher that is interrupted in its `last`-th forward pass."""

    def __init__(self, teacher, last):
        self.teacher, self.left = teacher, last

    def __call__(self, **inputs):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return self.teacher(**inputs)

    def state_dict(self):
        return self.teacher.state_dict()

    @property
    def config(self):
        return self.teacher.config


class Counting(Interrupted):
    def __init__(self, teacher):
        super().__init__(teacher, 0)


@pytest.mark.parametrize("last", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [BATCH_SIZE, 3], ids=["same batches", "other batches"])
def test_an_interrupted_run_is_taken_up(
    last, batch_size, features, teacher, tokenizer, tmp_path, monkeypatch, complete
):
    monkeypatch.setattr(distillation, "MARK_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        add(features, Interrupted(teacher, last), tokenizer, tmp_path, batch_size)
    assert files(tmp_path).keys() == {".unfinished"}
    counting = Counting(teacher)
    add(features, counting, tokenizer, tmp_path)
    skipped = (last - 1) * batch_size // BATCH_SIZE
    assert -counting.left == -(-len(features) // BATCH_SIZE) - skipped
    found = files(tmp_path)
    assert found.keys() == {".teacher_logits"}
    if batch_size == BATCH_SIZE:
        assert found[".teacher_logits"] == complete
    else:
        logits = [np.frombuffer(content, np.float32) for content in (found[".teacher_logits"], complete)]
        np.testing.assert_allclose(*logits, atol=1e-5)


def test_work_that_was_not_marked_is_done_again(features, teacher, tokenizer, tmp_path, complete):
    with pytest.raises(KeyboardInterrupt):
        add(features, Interrupted(teacher, 4), tokenizer, tmp_path)
    counting = Counting(teacher)
    add(features, counting, tokenizer, tmp_path)
    assert -counting.left == -(-len(features) // BATCH_SIZE)
    assert files(tmp_path)[".teacher_logits"] == complete


@pytest.mark.recipe
def test_a_killed_process_is_taken_up(features, tmp_path):
    # All in fresh processes: IPEX, which other tests import here, rounds otherwise.
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import datasets
from transformers import AutoModelForQuestionAnswering, AutoTokenizer
from qa.compression import distillation
distillation.MARK_EVERY = 0
folder, last = sys.argv[1], int(sys.argv[2])
teacher = AutoModelForQuestionAnswering.from_pretrained({str(SAMPLE / "distilbert-qa-teacher")!r}).eval()
passes = 0
def count_or_kill(*_):
    global passes
    passes += 1
    if passes == last:
        os.kill(os.getpid(), signal.SIGKILL)
teacher.register_forward_hook(count_or_kill)
features = datasets.Dataset.from_file({features.cache_files[0]["filename"]!r})
features._fingerprint = {features._fingerprint!r}
tokenizer = AutoTokenizer.from_pretrained({str(SAMPLE / "distilbert-qa")!r})
distillation.add_teacher_logits(features, teacher, tokenizer, {BATCH_SIZE}, folder)
print(passes)
"""

    def run(folder, last):
        words = [sys.executable, "-c", program, str(folder), str(last)]
        return subprocess.run(words, capture_output=True, text=True, timeout=300)

    killed = run(tmp_path / "killed", 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files(tmp_path / "killed").keys() == {".unfinished"}
    passes = [int(run(tmp_path / name, 0).stdout) for name in ("killed", "complete")]
    assert passes[1] == -(-len(features) // BATCH_SIZE) and passes[0] == passes[1] - 2
    assert files(tmp_path / "killed") == files(tmp_path / "complete")


def test_the_same_teacher_and_features_are_not_run_again(features, teacher, tokenizer, tmp_path):
    first = add(features, teacher, tokenizer, tmp_path)
    again = add(features, Interrupted(teacher, 1), tokenizer, tmp_path, batch_size=7)
    assert list(again) == list(first)


def test_another_teacher_is_run(features, teacher, tokenizer, tmp_path):
    from transformers import AutoModelForQuestionAnswering

    add(features, teacher, tokenizer, tmp_path)
    other = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa-teacher").eval()
    with torch.no_grad():
        other.qa_outputs.bias += 1
    with pytest.raises(KeyboardInterrupt):
        add(features, Interrupted(other, 1), tokenizer, tmp_path)


def test_a_full_disk_is_told_before_the_teacher_runs(features, teacher, tokenizer, tmp_path, monkeypatch):
    def no_room(descriptor, offset, length):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(SaveError, match="No space left on device; make room there"):
        add(features, Interrupted(teacher, 1), tokenizer, tmp_path)
    assert not files(tmp_path)
