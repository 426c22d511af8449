"""Operators that an accuracy criterion brings back to fp32, in the engines themselves."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from qa.models.engine_quantization import Trials, quantize_onnx, quantize_openvino
from qa.models.engine_runs import LOGITS, run_of_onnx, run_of_openvino
from qa.start.errors import CriterionError, UsageError


class Model(torch.nn.Module):
    """Two linear operators; the inputs of the second have a value that takes the steps of all others."""

    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(50, 32)
        self.plain = torch.nn.Linear(32, 32)
        self.wide = torch.nn.Linear(32, 2)
        with torch.no_grad():
            self.plain.bias[3] = 2000.0
            self.wide.weight[:, 3] = 0

    def forward(self, input_ids):
        start, end = self.wide(self.plain(self.rows(input_ids))).unbind(-1)
        return start, end


@pytest.fixture
def source(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    names = {"input_names": ["input_ids"], "output_names": LOGITS}
    axes = {name: {0: "batch", 1: "tokens"} for name in ("input_ids", *LOGITS)}
    ids = torch.randint(50, (4, 9))
    torch.onnx.export(Model().eval(), (ids,), path, opset_version=17, dynamo=False, dynamic_axes=axes, **names)
    return path


INPUTS = [{"input_ids": np.random.default_rng(seed).integers(0, 50, (4, 12))} for seed in range(3)]


def trials_of(source):
    """Trials whose F1 is a hundred less what the logits are away from those of fp32, in percent of their spread."""
    reference, shown = run_of_onnx(source), []

    def f1_of(run):
        expected, found = (
            np.stack([list(model(**inputs).values()) for inputs in INPUTS]) for model in (reference, run)
        )
        shown.append(100 - 100 * np.abs(found - expected).mean() / expected.std())
        return shown[-1]

    return Trials(f1_of, INPUTS), shown


def matrices(path):
    return [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2]


def settings_of(loss, **others):
    return {"accuracy_criterion": {"criterion": "absolute", "tolerable_loss": loss}, **others}


@pytest.mark.parametrize("batches", [INPUTS, None], ids=["static", "dynamic"])
def test_in_onnx_the_operator_with_the_largest_error_goes_back_alone(batches, source, tmp_path, capsys):
    trials, shown = trials_of(source)
    target = tmp_path / "int8.onnx"
    quantize_onnx(source, target, batches, settings_of(10), trials)
    fp32, whole, mended = shown
    assert fp32 == 100
    assert whole < 90 <= mended
    assert capsys.readouterr().out == "back to fp32: /wide/MatMul\n"
    found = {matrix.shape: matrix.dtype for matrix in matrices(target)}
    assert found[32, 2] == np.float32
    assert found[32, 32] == np.int8


def test_what_meets_the_criterion_at_once_stays_int8(source, tmp_path):
    trials, shown = trials_of(source)
    quantize_onnx(source, tmp_path / "int8.onnx", INPUTS, {"accuracy_criterion": {"tolerable_loss": 0.999}}, trials)
    assert len(shown) == 2
    assert {matrix.dtype for matrix in matrices(tmp_path / "int8.onnx") if matrix.shape == (32, 2)} == {
        np.dtype("int8")
    }


def test_where_no_trial_meets_it_that_is_said(source, tmp_path):
    def f1_of(run):
        return next(f1s)

    f1s = iter([50.0, 40.0, 41.0, 42.0])
    with pytest.raises(CriterionError):
        quantize_onnx(source, tmp_path / "int8.onnx", INPUTS, settings_of(5), Trials(f1_of, INPUTS))
    # All int8, and then two of the two linear operators and the embedding back, one by one; without the last one it
    # would be no int8 model.
    assert list(f1s) == []


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_names_left_out_and_the_calibration_method_reach_the_engine(method, source, tmp_path, capsys):
    settings = {"excluded_op_names": [".*wide", ".*wild"], "calibration_method": method}
    # Batches of real questions have widths of their own.
    batches = [{"input_ids": each["input_ids"][:, :width]} for each, width in zip(INPUTS, (12, 9, 5), strict=True)]
    quantize_onnx(source, tmp_path / "int8.onnx", batches, settings)
    found = {matrix.shape: matrix.dtype for matrix in matrices(tmp_path / "int8.onnx")}
    assert found[32, 2] == np.float32
    assert found[32, 32] == np.int8
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ["note: excluded_op_names: no operator here is called '.*wild'; names are such as 'plain'"]


def test_settings_that_leave_no_operator_are_refused(source, tmp_path):
    with pytest.raises(UsageError, match="excluded_op_names leave no operator to be int8"):
        quantize_onnx(source, tmp_path / "int8.onnx", INPUTS, {"excluded_op_names": [".*"]})


def test_in_openvino_nncf_brings_the_operator_back(source):
    import openvino

    trials, shown = trials_of(source)
    model = quantize_openvino(openvino.convert_model(source), INPUTS, settings_of(1, smooth_quant_alpha=0.0), trials)
    # Smoothed, all int8 again without smoothing, the trials of NNCF, and what is kept.
    assert shown[0] > 99.9
    assert max(shown[1], shown[2]) < 99 <= shown[-1]
    assert len(shown) >= 4
    assert trials.f1_of(run_of_openvino(model)) >= 99


def test_names_left_out_reach_nncf(source):
    import openvino

    kinds = {}
    for left_out in ([], [".*wide"], [".*wide", ".*plain"]):
        settings = {"excluded_op_names": left_out, "calibration_method": "mean_minmax"}
        model = quantize_openvino(openvino.convert_model(source), INPUTS, settings)
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant" and len(node.shape) == 2]
        kinds[len(left_out)] = sum(node.get_element_type().get_type_name() == "i8" for node in constants)
    # Two linear operators and the embedding.
    assert kinds == {0: 3, 1: 2, 2: 1}


def test_where_no_trial_of_nncf_meets_it_that_is_said(source):
    import openvino

    f1s = iter([50.0, *[40.0] * 20])

    def f1_of(run):
        for inputs in INPUTS:
            run(**inputs)
        return next(f1s)

    with pytest.raises(CriterionError):
        quantize_openvino(openvino.convert_model(source), INPUTS, settings_of(5), Trials(f1_of, INPUTS))
