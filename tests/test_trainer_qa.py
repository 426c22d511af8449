"""`QuestionAnsweringINCTrainer` in a script of one's own, as in the transformers example, and what its import does."""

import json
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, SAMPLE

pytestmark = pytest.mark.recipe

SPEED = {"runtime", "samples_per_second", "steps_per_second"}


@pytest.fixture(scope="module")
def questions():
    """Ten examples and their features, which have label ids."""
    from transformers import AutoTokenizer

    from qa.questions.examples import read_examples
    from qa.questions.features import dataset_of, prepare_features
    from qa.start.arguments import DataTrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")
    examples = dataset_of(read_examples(SAMPLE / "train.json", "train", 10))
    return (
        tokenizer,
        examples,
        prepare_features(examples, tokenizer, DataTrainingArguments(max_seq_length=128, doc_stride=32)),
    )


@pytest.fixture
def trainer_of(questions, tmp_path):
    """Return a function that makes a trainer as a script of one's own would."""
    from neural_compressor import QuantizationAwareTrainingConfig
    from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, TrainingArguments

    from trainer_qa import QuestionAnsweringINCTrainer

    def make(arguments=(), **kwargs):
        tokenizer, examples, features = questions
        return QuestionAnsweringINCTrainer(
            model=AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa"),
            args=TrainingArguments(
                use_cpu=True,
                report_to=[],
                **{"output_dir": str(tmp_path / "out"), "do_train": True, **dict(arguments)},
            ),
            eval_dataset=features,
            eval_examples=examples,
            tokenizer=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
            **{"train_dataset": features, "quantization_config": QuantizationAwareTrainingConfig(), **kwargs},
        )

    return make


def test_steps_of_a_training_take_the_fast_dropout_and_nothing_else_does(trainer_of, monkeypatch):
    from torch.nn import functional

    from qa.corrections import torch_training

    taken, plain, dropout = [], functional.dropout, torch_training.dropout
    monkeypatch.setattr(torch_training, "dropout", lambda *args: taken.append(1) or dropout(*args))
    trainer = trainer_of({"max_steps": 2}, quantization_config=None)
    trainer.train()
    # DistilBERT: the embeddings, in each of three layers the probabilities of attention and the feed-forward part, and
    # in front of the head.
    assert len(taken) == 2 * (1 + 3 * 2 + 1)
    assert functional.dropout is plain
    trainer.evaluate()
    assert len(taken) == 2 * (1 + 3 * 2 + 1)


def test_a_script_of_ones_own_trains_without_calibration_and_leaves_the_state(trainer_of, tmp_path):
    (tmp_path / "out" / "checkpoint-1-best").mkdir(parents=True)
    trainer = trainer_of({"max_steps": 3, "save_steps": 1, "save_total_limit": 1, "logging_steps": 1})
    assert len(trainer.calibration.lengths) == len(trainer.train_dataset)
    trainer.train()
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["global_step"] == 3
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3]
    # Of the checkpoints only those that a run writes are counted, and removed.
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == [
        "checkpoint-1-best",
        "checkpoint-3",
    ]
    assert {f"eval_{name}" for name in SPEED} == trainer.evaluate().keys() - {"epoch"}


