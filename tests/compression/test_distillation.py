"""Stored teacher logits: those of a plain loop over the teacher, kept, taken up after a kill, and used again."""

import os
import signal
from pathlib import Path

import forked_main
import numpy as np
import pytest
import torch
from conftest import SAMPLE
from small_models import bert_tokenizer, small_model

from qa.compression import distillation
from qa.models.inputs import settle_inputs
from qa.models.passes import Batches, predict_logits
from qa.questions.answers import extract_answers
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.questions.scores import compute_metrics
from qa.start.arguments import DataTrainingArguments
from qa.start.errors import SaveError, UsageError
from qa.training.batches import FeatureCollator

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
        return forked_main.run("-c", program, folder, last, cwd=tmp_path)

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


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # Two features of two and three tokens; the third position of the first is padding.
        ("CE", (-0.5 * (np.log(0.2) + np.log(0.8)) - np.log(1 / 3)) / 2),
        ("KL", (-0.5 * (np.log(0.2) + np.log(0.8)) - np.log(2)) / 2),
        ("MSE", (np.log(4) ** 2 / 2 + 0) / 2),
    ],
)
@pytest.mark.parametrize("padding", [0, 1, 500])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_loss_counts_each_feature_alike_however_it_is_padded(kind, expected, padding, temperature):
    masked = -1e9
    student = temperature * torch.tensor([[0.0, np.log(4), masked], [1.0, 1.0, 1.0]])
    teacher = temperature * torch.tensor([[0.0, 0.0, masked], [1.0, 1.0, 1.0]])
    student, teacher = (torch.nn.functional.pad(logits, (0, padding), value=masked) for logits in (student, teacher))
    loss = distillation.distillation_loss(student, teacher, torch.tensor([2, 3]), kind, temperature)
    assert float(loss) == pytest.approx(temperature**2 * expected, rel=1e-5)


def test_cross_entropy_of_distillation_is_that_of_inc():
    from neural_compressor.compression.distillation.criterions import PyTorchKnowledgeDistillationLoss

    student, teacher = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    expected = PyTorchKnowledgeDistillationLoss().teacher_student_loss_cal(student / 2, teacher / 2) * 4
    assert torch.equal(distillation.distillation_loss(student, teacher, torch.full((4,), 9), "CE", 2.0), expected)


def scores(examples, features, logits):
    """Exact match and F1 of the answers that logits stand for."""
    return compute_metrics(examples, extract_answers(examples, features, logits))


def logits_of(stored):
    """Turn the column of stored logits into what `extract_answers` takes."""
    width = max(len(row[0]) for row in stored["teacher_logits"])
    filled = np.full((2, len(stored), width), -np.inf, dtype=np.float32)
    for number, row in enumerate(stored["teacher_logits"]):
        for side in range(2):
            filled[side, number, : len(row[side])] = row[side]
    return filled


LAYOUTS_THAT_TEACH = [("bert", "distilbert"), ("distilbert", "bert"), ("bert", "roberta"), ("roberta", "bert")]


@pytest.mark.parametrize(("teaches", "learns"), LAYOUTS_THAT_TEACH)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_teacher_of_another_layout_is_given_what_its_own_tokenizer_makes(teaches, learns, side, tokenizer, tmp_path):
    names = {} if learns == "bert" else {"model_input_names": ["input_ids", "attention_mask"]}
    own, students = bert_tokenizer(tokenizer), bert_tokenizer(tokenizer, padding_side=side, **names)
    own.padding_side = side
    model, student = small_model(teaches, own, seed=3), small_model(learns, students)
    data_args = DataTrainingArguments(max_seq_length=96, doc_stride=24)
    settle_inputs(student, students, data_args, "student")
    settle_inputs(model, own, data_args, "teacher", "teacher_model_name_or_path")
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 12))
    mine = prepare_features(examples, students, data_args, str(tmp_path))
    seen = distillation.features_of_teacher(mine, examples, own, data_args, str(tmp_path))
    assert Path(seen.cache_files[0]["filename"]).parent == tmp_path / "qa_features"

    # What the teacher is by itself, with its own tokenizer alone, one feature at a time.
    theirs = prepare_features(examples, own, data_args, str(tmp_path))
    expected = predict_logits(model, Batches(theirs, own, 1))
    stored = distillation.add_teacher_logits(mine, model, own, BATCH_SIZE, str(tmp_path), seen=seen)
    assert scores(examples, mine, logits_of(stored)) == scores(examples, theirs, expected)
    for found, wanted in zip(logits_of(stored), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)

    # The same from a batch of the student's, as the trainer hands it to a live teacher.
    with_types = distillation.add_teacher_types(mine, seen, model)
    rows = [0, 5, 2]
    batch = FeatureCollator(students)([with_types[row] for row in rows])
    given = distillation.inputs_of_teacher(model, batch)
    assert "start_positions" in batch
    assert set(given) == set(own("a", "b"))
    with torch.no_grad():
        outputs = model(**given)
    for row, starts in zip(rows, outputs["start_logits"], strict=True):
        length = len(mine[row]["input_ids"])
        np.testing.assert_allclose(starts[:length], expected[0][row, :length], atol=1e-4)
    with torch.no_grad():
        student(**{name: values for name, values in batch.items() if not name.startswith("teacher")})


def test_a_teacher_whose_tokenizer_makes_no_types_gets_none_of_the_students(tokenizer, tmp_path):
    students, own = bert_tokenizer(tokenizer), bert_tokenizer(tokenizer)
    own.model_input_names = ["input_ids", "attention_mask"]
    model = small_model("bert", own)
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 3))
    data_args = DataTrainingArguments(max_seq_length=96, doc_stride=24)
    mine = prepare_features(examples, students, data_args, str(tmp_path))
    seen = distillation.features_of_teacher(mine, examples, own, data_args, str(tmp_path))
    with_types = distillation.add_teacher_types(mine, seen, model)
    assert any(1 in types for types in mine["token_type_ids"])
    assert with_types["teacher_token_type_ids"] == [[0] * len(tokens) for tokens in mine["input_ids"]]
    assert with_types.features["teacher_token_type_ids"].feature.dtype == "int8"
    # One that takes none, or the student's own, needs no column more.
    for same, layout in ((own, "distilbert"), (students, "bert")):
        seen = distillation.features_of_teacher(mine, examples, same, data_args, str(tmp_path))
        assert distillation.add_teacher_types(mine, seen, small_model(layout, same)) is mine


def test_inc_is_told_the_settings_of_the_distillation(teacher):
    settings = {"temperature": 3.0, "loss_types": ["CE", "KL"], "loss_weights": [0.25, 0.75]}
    config = distillation.distillation_config(settings, teacher)
    assert config.teacher_model is teacher
    assert config.optimizer == {}
    expected = {"temperature": 3.0, "loss_types": ["CE", "KL"], "loss_weights": [0.25, 0.75]}
    assert config.criterion.config == {"KnowledgeDistillationLoss": expected}


def test_a_teacher_that_splits_texts_in_another_way_is_refused(tokenizer, tmp_path):
    own = bert_tokenizer(tokenizer)
    own.backend_tokenizer.normalizer = None
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 3))
    data_args = DataTrainingArguments(max_seq_length=96, doc_stride=24)
    mine = prepare_features(examples, tokenizer, data_args, str(tmp_path))
    with pytest.raises(UsageError, match="splits the training texts in another way"):
        distillation.features_of_teacher(mine, examples, own, data_args, str(tmp_path))
