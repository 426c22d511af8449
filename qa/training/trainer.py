"""Training with INC's callbacks, whatever is learned: what has to happen around a training step.

Belongs here: `INCTrainer` whose checkpoints hold all that it takes to go on, on one process or several, in fp32 or
bf16.
Does not belong here: the loss, which its subclasses compute (`trainer_qa.py`, `language.py`), building the compression
configurations (`qa/compression/`) and batches (`batches.py`).
"""

import json
import random
from pathlib import Path

import pyarrow.compute as pc
import torch
from neural_compressor.compression.callbacks import QuantizationAwareTrainingCallbacks
from optimum.intel import INCTrainer
from safetensors.torch import load_model, save_model
from transformers import TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length
from transformers.utils import SAFE_WEIGHTS_NAME

from qa.compression.fake_quant import calibrate_observers, observe_together, rest_embeddings
from qa.compression.pruning import check_pruners, keep_zeros, pruner_state, restore_pruner, scores_by_gradients
from qa.corrections.accelerate import mixed_precision
from qa.corrections.inc import align_weight_quantizers, count_masks_once, loading_instructions
from qa.corrections.optimum import no_step_behind
from qa.corrections.torch_tracer import make_dropouts_modules
from qa.corrections.torch_training import fast_steps
from qa.models.compressed import drop_stale_weights, load_pickled
from qa.models.inputs import TEACHER_TYPES
from qa.start.distributed import gather
from qa.start.errors import UsageError
from qa.start.output import PROGRESS_NAME, RUN_FILE, is_written, last_checkpoint, read_run
from qa.start.writing import write_text, written_beside
from qa.training.batches import (
    FeatureCollator,
    TrainingOrder,
    calibration_batches,
    features_per_epoch,
    share_of_last_batch,
    steps_of_training,
)
from qa.training.callbacks import (
    BeforeConversion,
    FrozenRanges,
    LossSoFar,
    SameTwice,
    ScoreOfEpoch,
    StopOnSignal,
    TensorBoard,
    TidyMemory,
)