def test_a_step_is_in_bf16_and_all_else_in_fp32(trainer_of, questions):
    import torch
    from transformers import AutoModelForQuestionAnswering

    from qa.models.passes import Batches, predict_logits

    losses, dtypes, seen = [], [], []
    arguments = {"max_steps": 2, "learning_rate": 1e-5, "save_strategy": "no"}
    # The last one hears nothing of what the one before has put into the environment.
    for bf16 in (False, True, False):
        trainer = trainer_of({**arguments, "bf16": bf16}, quantization_config=None)
        head = trainer.model.qa_outputs
        head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
        losses.append(trainer.train().training_loss)
        seen.append(set(dtypes))
        assert {weights.dtype for weights in trainer.model.state_dict().values()} == {torch.float32}
        dtypes.clear()
        answers = trainer.predict(trainer.train_dataset, trainer.eval_examples).predictions
        assert set(dtypes) == {torch.float32}
        plain = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa").eval()
        plain.load_state_dict(trainer.model.state_dict())
        expected = predict_logits(plain, Batches(trainer.train_dataset, questions[0], trainer.args.eval_batch_size))
        assert all(map(np.array_equal, answers, expected))
        dtypes.clear()
    assert seen == [{torch.float32}, {torch.bfloat16}, {torch.float32}]
    assert losses[0] == losses[2] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_compression_without_do_train_is_refused(trainer_of):
    from neural_compressor import DistillationConfig
    from transformers import AutoModelForQuestionAnswering

    teacher = AutoModelForQuestionAnswering.from_pretrained(SAMPLE / "distilbert-qa-teacher")
    for config in ({}, {"quantization_config": None, "distillation_config": DistillationConfig(teacher)}):
        with pytest.raises(ValueError, match="do_train=True"):
            trainer_of({"do_train": False}, **config).train()


def test_a_plain_list_of_features_is_enough(trainer_of, questions):
    import torch

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from features * 9

    columns = ["input_ids", "attention_mask", "start_positions", "end_positions"]
    features = questions[2].select_columns(columns).to_list()
    for dataset in (features, Endless()):
        words = {"max_steps": 3, "save_steps": 1, "eval_strategy": "epoch"}
        trainer = trainer_of(words, quantization_config=None, train_dataset=dataset)
        assert trainer.train().global_step == 3


def test_a_training_that_ended_within_an_epoch_goes_on_where_more_is_asked(trainer_of, tmp_path):
    words = {"per_device_train_batch_size": 2, "save_steps": 1, "logging_steps": 1}
    trainer_of({**words, "max_steps": 2}).train()
    trainer = trainer_of({**words, "max_steps": 4})
    assert trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2")).global_step == 4
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4]


def test_a_training_in_a_thread_is_saved_in_a_folder_that_is_not_there(trainer_of, tmp_path):
    trainer = trainer_of({"max_steps": 1, "save_strategy": "no"})
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    trainer.save_model(str(tmp_path / "some" / "where"))
    assert (tmp_path / "some" / "where" / "pytorch_model.bin").is_file()


def test_the_best_model_at_the_end_is_refused(trainer_of):
    words = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    with pytest.raises(ValueError, match="load_best_model_at_end"):
        trainer_of(words, quantization_config=None).train()
    with pytest.raises(ValueError, match="There is no checkpoint in"):
        trainer_of(quantization_config=None).train(resume_from_checkpoint=True)


def test_after_a_training_signals_are_whose_they_were(trainer_of):
    from transformers import TrainerCallback

    class Fail(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            handled.append([signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)])
            raise MemoryError

    def mine(number, frame):
        raise AssertionError

    handled, given = [], {signal.SIGTERM: mine, signal.SIGINT: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in given.items()}
    try:
        trainer = trainer_of({"max_steps": 2}, quantization_config=None, callbacks=[Fail])
        with pytest.raises(MemoryError):
            trainer.train()
        ((term, interrupt),) = handled
        assert term.__name__ == "_receive"
        assert interrupt is signal.SIG_IGN
        assert {number: signal.getsignal(number) for number in given} == given
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_checkpoint_can_be_loaded_like_a_model(trainer_of, questions, tmp_path):
    import torch
    from transformers import pipeline

    trainer_of({"max_steps": 1, "save_steps": 1}, quantization_config=None).train()
    checkpoint = tmp_path / "out" / "checkpoint-1"
    example = questions[1][0]
    found = pipeline("question-answering", str(checkpoint))(question=example["question"], context=example["context"])
    assert found["answer"] in example["context"]
    assert torch.load(checkpoint / "training_args.bin", weights_only=False).max_steps == 1
    # One with fake-quant operators would load with weights drawn at random.
    trainer_of({"max_steps": 1, "save_steps": 1, "output_dir": str(tmp_path / "qat")}).train()
    assert not list((tmp_path / "qat" / "checkpoint-1").glob("tokenizer*"))


