"""Several processes as one run: who does which part, and how the parts come together.

torchrun or accelerate starts them, and transformers connects them when it reads the arguments (gloo between CPUs, nccl
between GPUs). A process without others has all parts itself, and waits for nobody.

Belongs here: sharing work out, and the exchanges that this takes.
Does not belong here: gradients, which torch exchanges, and the end of a run in which one process
fails (`command.py`).
"""

import itertools
import sys

import numpy as np

from qa.start.errors import UsageError


def _rank_and_count():
    # What has not imported torch is connected to nobody, and need not import it to find out.
    dist = sys.modules.get("torch.distributed")
    return (dist.get_rank(), dist.get_world_size()) if dist and dist.is_initialized() else (0, 1)


def own_share(items):
    """Return an iterator over those of `items` that are for this process: with n processes, every n-th one.

    Batches come in order of length, so that all processes have about as much to do.
    """
    rank, count = _rank_and_count()
    return itertools.islice(items, rank, None, count)


def gather(value):
    """Return the list of what each process gives, in order of rank; each must call it, and gets the same list."""
    _, count = _rank_and_count()
    values = [value]
    if count > 1:
        import torch.distributed as dist

        values = [None] * count
        dist.all_gather_object(values, value)
    return values


def add_up(array):
    """Return the sum of the arrays of all processes, each of which must call it.

    Args:
        array: NumPy array of the same shape and type in all of them.
    """
    _, count = _rank_and_count()
    if count == 1:
        return array
    import torch
    import torch.distributed as dist

    total = torch.from_numpy(np.ascontiguousarray(array))
    if dist.get_backend() == "nccl":  # which knows the memory of GPUs only
        total = total.cuda()
    dist.all_reduce(total)
    return total.cpu().numpy()


def check_same(value, what):
    """Refuse to go on where the machines of a run have different files.

    Raises:
        UsageError: `value` is not the same in all processes; `what` names it in the message.
    """
    if len(set(gather(value))) > 1:
        raise UsageError(f"{what} differ between the processes of this run; give all machines the same files")


def wait_for_all():
    """Go on when all processes have come here."""
    gather(None)


def leave_others():
    """Leave the other processes; what follows is done by the first one alone."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
