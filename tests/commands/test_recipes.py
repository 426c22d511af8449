"""Each recipe of README.md, run as it stands there: only paths and sizes are changed, to those of `sample/`."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forked_main
import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample"

# The F1 that each recipe may cost on sample/dev.json.
F1_LOST_AT_MOST = {"Dynamic": 1.0, "Static": 1.0, "IPEX": 0.5, "IPEX with bf16": 0.8}
# Those that are run as users run them, imports and what these print included.
NOT_FORKED = ("Static", "IPEX with bf16")

pytestmark = pytest.mark.recipe


def readme_commands():
    """Return {heading: words} of the README's recipes."""
    sections = re.split(r"^### ", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    commands = {}
    for section in sections:
        heading, body = section.split("\n", 1)
        for block in re.findall(r"```bash\n(python run_qa.*?)```", body, flags=re.DOTALL):
            commands[heading] = shlex.split(block.replace("\\\n", " "))
    return commands


SIZES = {"max_train_samples": 64, "max_eval_samples": 100, "num_train_epochs": 1}
# Half of the sparse model's knowledge is gone, so that it has more to learn; and on 100 questions a difference of 1.0
# between two F1 would be a single answer.
SIZES_OF_SPARSE = {"max_train_samples": 256, "num_train_epochs": 1}


def run_recipe(heading, output_dir, sizes=(), **paths):
    """Run a recipe on sample/ in an empty working directory; return the finished process."""
    words = readme_commands()[heading]
    place = words.index("--dataset_name")
    files = ["--train_file", str(SAMPLE / "train.json"), "--validation_file", str(SAMPLE / "dev.json")]
    words[place : place + 2] = files
    paths = {"model_name_or_path": SAMPLE / "distilbert-qa", "output_dir": output_dir, **paths}
    if "--teacher_model_name_or_path" in words:
        paths["teacher_model_name_or_path"] = SAMPLE / "distilbert-qa-teacher"
    for flag, value in {**paths, **dict(sizes)}.items():
        if f"--{flag}" not in words:
            words += [f"--{flag}", ""]
        words[words.index(f"--{flag}") + 1] = str(value)
    script = words[1]
    workdir = Path(output_dir).parent / f"cwd-{Path(output_dir).name}"
    workdir.mkdir()
    if heading in NOT_FORKED:
        words[:2] = [sys.executable, str(ROOT / script)]
        finished = subprocess.run(words, cwd=workdir, capture_output=True, text=True, timeout=600)
    else:
        kind = "ipex" if "--use_ipex" in words else "libraries"
        finished = forked_main.run(script, *words[2:], cwd=workdir, kind=kind)
    assert finished.returncode == 0, finished.stderr
    assert not list(workdir.iterdir()), "the run left files in the working directory"
    return finished


def results(folder):
    return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "fp32"
    run_recipe("Baseline", folder)
    return results(folder)


def test_the_sample_model_answers_most_questions(fp32):
    assert fp32["eval_f1"] >= 85


@pytest.mark.parametrize("heading", F1_LOST_AT_MOST)
def test_quantization_recipe(heading, fp32, tmp_path):
    folder = tmp_path / "out"
    finished = run_recipe(heading, folder)
    assert_verified(finished)
    assert "eval_f1" in finished.stdout
    assert fp32["eval_f1"] - results(folder)["eval_f1"] <= F1_LOST_AT_MOST[heading]
    # On IPEX the embeddings, most of this small model, stay in fp32.
    assert results(folder)["model_size_mb"] < fp32["model_size_mb"] * 2 / 3
    assert_quiet(finished.stderr)
    assert_reloads_to_the_same_f1(folder)


def assert_verified(finished):
    assert re.search(r"^verify_loading: .* passed$", finished.stdout, flags=re.MULTILINE), finished.stdout


def assert_quiet(stderr):
    """Progress bars are all that the libraries may print."""
    lines = [line for line in re.split(r"[\r\n]", stderr) if line.strip() and not re.search(r"\d+%\||\d+/\d+", line)]
    assert not lines, lines


def test_distillation_and_quantization_recipe(fp32_of_100, tmp_path):
    folder = tmp_path / "out"
    assert_verified(run_recipe("Distillation and quantization-aware training", folder, SIZES))
    assert fp32_of_100 - results(folder)["eval_f1"] <= 2.0
    assert_reloads_to_the_same_f1(folder, max_samples=100)


def test_pruning_and_quantization_recipe(fp32_of_100, tmp_path):
    folder = tmp_path / "out"
    assert_verified(run_recipe("Pruning and quantization-aware training", folder, SIZES))
    assert fp32_of_100 - results(folder)["eval_f1"] <= 2.0
    assert results(folder)["sparsity"] == pytest.approx(0.1, abs=0.001)
    saved = json.loads((folder / "inc_config.json").read_text(encoding="utf-8"))["pruning"]
    assert saved["sparsity"] == results(folder)["sparsity"]
    assert not any("qa_outputs" in name or "embedding" in name for name in saved["sparsity_per_op"])
    assert_reloads_to_the_same_f1(folder, max_samples=100)


def test_prune_once_for_all_recipes_keep_every_zero(tmp_path):
    from qa.models.compressed import load_compressed

    sparse = tmp_path / "sparse"
    patterns = {"before": prune_half(SAMPLE / "distilbert-qa", sparse)}
    stages = {}
    for stage, model in (("stage 1", sparse), ("stage 2", tmp_path / "stage 1")):
        stages[stage] = tmp_path / stage
        finished = run_recipe(f"Prune Once For All, {stage}", stages[stage], SIZES_OF_SPARSE, model_name_or_path=model)
        assert_verified(finished)
        assert_reloads_to_the_same_f1(stages[stage])
        patterns[stage] = zero_pattern(load_compressed(stages[stage]).model)
    for pattern in patterns.values():
        assert pattern.keys() == patterns["before"].keys()
        assert all(zeros.equal(patterns["before"][name]) for name, zeros in pattern.items())
    sparsity = [round(results(folder)["sparsity"], 6) for folder in stages.values()]
    assert sparsity[0] == sparsity[1]
    assert results(stages["stage 1"])["eval_f1"] - results(stages["stage 2"])["eval_f1"] <= 1.0


@pytest.fixture(scope="module")
def fp32_of_100(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes") / "fp32-100"
    run_recipe("Baseline", folder, {"max_eval_samples": 100})
    return results(folder)["eval_f1"]


def prune_half(source, target):
    """Save a copy of a model with the smaller half of each linear operator's weights set to zero."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from qa.compression.sparsity import prunable_weights

    model = AutoModelForQuestionAnswering.from_pretrained(source)
    for weight in prunable_weights(model).values():
        weight[weight.abs() <= weight.abs().median()] = 0.0
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)
    return zero_pattern(model)


def zero_pattern(model):
    from qa.compression.sparsity import prunable_weights

    return {name: weight == 0 for name, weight in prunable_weights(model).items()}


def assert_reloads_to_the_same_f1(folder, max_samples=None):
    """Load the folder as its users do, in a process of its own, and score it again to the last digit."""
    program = f"""
from transformers import AutoTokenizer
from qa.models.compressed import load_compressed
from qa.models.passes import Batches
from qa.questions.examples import read_examples
from qa.questions.features import dataset_of, prepare_features
from qa.results.evaluation import Prepared, evaluate_model
from qa.start.arguments import DataTrainingArguments
data_args = DataTrainingArguments()
tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})
examples = dataset_of(read_examples({str(SAMPLE / "dev.json")!r}, "dev", {max_samples}))
features = prepare_features(examples, tokenizer, data_args)
batches = Batches(features, tokenizer, 8, multiple=64 if "ipex" in open({str(folder / "config.json")!r}).read() else 1)
model = load_compressed({str(folder)!r})
prepared = Prepared(examples, features, batches)
print(evaluate_model(model, prepared, data_args, {str(folder.parent)!r}, "eval")["eval_f1"])
"""
    finished = forked_main.run("-c", program, cwd=folder.parent, kind="ipex")
    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout.split()[-1]) == results(folder)["eval_f1"]