def _random_state():
    """Return the states of the generators that layers draw from, as tensors and plain values."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore_random_state(state):
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"].cpu())
    torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


class CompressingTrainer(INCTrainer):
    """`INCTrainer` that a kill does not cost anything.

    Subclasses have `_loss_of(model, inputs)`, which returns the loss of a batch, the list of its parts, at most as
    many as `LOSS_PARTS`, and the model's outputs.

    Args:
        calibration: `Batches` of training features that activation ranges are taken from (quantization only); some
            are drawn if `None`.
        args, kwargs: those of `INCTrainer`; `processing_class` is the tokenizer.
    """

    # Names of the parts that a loss is made of, in the order of the tensors in `_loss_parts`.
    LOSS_PARTS = ()

    def __init__(self, *args, calibration=None, **kwargs):
        super().__init__(*args, **kwargs)
        self._loss_parts = []  # one tensor for each batch since the last log
        self._quantizing = self.quantization_config is not None and self._compression_manager is not None
        if self._quantizing:
            # On a processor with bf16 INC puts the operators that stay in fp32 into bf16, and then cannot load them.
            self._compression_manager.adaptor.use_bf16 = False
            self.add_callback(FrozenRanges(self))
            calibration = calibration or calibration_batches(self.train_dataset, self.tokenizer, self.args.seed)
        self.calibration = calibration
        check_pruners(self._pruners)
        for pruner in self._pruners:
            keep_zeros(pruner)
            count_masks_once(pruner)
        self.add_callback(BeforeConversion(self))
        self.add_callback(SameTwice)
        self.add_callback(TidyMemory)
        self._progress = None
        self.add_callback(LossSoFar(self))
        self.add_callback(ScoreOfEpoch(self))
        self._stop = StopOnSignal(self.args.device)
        self.add_callback(self._stop)
        if self.pop_callback(TensorBoardCallback) is not None:
            self.add_callback(TensorBoard(self))

    def create_accelerator_and_postprocess(self):
        # It is this trainer that computes a training step, and nothing else, in bf16.
        with mixed_precision("fp16" if self.args.fp16 else "no"):
            super().create_accelerator_and_postprocess()

    def autocast_smart_context_manager(self, cache_enabled=True):
        return torch.autocast(self.args.device.type, torch.bfloat16, self.args.bf16, cache_enabled)

    @property
    def _pruners(self):
        callbacks = self._compression_manager.callbacks.callbacks_list if self._compression_manager else []
        return [pruner for callback in callbacks for pruner in getattr(callback, "pruners", [])]

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train as `INCTrainer` does; a checkpoint continues to the very weights of a run that was never cut off.

        What the training was, step by step, is left in the output folder as `trainer_state.json`.

        Raises:
            ValueError: there is something to compress with, but the arguments lack `do_train`; they ask for the best
                model at the end; or there is no checkpoint to go on from.
        """
        if self.args.load_best_model_at_end:
            raise ValueError("load_best_model_at_end does not work here: the model is the one at the end.")
        configs = (self.quantization_config, self.pruning_config, self.distillation_config)
        if self._compression_manager is None and any(configs):
            raise ValueError("INC compresses only where TrainingArguments have do_train=True.")
        if self._quantizing:
            # INC's hook puts observers and fake-quant operators into the model. In INCTrainer's loop it would come too
            # late: after a checkpoint, which holds their state, is loaded, and after processes agree on the buffers.
            adaptor = self._compression_manager.adaptor
            for callback in self._compression_manager.callbacks.callbacks_list:
                if isinstance(callback, QuantizationAwareTrainingCallbacks):
                    callback.remove_hook("on_train_begin", adaptor._pre_hook_for_qat)
            adaptor._pre_hook_for_qat()
            make_dropouts_modules(self.model)
            align_weight_quantizers(self.model, scored=any(map(scores_by_gradients, self._pruners)))
            rest_embeddings(self.model)
            self._start_observers()
            if self.args.world_size > 1:
                observe_together(self.model, lambda: self._counts)
        if self.args.process_index > 0:
            # As different as the rows of one batch: with one seed all processes would drop the same neurons out.
            torch.manual_seed(self.args.seed + self.args.process_index)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no checkpoint in {self.args.output_dir}.")
        if resume_from_checkpoint and self.is_world_process_zero():
            print(f"note: the training goes on from {resume_from_checkpoint}")
        epoch_steps, last_step = 1, self.args.max_steps
        if has_length(self.train_dataset):
            epoch_steps, last_step = steps_of_training(self.args, len(self.train_dataset))
        with no_step_behind(last_step, epoch_steps), self._stop:
            trained = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.is_world_process_zero():
            with written_beside(self.args.output_dir) as folder:
                self.state.save_to_json(folder / TRAINER_STATE_NAME)
        return trained

    def training_step(self, *args, **kwargs):
        with fast_steps():
            return super().training_step(*args, **kwargs)

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        self._signature_columns.append(TEACHER_TYPES)

    def _get_train_sampler(self):
        lengths = None
        if self.args.group_by_length:
            lengths = pc.list_value_length(self.train_dataset.with_format("arrow")["input_ids"]).to_pylist()
        return TrainingOrder(self.args, len(self.train_dataset), lengths)

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
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
        }
        if self.is_world_process_zero():
            with written_beside(self.args.output_dir, name) as folder:
                save_model(self.model, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})
                # Where heads and channels were taken out, it tells which.
                self.model.config.save_pretrained(folder)
                # With the tokenizer it loads like a model, as one with fake-quant operators must not.
                if self.tokenizer is not None and not self._quantizing:
                    self.tokenizer.save_pretrained(folder)
                torch.save(self.args, folder / TRAINING_ARGS_NAME)
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
                torch.save(progress, folder / PROGRESS_NAME)
                self.state.save_to_json(folder / TRAINER_STATE_NAME)
                if run := read_run(self.args.output_dir):
                    write_text(folder / RUN_FILE, json.dumps({"made_from": run["made_from"]}))
            self._rotate_checkpoints(output_dir=self.args.output_dir)

    def _sorted_checkpoints(self, *args, **kwargs):
        # Trainer's also names checkpoint-3-best, which is somebody's own, and removes it as an old one.
        return [place for place in super()._sorted_checkpoints(*args, **kwargs) if is_written(Path(place).name)]

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        folder = Path(resume_from_checkpoint)
        self._progress = load_pickled(folder / PROGRESS_NAME, self.args.device)
        try:
            TrainerState.load_from_json(folder / TRAINER_STATE_NAME)
            load_model(self.model, folder / SAFE_WEIGHTS_NAME)
            for pruner, state in zip(self._pruners, self._progress["pruners"], strict=True):
                restore_pruner(pruner, state)
            if self.accelerator.scaler is not None:  # of fp16
                self.accelerator.scaler.load_state_dict(self._progress["scaler"])
        except Exception as error:  # the libraries raise nearly anything on a damaged file
            raise UsageError(f"{folder} is no whole checkpoint of this run: {error}; remove it") from error

    def _load_optimizer_and_scheduler(self, checkpoint):
        # Trainer passes over what is missing, and cannot load for several processes on CPUs.
        if checkpoint is not None:
            self.optimizer.load_state_dict(load_pickled(Path(checkpoint) / OPTIMIZER_NAME))
            self.lr_scheduler.load_state_dict(load_pickled(Path(checkpoint) / SCHEDULER_NAME))

    def _load_rng_state(self, checkpoint):
        _restore_random_state(self._progress["random"][self.args.process_index])

    def log(self, logs, *args, **kwargs):
        """Log the parts of a loss beside `loss`, as means over the batches since the last log."""
        if "train_loss" in logs:  # at the end; what came since the last log is that of this process
            losses = gather(logs["train_loss"])
            logs["train_loss"] = sum(losses) / len(losses)
        if "loss" in logs and self._loss_parts:
            means = torch.stack(self._loss_parts).mean(dim=0)
            means = self._nested_gather(means).view(-1, len(means)).mean(dim=0)
            logs.update((name, round(mean, 4)) for name, mean in zip(self.LOSS_PARTS, means.tolist(), strict=False))
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
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with written_beside(output_dir) as folder:
            super()._save(str(folder), state_dict)
        drop_stale_weights(output_dir)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of a batch, weighted where several processes share a step, as `Trainer` does."""
        weight = 1.0
        if self.args.world_size > 1:
            inputs, weight = self._as_part_of_step(inputs)
        loss, parts, outputs = self._loss_of(model, inputs)
        if parts:
            self._loss_parts.append(weight * torch.stack(parts).detach())
        outputs["loss"] = weight * loss
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

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
        if isinstance(self.data_collator, FeatureCollator) and self.data_collator.width is None:
            # The models' loss also counts the logits of padding, and in one batch all rows are padded to one width.
            own = inputs["attention_mask"].sum(dim=1).max()
            width = own * (weight > 0)
            torch.distributed.all_reduce(width, torch.distributed.ReduceOp.MAX)
            inputs = self.data_collator.resized(inputs, int(torch.maximum(own, width)))
        return inputs, weight
