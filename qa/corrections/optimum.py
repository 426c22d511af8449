"""optimum-intel 1.27.0: `INCTrainer` trains on where a training is over.

It can go when a training whose `max_steps` end within an epoch has the same weights after it was continued from its
last checkpoint.
"""

import contextlib

from transformers import TrainerState


@contextlib.contextmanager
def no_step_behind(last_step, epoch_steps):
    """Let INCTrainer take no step behind the last one, where it goes on from a checkpoint of that.

    The loop goes on in the epoch of the step that it finds there, and takes one more before it looks whether that was
    the last. Told that it has come to the end of the epoch it takes none, and `LossSoFar` puts the step right.

    Args:
        last_step: of the training.
        epoch_steps: optimizer steps of an epoch.
    """
    original, load = vars(TrainerState)["load_from_json"], TrainerState.load_from_json

    def load_from_json(path):
        state = load(path)
        if state.global_step >= last_step:
            state.global_step += -state.global_step % epoch_steps
        return state

    TrainerState.load_from_json = load_from_json
    try:
        yield
    finally:
        TrainerState.load_from_json = original
