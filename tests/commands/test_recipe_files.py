"""`config/recipes/`: the same arguments as the commands of README.md and docs/; and flags behind a file."""

import re
import shlex

import pytest
import yaml
from conftest import ROOT, SAMPLE

import export_qa
import prune_encoder_qa
import run_qa
import run_qa_post_training
from qa.start.arguments import parse_arguments
from qa.start.errors import UsageError

SCRIPTS = {"run_qa.py": run_qa, "run_qa_post_training.py": run_qa_post_training, "export_qa.py": export_qa}
SCRIPTS["prune_encoder_qa.py"] = prune_encoder_qa
FILES = sorted((ROOT / "config" / "recipes").iterdir())
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TEXT = "".join(path.read_text(encoding="utf-8") for path in PAGES)

# The commands of optimum-intel's question-answering examples, of which --output_dir alone is ours to choose.
POST_TRAINING = """run_qa_post_training.py --model_name_or_path distilbert-base-uncased-distilled-squad
    --dataset_name squad --apply_quantization --quantization_approach static --num_calibration_samples 40 --do_eval
    --verify_loading"""
STAGES = """--dataset_name squad --apply_distillation --generate_teacher_logits
    --teacher_model_name_or_path distilbert-base-uncased-distilled-squad --apply_pruning
    --pruning_config ../config/prune_pattern_lock.yml --do_train --do_eval --max_seq_length 384
    --per_device_train_batch_size 12 --per_device_eval_batch_size 12 --pad_to_max_length"""
EXAMPLES = [
    POST_TRAINING,
    f"{POST_TRAINING} --use_ipex",
    f"{POST_TRAINING} --use_ipex --bf16 --no_cuda",
    """run_qa.py --model_name_or_path distilbert-base-uncased --dataset_name squad --apply_distillation
    --generate_teacher_logits --teacher_model_name_or_path distilbert-base-uncased-distilled-squad
    --apply_quantization --do_train --do_eval --num_train_epochs 1 --max_train_samples 100 --verify_loading""",
    """run_qa.py --model_name_or_path distilbert-base-uncased-distilled-squad --dataset_name squad --apply_quantization
    --apply_pruning --target_sparsity 0.1 --num_train_epochs 4 --max_train_samples 100 --do_train --do_eval
    --verify_loading""",
    f"""run_qa.py --model_name_or_path Intel/distilbert-base-uncased-sparse-90-unstructured-pruneofa {STAGES}
    --learning_rate 1.8e-4 --num_train_epochs 8 --warmup_ratio 0.05 --weight_decay 0.01""",
    f"""run_qa.py --model_name_or_path out/pruneofa-stage1 {STAGES} --apply_quantization --learning_rate 1e-5
    --num_train_epochs 2 --warmup_ratio 0.1 --weight_decay 0 --verify_loading""",
]


def recipe(script, words):
    """Everything that the parser makes of a recipe, as one text."""
    *groups, optimization_args = parse_arguments(SCRIPTS[script].OptimizationArguments, words)
    values = {"script": script}
    for group in (*groups, optimization_args):
        values.update(vars(group))
    values["given"] = sorted(optimization_args.given)
    del values["logging_dir"]  # holds the time of day
    return "\n".join(f"{name}: {value}" for name, value in sorted(values.items()))


def commands():
    """Yield the recipes of the pages, each as a list of words; what starts from a recipe's file is none."""
    for block in re.findall(r"```bash\n(python (?:run|export|prune_encoder)_qa.*?)```", TEXT, flags=re.DOTALL):
        _, script, *words = shlex.split(block.replace("\\\n", " "), comments=True)
        if words[0].startswith("--"):
            yield [script, *words]


def of_file(path):
    script = re.match(r"# (\w+_qa\w*\.py): ", path.read_text(encoding="utf-8")).group(1)
    return recipe(script, [str(path)])


def test_each_recipe_of_the_pages_is_a_file_and_each_file_is_a_recipe_of_the_pages():
    assert len(FILES) == 14
    assert sorted(map(of_file, FILES)) == sorted(recipe(script, words) for script, *words in commands())


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_each_command_of_the_examples_is_a_recipe_flag_by_flag(example):
    def flags_of(words):
        flags = re.split(r" (?=--)", " ".join(words))
        return sorted(flag for flag in flags if not flag.startswith("--output_dir "))

    assert flags_of(example.split()) in [flags_of(words) for words in commands()]


def test_the_commands_that_start_from_a_file_are_understood(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^python (\w+\.py) (config/recipes/.*)$", TEXT, flags=re.MULTILINE)
    assert len(commands) == 3
    for script, words in commands:
        path, *flags = shlex.split(words)
        assert recipe(script, [path, *flags]) != of_file(ROOT / path)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "arguments.yaml"
    content = {
        "model_name_or_path": str(SAMPLE / "distilbert-qa"),
        "validation_file": str(SAMPLE / "dev.json"),
        "output_dir": str(tmp_path / "of-file"),
        "label_names": ["start_positions", "end_positions"],
        "do_eval": True,
        "do_predict": False,
        "pad_to_max_length": True,
        "seed": 3,
        "target_sparsity": 0.3,
        "lr_scheduler_kwargs": {"num_cycles": 2},
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"seed": 3, "do_eval": True, "label_names": ["start_positions", "end_positions"]}),
        (["--seed", "4"], {"seed": 4, "do_eval": True}),
        (["--seed=4", "--doc_stride", "9"], {"seed": 4, "doc_stride": 9}),
        (["--do_eval", "false"], {"do_eval": False}),
        (["--do_predict", "--test_file", str(SAMPLE / "dev.json")], {"do_predict": True, "do_eval": True}),
        (["--label_names", "start_positions"], {"label_names": ["start_positions"]}),
        (["--no_pad_to_max_length"], {"pad_to_max_length": False}),
        (["--lr_scheduler_kwargs", '{"num_cycles": 5}'], {"lr_scheduler_kwargs": {"num_cycles": 5}}),
        (["--output_dir", "of-flag"], {"output_dir": "of-flag"}),
    ],
)
def test_flags_behind_a_file_win_over_it(flags, expected, file):
    values = {}
    for group in parse_arguments(run_qa.OptimizationArguments, [file, *flags]):
        values.update(vars(group))
    assert {name: values[name] for name in expected} == expected


def test_what_a_file_gives_wins_over_a_configuration_file_like_a_flag(file):
    given = parse_arguments(run_qa.OptimizationArguments, [file, "--start_step", "2"])[3].given
    assert {"target_sparsity", "start_step"} <= given
    assert "end_step" not in given


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["no-such.yaml", "--seed", "1"], "no-such.yaml"),
        (["{file}", "stray"], "stray behind"),
        (["{file}", "--no_such_flag", "1"], "unrecognized: --no_such_flag"),
    ],
)
def test_wrong_words_around_a_file_are_refused(words, expected, file):
    with pytest.raises(UsageError, match=re.escape(expected)):
        parse_arguments(run_qa.OptimizationArguments, [word.format(file=file) for word in words])


def test_a_name_that_is_no_argument_is_refused_with_the_file_that_holds_it(tmp_path):
    path = tmp_path / "arguments.yaml"
    path.write_text("target_sparsty: 0.3\nmodel_name_or_path: a\noutput_dir: b\n", encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        parse_arguments(run_qa.OptimizationArguments, [str(path)])
    assert str(refused.value).startswith(f"argument file {path}: there is no argument named target_sparsty")
