"""Int8 operators spelled out: the same numbers in PyTorch, and the same weights, scales and zero points in ONNX."""

import copy
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch.ao.quantization import (
    QConfigMapping,
    default_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    get_default_qconfig,
)
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from qa.models.export import _look_past_roundings
from qa.models.int8_operators import spell_out
from qa.start.errors import UsageError


class Part(torch.nn.Module):
    """A look-up, two products of which one takes the rounded output of the other, and a GELU."""

    def __init__(self, between=torch.nn.Identity):
        super().__init__()
        self.between = between()
        self.rows = torch.nn.Embedding(50, 32)
        self.first = torch.nn.Linear(32, 48)
        self.second = torch.nn.Linear(48, 8, bias=False)

    def forward(self, ids):
        return torch.nn.functional.gelu(self.second(self.between(self.first(self.rows(ids)))))


def quantized(linear, between=torch.nn.Identity):
    """A model with a part that FX made int8, and no more than that: INC leaves it so."""
    torch.manual_seed(0)
    part = Part(between).eval()
    with torch.no_grad():
        part.first.weight[part.first.weight.abs() < 0.05] = 0
    ids = torch.randint(50, (4, 9))
    mapping = QConfigMapping().set_object_type(torch.nn.Linear, linear).set_object_type(torch.nn.ReLU, linear)
    mapping.set_object_type(torch.nn.Embedding, float_qparams_weight_only_qconfig)
    prepared = prepare_fx(part, mapping, (ids,))
    prepared(ids)
    return torch.nn.Sequential(convert_fx(prepared)), ids


def written(model, ids, path):
    """The model as ONNX Runtime runs it, and its initializers by name."""
    names = {"input_names": ["ids"], "output_names": ["out"], "dynamic_axes": {"ids": {0: "batch", 1: "tokens"}}}
    torch.onnx.export(model, (ids,), path, opset_version=20, dynamo=False, **names)
    _look_past_roundings(path)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]), found


def outputs_of(session, model):
    """What ONNX Runtime and PyTorch make of the same rows, other ones than in `quantized`."""
    ids = torch.randint(50, (2, 30))
    with torch.no_grad():
        return session.run(None, {"ids": ids.numpy()})[0], model(ids).numpy()


def test_static_operators_give_the_same_numbers_from_the_same_weights(tmp_path):
    model, ids = quantized(get_default_qconfig("x86"))
    part = model[0]
    with torch.no_grad():
        expected = model(ids)
        spelled = spell_out(copy.deepcopy(model), "out")(ids)
    # Both come from the same few of 256 steps: anything but a tie falls on the same one.
    assert (spelled - expected).abs().max() < 1e-6
    spelled = spell_out(copy.deepcopy(model), "out")
    session, found = written(spelled, ids, tmp_path / "model.onnx")
    given, expected = outputs_of(session, model)
    assert np.abs(given - expected).max() < 1e-6

    for name in ("first", "second"):
        weight = getattr(part, name).weight()
        assert np.array_equal(found[f"0.{name}.weight"], weight.int_repr().numpy().T)
        assert found[f"0.{name}.weight"].dtype == np.int8
        assert np.array_equal(found[f"0.{name}.scale"], weight.q_per_channel_scales().float().numpy())
    zeros = found["0.first.weight"] == 0
    assert 0.2 < zeros.mean() < 0.8
    assert np.array_equal(zeros, part.first.weight().dequantize().numpy().T == 0)
    assert np.array_equal(found["0.rows.weight"], part.rows.weight().int_repr().numpy())

    graph = onnx.load(tmp_path / "model.onnx").graph
    outputs = {node.output[0]: node for node in graph.node}
    steps = {
        (float(found[node.input[1]]), int(found[node.input[2]]))
        for node in graph.node
        if "Quant" in node.op_type and found[node.input[1]].ndim == 0
    }
    own = {(float(getattr(part, name).scale), int(getattr(part, name).zero_point)) for name in ("first", "second")}
    (name,) = (name for name, _ in part.named_buffers() if re.fullmatch(r"\w+_scale_0", name))
    own.add((float(getattr(part, name)), int(getattr(part, name.replace("scale", "zero_point")))))
    assert steps == own
    # The second product takes the rounded output of the first as it is.
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 3
    assert not [
        node for node in graph.node if node.op_type == "Shape" and "Dequantize" in outputs[node.input[0]].op_type
    ]


@pytest.mark.parametrize("linear", [get_default_qconfig("x86"), default_dynamic_qconfig])
def test_a_relu_goes_along_with_its_product(linear, tmp_path):
    model, ids = quantized(linear, torch.nn.ReLU)
    assert type(model[0].first).__name__ == "LinearReLU"
    session, _ = written(spell_out(copy.deepcopy(model), "out"), ids, tmp_path / "model.onnx")
    found, expected = outputs_of(session, model)
    # Without the ReLU: 0.93 and more.
    assert np.abs(found - expected).mean() < 0.03 * expected.std()


def test_dynamic_operators_take_their_scales_from_the_batch(tmp_path):
    model, ids = quantized(default_dynamic_qconfig)
    part = model[0]
    session, found = written(spell_out(copy.deepcopy(model), "out"), ids, tmp_path / "model.onnx")
    assert np.array_equal(found["0.first.weight"], part.first.weight().int_repr().numpy().T)
    found, expected = outputs_of(session, model)
    # Not the same roundings of the activations: measured 0.021.
    assert np.abs(found - expected).mean() < 0.03 * expected.std()
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("DynamicQuantizeLinear") == kinds.count("MatMulInteger") == 2


def test_another_int8_operator_is_refused_by_name():
    model, _ = quantized(get_default_qconfig("x86"))
    norm = torch.ao.nn.quantized.LayerNorm((8,), *map(torch.nn.Parameter, (torch.ones(8), torch.zeros(8))), 0.1, 3)
    model.append(torch.nn.Sequential(norm))
    with pytest.raises(UsageError, match=r"^--model_name_or_path out has the int8 operator LayerNorm \(0\), and only"):
        spell_out(model, "out")
