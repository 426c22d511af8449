"""Losses between the layers of a student and its teacher: hidden states, and relations of values.

Belongs here: which layers are compared, and the losses.
Does not belong here: losses between logits (`distillation.py`), and the step that adds them all up.
"""

import functools
import math
import re

import torch

from qa.start.errors import UsageError


def layer_pairs(config, teacher_config, layers=None, loss="MSE"):
    """Say which hidden states of student and teacher are compared.

    Args:
        config, teacher_config: `PretrainedConfig` of both.
        layers: layers of the student, 0 being the embeddings; all of them if `None`.
        loss: `MSE`, which takes states of one width, or `relations`.

    Returns:
        List of `(layer of the student, layer of the teacher)`, the latter as deep in its model as the former.

    Raises:
        UsageError: there is no such layer, or the hidden states have different widths.
    """
    depth, teacher_depth = config.num_hidden_layers, teacher_config.num_hidden_layers
    widths = config.hidden_size, teacher_config.hidden_size
    if loss == "MSE" and widths[0] != widths[1]:
        raise UsageError(
            "--distillation_config: its section intermediate compares hidden states, which are "
            f"{widths[0]} wide in the student and {widths[1]} in the teacher; give it the loss relations"
        )
    layers = range(depth + 1) if layers is None else layers
    if max(layers) > depth:
        raise UsageError(
            f"--distillation_config: its section intermediate names layer {max(layers)}; the student has {depth}"
        )
    return [(layer, (2 * layer * teacher_depth + depth) // (2 * depth)) for layer in layers]  # halves go up


def comparison(settings, config, teacher_config):
    """Say how hidden states are compared.

    Args:
        settings: dictionary of `loss` and, if wanted, `layers`, as from `settings.distillation_settings`.
        config, teacher_config: as in `layer_pairs`, which also says what is raised.

    Returns:
        Callable from the hidden states of student and teacher and a mask, as in `intermediate_loss`, to a scalar.
    """
    if config.is_encoder_decoder or teacher_config.is_encoder_decoder:
        raise UsageError(
            "--distillation_config: its section intermediate compares hidden states, and models with a decoder have "
            "two lists of them; leave it out"
        )
    pairs = layer_pairs(config, teacher_config, settings.get("layers"), settings["loss"])
    if settings["loss"] == "MSE":
        return functools.partial(intermediate_loss, pairs=pairs)
    # As many parts as divide both widths.
    heads = math.gcd(config.num_attention_heads, teacher_config.num_attention_heads)
    return functools.partial(relation_loss, pairs=pairs, heads=heads)


def intermediate_loss(states, teacher_states, mask, pairs, relative=False):
    """Compare hidden states.

    Args:
        states, teacher_states: tuples of `(b, l, width)` tensors: the embeddings, and what each layer makes of them.
        mask: `(b, l)`, 1 where there are tokens.
        pairs: from `layer_pairs`.
        relative: divide each layer's by the variance of the teacher's states, so that 1 means nothing learned,
            whatever the layer and the model.

    Returns:
        The mean over pairs and tokens of the mean squared difference.
    """
    tokens = mask.bool()
    losses = []
    for ours, theirs in pairs:
        taught = teacher_states[theirs][tokens].float()
        loss = torch.nn.functional.mse_loss(states[ours][tokens].float(), taught)
        losses.append(loss / taught.var() if relative else loss)
    return torch.stack(losses).mean()


# What the linear operator of an attention's values is called, by the last part of its name.
_VALUES = re.compile(r"(.*\.)?(value|v_lin|v_proj|value_proj|v)")


def watch_values(model):
    """Keep what the value operators of all attentions give in the last forward pass.

    Args:
        model: a transformers model.

    Returns:
        List of `(b, l, width)` tensors, filled anew by each pass, layer by layer; `None` if the model's operators have
        other names.
    """
    named = [module for name, module in model.named_modules() if _VALUES.fullmatch(name)]
    operators, values = [module for module in named if isinstance(module, torch.nn.Linear)], []
    model.register_forward_pre_hook(lambda model, inputs: values.clear())
    for operator in operators:  # which several layers may share
        operator.register_forward_hook(lambda operator, inputs, output: values.append(output))
    return values if operators else None


def relation_loss(states, teacher_states, mask, pairs, heads=None, width=None):
    """Compare how the tokens of a text resemble each other (Wang et al. 2021, arXiv:2012.15828), whatever the widths.

    Args:
        states, teacher_states: sequences of `(b, l, width)` tensors, a width for each of the two.
        mask, pairs: as in `intermediate_loss`.
        heads: parts that the tokens are compared in; if it is `None`, as many as have a `width`.

    Returns:
        The mean over pairs, heads and tokens of the divergence (KL) of the student's relations from the teacher's.
    """
    tokens = mask.bool()
    losses = []
    for ours, theirs in pairs:
        scores = []
        for each in (states[ours], teacher_states[theirs]):
            parts = each.unflatten(-1, (heads or -1, width or -1)).transpose(1, 2)
            products = (parts @ parts.transpose(-1, -2)).float() / math.sqrt(parts.shape[-1])
            scores.append(products.masked_fill(~tokens[:, None, None, :], -1e9).log_softmax(dim=-1))
        divergence = torch.nn.functional.kl_div(*scores, log_target=True, reduction="none").sum(dim=-1)
        losses.append(divergence.transpose(1, 2)[tokens].mean())
    return torch.stack(losses).mean()
