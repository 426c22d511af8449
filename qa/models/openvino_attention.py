"""Attention in an OpenVINO graph whose queries, keys and values are rounded: int8 where it saves time, and only there.

Belongs here: rewriting a graph without changing what it computes.
Does not belong here: making a graph int8 (`engine_quantization.py`), and reading and writing it (`export.py`).
OpenVINO is imported where it is used.
"""

import numpy as np

# A softmax takes what is not to be seen for this or less.
_UNSEEN = -1e9


def rewrite_attention(model):
    """Let OpenVINO multiply rounded queries and keys as int8 values, and rounded values as fp32 ones, in place.

    OpenVINO multiplies queries and keys as int8 if neither has a zero point: 0 for uint8, 128 for what becomes int8.
    What was trained has others. A zero point of the keys adds one number to all scores of a query, which the softmax
    takes away again, so it is dropped. One of the queries adds to the scores of each key a multiple of that key's sum,
    which is added behind the product instead. This takes 10 % off the time of batches of 8 x 384, and 8 % off that of
    single windows, for minilm-squad with half of its heads and channels after quantization-aware training.

    Values meet what a softmax gives, in fp32. As int8 they would only be transposed, which takes six times as long as
    in fp32: 3 % of the time of a single window of minilm-squad.

    Args:
        model: `openvino.Model`. Nothing happens where queries and keys are not both rounded, each for this one use.
    """
    from openvino import opset13 as ov

    _spell_out_attention(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or node.get_attributes()["transpose_a"]:
            continue
        if (softmax := _softmax_of(node)) is None:
            continue
        (query, factor), (key, _) = map(_rounding_of, node.input_values())
        if query is None or key is None:
            continue
        transposed = node.get_attributes()["transpose_b"]
        sums = ov.reduce_sum(node.input_value(1), np.int64([-1 if transposed else -2]), keep_dims=True)
        if transposed:
            rank = len(sums.get_output_partial_shape(0))
            sums = ov.transpose(sums, np.int64([*range(rank - 2), rank - 1, rank - 2]))
        takers = _takers(node)
        lowest = _move_zero_point(query, 0)
        _move_zero_point(key, 128)
        scores = ov.add(node, ov.multiply(sums, np.float32(lowest * factor)))
        for taker in takers:
            taker.replace_source_output(scores.output(0))
        for taker in _takers(softmax):
            product = taker.get_node()
            if product.get_type_name() == "MatMul" and taker.get_index() == 0:
                value, _ = _rounding_of(product.input_value(1))
                if value is not None:
                    _round_in_fp32(value)


def _spell_out_attention(model):
    """Put products and a softmax in the place of each ScaledDotProductAttention of rounded queries and keys, in place.

    PyTorch's exporter scales queries in front of the product by a number that it takes from their shape, which
    OpenVINO cannot move. Behind the product stands a constant.
    """
    from openvino import opset13 as ov

    found = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ScaledDotProductAttention" and node.get_input_size() == 5:
            (query, of_query), (key, of_key) = map(_unscaled, node.input_values()[:2])
            is_plain = not node.get_attributes()["causal"] and node.input_value(3).get_element_type().is_real()
            if is_plain and _rounding_of(query)[0] and _rounding_of(key)[0]:
                found.append((node, query, key, [node.input_value(4), *of_query, *of_key]))
    numbers = _values_of(model, [factor for *_, factors in found for factor in factors])
    for node, query, key, factors in found:
        scale = np.float32(np.prod([next(numbers) for _ in factors]))
        scores = ov.add(ov.multiply(ov.matmul(query, key, False, True), scale), node.input_value(3))
        node.output(0).replace(ov.matmul(ov.softmax(scores, -1), node.input_value(2), False, False).output(0))


def _softmax_of(node):
    """Find the softmax that the values of a product go to, and nowhere else.

    Returns:
        Its node; `None` if there is none, or not all of a row may be raised by one number.
    """
    while len(takers := _takers(node)) == 1:
        (taken,), node = takers, takers[0].get_node()
        others = [value for place, value in enumerate(node.input_values()) if place != taken.get_index()]
        match node.get_type_name():
            case "Softmax":
                axis = node.get_attributes()["axis"]
                return node if axis in (-1, len(node.get_output_partial_shape(0)) - 1) else None
            case "Select" if taken.get_index() and (_number_in(others[-1]) or 0.0) <= _UNSEEN:
                continue
            case "Multiply" | "Divide" if taken.get_index() == 0 and _number_in(others[0]):
                continue
            case "Add":
                continue
        return None
    return None


def _unscaled(values):
    """Split a product with a single number into what is multiplied and a list of the number."""
    node = values.get_node()
    if node.get_type_name() == "Multiply":
        for number, others in (node.input_values(), reversed(node.input_values())):
            shape = number.get_partial_shape()
            if shape.is_static and np.prod(shape.to_shape(), dtype=int) == 1:
                return others, [number]
    return values, []


def _number_in(values):
    """Return the one number of a constant; `None` for anything else."""
    node = values.get_node()
    return node.data.item() if node.get_type_name() == "Constant" and node.data.size == 1 else None


def _rounding_of(values):
    """Find where values were rounded, for no other use.

    Returns:
        `(node, factor)`: the FakeQuantize to 256 levels of one range, `None` if there is none; and what its values are
        multiplied by until here.
    """
    node, factor = values.get_node(), 1.0
    while len(_takers(node)) == 1:
        number = _number_in(node.input_value(1)) if node.get_input_size() == 2 else None
        match node.get_type_name():
            case "FakeQuantize" if node.get_attributes()["levels"] == 256:
                ends = [_number_in(node.input_value(place)) for place in (1, 2, 3, 4)]
                return (node, factor) if None not in ends else (None, factor)
            case "Multiply" if number:
                factor *= number
            case "Divide" if number:
                factor /= number
            case "Reshape" | "Transpose":
                pass
            case _:
                break
        node = node.input_value(0).get_node()
    return None, factor


def _takers(node):
    """List the inputs that the values of an operator go to, but for those that ask for their shape."""
    takers = node.output(0).get_target_inputs()
    return [taker for taker in takers if taker.get_node().get_type_name() != "ShapeOf"]


def _values_of(model, numbers):
    """Yield the values of some outputs in a graph that depend on none of its inputs but by their dimensions."""
    import openvino

    if numbers:
        part = openvino.Model([openvino.opset13.result(number) for number in numbers], model.get_parameters())
        shapes = [[length.get_min_length() or 1 for length in each.get_partial_shape()] for each in part.inputs]
        kinds = [each.get_element_type().to_dtype() for each in part.inputs]
        yield from openvino.compile_model(part, "CPU")(list(map(np.ones, shapes, kinds))).values()


def _move_zero_point(node, place):
    """Let the level `place` of a FakeQuantize stand for 0; returns what its level 0 stood for before."""
    from openvino import opset13 as ov

    lowest, step = _levels(node)
    for number, level in ((3, 0), (4, 255)):
        end = ov.constant(np.full(node.input_value(number).get_shape(), (level - place) * step, np.float32))
        node.input(number).replace_source_output(end.output(0))
    return lowest


def _round_in_fp32(node):
    """Put plain arithmetic in the place of a FakeQuantize, whose values OpenVINO would hold as int8."""
    from openvino import opset13 as ov

    lowest, step = _levels(node)
    first = lowest / step
    levels = ov.round(ov.multiply(node.input_value(0), np.float32(1 / step)), "half_to_even")
    node.output(0).replace(ov.multiply(ov.clamp(levels, first, first + 255), np.float32(step)).output(0))


def _levels(node):
    """Return what level 0 of a FakeQuantize stands for, and by how much the next one is more."""
    lowest, highest = (_number_in(node.input_value(number)) for number in (3, 4))
    return lowest, (highest - lowest) / 255