def test_a_checkpoint_knows_what_gradients_are_multiplied_by(trainer_of, tmp_path):
    import torch

    words = {"max_steps": 1, "save_steps": 1}
    trainer = trainer_of(words, quantization_config=None)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer.train()
    trainer = trainer_of(words, quantization_config=None)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._load_from_checkpoint(tmp_path / "out" / "checkpoint-1")
    assert trainer.accelerator.scaler.state_dict()["scale"] == 64.0


def test_evaluation_takes_rows_and_leaves_out_columns_that_the_model_does_not_take(trainer_of, questions, monkeypatch):
    tokenizer, examples, features = questions
    trainer = trainer_of({"do_train": False})
    expected = trainer.predict(features, examples).predictions
    rows = [{**row, "token_type_ids": [0] * len(row["input_ids"])} for row in features]
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    found = trainer.predict(rows, examples).predictions
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_without_post_processing_predictions_are_logits_and_labels(trainer_of, questions):
    from qa.models.passes import Batches, predict_logits

    tokenizer, examples, features = questions
    trainer = trainer_of({"do_train": False})
    output = trainer.predict(features, examples)
    expected = predict_logits(trainer.model.eval(), Batches(features, tokenizer, 8))
    assert all(np.array_equal(found, right) for found, right in zip(output.predictions, expected, strict=True))
    for found, name in zip(output.label_ids, ("start_positions", "end_positions"), strict=True):
        assert found.tolist() == features[name]
    assert output.metrics.keys() == {f"test_{name}" for name in SPEED}
    assert trainer.predict(features.remove_columns("start_positions"), examples).label_ids is None


@pytest.mark.parametrize(("width", "seen"), [(None, set()), (128, {128}), (0, set())])
def test_evaluation_pads_as_it_is_told(width, seen, trainer_of):
    trainer = trainer_of({"do_train": False}, evaluation_width=width)
    shapes = []
    trainer.model.distilbert.register_forward_hook(
        lambda _, args, kwargs, output: shapes.append(kwargs), with_kwargs=True
    )
    trainer.evaluate()
    if seen:
        assert {inputs["input_ids"].shape[1] for inputs in shapes} == seen
    assert any((inputs["attention_mask"] == 0).any() for inputs in shapes) == (width != 0)


@pytest.mark.parametrize("takes", ["stage", "a fourth", "three"])
def test_post_processing_is_told_the_stage_if_it_asks(takes, trainer_of, questions):
    from transformers import EvalPrediction

    _, examples, features = questions
    calls = []

    def three(examples, features, predictions):
        calls.append((len(examples), len(features), len(predictions)))
        return EvalPrediction(predictions=["Ann"], label_ids=["Bob"])

    def four(examples, features, predictions, split="never"):
        calls.append(split)
        return EvalPrediction(predictions=["Ann"], label_ids=["Bob"])

    def by_name(examples, features, predictions, *, stage="never"):
        return four(examples, features, predictions, stage)

    trainer = trainer_of(
        {"do_train": False},
        post_process_function={"stage": by_name, "a fourth": four, "three": three}[takes],
        compute_metrics=lambda prediction: {"f1": len(prediction.predictions) + 49.0},
    )
    metrics = trainer.evaluate()
    output = trainer.predict(features, examples, metric_key_prefix="mine")
    assert calls == ([(len(examples), len(features), 2)] * 2 if takes == "three" else ["eval", "predict"])
    assert (output.predictions, output.label_ids) == (["Ann"], ["Bob"])
    assert (metrics["eval_f1"], output.metrics["mine_f1"]) == (50.0, 50.0)
    assert metrics["eval_steps_per_second"] > 0


IMPORTS = """
import logging, os, signal
import torch
def state():
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    root = logging.root.level, list(logging.root.handlers), logging.getLoggerClass()
    return dict(os.environ), handlers, root, torch.get_num_threads(), torch.get_rng_state().tolist(), os.getcwd()
before = state()
import utils_qa
assert state() == before, "utils_qa"
import trainer_qa
for was, now in zip(before, state()):
    assert was == now, (was, now)
"""


def test_importing_changes_nothing_in_the_process():
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS], env=environment, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
