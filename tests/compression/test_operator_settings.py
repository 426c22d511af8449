"""Notes on settings of single operators that came to nothing."""

from qa.compression.operator_settings import note_unmet

INT8 = {
    "weight": {"dtype": "int8", "scheme": "sym"},
    "activation": {"dtype": "uint8", "scheme": "asym", "algorithm": "minmax"},
}
FP32 = {"weight": {"dtype": "fp32"}, "activation": {"dtype": "fp32"}}
OPERATORS = {("encoder.0.module", "Linear"): INT8, ("head.module", "Linear"): FP32, ("norm", "LayerNorm"): FP32}


def notes(capsys, settings, operators=OPERATORS, shipped=()):
    note_unmet(settings, operators, dict(shipped))
    return capsys.readouterr().out.splitlines()


def test_what_operators_got_is_not_worth_a_word(capsys):
    by_name = {"head.*": {"weight": {"dtype": ["fp32"]}}}
    by_type = {"Linear": {"weight": {"dtype": "int8"}, "activation": {"algorithm": ["kl", "minmax"]}}}
    assert notes(capsys, {"op_name_dict": by_name, "op_type_dict": by_type}) == []
    assert notes(capsys, {}) == []


def test_what_no_operator_got_is_named_with_what_there_is(capsys):
    by_type = {"Linear": {"weight": {"scheme": "asym"}, "activation": {"dtype": ["int8", "s8"]}}}
    assert notes(capsys, {"op_type_dict": by_type}) == [
        "note: op_type_dict: no operator of 'Linear' has the scheme asym for its weight; INC has sym",
        "note: op_type_dict: no operator of 'Linear' has the dtype int8 or s8 for its activation; INC has fp32, uint8",
    ]
    assert notes(capsys, {"op_name_dict": {"head.*": {"activation": {"algorithm": "kl"}}}}) == [
        "note: op_name_dict: no operator of 'head.*' has the algorithm kl for its activation; INC has none"
    ]


def test_names_that_are_none_are_named_unless_they_are_the_projects_own(capsys):
    wrong, fp32 = {"encodr.*": FP32}, {"Linear": FP32}
    known = dict.fromkeys(OPERATORS)
    for operators in (OPERATORS, known):
        found = notes(capsys, {"op_name_dict": wrong}, operators, {"op_name_dict": {}})
        assert found == ["note: op_name_dict: 'encodr.*' is no operator of this model"]
        assert notes(capsys, {"op_name_dict": wrong}, operators, {"op_name_dict": wrong}) == []
    assert notes(capsys, {"op_type_dict": fp32}, known) == []


def test_a_model_without_int8_is_not_taken_for_one(capsys):
    assert notes(capsys, {}, {("head.module", "Linear"): FP32}) == ["note: no linear operator is int8"]
