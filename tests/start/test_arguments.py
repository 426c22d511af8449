"""The arguments: their names and defaults, flags and argument files, and the check of the installed packages."""

import dataclasses
import importlib.metadata
import json
import sys

import pytest
import yaml
from conftest import ROOT, SAMPLE

import run_qa_post_training
from qa.start.arguments import DataTrainingArguments, ModelArguments, parse_arguments
from qa.start.arguments_checks import check_effects, note_effects
from qa.start.errors import UsageError
from qa.start.run import Run
from qa.start.stack import STACK, check_stack
from run_qa_post_training import OptimizationArguments

DEFAULTS = {
    ModelArguments: {
        "model_name_or_path": dataclasses.MISSING,
        "config_name": None,
        "tokenizer_name": None,
        "cache_dir": None,
        "model_revision": "main",
        "token": None,
        "use_auth_token": False,
    },
    DataTrainingArguments: {
        "dataset_name": None,
        "dataset_config_name": None,
        "train_file": None,
        "validation_file": None,
        "test_file": None,
        "overwrite_cache": False,
        "preprocessing_num_workers": None,
        "max_seq_length": 384,
        "pad_to_max_length": None,
        "max_train_samples": None,
        "max_eval_samples": None,
        "max_predict_samples": None,
        "version_2_with_negative": False,
        "null_score_diff_threshold": 0.0,
        "doc_stride": 128,
        "n_best_size": 20,
        "max_answer_length": 30,
    },
    OptimizationArguments: {
        "apply_quantization": False,
        "quantization_approach": "dynamic",
        "num_calibration_samples": 50,
        "verify_loading": False,
    },
}

MODEL = str(SAMPLE / "distilbert-qa")
DEV = str(SAMPLE / "dev.json")


def parse(*words):
    return parse_arguments(OptimizationArguments, list(words))


@pytest.fixture
def base(tmp_path):
    return ["--model_name_or_path", MODEL, "--validation_file", DEV, "--output_dir", str(tmp_path / "out")]


def test_a_data_set_wins_over_files_and_an_empty_name_is_none(base):
    _, data_args, *_ = parse(*base, "--dataset_name", str(SAMPLE))
    assert (data_args.dataset_name, data_args.validation_file) == (str(SAMPLE), None)
    _, data_args, *_ = parse(*base, "--dataset_name", "")
    assert (data_args.dataset_name, data_args.validation_file) == (None, DEV)


def test_question_files_on_the_command_line_win_over_the_data_set_of_an_argument_file(base, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"dataset_name: {SAMPLE}\ndataset_config_name: plain\ndo_eval: true\n", encoding="utf-8")
    _, data_args, *_ = parse(str(path), *base)
    assert (data_args.dataset_name, data_args.dataset_config_name, data_args.validation_file) == (None, None, DEV)
    assert f"note: argument file {path}: dataset_name is left out" in capsys.readouterr().out
    _, data_args, *_ = parse(str(path), *base, "--dataset_name", "squad")
    assert (data_args.dataset_name, data_args.dataset_config_name) == ("squad", "plain")
    _, data_args, *_ = parse(str(path), *base[:2], *base[4:])
    assert data_args.dataset_name == str(SAMPLE)


@pytest.mark.parametrize("value", [True, False, "True", "false"])
def test_a_truth_value_names_no_checkpoint(value, base, tmp_path):
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"resume_from_checkpoint": value}))
    assert parse(str(path), *base)[2].resume_from_checkpoint is None


def test_an_argument_file_names_several_trackers(base, tmp_path):
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"report_to": ["tensorboard", "wandb"]}))
    with pytest.raises(UsageError, match="--report_to wandb is not installed here; choose from tensorboard"):
        parse(str(path), *base)
    path.write_text(json.dumps({"report_to": ["tensorboard"]}))
    assert parse(str(path), *base)[2].report_to == ["tensorboard"]


@pytest.mark.parametrize(("name", "said"), [("", "is empty"), ("entra\udceenement", "is not UTF-8")])
def test_an_output_folder_that_cannot_be_named_is_refused(name, said, base):
    with pytest.raises(UsageError, match=f"--output_dir.*{said}"):
        parse(*base[:-1], name)


