"""Losses between the hidden states of a student and its teacher.

Belongs here: which layers are compared, and the loss.
Does not belong here: losses between logits, which are INC's (`distillation.py`), and the step that adds them all up.
"""

import torch

from qa.start.errors import UsageError


def layer_pairs(config, teacher_config, layers=None):
    """Say which hidden states of student and teacher are compared.

    Args:
        config, teacher_config: `PretrainedConfig` of both.
        layers: layers of the student, 0 being the embeddings; all of them if `None`.

    Returns:
        List of `(layer of the student, layer of the teacher)`, the latter as deep in its model as the former.

    Raises:
        UsageError: there is no such layer, or the hidden states have different widths.
    """
    depth, teacher_depth = config.num_hidden_layers, teacher_config.num_hidden_layers
    widths = config.hidden_size, teacher_config.hidden_size
    if widths[0] != widths[1]:
        raise UsageError(
            "--distillation_config: its section intermediate compares hidden states, which are "
            f"{widths[0]} wide in the student and {widths[1]} in the teacher; leave that section out"
        )
    layers = range(depth + 1) if layers is None else layers
    if max(layers) > depth:
        raise UsageError(
            f"--distillation_config: its section intermediate names layer {max(layers)}; the student has {depth}"
        )
    return [(layer, round(layer * teacher_depth / depth)) for layer in layers]


def intermediate_loss(states, teacher_states, mask, pairs):
    """Compare hidden states.

    Args:
        states, teacher_states: tuples of `(b, l, width)` tensors: the embeddings, and what each layer makes of them.
        mask: `(b, l)`, 1 where there are tokens.
        pairs: from `layer_pairs`.

    Returns:
        The mean over pairs and tokens of the mean squared difference.
    """
    tokens = mask.bool()
    return torch.stack(
        [torch.nn.functional.mse_loss(states[ours][tokens], teacher_states[theirs][tokens]) for ours, theirs in pairs]
    ).mean()
