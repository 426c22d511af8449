"""Heads and feed-forward channels taken out of a model, which leaves smaller matrices and not zeros.

Belongs here: which models can be cut, scoring and choosing what goes, the cut and its check, and what is left.
Does not belong here: zeros in matrices that keep their size (`pruning.py`), and the training after the cut.
"""

import contextlib
from typing import NamedTuple

import torch
from transformers.pytorch_utils import prune_linear_layer

from qa.start.distributed import gather
from qa.start.errors import UsageError

# Feed-forward channels that stay are a multiple of this: kernels work on whole vectors.
ROUNDED_TO = 32
# Largest difference between the logits of the model that was cut and of the whole one with zeros in those places.
TOLERANCE = 1e-5


class _Layout(NamedTuple):
    """Where a family of models keeps what can be cut."""

    layers: str  # the list of layers, from the encoder
    joined: str  # the linear operator behind the heads
    first: str  # the linear operator in front of the feed-forward channels
    second: str  # the one behind them
    width: str  # the configuration's name for their number
    has_free_heads: bool = True


_BERT = _Layout(
    layers="encoder.layer",
    joined="attention.output.dense",
    first="intermediate.dense",
    second="output.dense",
    width="intermediate_size",
)
LAYOUTS = {
    **dict.fromkeys(("bert", "camembert", "electra", "roberta", "xlm-roberta"), _BERT),
    "distilbert": _Layout(
        layers="transformer.layer",
        joined="attention.out_lin",
        first="ffn.lin1",
        second="ffn.lin2",
        width="hidden_dim",
    ),
    # One position bias with a column for each head serves all layers, and transformers does not cut it.
    "mpnet": _BERT._replace(joined="attention.attn.o", has_free_heads=False),
}


class Cut(NamedTuple):
    """What goes and what stays, one list of numbers in ascending order for each layer."""

    heads: list  # those that go, by their number in a model that still has all heads
    channels: list  # those of the feed-forward part that stay


def check_can_be_slimmed(config, heads, name):
    """Refuse a model that cannot be cut, or not where it is asked for.

    Args:
        config: `PretrainedConfig`.
        heads: share of the heads to take out, from 0 to below 1.
        name: folder or hub name, for the message.

    Raises:
        UsageError: transformers could not load or run what would be saved.
    """
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        raise UsageError(
            f"--model_name_or_path {name} is a model of the type {config.model_type}, from which neither heads nor "
            f"channels can be taken; leave --prune_heads and --prune_ffn out, or use one of {', '.join(LAYOUTS)}"
        )
    if heads and not layout.has_free_heads:
        raise UsageError(
            f"--model_name_or_path {name} is a model of the type {config.model_type}, which transformers cannot run "
            "with fewer heads; leave --prune_heads out (--prune_ffn works)"
        )


def _layers(model):
    """Return the layers of a model as a list of dictionaries from the names in `_Layout` to modules."""
    layout = LAYOUTS[model.config.model_type]
    return [
        {name: layer.get_submodule(getattr(layout, name)) for name in ("joined", "first", "second")}
        | {"attention": layer.attention}  # the module with transformers' own `prune_heads`
        for layer in model.base_model.get_submodule(layout.layers)
    ]


def _heads_left(model, layer):
    """Return the numbers of the heads that a layer still has."""
    return [head for head in range(model.config.num_attention_heads) if head not in layer["attention"].pruned_heads]


@contextlib.contextmanager
def _scaled(operators, factors):
    """Multiply the inputs of linear operators by what `factors(number of the operator, input)` returns."""

    def hook_of(number):
        return lambda _, inputs: (inputs[0] * factors(number, inputs[0]),)

    with contextlib.ExitStack() as hooks:
        for number, operator in enumerate(operators):
            hooks.enter_context(operator.register_forward_pre_hook(hook_of(number)))
        yield