def test_help_shows_what_the_command_does_something_with(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "--quantization_approach" in text and "--per_device_eval_batch_size" in text
    for flag in ("--learning_rate", "--past_index", "--deepspeed", "--report_to", "--ddp_timeout", "container"):
        assert flag not in text
    assert "to continue training" not in " ".join(text.split())


@pytest.mark.parametrize("group", DEFAULTS, ids=lambda group: group.__name__)
def test_arguments_have_their_names_and_defaults(group):
    found = {field.name: field.default for field in dataclasses.fields(group)}
    wanted = DEFAULTS[group]
    assert {name: found.get(name, "no such argument") for name in wanted} == wanted
    for name, value in wanted.items():
        assert type(found[name]) is type(value)


def test_defaults_survive_the_parser(base):
    model_args, data_args, training_args, optimization_args = parse(*base)
    given = {"model_name_or_path": MODEL, "validation_file": DEV}
    for group, values in ((ModelArguments, model_args), (DataTrainingArguments, data_args)):
        for name, default in DEFAULTS[group].items():
            assert getattr(values, name) == given.get(name, default), name
    for name, default in DEFAULTS[OptimizationArguments].items():
        assert getattr(optimization_args, name) == default
    assert (training_args.use_ipex, training_args.bf16, training_args.do_eval) == (False, False, False)
    assert training_args.report_to == []


def test_every_argument_has_a_help_text():
    for group in DEFAULTS:
        for field in dataclasses.fields(group):
            assert field.metadata.get("help"), field.name


def test_names_that_users_import_are_there():
    for name in ("main", "ModelArguments", "DataTrainingArguments", "OptimizationArguments"):
        assert callable(getattr(run_qa_post_training, name))
    assert run_qa_post_training.ModelArguments is ModelArguments
    assert run_qa_post_training.DataTrainingArguments is DataTrainingArguments


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], None),
        (["--pad_to_max_length"], True),
        (["--pad_to_max_length", "true"], True),
        (["--pad_to_max_length=False"], False),
        (["--no_pad_to_max_length"], False),
    ],
)
def test_padding_can_be_asked_for_forbidden_or_left_open(words, expected, base):
    assert parse(*base, *words)[1].pad_to_max_length is expected
    assert parse(*words, *base)[1].pad_to_max_length is expected


def test_boolean_flags_take_no_value_or_one(base):
    for words, expected in (([], False), (["--do_eval"], True), (["--do_eval", "False"], False)):
        assert parse(*base, *words)[2].do_eval is expected


FILE_CASES = {
    "numbers": {"max_seq_length": 200, "doc_stride": 50, "learning_rate": 3e-5, "seed": 7},
    "a small negative number": {"null_score_diff_threshold": -0.00001},
    "a negative number": {"null_score_diff_threshold": -2.5},
    "true": {"do_eval": True, "version_2_with_negative": True, "apply_quantization": True},
    "false": {"do_eval": False, "version_2_with_negative": False},
    "padding": {"pad_to_max_length": True},
    "no padding": {"pad_to_max_length": False},
    "nothing": {"max_eval_samples": None, "pad_to_max_length": None},
    "a list": {"label_names": ["start_positions", "end_positions"]},
    "a mapping": {"lr_scheduler_kwargs": {"num_cycles": 2}},
    "a text that looks like a flag": {"run_name": "-x"},
    "a text with spaces and quotes": {"run_name": 'it\'s a "run" --seed 3'},
    "a choice": {"quantization_approach": "static", "train_file": DEV, "eval_strategy": "epoch"},
    "a text that looks like a number": {"run_name": "007"},
}


