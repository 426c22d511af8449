"""Configuration files: good ones of either layout load, and every broken one gives one line that says where."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from qa.compression import schemas, settings
from qa.compression.older_layout import OlderLayout
from qa.compression.schedule import PRUNING_APPROACHES
from qa.compression.settings import (
    CONFIG_DIR,
    distillation_settings,
    find_config,
    pruning_settings,
    quantization_settings,
)
from qa.start.errors import UsageError
from qa.start.yaml_files import MAX_NODES


def static_settings(path):
    return quantization_settings("static", path)


READERS = {"prune": pruning_settings, "distil": distillation_settings, "quantize": static_settings}
OLD_PRUNER = "pruning:\n  approach:\n    weight_compression:\n      pruners:\n        - !Pruner\n            "
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]\n" for before, after in zip("abcde", "bcdef", strict=True)
)

# Which reader, the file, the line that the message names, words in the message.
BAD_FILES = [
    # No YAML, or too much of it.
    ("prune", "- target_sparsity\n", 1, ["the file is a list of 1", "mapping", "target_sparsity", "op_names"]),
    ("prune", "just words", 1, ["the file is 'just words'", "mapping"]),
    ("prune", "pattern: 1x1\nop_names: [a\n", 3, ["YAML"]),
    ("prune", "pattern: 1x1\n\tpattern: 1x1\n", 2, ["YAML", r"\t"]),
    ("prune", "pattern: 1x1\n---\npattern: 1x1\n", 2, ["YAML", "document"]),
    ("prune", b"pattern: 1x1\n\xff\xfe\n", 2, ["YAML", "utf-8"]),
    ("prune", b"pattern: 1x1\n\x07\n", 2, ["YAML", "special characters"]),
    ("prune", 'pattern: "\\UFFFFFFFF"', 1, ["YAML"]),
    ("prune", "[" * 500, 1, ["YAML", "recursion"]),
    ("prune", "op_names: " + "[" * 150 + "]" * 150, 1, ["op_names is a list of 1", "regular expression"]),
    ("prune", "op_names: " + "[" * 400 + "]" * 400, 1, ["op_names is a list of 1", "regular expression"]),
    ("prune", BOMB, 1, ["unfolds", str(MAX_NODES), "alias"]),
    ("prune", "&self {pruning_configs: [*self]}", 1, ["unfolds", "alias"]),
    ("prune", "op_names: &self [*self]", 1, ["unfolds", "alias"]),
    # Tags.
    ("prune", "pattern: 1x1\nop_names: !!python/object/apply:os.system [ls]\n", 2, ["python/object", "tag"]),
    ("prune", "pattern: !!python/name:os.system\n", 1, ["python/name", "tag"]),
    ("prune", "version: 1.0\nmodel: !!python/tuple [a]\n", 2, ["python/tuple", "tag"]),
    ("prune", "pattern: !Own 1x1\n", 1, ["!Own", "tag"]),
    ("prune", "pattern: !Pruner 1x1\n", 1, ["mapping", "scalar"]),
    ("prune", "op_names: !!set {a}\n", 1, ["tag", "set"]),
    ("prune", "pattern: !!binary aGVsbG8=\n", 1, ["tag", "binary"]),
    ("prune", "pattern: 2001-01-01\n", 1, ["date(2001, 1, 1)", "NxM"]),
    ("prune", "pattern: 1x1\n<<: {op_names: []}\n", 2, ["unknown key <<", "no merges"]),
    ("prune", "start_step: !!int two\n", 1, ["'two' is no int"]),
    ("prune", 'start_step: !!int ""\n', 1, ["'' is no int"]),
    ("prune", "start_step: !!bool two\n", 1, ["'two' is no bool"]),
    # Keys.
    ("prune", "pattern: 1x1\ntarget_sparsty: 0.1\n", 2, ["'target_sparsty'", "target_sparsity", "pruning_frequency"]),
    ("prune", "pattern: 1x1\n3: 0.1\n", 2, ["unknown key 3", "allowed"]),
    ("prune", "pattern: 1x1\n? [a, b]\n: 0.1\n", 2, ["unknown key a list", "allowed"]),
    ("prune", "pattern: 1x1\npattern: 4x1\n", 2, ["'pattern'", "twice"]),
    ("prune", "pruning_configs:\n- pattern: 1x1\n- patern: 1x1\n", 3, ["'patern'", "pruning_configs", "op_names"]),
    ("prune", "pruning_configs:\n- pruning_configs: []\n", 2, ["'pruning_configs'", "allowed"]),
    ("prune", "start_epoch: 0\n", 1, ["'start_epoch'", "start_step"]),
    # Values.
    ("prune", "target_sparsity: 1.0\n", 1, ["target_sparsity is 1.0", "less than 1"]),
    ("prune", "target_sparsity: -0.1\n", 1, ["-0.1", "greater than or equal to 0"]),
    ("prune", "target_sparsity: .nan\n", 1, ["nan", "less than 1"]),
    ("prune", "target_sparsity: '0.1'\n", 1, ["'0.1'", "number"]),
    ("prune", "target_sparsity: true\n", 1, ["True", "number"]),
    ("prune", "target_sparsity:\n", 1, ["target_sparsity is empty", "number"]),
    ("prune", "target_sparsity: [0.1]\n", 1, ["a list of 1", "number"]),
    ("prune", "target_sparsity:\n  value: 0.1\n", 2, ["target_sparsity is a mapping", "number"]),
    ("prune", "start_step: 1.5\n", 1, ["1.5", "integer"]),
    ("prune", "end_step: -1\n", 1, ["-1", "greater than or equal to 0"]),
    ("prune", f"end_step: {10**30}\n", 1, ["end_step", "less than or equal to"]),
    ("prune", f"end_step: {'9' * 5000}\n", 1, ["is no int"]),
    ("prune", "pruning_frequency: 0\n", 1, ["pruning_frequency is 0", "greater than or equal to 1"]),
    ("prune", "pruning_frequency: false\n", 1, ["False", "integer"]),
    ("prune", "pruning_type: snip_momentm\n", 1, ["'snip_momentm'", *PRUNING_APPROACHES]),
    ("prune", "pattern: 4\n", 1, ["pattern is 4", "NxM", "N:M", "channelx1"]),
    ("prune", "pattern: 4:2\n", 1, ["'4:2'", "N below M"]),
    ("prune", "pattern: '0:4'\n", 1, ["'0:4'", "N:M"]),
    ("prune", "pattern: 0x1\n", 1, ["NxM"]),
    ("prune", "pattern: channelx2\n", 1, ["'channelx2'", "channelx1"]),
    ("prune", "op_names:\n- .*query\n- '('\n", 3, ["op_names is '('", "regular expression"]),
    ("prune", "op_names: ['a{99999999999999999999}']\n", 1, ["regular expression"]),
    ("prune", "op_names: .*query\n", 1, ["'.*query'", "list"]),
    ("prune", "excluded_op_names: [3]\n", 1, ["excluded_op_names is 3", "regular expression"]),
    ("prune", "pruning_scope: all\n", 1, ["'all'", "'global' or 'local'"]),
    ("prune", "sparsity_decay_type: log\n", 1, ["'log'", "'exp', 'cos', 'linear', 'cube' or 'cubic'"]),
    ("prune", "pruning_op_types: []\n", 1, ["pruning_op_types is a list of 0", "at least 1 item"]),
    ("prune", "pruning_configs: {pattern: 1x1}\n", 1, ["a mapping", "list"]),
    ("prune", "pruning_configs: [1x1]\n", 1, ["'1x1'", "mapping"]),
    # Values that do not go together.
    ("prune", "start_step: 5\nend_step: 4\n", 2, ["end_step is 4", "start_step", "5"]),
    ("prune", "start_step: 5\npruning_configs:\n- pattern: 1x1\n- end_step: 4\n", 4, ["end_step is 4", "5"]),
    ("prune", "target_sparsity: 0.6\npattern: 2:4\n", 1, ["target_sparsity is 0.6", "0.5", "pattern"]),
    ("prune", "target_sparsity: 0.99\n", 1, ["0.99", "0.98", "max_sparsity_ratio_per_op"]),
    (
        "prune",
        "max_sparsity_ratio_per_op: 0.5\npattern: 1x1\nmin_sparsity_ratio_per_op: 0.6\n",
        3,
        ["min_sparsity_ratio_per_op is 0.6", "0.5"],
    ),
    ("prune", "pruning_type: pattern_lock\nend_step: 9\n", 2, ["end_step is 9", "pattern_lock", "no schedule"]),
    ("prune", "end_step: 9\npruning_configs:\n- {pruning_type: pattern_lock, start_step: 2, end_step: 3}\n", 3, ["3"]),
    # Heads and channels.
    ("prune", "auto_slim:\n  mha_sparsity: 1\n", 2, ["mha_sparsity is 1", "less than 1"]),
    ("prune", "auto_slim:\n  heads: 0.5\n", 2, ["'heads'", "mha_sparsity, ffn2_sparsity"]),
    ("prune", "pruning_type: snip\npattern: mha\n", 2, ["pattern is mha", "target_sparsity"]),
    (
        "prune",
        "auto_slim: {mha_sparsity: 0.5}\npruning_configs:\n- {pattern: mha, target_sparsity: 0.5}\n",
        3,
        ["twice"],
    ),
    # Distillation.
    ("distil", "intermediate:\n  loss: KL\n", 2, ["'KL'", "MSE"]),
    ("distil", "intermediate:\n  weight: 0\n", 2, ["weight is 0", "greater than 0"]),
    ("distil", "intermediate:\n  layers: []\n", 2, ["layers is a list of 0", "at least 1 item"]),
    ("distil", "temperature: 0\n", 1, ["temperature is 0", "greater than 0"]),
    ("distil", "temperature: .inf\n", 1, ["inf", "finite number"]),
    ("distil", "temperature: 2\nloss_types: [MSE, CE]\n", 2, ["loss_types is ['MSE', 'CE']", "CE: give it first"]),
    ("distil", "loss_types: [CE]\n", 1, ["a list of 1", "it should have at least 2 items, not 1"]),
    ("distil", "temperature: 1\nloss_types: [KL, CE]\n", 2, ["['KL', 'CE']", "CE: give it first"]),
    ("distil", "loss_types: [KL, CE]\nloss_weights: [0, 1]\n", 1, ["['KL', 'CE']", "CE: give it first"]),
    ("distil", "loss_types: [CE, CE, CE]\n", 1, ["a list of 3", "at most 2 items"]),
    ("distil", "loss_types: [CE, BCE]\n", 1, ["'BCE'", "'CE', 'KL' or 'MSE'"]),
    ("distil", "loss_types: CE\n", 1, ["'CE'", "list"]),
    ("distil", "temperature: 1\nloss_weights: [0.5, 0.6]\n", 2, ["[0.5, 0.6]", "sum to 1"]),
    ("distil", "loss_weights: [-1, 2]\n", 1, ["-1", "greater than or equal to 0"]),
    ("distil", "loss_weights: [.nan, 1]\n", 1, ["nan", "less than or equal to 1"]),
    ("distil", "criterion:\n  OtherLoss: {}\n", 2, ["'OtherLoss'", "KnowledgeDistillationLoss"]),
    ("distil", "criterion:\n  KnowledgeDistillationLoss:\n    loss_weights: [1, 1]\n", 3, ["sum to 1"]),
    # Quantization.
    ("quantize", "qat:\n  recipes: {}\n", 2, ["'recipes'", "op_name_dict"]),
    ("quantize", "qat:\n  accuracy_criterion: {}\n", 2, ["'accuracy_criterion'", "op_name_dict"]),
    ("quantize", "qat:\n  op_name_dict: {a: {weight: {dtype: int8}}}\n", 2, ["dtype is 'int8'", "fp32"]),
    ("quantize", "qat:\n  op_type_dict: {a: {weight: {scheme: sym}}}\n", 2, ["'scheme'", "dtype"]),
    ("quantize", "op_name_dict:\n  '(': {}\n", 2, ["'('", "regular expression"]),
    ("quantize", "op_name_dict:\n  3: {}\n", 2, ["unknown key 3", "regular expression"]),
    ("quantize", "op_name_dict:\n  a: {weight: {dtype: [fp32, fp64]}}\n", 2, ["dtype is 'fp64'", "'int8'"]),
    ("quantize", "ipex:\n  op_type_dict: {Linear: {activation: {algorithm: kl}}}\n", 2, ["is 'kl'", "'minmax'"]),
    ("quantize", "op_name_dict:\n  a: {weight: {algorithm: kl}}\n", 2, ["algorithm is 'kl'", "'minmax'"]),
    ("quantize", "op_name_dict:\n  a: {weight: {dtype: []}}\n", 2, ["dtype is a list of 0", "int8"]),
    ("quantize", "quant_level: false\n", 1, ["False", "'auto', 0 or 1"]),
    ("quantize", "quant_level: true\n", 1, ["True", "'auto', 0 or 1"]),
    ("quantize", "accuracy_criterion: 0.01\n", 1, ["0.01", "criterion, tolerable_loss"]),
    ("quantize", "accuracy_criterion:\n  criterion: both\n", 2, ["'both'", "'relative' or 'absolute'"]),
    (
        "quantize",
        "accuracy_criterion: {tolerable_loss: -1}\n",
        1,
        ["tolerable_loss is -1", "greater than or equal to 0"],
    ),
    ("quantize", "accuracy_criterion: {higher_is_better: 1}\n", 1, ["higher_is_better is 1", "boolean"]),
    (
        "quantize",
        "static:\n  tuning_criterion:\n    max_trials: 0\n",
        3,
        ["max_trials is 0", "greater than or equal to 1"],
    ),
    ("quantize", "dynamic:\n  minmax_ranges: narrowed\n", 2, ["'minmax_ranges'", "op_name_dict"]),
    ("quantize", "static: {minmax_ranges: short}\n", 1, ["minmax_ranges is 'short'", "'narrowed' or 'whole'"]),
    ("quantize", "tuning_criterion: {timeout: .inf}\n", 1, ["timeout is inf", "number"]),
    ("quantize", "tuning_criterion: {timeout: '1'}\n", 1, ["timeout is '1'", "number"]),
    (
        "quantize",
        "accuracy_criterion: {higher_is_better: false}\n",
        1,
        ["is False", "F1 is compared"],
    ),
    ("quantize", "tuning_criterion: {strategy: random}\n", 1, ["'random'", "basic", "exhaustive"]),
    ("quantize", "recipes: {smooth_quant: true}\n", 1, ["'smooth_quant'", "fast_bias_correction"]),
    ("quantize", "tuning_criterion: {objective: speed}\n", 1, ["'speed'", "performance"]),
    # The older layout.
    ("prune", "version: 1.0\n", 1, ["older layout", "pruning section"]),
    ("prune", "distillation: {}\n", 1, ["distillation", "pruning section"]),
    ("prune", "version: 1.0\ntarget_sparsity: 0.1\n", 2, ["'target_sparsity'", "version", "pruning"]),
    ("prune", OLD_PRUNER + "prune_type: group_lasso\n", 6, ["prune_type is 'group_lasso'", "basic_magnitude"]),
    ("prune", OLD_PRUNER + "names: bert.weight\n", 6, ["names is 'bert.weight'", "list"]),
    ("prune", OLD_PRUNER + "sparsity: 0.5\n", 6, ["'sparsity'", "target_sparsity", "initial_sparsity"]),
    ("prune", OLD_PRUNER + "end_epoch: 1\n            start_epoch: 2\n", 6, ["end_epoch is 1", "start_epoch", "2"]),
    ("prune", OLD_PRUNER.replace("!Pruner", "!Other") + "end_epoch: 1\n", 5, ["!Other", "tag"]),
    ("distil", "distillation:\n  train:\n    criterion: CE\n", 3, ["criterion is 'CE'", "KnowledgeDistillationLoss"]),
    ("quantize", "quantization: {}\ntuning:\n  accuracy_criterion:\n    relative: x\n", 4, ["relative is 'x'"]),
    # Of the exports.
    ("quantize", "onnx:\n  smooth_quant_alpha: 0.5\n", 2, ["'smooth_quant_alpha' in onnx", "calibration_method"]),
    ("quantize", "onnx: {calibration_method: kl}\n", 1, ["calibration_method is 'kl'", "entropy"]),
    ("quantize", "openvino: {smooth_quant_alpha: 2}\n", 1, ["smooth_quant_alpha is 2", "less than or equal to 1"]),
    ("quantize", "openvino: {excluded_op_names: ['(']}\n", 1, ["excluded_op_names is '('", "regular expression"]),
]


def write(folder, content):
    path = folder / "own.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(("kind", "content", "line", "words"), BAD_FILES)
def test_bad_file_names_file_line_key_and_what_is_allowed(kind, content, line, words, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as refusal:
        READERS[kind](path)
    message = str(refusal.value)
    assert message.startswith(f"{path}, line {line}: "), message
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message


def test_unreadable_file(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        pruning_settings(tmp_path)


LISTS = {"pruning_configs": [], "op_names": [], "excluded_op_names": []}
NEW_FILES = [
    ("prune", "", LISTS),
    ("prune", "auto_slim: {ffn2_sparsity: 0.5}\n", {**LISTS, "auto_slim": {"ffn2_sparsity": 0.5}}),
    ("prune", "pattern: mha\ntarget_sparsity: 0.25\n", {**LISTS, "auto_slim": {"mha_sparsity": 0.25}}),
    (
        "prune",
        "target_sparsity: 0.1\npruning_configs:\n- {pattern: 1x1}\n- {pattern: mha, target_sparsity: 0.5}\n",
        {
            **LISTS,
            "target_sparsity": 0.1,
            "pruning_configs": [{"pattern": "1x1"}],
            "auto_slim": {"mha_sparsity": 0.5},
        },
    ),
    ("distil", "# nothing\n", {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]}),
    ("quantize", "static:\n", {}),
    (
        "prune",
        "\ufeffpattern: 2:4\ntarget_sparsity: 5e-1\npruning_op_types: [Linear]\nop_names: ['.*query']\n"
        "pruning_configs:\n- {pattern: channelx1, start_step: 2, end_step: 2, excluded_op_names: [a]}\n- {}\n",
        {
            "pattern": "2:4",
            "target_sparsity": 0.5,
            "pruning_op_types": ["Linear"],
            "op_names": [".*query"],
            "excluded_op_names": [],
            "pruning_configs": [
                {"pattern": "channelx1", "start_step": 2, "end_step": 2, "excluded_op_names": ["a"]},
                {},
            ],
        },
    ),
    (
        "prune",
        "end_step: 100\npruning_configs: [{pruning_type: pattern_lock}]\n",
        {
            "end_step": 100,
            "op_names": [],
            "excluded_op_names": [],
            "pruning_configs": [{"pruning_type": "pattern_lock", "start_step": 0, "end_step": 0}],
        },
    ),
    (
        "distil",
        "temperature: 2\nloss_types: [MSE, KL]\nloss_weights: [0, 1]\n",
        {"temperature": 2.0, "loss_types": ["MSE", "KL"], "loss_weights": [0, 1]},
    ),
    (
        "distil",
        "criterion:\n  KnowledgeDistillationLoss: {temperature: 3.5, loss_weights: [0.1, 0.9]}\n",
        {"temperature": 3.5, "loss_types": ["CE", "CE"], "loss_weights": [0.1, 0.9]},
    ),
    (
        "distil",
        "intermediate: {layers: [0, 3]}\n",
        {
            **{"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]},
            "intermediate": {"layers": [0, 3], "loss": "MSE", "weight": 1.0},
        },
    ),
    (
        "quantize",
        "quant_level: 0\nrecipes: {fast_bias_correction: true}\ndynamic: {quant_level: auto}\n"
        "accuracy_criterion: {criterion: absolute, tolerable_loss: 1, higher_is_better: true}\n"
        "static:\n  quant_level: 1\n  op_type_dict: {Linear: {weight: {dtype: [int8, fp32], scheme: sym}}}\n"
        "  minmax_ranges: whole\n"
        "  tuning_criterion: {max_trials: 3, timeout: 0, strategy: mse, objective: footprint}\n"
        "qat: {op_type_dict: {LayerNorm: {weight: {dtype: fp32}}}}\n",
        {
            "quant_level": 1,
            "minmax_ranges": "whole",
            "recipes": {"fast_bias_correction": True},
            "op_type_dict": {"Linear": {"weight": {"dtype": ["int8", "fp32"], "scheme": "sym"}}},
            "accuracy_criterion": {"criterion": "absolute", "tolerable_loss": 1.0, "higher_is_better": True},
            "tuning_criterion": {
                "max_trials": 3,
                "timeout": 0,
                "strategy": "mse",
                "objective": "footprint",
            },
        },
    ),
]


@pytest.mark.parametrize(("kind", "content", "settings"), NEW_FILES)
def test_good_file(kind, content, settings, tmp_path, capsys):
    assert READERS[kind](write(tmp_path, content)) == settings
    assert capsys.readouterr().out == ""


def test_numbers_have_the_type_that_inc_asks_for(tmp_path):
    path = write(tmp_path, "accuracy_criterion: {tolerable_loss: 1}\ntuning_criterion: {max_trials: 3}\n")
    settings = static_settings(path)
    assert type(settings["accuracy_criterion"]["tolerable_loss"]) is float
    assert type(settings["tuning_criterion"]["max_trials"]) is int


def test_training_takes_no_recipes_from_the_top(tmp_path):
    path = write(
        tmp_path, "recipes: {weight_correction: true}\nqat: {op_type_dict: {a: {}}}\nstatic: {quant_level: 0}\n"
    )
    assert quantization_settings("qat", path) == {"op_type_dict": {"a": {}}}


def test_operators_of_the_top_and_of_an_approach_come_together(tmp_path):
    fp32, int8 = {"weight": {"dtype": "fp32"}}, {"weight": {"dtype": "int8"}}
    top, own = {"a": fp32, "b": fp32}, {"b": int8, "c": int8}
    path = write(tmp_path, f"op_name_dict: {json.dumps(top)}\nstatic: {{op_name_dict: {json.dumps(own)}}}\n")
    assert quantization_settings("static", path) == {"op_name_dict": {"a": fp32, **own}}
    assert quantization_settings("dynamic", path) == {"op_name_dict": top}
    shipped = (CONFIG_DIR / "quantization.yml").read_text(encoding="utf-8")
    path = write(tmp_path, f"op_name_dict: {json.dumps(top)}\n{shipped}")
    for approach in ("dynamic", "static", "ipex", "qat"):
        assert quantization_settings(approach, path)["op_name_dict"].items() >= top.items()


def test_exports_take_their_own_keys_and_the_criterion_from_the_top(tmp_path):
    criterion = {"tolerable_loss": 0.5}
    path = write(
        tmp_path,
        "quant_level: 1\naccuracy_criterion: {tolerable_loss: 0.5}\nonnx: {calibration_method: entropy}\n"
        "openvino: {smooth_quant_alpha: 0.5, excluded_op_names: ['.*query']}\n",
    )
    assert quantization_settings("onnx", path) == {"accuracy_criterion": criterion, "calibration_method": "entropy"}
    assert quantization_settings("openvino", path) == {
        "accuracy_criterion": criterion,
        "smooth_quant_alpha": 0.5,
        "excluded_op_names": [".*query"],
    }


def test_all_weights_of_two_decimals_sum_to_one_as_inc_compares_them(tmp_path):
    for hundredth in range(101):
        weights = [float(f"0.{hundredth:02d}") if hundredth < 100 else 1.0, float(f"{1 - hundredth / 100:.2f}")]
        assert distillation_settings(write(tmp_path, f"loss_weights: {weights}\n"))["loss_weights"] == weights


def test_two_readings_share_nothing(tmp_path):
    path = write(tmp_path, "pruning_configs: [&a {op_names: [b]}, *a]\n")
    first = pruning_settings(path)
    first["excluded_op_names"].append("head")
    first["pruning_configs"][0]["op_names"].append("c")
    assert first["pruning_configs"][1] == {"op_names": ["b"]}
    assert pruning_settings(path)["excluded_op_names"] == []


OLD_FILES = [
    (
        "prune",
        """