def importance(model, batches):
    """Score heads and feed-forward channels by how much the loss would change without them.

    Each has a factor of 1 in every example. Its score is the sum over the examples of the squared gradient of the loss
    by that factor: the diagonal of the Fisher information (Kwon et al. 2022, arXiv 2204.09656).

    Args:
        model: fp32 model of one of the `LAYOUTS`, in evaluation mode.
        batches: iterable of dictionaries of `(b, l)` inputs and `(b,)` labels.

    Returns:
        `(heads, channels)`, each a list with one float64 tensor for each layer: `(heads that it has,)`, `(width,)`.
    """
    layers = _layers(model)
    operators = [layer[name] for layer in layers for name in ("joined", "second")]
    head_sizes = [len(_heads_left(model, layer)) for layer in layers]
    scores = [0.0] * len(operators)
    factors = {}

    def ones(number, values):
        factors[number] = values.new_ones(len(values), 1, values.shape[-1]).requires_grad_()
        return factors[number]

    model.requires_grad_(False)  # gradients of the weights would double the work
    with _scaled(operators, ones):
        for batch in batches:
            # The model's loss is the mean over the batch.
            loss = model(**{name: values.to(model.device) for name, values in batch.items()})["loss"]
            gradients = torch.autograd.grad(
                len(batch["input_ids"]) * loss, [factors[i] for i in range(len(operators))]
            )
            for i, gradient in enumerate(gradients):
                by_unit = gradient.squeeze(1).double().cpu()
                if i % 2 == 0:
                    by_unit = by_unit.unflatten(1, (head_sizes[i // 2], -1)).sum(dim=2)
                scores[i] += by_unit.square().sum(dim=0)
    model.requires_grad_(True)
    return scores[::2], scores[1::2]


def _counts(model, heads, channels):
    """Return how many heads of the whole model go, and how many channels of each layer stay.

    Args:
        model: before the cut.
        heads, channels: as in `slim`.
    """
    layers = _layers(model)
    left = [len(_heads_left(model, layer)) for layer in layers]
    width = layers[0]["second"].in_features
    staying = max(round((1 - channels) * width / ROUNDED_TO), 1) * ROUNDED_TO
    return min(round(heads * sum(left)), sum(left) - len(left)), min(staying, width) if channels else width


def choose(model, heads, channels, scores):
    """Choose what goes.

    Heads of all layers are ranked together, but each layer keeps its best one. The layers keep equally many channels,
    since a configuration has one number for all.

    Args:
        model: before the cut.
        heads, channels: as in `slim`.
        scores: from `importance`.

    Returns:
        `Cut`.
    """
    of_heads, of_channels = scores
    going, staying = _counts(model, heads, channels)
    ranking = []
    for number, layer in enumerate(_layers(model)):
        worst_first = sorted(zip(of_heads[number].tolist(), _heads_left(model, layer), strict=True))
        ranking += [(score, number, head) for score, head in worst_first[:-1]]
    gone = sorted(ranking)[:going]
    return Cut(
        [sorted(head for _, layer, head in gone if layer == number) for number in range(len(of_heads))],
        [sorted(scores.topk(staying).indices.tolist()) for scores in of_channels],
    )


def cut(model, chosen):
    """Take heads and channels out of a model, and say so in its configuration, as transformers reads it.

    Args:
        model: changed in place.
        chosen: `Cut`.
    """
    model.prune_heads({layer: heads for layer, heads in enumerate(chosen.heads) if heads})
    layout = LAYOUTS[model.config.model_type]
    for layer, staying in zip(model.base_model.get_submodule(layout.layers), chosen.channels, strict=True):
        for name, side in ((layout.first, 0), (layout.second, 1)):
            place, _, child = name.rpartition(".")
            operator = prune_linear_layer(layer.get_submodule(name), torch.tensor(staying), side)
            setattr(layer.get_submodule(place), child, operator)
    setattr(model.config, layout.width, len(chosen.channels[0]))


def _check_shapes(model, left):
    """See that each linear operator around heads and channels has the size that the configuration speaks of.

    Args:
        model: after the cut.
        left: heads that each layer should have.
    """
    names = {module: name for name, module in model.named_modules()}
    width = getattr(model.config, LAYOUTS[model.config.model_type].width)
    size = model.config.hidden_size // model.config.num_attention_heads
    for layer, heads in zip(_layers(model), left, strict=True):
        for operator, found, expected in (
            (layer["joined"], layer["joined"].in_features, heads * size),
            (layer["first"], layer["first"].out_features, width),
            (layer["second"], layer["second"].in_features, width),
        ):
            if found != expected:
                raise UsageError(f"{names[operator]} could not be cut: it has {found} channels and not {expected}")


def _cut_of_checkpoint(model, checkpoint, heads, channels):
    """Return the cut that fits the weights of a checkpoint, which bring the channels' values with them.

    Args:
        model: before the cut.
        checkpoint: its folder, with a `config.json`.
        heads, channels: as in `slim`.

    Raises:
        UsageError: the checkpoint was saved after another cut.
    """
    try:
        config = type(model.config).from_pretrained(checkpoint)
    except OSError as error:
        raise UsageError(f"{checkpoint} is no whole checkpoint of this run: no config.json; remove it") from error
    layers = _layers(model)
    gone = [
        sorted(set(config.pruned_heads.get(number, [])).intersection(_heads_left(model, layer)))
        for number, layer in enumerate(layers)
    ]
    width = getattr(config, LAYOUTS[model.config.model_type].width)
    if (sum(map(len, gone)), width) != _counts(model, heads, channels):
        raise UsageError(f"{checkpoint} was saved after another cut of heads and channels; remove it")
    return Cut(gone, [list(range(width))] * len(layers))


def costs(model):
    """Count what a pass through a model takes.

    Returns:
        Dictionary from a line's name to a number: heads and feed-forward channels of all layers, multiplications of
        the linear operators for each token (in millions), parameters (in millions), and megabytes in fp32.
    """
    layers = _layers(model)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    parameters = sum(weights.numel() for weights in model.parameters())
    return {
        "heads": sum(len(_heads_left(model, layer)) for layer in layers),
        "feed-forward channels": sum(layer["second"].in_features for layer in layers),
        "linear operations a token, millions": sum(each.in_features * each.out_features for each in linear) / 1e6,
        "parameters, millions": parameters / 1e6,
        "size in fp32, MB": 4 * parameters / 1e6,
    }


def _logits(model, inputs):
    """Return the `(2, b, l)` logits of an fp32 model, computed in float64: sums in another order agree there."""
    with torch.no_grad():
        outputs = model.double()(**inputs)
    model.float()
    return torch.stack((outputs["start_logits"], outputs["end_logits"]))


def _logits_with_zeros(model, chosen, inputs):
    """Return the `(2, b, l)` logits that the whole model gives when what goes is zero."""
    operators, factors = [], []
    for layer, gone, staying in zip(_layers(model), *chosen, strict=True):
        heads = torch.tensor([float(head not in gone) for head in _heads_left(model, layer)])
        channels = torch.zeros(layer["second"].in_features)
        channels[staying] = 1.0
        operators += [layer["joined"], layer["second"]]
        factors += [heads.repeat_interleave(layer["joined"].in_features // len(heads)), channels]
    with _scaled(operators, lambda number, values: factors[number].to(values.device)):
        return _logits(model, inputs)


def slim(model, heads, channels, batches, checkpoint=None):
    """Take out the heads and feed-forward channels that matter least, and see that nothing else has changed.

    Args:
        model: fp32 model of one of the `LAYOUTS`, in evaluation mode; changed in place, its configuration as well.
        heads, channels: shares to take out, from 0 to below 1: of all heads, though each layer keeps one, and of the
            channels of each layer, of which a multiple of `ROUNDED_TO` stays.
        batches: list of dictionaries of `(b, l)` inputs and `(b,)` labels to choose by.
        checkpoint: folder of the one that the training goes on from, whose cut is taken over; `None` if from none.

    Returns:
        The `costs` before and after.

    Raises:
        UsageError: a layer was not cut, the logits are not those of the model with zeros in these places, or the
            checkpoint is of another cut.
    """
    if checkpoint is None:
        # That of the first process: another machine may round the scores differently.
        chosen = gather(choose(model, heads, channels, importance(model, batches)))[0]
    else:
        chosen = _cut_of_checkpoint(model, checkpoint, heads, channels)
    width = getattr(model.config, LAYOUTS[model.config.model_type].width)
    taken = (any(chosen.heads), len(chosen.channels[0]) < width)
    for flag, share, something in zip(("prune_heads", "prune_ffn"), (heads, channels), taken, strict=True):
        if share and not something:
            raise UsageError(f"--{flag} is {share:g}, which takes nothing out of this model; give a larger share")
    before = costs(model)
    left = [
        len(_heads_left(model, layer)) - len(gone) for layer, gone in zip(_layers(model), chosen.heads, strict=True)
    ]
    inputs = {name: values.to(model.device) for name, values in batches[0].items()}
    expected = _logits_with_zeros(model, chosen, inputs)
    cut(model, chosen)
    _check_shapes(model, left)
    difference = float((_logits(model, inputs) - expected).abs().max())
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the model that was cut gives other logits than the whole one with zeros in these places (by "
            f"{difference:.3g}); leave --prune_heads and --prune_ffn out"
        )
    return before, costs(model)


def show_costs(before, after):
    """Print what is left of each of the `costs`."""
    print("what the training starts with:")
    for name, value in after.items():
        print(f"  {name:<42} {value:>9.6g} of {before[name]:>9.6g}  ({100 * value / before[name]:.0f} %)")
