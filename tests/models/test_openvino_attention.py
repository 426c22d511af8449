"""Attention of rounded queries and keys: the same with their product as one of int8 values."""

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="needs requirements-openvino.txt")

from openvino import opset13 as ov  # noqa: E402

from qa.models.openvino_attention import rewrite_attention  # noqa: E402

HEADS, WIDTH = 2, 16
RANGES = {"query": (-18.1, 20.4), "key": (-3.0, 11.5), "value": (-1.0, 0.5)}


def attention(kind="fused", rounded=("query", "key", "value"), others=(), ranges=RANGES, causal=False, unseen=-3e38):
    """A graph of one attention; its inputs are what queries, keys and values are made of, and a mask.

    Args:
        kind: `fused` (one operator, scaled as PyTorch exports it), `fused, constant`, `products` (as DistilBERT
            spells it out, with the unseen left out behind), `products, transposed`, `other sum` (the scores of a
            query are summed up instead).
        rounded: what is.
        others: what else is taken from the graph.
        ranges: of the roundings.
        causal, unseen: of the masks.
    """
    width = HEADS * WIDTH
    inputs = {name: ov.parameter([-1, -1, width], np.float32, name=name) for name in RANGES}
    inputs["mask"] = ov.parameter([-1, 1, 1, -1], np.float32, name="mask")
    parts, results = {}, []
    for name, (low, high) in ranges.items():
        node = inputs[name]
        if name in rounded:
            node = ov.fake_quantize(node, *map(np.float32, (low, high, low, high)), levels=256)
            if name in others:
                results.append(ov.result(node, name=f"other {name}"))
        node = ov.reshape(node, np.int64([0, 0, HEADS, WIDTH]), True)
        parts[name] = ov.transpose(node, np.int64([0, 2, 1, 3]))
    query, key, value = parts.values()
    scale = ov.constant(np.float32([WIDTH**-0.5]))
    if kind.startswith("fused"):
        if kind == "fused":
            size = ov.convert(ov.gather(ov.shape_of(query), np.int64([3]), np.int64(0)), np.float32)
            scale = ov.power(size, np.float32(-0.25))
            query = ov.multiply(scale, query)
        node = ov.scaled_dot_product_attention(query, key, value, inputs["mask"], scale, causal=causal)
    else:
        query = ov.divide(query, np.float32(WIDTH**0.5))
        if kind == "products, transposed":
            scores = ov.matmul(query, key, False, True)
        else:
            scores = ov.matmul(query, ov.transpose(key, np.int64([0, 1, 3, 2])), False, False)
        is_seen = ov.equal(inputs["mask"], np.float32(0))
        shape = ov.shape_of(scores)
        scores = ov.select(ov.broadcast(is_seen, shape), scores, np.float32(unseen))
        weights = ov.relu(scores) if kind == "other sum" else ov.softmax(scores, -1)
        node = ov.matmul(weights, value, False, False)
    return openvino.Model([ov.result(node, name="answer"), *results], list(inputs.values()))


def kinds(model):
    return [node.get_type_name() for node in model.get_ordered_ops()]


def outputs(model, inputs):
    return list(openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs).values())


def drawn(rows=3, length=20):
    generator = np.random.default_rng(0)
    inputs = {name: generator.normal(0, 4, (rows, length, HEADS * WIDTH)).astype(np.float32) for name in RANGES}
    seen = np.arange(length) < np.array([[length], [7], [1]])
    return inputs | {"mask": np.where(seen, 0, -1e30).astype(np.float32)[:, None, None]}


@pytest.mark.parametrize("kind", ["fused", "fused, constant", "products", "products, transposed"])
@pytest.mark.parametrize("ranges", [RANGES, {**RANGES, "key": (0.0, 9.0), "query": (-7.0, 0.0)}])
def test_the_product_is_one_of_int8_and_the_answer_the_same(kind, ranges):
    model, inputs = attention(kind, ranges=ranges), drawn()
    (expected,) = outputs(model, inputs)
    rewrite_attention(model)
    assert "ScaledDotProductAttention" not in kinds(model)
    ends = {
        node.input_value(0).get_node().get_friendly_name(): [
            node.input_value(number).get_node().data.item() for number in (1, 2, 3, 4)
        ]
        for node in model.get_ordered_ops()
        if node.get_type_name() == "FakeQuantize"
    }
    # The levels stay where they were; what they stand for begins at 0, and at -128 steps.
    for name, first in (("query", 0), ("key", -128)):
        low, high = ranges[name]
        step = (high - low) / 255
        assert ends[name] == pytest.approx([low, high, first * step, (first + 255) * step], abs=1e-5)
    assert ends.keys() == {"query", "key"}
    assert "Round" in kinds(model)
    (found,) = outputs(model, inputs)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


@pytest.mark.parametrize(
    "words",
    [
        {"rounded": ("key", "value")},
        {"rounded": ("query", "value")},
        {"causal": True},
        {"others": ("query",)},
        {"others": ("key",)},
        {"kind": "products", "rounded": ("query", "value")},
        {"kind": "products", "others": ("query",)},
        {"kind": "products", "unseen": -1.0},
        {"kind": "other sum"},
    ],
    ids=str,
)
def test_what_is_not_rounded_for_this_alone_stays_as_it_is(words):
    model = attention(**words)
    before = kinds(model)
    rewrite_attention(model)
    assert kinds(model) == before
