"""Observers: what sets their ranges, what leaves them alone, and weights that must not round to zero."""

import datetime
import multiprocessing

import pytest
import torch
from conftest import SAMPLE
from torch.ao.nn.qat import Linear
from torch.ao.quantization import default_embedding_qat_qconfig, get_default_qat_qconfig

from qa.corrections.ipex import without_ipex
from qa.models.passes import Batches
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, uncached_features
from qa.start.arguments import DataTrainingArguments

with without_ipex():
    from qa.compression import fake_quant
    from qa.compression.ranges import narrowed
    from qa.corrections.inc import align_weight_quantizers

QCONFIG = get_default_qat_qconfig("x86")


class Reader(torch.nn.Module):
    """Words to logits, named and observed as INC does it: a quantizer behind each operation, and one for weights."""

    def __init__(self, words=9):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(words, 4)
        self.activation_post_process_0 = QCONFIG.activation()
        self.dropout = torch.nn.Dropout(0.5)
        self.lin = Linear(4, 2, qconfig=QCONFIG)
        self.activation_post_process_1 = QCONFIG.activation()

    def forward(self, input_ids, attention_mask=None):
        hidden = self.activation_post_process_0(self.dropout(self.words(input_ids)))
        logits = self.activation_post_process_1(self.lin(hidden))
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


def state(model):
    return {name: values.clone() for name, values in model.state_dict().items()}


def moved(before, model):
    """The names of what is no longer as it was."""
    return {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}


WORDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


# --- the observers' life ---


def test_frozen_observers_keep_the_ranges_of_activations_while_those_of_weights_follow():
    model = Reader()
    model(WORDS)
    assert not fake_quant.observers_are_frozen(model)
    fake_quant.freeze_observers(model)
    assert fake_quant.observers_are_frozen(model)
    before = state(model)
    with torch.no_grad():
        model.lin.weight *= 3
        model.words.weight *= 3
    model(WORDS)
    assert {name for name in moved(before, model) if "max_val" in name} == {
        "lin.weight_fake_quant.activation_post_process.max_val"
    }


def test_one_observer_that_still_looks_is_enough_not_to_be_frozen():
    model = Reader()
    fake_quant.freeze_observers(model)
    model.activation_post_process_1.enable_observer()
    assert not fake_quant.observers_are_frozen(model)