version: 1.0
model: {name: bert_prune, framework: pytorch}
pruning:
  approach:
    weight_compression:
      initial_sparsity: 0.0
      target_sparsity: 0.1
      start_epoch: 0
      end_epoch: 2
      pruners:
        - !Pruner
            prune_type: basic_magnitude
tuning:
  accuracy_criterion: {relative: 0.1}
  exit_policy: {timeout: 0}
  random_seed: 9527
""",
        {
            "pruning_type": "magnitude",
            "pattern": "1x1",
            "target_sparsity": 0.1,
            "start_epoch": 0,
            "end_epoch": 2,
            "op_names": [],
            "excluded_op_names": [],
            "pruning_configs": [],
        },
        "pruning_type=magnitude, pattern=1x1, target_sparsity=0.1, start_epoch=0, end_epoch=2; "
        "not used: initial_sparsity, random_seed, tuning",
    ),
    (
        "prune",
        """
device: cpu
pruning:
  approach:
    weight_compression:
      target_sparsity: 0.9
      start_epoch: 0
      end_epoch: 8
      pruners:
        - !Pruner
            start_epoch: 1
            prune_type: pattern_lock
            names: [bert.layer.0.query.weight, bert.layer.0.key.weight, b.weight, '.*value']
""",
        {
            "pruning_type": "pattern_lock",
            "pattern": "1x1",
            "target_sparsity": 0.9,
            "start_step": 0,
            "end_step": 0,
            "op_names": [r"(^|\.)bert\.layer\.0\.query$", r"(^|\.)bert\.layer\.0\.key$", r"(^|\.)b$", ".*value"],
            "excluded_op_names": [],
            "pruning_configs": [],
        },
        "op_names=['(^|\\\\.)bert\\\\.layer\\\\.0\\\\.query$' and 3 more]; not used: start_epoch=1, end_epoch=8",
    ),
    (
        "prune",
        """
