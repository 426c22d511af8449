"""What happens at given moments of a training.

Belongs here: transformers' callbacks, and what a training leaves for tensorboard.
Does not belong here: a step itself (`trainer.py`).
"""

import contextlib
import signal
import sys
import threading
import time

import torch
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import has_length

from qa.compression.fake_quant import (
    activation_ranges,
    freeze_observers,
    keep_survivors,
    observe_embeddings,
    observers_are_frozen,
    observers_at_rest,
)
from qa.compression.sparsity import sparsity
from qa.start.distributed import wait_for_all
from qa.start.process import return_freed_memory
from qa.training.batches import steps_per_epoch

# Share of the training steps after which activation ranges are kept.
FREEZE_AT = 0.5
# Steps after which freed memory is given back, which takes 0.8 % of the time.
TIDY_STEPS = 20
# Seconds in which the processes of one run hear of the same signal: Ctrl-C also reaches torchrun, which passes it on.
ECHO = 2.0


class FrozenRanges(TrainerCallback):
    """Take activation ranges once more when half of the training is done, and keep them.

    The rest of the training then fits the weights to the very ranges that the int8 model will have.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step >= FREEZE_AT * state.max_steps and not observers_are_frozen(self.trainer.model):
            self.trainer._start_observers()
            freeze_observers(self.trainer.model)


class SameTwice(TrainerCallback):
    """Let gradient checkpointing, which runs each layer a second time to save memory, come to the very same weights.

    Observers look in the first pass alone; the second then rounds by the ranges that the first has left. And of
    torch's two ways to do it only the one that is not "reentrant" adds gradients up in the order of a plain training.
    """

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if args.gradient_checkpointing:  # which the loop has turned on before, in its own way
            contexts = {"context_fn": lambda: (contextlib.nullcontext(), observers_at_rest(model))}
            model.gradient_checkpointing_enable(
                {**(args.gradient_checkpointing_kwargs or {}), **contexts, "use_reentrant": False}
            )


class LossSoFar(TrainerCallback):
    """Put back the loss of the steps before the checkpoint, which the loop starts from zero, and the last step."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer._progress is not None:
            self.trainer._total_loss_scalar = self.trainer._progress["loss"]
            state.global_step = min(state.global_step, state.max_steps)


class ScoreOfEpoch(TrainerCallback):
    """Evaluate in the last step of an epoch, before a checkpoint of that step is saved, and not after it.

    A training that goes on from that checkpoint would lack the score, which a schedule may wait for.
    """

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_due(args, state):
            control.should_evaluate = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self._is_due(args, state):
            control.should_evaluate = False

    def _is_due(self, args, state):
        data = self.trainer.train_dataset
        if args.eval_strategy != "epoch" or args.eval_delay > state.epoch or not has_length(data):
            return False
        return state.global_step % steps_per_epoch(args, len(data)) == 0


class StopOnSignal(TrainerCallback):
    """Leave with a checkpoint when the process is told to end (SIGTERM, Ctrl-C); a second time it ends at once.

    As a context, around the training, it puts the signals' own handlers back.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, device):
        self.received, self.since, self.device, self.handlers = 0, 0.0, device, {}

    def __enter__(self):
        self.received = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.several = args.world_size > 1
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets nobody else look at signals
        for number in self.SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as in a shell's background
                self.handlers[number] = signal.signal(number, self._receive)

    def __exit__(self, *error):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers.clear()

    def _receive(self, number, frame):
        if not self.received:
            self.received, self.since = number, time.monotonic()
        elif time.monotonic() - self.since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.several:
            for each in self.handlers:
                signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args, state, control, **kwargs):
        if self.several:
            # Each process is told at a moment of its own; all of them leave after the same step.
            told = torch.tensor(self.received, device=self.device)
            torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
            if not self.received:
                self.received, self.since = int(told), time.monotonic()
        if self.received:
            control.should_save = True
            # A schedule that waits for scores must not miss one.
            control.should_evaluate &= args.lr_scheduler_type == "reduce_lr_on_plateau"

    def on_save(self, args, state, control, **kwargs):
        if self.received:
            if state.is_world_process_zero:
                print(f"stopped after step {state.global_step} of {state.max_steps}; the same command continues there")
            wait_for_all()  # the first process to end takes the others with it, the one that saves among them
            sys.exit(128 + self.received)


class TidyMemory(TrainerCallback):
    """Give freed memory back now and then.

    Batches of many widths leave gaps between tensors that the next ones do not fit into: a training of 1,137 steps of
    minilm-squad in batches of 16 came to occupy 10.2 GB.
    """

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % TIDY_STEPS == 0:
            return_freed_memory()


class BeforeConversion(TrainerCallback):
    """Make a model ready for the conversion to int8, which INC does right after the training's end."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_end(self, args, state, control, **kwargs):
        # Converted in training mode it would keep its dropout.
        self.trainer.model.eval()
        observe_embeddings(self.trainer.model)
        if self.trainer.pruning_config is not None:
            keep_survivors(self.trainer.model)


class TensorBoard(TensorBoardCallback):
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