def test_looking_moves_no_range_and_leaves_observers_as_they_were():
    model = Reader()
    model(WORDS)
    model.activation_post_process_1.disable_observer()
    before = state(model)
    with pytest.raises(KeyboardInterrupt), fake_quant.observers_at_rest(model):
        with torch.no_grad():
            model.lin.weight *= 3
        model(WORDS + 2)
        raise KeyboardInterrupt
    assert moved(before, model) == {"lin.weight"}
    model(WORDS + 2)
    assert {name.partition(".activation_post")[0] for name in moved(before, model) if "max_val" in name} == {
        "activation_post_process_0",
        "lin.weight_fake_quant",
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_size", [100, 2])
def test_calibration_sets_ranges_anew_from_a_pass_in_evaluation_mode(training, batch_size, tokenizer):
    examples = dataset_of(read_examples(str(SAMPLE / "train.json"), "train", 3))
    data_args = DataTrainingArguments(max_seq_length=64, doc_stride=16)
    batches = Batches(uncached_features(examples, tokenizer, data_args), tokenizer, batch_size)
    model = Reader(len(tokenizer)).train(training)
    model(1000 + WORDS)  # as in a part of the training with other words
    with torch.no_grad():
        model.words.weight /= 4
    fake_quant.freeze_observers(model)
    fake_quant.calibrate_observers(model, batches)
    assert model.training == training
    assert not fake_quant.observers_are_frozen(model)

    # What follows is not rounded by what comes before, and nothing is dropped.
    ends = [[], []]
    with torch.no_grad():
        for number in batches.by_length():
            hidden = model.words(batches.inputs(number)["input_ids"])
            weight = model.lin.weight_fake_quant(model.lin.weight)
            ends[0] += narrowed(hidden.flatten(0, -2))
            ends[1] += narrowed(torch.nn.functional.linear(hidden, weight, model.lin.bias).flatten(0, -2))
    found = fake_quant.activation_ranges(model)
    assert found.keys() == {"0", "1"}
    for name, expected in zip(("0", "1"), ends, strict=True):
        assert found[name] == pytest.approx((float(min(expected)), float(max(expected))), abs=1e-6)
    # From now on it rounds: 7 bits have no more than 128 values.
    assert len(model.eval()(torch.arange(len(tokenizer))[None])["start_logits"].unique()) <= 128
    assert int(model.activation_post_process_0.fake_quant_enabled) == 1


def test_the_range_of_an_operator_is_the_widest_of_all_layers():
    def layer(*values):
        quantizer = QCONFIG.activation()
        quantizer(torch.tensor(values))
        return torch.nn.ModuleDict({"lin": torch.nn.ModuleDict({"activation_post_process_0": quantizer})})

    model = torch.nn.ModuleDict({"layer": torch.nn.ModuleList([layer(-1.0, 2.0), layer(-0.5, 3.0), layer(-0.7, 1.0)])})
    model["other"] = layer(-4.0, 9.0)["lin"]
    model["weight_fake_quant"] = QCONFIG.weight()
    assert fake_quant.activation_ranges(model) == {"layer.*.lin.0": (-1.0, 3.0), "other.0": (-4.0, 9.0)}
    assert fake_quant.activation_ranges(torch.nn.Linear(1, 1)) == {}


# --- several processes ---


def one_of_two(rank, folder, batches, counts):
    """Train one step together with another process; return its logits, ranges, and whether observers still look."""
    together = {"rank": rank, "world_size": 2, "timeout": datetime.timedelta(seconds=60)}
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", **together)
    try:
        model = Reader().train()
        model.dropout.p = 0.0
        model(WORDS)
        fake_quant.observe_together(model, lambda: counts[rank])
        logits = model(batches[rank])["start_logits"].tolist()
        looking = not fake_quant.observers_are_frozen(model)
        with fake_quant.observers_at_rest(model.eval()):
            model(batches[rank] * 0)  # what only looks waits for nobody
        return logits, fake_quant.activation_ranges(model), looking
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("counts", [(True, True), (True, False), (False, True)])
def test_processes_move_their_ranges_as_one_with_all_batches_would(counts, tmp_path):
    batches = [torch.tensor([[1, 2], [3, 4]]), torch.tensor([[5, 6], [7, 8]])]
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def be_the_other():
        torch.set_num_threads(1)  # this process's threads are not there after a fork
        found.put(one_of_two(1, tmp_path, batches, counts))

    other = context.Process(target=be_the_other, daemon=True)
    other.start()
    try:
        both = [one_of_two(0, tmp_path, batches, counts), found.get()]
    finally:
        other.kill()
    alone = Reader().train()
    alone.dropout.p = 0.0
    alone(WORDS)
    logits = alone(torch.cat([batch for batch, counted in zip(batches, counts, strict=True) if counted]))
    expected = fake_quant.activation_ranges(alone)
    for _, ranges, looking in both:
        assert looking
        assert ranges.keys() == expected.keys()
        assert all(ranges[name] == pytest.approx(expected[name], abs=1e-6) for name in ranges)
    rows = [row for (rows, _, _), counted in zip(both, counts, strict=True) if counted for row in rows]
    torch.testing.assert_close(torch.tensor(rows), logits["start_logits"].detach())


# --- weights ---


def test_no_weight_that_survived_pruning_rounds_to_zero():
    layer = Linear(6, 2, qconfig=QCONFIG)
    step = 1.0 / 127.5  # of a row whose largest weight is 1; the second row's is four times as large
    row = torch.tensor([1.0, 0.0, 0.2 * step, -0.499 * step, 0.6 * step, -1.2 * step])
    with torch.no_grad():
        layer.weight.copy_(torch.stack((row, 4 * row)))
    align_weight_quantizers(torch.nn.Sequential(layer), scored=False)
    layer(torch.zeros(1, 6))
    assert (layer.weight_fake_quant(layer.weight) == 0).sum() == 6
    fake_quant.keep_survivors(torch.nn.Sequential(torch.nn.Linear(2, 2), layer))
    lifted = torch.tensor([1.0, 0.0, 0.51 * step, -0.51 * step, 0.6 * step, -1.2 * step])
    torch.testing.assert_close(layer.weight.detach(), torch.stack((lifted, 4 * lifted)))
    rounded = layer.weight_fake_quant(layer.weight)
    assert torch.equal(rounded == 0, layer.weight == 0)
    torch.testing.assert_close(rounded[:, 2:4] / step, torch.tensor([[1.0, -1.0], [4.0, -4.0]]), atol=1e-3, rtol=0)


def test_embeddings_train_as_they_are_and_get_the_scales_of_their_last_rows():
    torch.manual_seed(0)
    table = torch.ao.nn.qat.Embedding(20, 8, qconfig=default_embedding_qat_qconfig)
    model = torch.nn.Sequential(table)
    fake_quant.rest_embeddings(model)
    ids = torch.arange(20)
    assert torch.equal(model(ids), table.weight)
    with torch.no_grad():
        table.weight *= 3
    fake_quant.observe_embeddings(model)
    scale, zero_point = table.weight_fake_quant.calculate_qparams()
    low, high = table.weight.detach().aminmax(dim=1)
    assert torch.allclose(scale, (high.clamp(min=0) - low.clamp(max=0)) / 255)
    assert torch.allclose(zero_point, -low.clamp(max=0) / scale, atol=1e-4)


# --- INC's configuration ---

FP32 = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}


@pytest.mark.parametrize("dtype", ["fp32", ["fp32"]])
def test_patterns_of_operators_are_spelled_out(dtype):
    parts = {"layer": torch.nn.ModuleList([Reader(), Reader()]), "norm": torch.nn.LayerNorm(2)}
    model = torch.nn.ModuleDict({**parts, "drop": torch.nn.Dropout(), "head": torch.nn.Linear(2, 2)})
    fp32, int8 = {"weight": {"dtype": dtype}}, {"weight": {"dtype": ["int8"]}}
    settings = {
        "op_name_dict": {r"layer\..\.lin": fp32, "head.*": fp32, r"head\.module": int8, "layer.1": {}},
        # One side in fp32 is enough, as in post-training quantization.
        "op_type_dict": {"Layer.*|Drop.*": {"activation": {"dtype": dtype}}, "Linear": int8, "Conv2d": fp32},
    }
    config = fake_quant.training_quantization_config(settings, model)
    assert config.op_name_dict == dict.fromkeys(["layer.0.lin", "layer.1.lin", "head"], FP32)
    assert config.op_type_dict == {"LayerNorm": FP32, "Dropout": FP32}
    config = fake_quant.training_quantization_config({}, model)
    assert config.op_name_dict == config.op_type_dict == {}


def test_operators_have_the_names_that_inc_gives_them_as_well():
    found = fake_quant.names_of_operators(torch.nn.ModuleDict({"head": torch.nn.Linear(2, 2)}))
    assert found.items() >= {("head", "Linear"): None, ("head.module", "Linear"): None}.items()