pruning:
  approach:
    weight_compression_pytorch:
      prune_domain: local
      max_sparsity_ratio_per_layer: 0.9
      end_epoch: 3
      pruners:
        - !Pruner {prune_type: gradient_sensitivity, pattern: tile_pattern_4x1, target_sparsity_ratio: 0.5,
                   op_names: [c.weight], start_epoch: 0.5, end_epoch: 1, update_frequency: 1,
                   excluded_names: [a.weight]}
        - {prune_type: snip_momentum, pattern: tile_pattern_2:4, update_frequency_on_step: 2, names: [b.weight]}
""",
        {
            "pruning_type": "magnitude",
            "pattern": "1x1",
            "pruning_scope": "local",
            "max_sparsity_ratio_per_op": 0.9,
            "end_epoch": 3,
            "op_names": [],
            "excluded_op_names": [],
            "pruning_configs": [
                {
                    "pruning_type": "gradient",
                    "pattern": "4x1",
                    "target_sparsity": 0.5,
                    "start_epoch": 0.5,
                    "end_epoch": 1,
                    "op_names": [r"(^|\.)c$"],
                    "excluded_op_names": [r"(^|\.)a$"],
                },
                {
                    "pruning_type": "snip_momentum",
                    "pattern": "2:4",
                    "pruning_frequency": 2,
                    "op_names": [r"(^|\.)b$"],
                },
            ],
        },
        "'pruning_type': 'gradient'",
    ),
    (
        "distil",
        """
