"""Dynamic operators of 8 bits, as made and as loaded again by whoever knows nothing of it."""

import pytest
import torch
from torch.ao.nn.quantized import dynamic
from torch.ao.quantization import quantize_dynamic

from qa.corrections.torch_dynamic import eight_bits


def made():
    torch.manual_seed(0)
    return quantize_dynamic(torch.nn.Sequential(torch.nn.Linear(64, 8)).eval(), {torch.nn.Linear})


@pytest.mark.parametrize("wanted, levels", [(True, (130, 256)), (False, (65, 129))])
def test_activations_have_as_many_bits_as_wanted_also_when_loaded_again(tmp_path, wanted, levels):
    with eight_bits(wanted):
        model = made()
        torch.save(model.state_dict(), tmp_path / "weights.bin")
    loaded = made()
    loaded.load_state_dict(torch.load(tmp_path / "weights.bin", weights_only=True))
    # One input that spans the range; what varies of it is rounded to the steps that there are.
    values = torch.zeros(2000, 64)
    values[:, 0] = torch.linspace(-1, 1, 2000)
    answers = model(values)
    assert levels[0] <= len(answers[:, 0].unique()) <= levels[1]
    assert torch.equal(loaded(values), answers)


def test_nothing_of_it_is_left_behind():
    before = dynamic.Linear.__init__, dynamic.Linear._version
    with pytest.raises(KeyError), eight_bits(True):
        raise KeyError
    assert (dynamic.Linear.__init__, dynamic.Linear._version) == before
    assert made()[0].version == before[1]