@pytest.mark.parametrize("kind", ["json", "yaml", "yml"])
@pytest.mark.parametrize("name", FILE_CASES)
def test_an_argument_file_gives_what_it_says(name, kind, tmp_path):
    content = {
        "model_name_or_path": MODEL,
        "validation_file": DEV,
        "output_dir": str(tmp_path / "out"),
        **FILE_CASES[name],
    }
    path = tmp_path / f"arguments.{kind}"
    path.write_text(json.dumps(content) if kind == "json" else yaml.safe_dump(content), encoding="utf-8")
    parsed = parse(str(path))
    for name_, value in content.items():
        (found,) = [getattr(group, name_) for group in parsed if hasattr(group, name_)]
        assert found == value
    for group, defaults in DEFAULTS.items():
        (values,) = [values for values in parsed if isinstance(values, group)]
        for other in defaults.keys() - content.keys():
            assert getattr(values, other) == defaults[other]


def test_the_negative_padding_flag_may_stand_in_a_file(tmp_path):
    path = tmp_path / "arguments.yaml"
    content = {"model_name_or_path": MODEL, "validation_file": DEV, "output_dir": "out", "no_pad_to_max_length": True}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert parse(str(path))[1].pad_to_max_length is False


def test_an_argument_file_is_checked_like_the_flags(tmp_path, base):
    bad = {"model_name_or_path": MODEL, "validation_file": DEV, "output_dir": str(tmp_path / "out"), "doc_stride": 900}
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps(bad), encoding="utf-8")
    with pytest.raises(UsageError) as of_file:
        parse(str(path))
    with pytest.raises(UsageError) as of_flags:
        parse(*base, "--doc_stride", "900")
    assert str(of_file.value) == str(of_flags.value)


def test_the_arguments_of_the_process_are_the_default(base, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", *base, "--seed", "5"])
    assert parse_arguments(OptimizationArguments)[2].seed == 5


# --- the installed packages ---


def versions(**changes):
    """A look-up of versions: those that are needed, but for the changes."""
    found = {name: f"{version}.0" if version.count(".") == 1 else version for name, version in STACK.items()}
    found.update({name.replace("_", "-"): version for name, version in changes.items()})

    def version_of(name):
        if found[name] is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    return version_of


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"torch": "2.8.0+cpu", "intel_extension_for_pytorch": "2.8.0+cpu"},
        {"torch": "2.8.0+cu128"},
        {"transformers": "4.45.2", "numpy": "1.26.4"},
    ],
)
def test_a_stack_that_works_is_accepted(changes):
    check_stack(versions(**changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"torch": "2.9.1"}, ["torch 2.9.1 (needed: 2.8.0)"]),
        ({"intel_extension_for_pytorch": "2.7.0"}, ["intel-extension-for-pytorch 2.7.0 (needed: 2.8.0)"]),
        ({"intel_extension_for_pytorch": None}, ["intel-extension-for-pytorch not installed (needed: 2.8.0)"]),
        ({"transformers": "4.46.0"}, ["transformers 4.46.0 (needed: 4.45"]),
        ({"transformers": "4.450.0"}, ["transformers 4.450.0"]),
        ({"numpy": "2.0.1"}, ["numpy 2.0.1 (needed: 1.26"]),
        ({"neural_compressor": "3.8", "optimum_intel": "2.0.0"}, ["neural-compressor 3.8 ", "optimum-intel 2.0.0 "]),
        ({"torch": "2.8.01"}, ["torch 2.8.01 "]),
    ],
)
def test_a_wrong_stack_is_one_line_with_what_was_found_what_is_needed_and_the_command(changes, expected):
    with pytest.raises(UsageError) as caught:
        check_stack(versions(**changes))
    message = str(caught.value)
    for part in expected:
        assert part in message
    assert message.count("(needed:") == len(expected)
    assert f"{sys.executable} -m pip install -r {ROOT / 'requirements.txt'}" in message
    assert "\n" not in message


