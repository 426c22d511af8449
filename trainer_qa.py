"""Training with INC's callbacks, evaluated as question answering.

Belongs here: `INCTrainer` made to answer questions, and what has to happen inside a training step.
Does not belong here: building the compression configurations (`compression_qa.py`) and features (`utils_qa.py`).
"""

import itertools
import json
import math
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.compute as pc
import torch
from neural_compressor.compression.callbacks import QuantizationAwareTrainingCallbacks
from optimum.intel import INCTrainer
from safetensors.torch import load_model, save_model
from transformers import TrainerCallback, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, speed_metrics
from transformers.utils import SAFE_WEIGHTS_NAME

from compression_qa import (
    activation_ranges,
    align_weight_quantizers,
    calibrate_observers,
    count_masks_once,
    freeze_observers,
    keep_survivors,
    loading_instructions,
    observe_together,
    observers_are_frozen,
    observers_at_rest,
    pruner_state,
    restore_pruner,
    scores_by_gradients,
    sparsity,
)
from environment_qa import UsageError
from inference_qa import Batches, predict_logits
from model_qa import drop_stale_weights, load_pickled
from output_qa import written_beside
from processes_qa import gather, wait_for_all

# Stands for "no probability" in masked logits. Minus infinity would turn 0 * -inf into NaN in the loss.
MASKED_LOGIT = -1e9
# Share of the training steps after which activation ranges are kept.
FREEZE_AT = 0.5
# Seconds in which the processes of one run hear of the same signal: Ctrl-C also reaches torchrun, which passes it on.
ECHO = 2.0
# File of a checkpoint with what neither model nor optimizer knows: pruners, random generators, the loss so far.
PROGRESS_NAME = "progress.pt"


class FeatureCollator:
    """Pad training features, and teacher logits with them, to the longest of the batch or to a fixed width.

    Args:
        tokenizer: tells the padding ids and the padding side.
        width: tokens to pad to; the longest feature of the batch if `None`.
    """

    def __init__(self, tokenizer, width=None):
        self.tokenizer, self.width = tokenizer, width

    def __call__(self, features):
        """Return a dictionary of tensors: `(b, l)` inputs, `(b,)` labels, `(b, 2, l)` float32 `teacher_logits`."""
        names = [name for name in self.tokenizer.model_input_names if name in features[0]]
        lengths = [len(feature["input_ids"]) for feature in features]
        batch = self.tokenizer.pad(
            [{name: feature[name] for name in names} for feature in features],
            padding="max_length" if self.width else "longest",
            max_length=self.width,
            return_tensors="pt",
        )
        width = batch["input_ids"].shape[1]
        left = self.tokenizer.padding_side == "left"
        shifts = torch.tensor([width - length if left else 0 for length in lengths])
        for name in ("start_positions", "end_positions"):
            labels = torch.tensor([feature[name] for feature in features])
            # Label 0 is the CLS token, which comes behind the padding on the left.
            batch[name] = labels + shifts
        if "teacher_logits" in features[0]:
            logits = torch.full((len(features), 2, width), MASKED_LOGIT)
            for row, feature in enumerate(features):
                begin = int(shifts[row])
                logits[row, :, begin : begin + lengths[row]] = torch.tensor(feature["teacher_logits"])
            batch["teacher_logits"] = logits
        return dict(batch)

    def resized(self, batch, width):
        """Return a batch with padding added, or taken away, up to `width` tokens, at least those of its longest."""
        more = width - batch["input_ids"].shape[1]
        left = self.tokenizer.padding_side == "left"
        padding = {
            "input_ids": self.tokenizer.pad_token_id,
            "token_type_ids": self.tokenizer.pad_token_type_id,
            "teacher_logits": MASKED_LOGIT,
        }
        labels = ("start_positions", "end_positions")
        return {
            name: values + (more if left else 0)
            if name in labels
            else torch.nn.functional.pad(values, (more, 0) if left else (0, more), value=padding.get(name, 0))
            for name, values in batch.items()
        }


