"""A training without data, for tests of INC's pruners: layers of different size, and gradients that are drawn.

Belongs here: the layers and the steps.
Does not belong here: what must come of it.
"""

import torch

from qa.corrections.ipex import without_ipex

with without_ipex():
    from neural_compressor import training

    from qa.compression.pruning import pruning_config


def prune(settings, layers, width, shrink, steps, bias=True, mend=None):
    """Let INC's pruners go through the steps.

    Args:
        settings: keyword arguments for `WeightPruningConfig`.
        layers: number of linear layers.
        width: of each.
        shrink: factor from one weight or bias to the next: the smallest would lose most of what they have.
        steps: of the training.
        bias: whether layers have one.
        mend: called with each pruner before the first step.

    Returns:
        `(model, pruners)` after the last step.
    """
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=bias) for _ in range(layers)))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(torch.randn(weight.shape, generator=generator) * shrink**number)
    callbacks = training.prepare_compression(model, confs=pruning_config(settings)).callbacks
    pruners = callbacks.callbacks_list[0].pruners
    for pruner in pruners if mend else ():
        mend(pruner)
    for _ in train(model, callbacks, steps, generator):
        pass
    return model, pruners


def train(model, callbacks, steps, generator):
    """Yield after each step of a training whose gradients are drawn; `callbacks` are those of INC."""
    for step in range(steps):
        callbacks.on_step_begin(step)
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=generator)
        callbacks.on_before_optimizer_step()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.01 * weight.grad
        callbacks.on_after_optimizer_step()
        yield step
