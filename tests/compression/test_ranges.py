"""Ranges of activations: what rounding costs in them, and that observers get them."""

import pytest
import torch
from torch.ao.quantization import HistogramObserver, MinMaxObserver

from qa.compression.ranges import narrowed, narrowed_ranges
from qa.corrections.ipex import without_ipex

with without_ipex():
    from qa.compression.post_training import _calibration


def error(activations, low, high):
    """Mean square of what rounding does, token by token in its own standard deviations; written out."""
    step = (high - low) / 255
    total = 0.0
    for token in activations.double():
        levels = ((token - float(low)) / float(step)).round().clamp(0, 255)
        total += float(((levels * float(step) + float(low) - token) / token.std()).square().mean())
    return total / len(activations)


def test_activations_without_outliers_keep_their_range():
    activations = torch.rand(500, 32, generator=torch.Generator().manual_seed(0)) * 3 - 1
    assert narrowed(activations) == tuple(torch.aminmax(activations))


def test_a_few_huge_tokens_are_clipped_and_the_others_keep_their_steps():
    activations = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    activations[::100, 7] = 190.0
    low, high = narrowed(activations)
    whole = torch.aminmax(activations)
    assert low == whole.min
    assert 4 < high < 0.2 * 190
    assert error(activations, low, high) < 0.5 * error(activations, *whole)


def test_a_range_holds_zero_and_may_be_empty():
    assert narrowed(torch.rand(9, 4) + 1)[0] == 0
    assert narrowed(-torch.rand(9, 4) - 1)[1] == 0
    assert narrowed(torch.zeros(9, 4)) == (0, 0)


def test_ranges_are_chosen_for_each_batch_and_nothing_is_left_behind():
    observer = MinMaxObserver()
    batches = torch.randn(2, 3, 50, 8, generator=torch.Generator().manual_seed(0))
    batches[:, 0, ::10, 3] = 190.0
    with narrowed_ranges([observer]):
        for batch in batches:
            observer(batch)
    ends = [narrowed(batch.flatten(0, -2)) for batch in batches]
    assert observer.min_val == min(low for low, _ in ends)
    assert observer.max_val == max(high for _, high in ends) < 190
    observer(batches[0])
    assert observer.max_val == 190


def test_parameters_are_observed_as_one_row():
    """As MobileBERT's biases are on IPEX."""
    observer, bias = MinMaxObserver(), torch.linspace(-1, 3, 16)
    with narrowed_ranges([observer]):
        observer(bias)
    assert (observer.min_val, observer.max_val) == narrowed(bias[None])


class Observed(torch.nn.Module):
    """Three observers as INC leaves them in a model: two by `minmax`, one of which sees nothing, and one by `kl`."""

    def __init__(self):
        super().__init__()
        self.seen, self.unseen, self.other = MinMaxObserver(), MinMaxObserver(), HistogramObserver()

    def forward(self, activations):
        return self.other(self.seen(activations))


class Passes:
    """What `_calibration` asks of `Batches`."""

    def __init__(self, *batches):
        self.batches = batches

    def by_length(self):
        return range(len(self.batches))

    def inputs(self, number):
        return {"activations": self.batches[number]}


@pytest.mark.parametrize("minmax_ranges", ["whole", "narrowed"])
def test_calibration_narrows_the_ranges_that_inc_takes_by_minmax_and_no_others(minmax_ranges):
    batches = torch.randn(2, 1000, 64, generator=torch.Generator().manual_seed(0))
    batches[:, ::100, 7] = 190.0
    model = Observed()
    _calibration(Passes(*batches), minmax_ranges)(model)
    ends = [narrowed(batch, 512) if minmax_ranges == "narrowed" else torch.aminmax(batch) for batch in batches]
    assert model.seen.min_val == min(low for low, _ in ends)
    assert model.seen.max_val == max(high for _, high in ends)
    assert torch.isinf(model.unseen.min_val) and model.other.max_val == 190.0