def features_per_epoch(args, count):
    """Return how many of `count` training features an epoch takes.

    Args:
        args: `TrainingArguments`.
        count: all there are.
    """
    batch = args.train_batch_size * args.world_size
    step = batch * args.gradient_accumulation_steps
    if args.group_by_length and batch < step < count:
        # The loop counts whole optimizer steps in an epoch, and would carry the rest over into the next.
        return count - count % step
    return count - count % batch if args.dataloader_drop_last else count


def steps_per_epoch(args, count):
    """Return the optimizer steps of an epoch, as `INCTrainer` counts them; parameters as in `features_per_epoch`."""
    batches = math.ceil(features_per_epoch(args, count) / (args.train_batch_size * args.world_size))
    return max(batches // args.gradient_accumulation_steps, 1)


def share_of_last_batch(args, count):
    """Tell which rows of its last batch in an epoch are a process's own, and what they weigh.

    Where the features do not go round, accelerate fills the batches of the last step up with features that had their
    turn before. Left out, and with the right weights, the mean of all processes' losses is that of the features left.

    Args:
        args: `TrainingArguments`.
        count: features that an epoch takes.

    Returns:
        `(rows, weight)`: the first `rows` of the batch count, and the loss of their mean with `weight`. A process with
        none to count takes one with weight 0, since all have to exchange gradients.
    """
    size, processes = args.train_batch_size, args.world_size
    left = count % (size * processes) or size * processes
    rows = min(max(left - size * args.process_index, 0), size)
    return max(rows, 1), rows * processes / left


class _TrainingOrder(LengthGroupedSampler):
    """Features of similar length side by side, in an order that follows from the seed and the epoch alone.

    Args:
        args: `TrainingArguments`.
        lengths: tokens of each feature.
    """

    def __init__(self, args, lengths):
        # All that goes into one optimizer step is of one length.
        together = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        super().__init__(together, lengths=lengths, generator=torch.Generator())
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.used = features_per_epoch(args, len(lengths))
        self.set_epoch(0)

    def __len__(self):
        return self.used

    def __iter__(self):
        return itertools.islice(super().__iter__(), self.used)

    def set_epoch(self, epoch):
        """Called by accelerate's data loader."""
        self.generator.manual_seed(self.seed + epoch)


class _FrozenRanges(TrainerCallback):
    """Take activation ranges once more when half of the training is done, and keep them.

    The rest of the training then fits the weights to the very ranges that the int8 model will have.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= FREEZE_AT * state.max_steps and not observers_are_frozen(self.trainer.model):
            self.trainer._start_observers()
            freeze_observers(self.trainer.model)


class _LossSoFar(TrainerCallback):
    """Put back the loss of the steps before the checkpoint, which the loop starts from zero."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer._progress is not None:
            self.trainer._total_loss_scalar = self.trainer._progress["loss"]


class _StopOnSignal(TrainerCallback):
    """Leave with a checkpoint when the process is told to end (SIGTERM, Ctrl-C); a second time it ends at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, device):
        self.received, self.since, self.device = 0, 0.0, device

    def on_train_begin(self, args, state, control, **kwargs):
        self.several = args.world_size > 1
        self.handlers = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def _receive(self, number, frame):
        if not self.received:
            self.received, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.several:
            for each in self.SIGNALS:
                signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args, state, control, **kwargs):
        if self.several:
            # Each process is told at a moment of its own; all of them leave after the same step.
            told = torch.tensor(self.received, device=self.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            if not self.received:
                self.received, self.since = int(told), time.monotonic()
        if self.received:
            control.should_save, control.should_evaluate = True, False

    def on_save(self, args, state, control, **kwargs):
        if self.received:
            if state.is_world_process_zero:
                print(f"stopped after step {state.global_step} of {state.max_steps}; the same command continues there")
            wait_for_all()  # the first process to end takes the others with it, the one that saves among them
            sys.exit(128 + self.received)

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


class _BeforeConversion(TrainerCallback):
    """Make a model ready for the conversion to int8, which INC does right after the training's end."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        # Converted in training mode it would keep its dropout.
        self.trainer.model.eval()
        if self.trainer.pruning_config is not None:
            keep_survivors(self.trainer.model)


def _random_state():
    """Return the states of the generators that layers draw from, as tensors and plain values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state):
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


class _TensorBoard(TensorBoardCallback):
    """Write how sparse the model is and how wide its activations are beside every loss that is logged."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer = trainer

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs and state.is_world_process_zero:
            model, step = self.trainer.model, state.global_step
            if self.trainer.pruning_config is not None:
                self.tb_writer.add_scalar("train/sparsity", sparsity(model), step)
            # Straight to the writer: in `logs` they would all be printed, and shown in one group with the loss.
            for name, (low, high) in activation_ranges(model).items():
                self.tb_writer.add_scalar(f"activation_min/{name}", low, step)
                self.tb_writer.add_scalar(f"activation_max/{name}", high, step)
        super().on_log(args, state, control, logs=logs, **kwargs)


class QuestionAnsweringINCTrainer(INCTrainer):
    """`INCTrainer` that evaluates and predicts through QA post-processing.

    Args:
        eval_examples: examples behind `eval_dataset`.
        post_process_function: `(examples, features, (start_logits, end_logits), stage)` -> predictions, as
            `compute_metrics` takes them.
        calibration: `Batches` of training features that activation ranges are taken from (quantization only).
        args, kwargs: those of `INCTrainer`. `compute_metrics` takes what `post_process_function` returns.
    """

    def __init__(self, *args, eval_examples=None, post_process_function=None, calibration=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function
        self.calibration = calibration
        self._loss_parts = []  # (2,) tensors, student and distillation loss of each batch since the last log
        if self.distillation_config is not None:
            self.distillation_config.teacher_model.requires_grad_(False).eval()
        self._quantizing = self.quantization_config is not None and self._compression_manager is not None
        if self._quantizing:
            # On a processor with bf16 INC puts the operators that stay in fp32 into bf16, and then cannot load them.
            self._compression_manager.adaptor.use_bf16 = False
            self.add_callback(_FrozenRanges(self))
        for pruner in self._pruners:
            count_masks_once(pruner)
        self.add_callback(_BeforeConversion(self))
        self._progress = None
        self.add_callback(_LossSoFar(self))
        self.add_callback(_StopOnSignal(self.args.device))
        if self.pop_callback(TensorBoardCallback) is not None:
            self.add_callback(_TensorBoard(self))

    @property
    def _pruners(self):
        callbacks = self._compression_manager.callbacks.callbacks_list if self._compression_manager else []
        return [pruner for callback in callbacks for pruner in getattr(callback, "pruners", [])]

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train as `INCTrainer` does; a checkpoint continues to the very weights of a run that was never cut off."""
        if self._quantizing:
            # INC's hook puts observers and fake-quant operators into the model. In INCTrainer's loop it would come too
            # late: after a checkpoint, which holds their state, is loaded, and after processes agree on the buffers.
            adaptor = self._compression_manager.adaptor
            for callback in self._compression_manager.callbacks.callbacks_list:
                if isinstance(callback, QuantizationAwareTrainingCallbacks):
                    callback.remove_hook("on_train_begin", adaptor._pre_hook_for_qat)
            adaptor._pre_hook_for_qat()
            align_weight_quantizers(self.model, scored=any(map(scores_by_gradients, self._pruners)))
            self._start_observers()
            if self.args.world_size > 1:
                observe_together(self.model, lambda: self._counts)
        if self.args.process_index > 0:
            # As different as the rows of one batch: with one seed all processes would drop the same neurons out.
            torch.manual_seed(self.args.seed + self.args.process_index)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_train_sampler(self):
        if not self.args.group_by_length:
            return super()._get_train_sampler()
        lengths = pc.list_value_length(self.train_dataset.with_format("arrow")["input_ids"]).to_pylist()
        return _TrainingOrder(self.args, lengths)

    def _start_observers(self):
        calibrate_observers(self.model, self.calibration, self.args.device)

    def _maybe_log_save_evaluate(self, tr_loss, *args):
        self._unlogged_loss = tr_loss
        super()._maybe_log_save_evaluate(tr_loss, *args)

    def _save_checkpoint(self, model, trial, metrics=None):
        self.store_flos()
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        losses = gather(self._total_loss_scalar + float(self._unlogged_loss))
        progress = {
            "pruners": [pruner_state(pruner) for pruner in self._pruners],
            "random": gather(_random_state()),
            "loss": sum(losses) / len(losses),
        }
        if self.is_world_process_zero():
            with written_beside(self.args.output_dir, name) as folder:
                save_model(self.model, folder / SAFE_WEIGHTS_NAME)
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
                torch.save(progress, folder / PROGRESS_NAME)
                self.state.save_to_json(folder / TRAINER_STATE_NAME)
            self._rotate_checkpoints(output_dir=self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        self._progress = load_pickled(folder / PROGRESS_NAME, self.args.device)
        try:
            TrainerState.load_from_json(folder / TRAINER_STATE_NAME)
            load_model(self.model, folder / SAFE_WEIGHTS_NAME)
            for pruner, state in zip(self._pruners, self._progress["pruners"], strict=True):
                restore_pruner(pruner, state)
        except Exception as error:  # the libraries raise nearly anything on a damaged file
            raise UsageError(f"{folder} is no whole checkpoint of this run: {error}; remove it") from error

    def _load_optimizer_and_scheduler(self, checkpoint):
        # Trainer passes over what is missing, and cannot load for several processes on CPUs.
        if checkpoint is not None:
            self.optimizer.load_state_dict(load_pickled(Path(checkpoint) / OPTIMIZER_NAME))
            self.lr_scheduler.load_state_dict(load_pickled(Path(checkpoint) / SCHEDULER_NAME))

    def _load_rng_state(self, checkpoint):
        _restore_random_state(self._progress["random"][self.args.process_index])

    def evaluate(self, eval_dataset=None, eval_examples=None, ignore_keys=None, metric_key_prefix="eval"):
        """Answer and score the evaluation examples.

        Args:
            eval_dataset: features; those given to the constructor if `None`.
            eval_examples: their examples, likewise.
            ignore_keys: taken for compatibility; only start and end logits are looked at.
            metric_key_prefix: put before each metric's name.

        Returns:
            Dictionary of metrics, speed metrics included.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        examples = self.eval_examples if eval_examples is None else eval_examples
        _, metrics = self._answer(features, examples, metric_key_prefix)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def predict(self, predict_dataset, predict_examples, ignore_keys=None, metric_key_prefix="test"):
        """Answer examples; parameters as in `evaluate`.

        Returns:
            `PredictionOutput` of what the post-processing made, no labels, and the metrics.
        """
        predictions, metrics = self._answer(predict_dataset, predict_examples, metric_key_prefix)
        return PredictionOutput(predictions=predictions, label_ids=None, metrics=metrics)

    def _answer(self, features, examples, prefix):
        begin = time.time()
        device = self.args.device
        if self.quantization_config is not None:
            # Converted int8 modules exist for CPUs only. While fake-quant trains, the model stays where it is.
            device = next(self.model.parameters(), torch.empty(0)).device if self.is_in_train else torch.device("cpu")
        model = self.model.to(device)
        was_training = model.training
        batches = Batches(features, self.tokenizer, self.args.eval_batch_size)
        with observers_at_rest(model):
            logits = predict_logits(model.eval(), batches, device)
        model.train(was_training)
        predictions = self.post_process_function(examples, features, logits, prefix)
        metrics = self.compute_metrics(predictions) if self.compute_metrics is not None else {}
        metrics = {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": metrics[name] for name in metrics}
        metrics.update(
            speed_metrics(prefix, begin, num_samples=len(examples), num_steps=-(-len(features) // batches.batch_size))
        )
        return predictions, metrics

    def log(self, logs, *args, **kwargs):
        """Log the parts of a distilled student's loss beside `loss`, as means over the batches since the last log."""
        if "train_loss" in logs:  # at the end; what came since the last log is that of this process
            losses = gather(logs["train_loss"])
            logs["train_loss"] = sum(losses) / len(losses)
        if "loss" in logs and self._loss_parts:
            means = self._nested_gather(torch.stack(self._loss_parts).mean(dim=0)).view(-1, 2).mean(dim=0)
            logs["loss_student"], logs["loss_distillation"] = (round(mean, 4) for mean in means.tolist())
            self._loss_parts.clear()
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir=None, state_dict=None):
        if state_dict is None:
            # INCTrainer's own description of an int8 model would load with dropout, and an fp32 model it would give an
            # empty one, of which every loading complains.
            state_dict = self.model.state_dict()
            if self._quantizing:
                state_dict["best_configure"] = loading_instructions(self._compression_manager.model.q_config)
        output_dir = output_dir or self.args.output_dir
        with written_beside(output_dir) as folder:
            super()._save(str(folder), state_dict)
        drop_stale_weights(output_dir)

    def _as_part_of_step(self, inputs):
        """Make a batch the part that it is of one large batch, so that processes learn what one would.

        Args:
            inputs: from the collator.

        Returns:
            `(inputs, weight)`: those that count, and the weight of their mean loss in the mean over processes.
        """
        weight = 1.0
        if self.accelerator.gradient_state.end_of_dataloader:
            rows, weight = share_of_last_batch(self.args, features_per_epoch(self.args, len(self.train_dataset)))
            inputs = {name: values[:rows] for name, values in inputs.items()}
        self._counts = weight > 0
        if self.data_collator.width is None:
            # The models' loss also counts the logits of padding, and in one batch all rows are padded to one width.
            own = inputs["attention_mask"].sum(dim=1).max()
            width = own * (weight > 0)
            torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
            inputs = self.data_collator.resized(inputs, int(torch.maximum(own, width)))
        return inputs, weight

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mix the loss on the labels with the distillation loss, by the weights of INC's criterion.

        Padding takes no part in the distillation loss, so that neither the batch's width nor whether the teacher's
        logits come from a live teacher or from `teacher_logits` makes a difference.
        """
        weight = 1.0
        if self.args.world_size > 1:
            inputs, weight = self._as_part_of_step(inputs)
        teacher_logits = inputs.pop("teacher_logits", None)
        outputs = model(**inputs)
        loss = outputs["loss"]
        if self.distillation_config is not None:
            labels = ("start_positions", "end_positions")
            if teacher_logits is None:
                teacher = self.distillation_config.teacher_model.to(loss.device)
                with torch.no_grad():
                    taught = teacher(**{name: value for name, value in inputs.items() if name not in labels})
                teacher_logits = torch.stack((taught["start_logits"], taught["end_logits"]), dim=1)
            padding = inputs["attention_mask"] == 0
            pairs = [
                (
                    outputs[name].masked_fill(padding, MASKED_LOGIT),
                    teacher_logits[:, side].masked_fill(padding, MASKED_LOGIT),
                )
                for side, name in enumerate(("start_logits", "end_logits"))
            ]
            weights = self.distillation_callback.criterion.loss_weights
            distilled = self.compute_distillation_loss(*zip(*pairs, strict=True))
            self._loss_parts.append(weight * torch.stack((loss, distilled)).detach())
            loss = (weights[0] * loss + weights[1] * distilled) / sum(weights)
        loss = weight * loss
        outputs["loss"] = loss
        return (loss, outputs) if return_outputs else loss


def log_saved_model(output_dir, logging_dir, step):
    """Write the scores of the model as it was saved to tensorboard, as `saved/f1` and so on.

    What `Trainer` logs while it trains is of the fake-quant model.

    Args:
        output_dir: folder with `all_results.json`.
        logging_dir: folder of the event files.
        step: the last optimizer step.
    """
    from torch.utils.tensorboard import SummaryWriter

    results = json.loads((Path(output_dir) / "all_results.json").read_text(encoding="utf-8"))
    with SummaryWriter(logging_dir) as writer:
        for name in ("eval_f1", "eval_exact_match", "eval_exact", "sparsity"):
            if name in results:
                writer.add_scalar(f"saved/{name.removeprefix('eval_')}", results[name], step)