version: 1.0
model: {name: student, framework: pytorch}
distillation:
  train:
    optimizer: {SGD: {learning_rate: 0.001}}
    criterion:
      KnowledgeDistillationLoss:
        temperature: 1.0
        loss_types: ['CE', 'KL']
        loss_weights: [0, 1]
evaluation: {accuracy: {metric: {topk: 1}}}
""",
        {"temperature": 1.0, "loss_types": ["CE", "KL"], "loss_weights": [0, 1]},
        "temperature=1, loss_types=['CE', 'KL'], loss_weights=[0.0, 1.0]; not used: optimizer",
    ),
    (
        "quantize",
        """
version: 1.0
model: {name: bert, framework: pytorch_fx}
device: cpu
quantization:
  approach: post_training_static_quant
  model_wise: {activation: {algorithm: minmax}}
  optype_wise: {Linear: {weight: {granularity: [per_channel]}}}
  op_wise: {'bert.encoder.layer.0': {weight: {dtype: ['fp32']}}}
tuning:
  accuracy_criterion: {relative: 0.03, higher_is_better: true}
  exit_policy: {timeout: 0, max_trials: 7}
  strategy: {name: mse}
  objective: performance
  random_seed: 9527
""",
        {
            "op_type_dict": {
                ".*": {"activation": {"algorithm": "minmax"}},
                "Linear": {"weight": {"granularity": ["per_channel"]}},
            },
            "op_name_dict": {"bert.encoder.layer.0": {"weight": {"dtype": ["fp32"]}}},
            "accuracy_criterion": {"criterion": "relative", "tolerable_loss": 0.03, "higher_is_better": True},
            "tuning_criterion": {"timeout": 0, "max_trials": 7, "strategy": "mse", "objective": "performance"},
        },
        "; not used: approach, random_seed",
    ),
    ("quantize", "quantization:\n", {}, "understood as: no settings"),
    ("quantize", "quantization: {}\ntuning: {accuracy_criterion: {absolute: 1}}\n", None, "'criterion': 'absolute'"),
]


@pytest.mark.parametrize(("kind", "content", "settings", "words"), OLD_FILES)
def test_older_layout_loads_and_is_shown_in_one_line(kind, content, settings, words, tmp_path, capsys):
    path = write(tmp_path, content)
    found = READERS[kind](path)
    if settings is not None:
        assert found == settings
    out = capsys.readouterr().out
    assert out.startswith(f"note: {path} is in INC's older layout; understood as: ")
    assert out.count("\n") == 1
    assert words in out


def test_pruning_approaches():
    assert PRUNING_APPROACHES == (
        "snip_momentum",
        "snip_momentum_progressive",
        "magnitude",
        "magnitude_progressive",
        "gradient",
        "gradient_progressive",
        "snip",
        "snip_progressive",
        "pattern_lock",
    )


def test_shipped_files(capsys):
    for approach in ("dynamic", "static", "ipex", "qat", "onnx", "openvino"):
        quantization_settings(approach)
    assert pruning_settings()["excluded_op_names"] == [".*qa_outputs"]
    lock = pruning_settings(CONFIG_DIR / "prune_pattern_lock.yml")
    assert (lock["pruning_type"], lock["pattern"]) == ("pattern_lock", "1x1")
    assert lock["excluded_op_names"] == [".*qa_outputs"]
    gradual = pruning_settings(CONFIG_DIR / "prune_encoder.yml")
    assert (gradual["sparsity_decay_type"], gradual["pattern"], gradual["target_sparsity"]) == ("cubic", "1x1", 0.9)
    assert pruning_settings(CONFIG_DIR / "prune_slim.yml")["auto_slim"].keys() == {"mha_sparsity", "ffn2_sparsity"}
    assert distillation_settings()["loss_types"][1] == "CE"
    assert "intermediate" not in distillation_settings()
    assert distillation_settings(CONFIG_DIR / "distillation_intermediate.yml")["intermediate"]["loss"] == "MSE"
    assert capsys.readouterr().out == ""
    assert {path.name for path in CONFIG_DIR.glob("*.yml")} == {
        "distillation.yml",
        "prune.yml",
        "prune_encoder.yml",
        "prune_pattern_lock.yml",
        "prune_slim.yml",
        "distillation_intermediate.yml",
        "quantization.yml",
    }


def test_find_config(tmp_path, monkeypatch, capsys):
    def find(path):
        return find_config(SimpleNamespace(pruning_config=path), "pruning_config", "prune.yml")

    monkeypatch.chdir(tmp_path)
    assert find(None) == CONFIG_DIR / "prune.yml"
    name = "../config/prune_pattern_lock.yml"
    shipped = CONFIG_DIR / "prune_pattern_lock.yml"
    own = write(tmp_path, "")
    assert find(str(own)) == own
    assert capsys.readouterr().out == ""
    assert find(name) == shipped
    assert capsys.readouterr().out == f"note: --pruning_config {name}: there is no such file; {shipped} is taken\n"
    with pytest.raises(UsageError, match=r"--pruning_config /home/me/prune.yml: there is no such file$"):
        find("/home/me/prune.yml")
    with pytest.raises(UsageError, match=r"--pruning_config ../no.yml: there is no such file"):
        find("../no.yml")


def test_no_heavy_library_is_imported():
    source = Path(settings.__file__).read_text(encoding="utf-8")
    assert "import torch" not in source
    assert "neural_compressor" not in source
    assert "yaml" in sys.modules


def loads_or_is_refused(folder, content):
    path = write(folder, content)
    for reader in READERS.values():
        try:
            settings = reader(path)
        except UsageError as refusal:
            assert str(refusal).startswith(f"{path}, line ")
        else:
            assert isinstance(settings, dict)


@hypothesis.given(st.text() | st.binary() | st.text(alphabet="ab:-{}[],&*!<>?|#'\"\n \t%@=.~0x"))
def test_any_text_loads_or_is_refused(tmp_path, content):
    loads_or_is_refused(tmp_path, content.encode("utf-8", "replace") if isinstance(content, str) else content)


SCHEMAS = {
    "prune": schemas.Pruning.model_json_schema(),
    "distil": schemas.Distillation.model_json_schema(),
    "quantize": schemas.Quantization.model_json_schema(),
    "older": OlderLayout.model_json_schema(),
}
KEYS = sorted(
    {
        key
        for whole in SCHEMAS.values()
        for schema in (whole, *whole["$defs"].values())
        for key in schema.get("properties", {})
    }
)
VALUES = [
    "1x1",
    "2:4",
    "pattern_lock",
    "snip",
    "CE",
    "KL",
    ".*",
    "(",
    "a.weight",
    "fp32",
    "relative",
    "<<",
    "=",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text() | st.sampled_from(VALUES)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)
        | st.dictionaries(SCALARS, inner, max_size=2)
    ),
    max_leaves=15,
)


@hypothesis.given(st.dictionaries(st.sampled_from(KEYS), TREES, max_size=4) | TREES, st.booleans())
def test_any_structure_loads_or_is_refused(tmp_path, tree, flow):
    loads_or_is_refused(tmp_path, yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=False))


def valid(schema, known, draw):
    """Draw a tree that keeps to a JSON schema, but for values that do not go together."""
    schema = known.get(schema.get("$ref", "").rpartition("/")[2], schema)
    if "anyOf" in schema:
        return valid(draw(st.sampled_from(schema["anyOf"])), known, draw)
    if "properties" in schema:
        # What has no effect may be anything, and has no type.
        used = sorted(key for key, inner in schema["properties"].items() if inner.keys() - {"default", "title"})
        keys = draw(st.lists(st.sampled_from(used), unique=True, max_size=4))
        return {key: valid(schema["properties"][key], known, draw) for key in keys}
    if "additionalProperties" in schema:
        return {".*": valid(schema["additionalProperties"], known, draw)}
    if "items" in schema:
        count = draw(st.integers(schema.get("minItems", 1), 2))
        return [valid(schema["items"], known, draw) for _ in range(count)]
    if schema.get("type") in ("integer", "number"):
        numbers = [0, 1, 2] + [0.0, 0.5, 1.5] * (schema["type"] == "number")
        above, below = schema.get("minimum", 1e-9), schema.get("maximum", schema.get("exclusiveMaximum", 3) - 1e-9)
        return draw(st.sampled_from([number for number in numbers if above <= number <= below]))
    if schema.get("type") == "boolean":
        return draw(st.booleans())
    text = ["1x1", "2:4", "4x1", "channelx1"] if schema.get("title") == "Pattern" else [".*", "a.weight"]
    return draw(
        st.sampled_from(schema.get("enum", [schema.get("const")]) if {"enum", "const"} & set(schema) else text)
    )


@hypothesis.given(st.data())
def test_settings_of_the_schema_load_or_do_not_go_together(tmp_path, data):
    kind = data.draw(st.sampled_from(sorted(READERS)))
    schema = SCHEMAS[data.draw(st.sampled_from([kind, "older"]))]
    tree = valid(schema, schema["$defs"], data.draw)
    path = write(tmp_path, yaml.safe_dump(tree))
    try:
        READERS[kind](path)
    except UsageError as refusal:
        together = ("sum to 1", "give at most", "give at least start_", "pattern_lock has no schedule", " section")
        together += ("fills blocks little by little", "right answers take CE", "F1 is compared")
        assert any(words in str(refusal) for words in together), refusal