def test_the_check_asks_for_what_is_pinned():
    pins = dict(
        line.split("#")[0].strip().split("==")
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    pins = {name.split("[")[0]: version for name, version in pins.items()}
    for name, needed in STACK.items():
        assert f"{pins[name]}.".startswith(f"{needed}.")
    check_stack(pins.__getitem__)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--num_train_epoch", "2"], "num_train_epochs", 2.0),
        (["--num_calib=3"], "num_calibration_samples", 3),
        (["--apply_q"], "apply_quantization", True),
        (["--per_device_eval", "4"], "per_device_eval_batch_size", 4),
        # An argument's name may begin another one's.
        (["--eval_steps", "5"], "eval_steps", 5.0),
        (["--bf16", "false"], "bf16", False),
    ],
)
def test_an_unambiguous_abbreviation_stands_for_the_whole_name(words, name, value, base, tmp_path):
    flag, *rest = words[0].removeprefix("--").split("=") + words[1:]
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({flag: json.loads(rest[0]) if rest else True}), encoding="utf-8")
    for given in ([*base, *words], [str(file), *base]):
        groups = parse(*given)
        assert {name: value}.items() <= {key: each for group in groups for key, each in vars(group).items()}.items()
        assert name in groups[3].given and groups[3].given <= {key for group in groups for key in vars(group)}


@pytest.mark.parametrize(
    ("flag", "candidates"),
    [
        ("--max_s", ["--max_seq_length", "--max_steps"]),
        ("--train", None),
        ("--dataset", ["--dataset_name", "--dataset_config_name"]),
    ],
)
def test_an_ambiguous_abbreviation_is_refused_with_what_it_could_be(flag, candidates, base, tmp_path):
    file = tmp_path / "arguments.yaml"
    file.write_text(f"{flag[2:]}: a\n", encoding="utf-8")
    for words in ([*base, flag, "a"], [str(file), *base]):
        if candidates is None:
            with pytest.raises(UsageError, match="no such file"):
                parse(*words)
        else:
            with pytest.raises(UsageError, match=f"^ambiguous option: {flag} could match {', '.join(candidates)} "):
                parse(*words)


def test_a_hub_is_looked_for_also_where_the_name_of_the_flag_is_cut_short(monkeypatch, base):
    asked = []
    monkeypatch.setattr("qa.start.arguments.go_offline_without_hub", lambda: asked.append(True))
    parse(*base)
    assert not asked
    parse("--model_n", "name-on-the-hub", *base[2:])
    assert asked


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_dump_of_training_arguments_is_an_argument_file(suffix, tmp_path, capsys):
    from transformers import TrainingArguments

    told = {"learning_rate": 3e-4, "num_train_epochs": 2, "save_strategy": "epoch", "optim": "adafactor"}
    out = str(tmp_path / "out")
    dump = TrainingArguments(out, **told, use_cpu=True, report_to=[], hub_token="hf_secret").to_dict()
    assert dump["report_to"] == [] and dump["hub_token"] == "<HUB_TOKEN>"
    # As other releases write it.
    dump |= {"_n_gpu": 1, "tp_size": 0, "parallelism_config": None}
    dump |= {"model_name_or_path": MODEL, "validation_file": DEV, "do_eval": True}
    path = tmp_path / f"dump.{suffix}"
    path.write_text(json.dumps(dump) if suffix == "json" else yaml.safe_dump(dump), encoding="utf-8")
    training_args = parse(str(path))[2]
    assert capsys.readouterr().out.splitlines() == [
        f"note: argument file {path}: left out, no arguments of this release: tp_size"
    ]
    for name in (*told, "report_to", "debug", "fsdp"):
        assert getattr(training_args, name) == dump[name], name
    assert training_args.hub_token is None
    # As it comes without a word about trackers, from a machine that has some.
    own = TrainingArguments(out, use_cpu=True).to_dict() | {"report_to": ["tensorboard", "wandb"]}
    assert own["fsdp_config"]
    path.write_text(json.dumps(own | {"model_name_or_path": MODEL, "do_eval": True, "validation_file": DEV}))
    run = Run(*parse(str(path)))
    check_effects(run, trains=False)
    note_effects(run, trains=False)
    assert capsys.readouterr().out.splitlines() == [
        f"note: argument file {path}: --report_to tensorboard wandb is left out; give it to the command"
    ]
    # What nobody dumped is still a slip of the pen.
    path.write_text(json.dumps({"tp_size": 0, "report_to": []}), encoding="utf-8")
    with pytest.raises(UsageError, match=r"there is no argument named tp_size"):
        parse(str(path))


def test_an_empty_list_of_trackers_is_none(base, tmp_path):
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"report_to": []}), encoding="utf-8")
    assert parse(str(path), *base)[2].report_to == []
