"""Each recipe of README.md and docs/, run as it stands there, against a hub on loopback that serves `sample/`."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import forked_main
import pytest
from stand_in_hub import running_hub, save_as_on_hub

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample"
# Enough to learn from, and little enough for the eight epochs of the longest recipe.
TRAIN_ROWS = 64

# The F1 that each recipe may cost on sample/dev.json.
F1_LOST_AT_MOST = {"Dynamic": 1.0, "Static": 1.0, "IPEX": 0.5, "IPEX with bf16": 0.8, "ONNX": 1.0, "OpenVINO": 1.0}

pytestmark = pytest.mark.recipe


def commands():
    """Return {heading: words} of the recipes."""
    found = {}
    for page in (ROOT / "README.md", ROOT / "docs" / "export.md", ROOT / "docs" / "slimming.md"):
        for section in re.split(r"^##+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            heading, body = section.split("\n", 1)
            for block in re.findall(r"```bash\n(python (?:run|export)_qa.*?)```", body, flags=re.DOTALL):
                found[heading] = shlex.split(block.replace("\\\n", " "))[1:]
    return found


class Place:
    """A working directory, and the environment of somebody who has never loaded anything from this hub before."""

    def __init__(self, folder, hub):
        self.workdir, self.out, self.hub = folder / "work", folder / "work" / "out", hub
        self.workdir.mkdir(parents=True)
        self.environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache")}
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
            del self.environment[name]

    def run(self, words, on_ipex=False, forked=True, **environment):
        """Run a script (or `-c` and a program) in the working directory; return the finished process."""
        environment = {**self.environment, **environment}
        if forked:
            kind = "ipex" if on_ipex else "libraries"
            finished = forked_main.run(*words, cwd=self.workdir, kind=kind, imported_in=environment)
        else:
            words = [sys.executable, *(str(ROOT / word) if word.endswith(".py") else word for word in words)]
            finished = subprocess.run(
                words, cwd=self.workdir, env=environment, capture_output=True, text=True, timeout=600
            )
        assert finished.returncode == 0, finished.stderr
        assert {path.name for path in self.workdir.iterdir()} <= {"out"}, "the run left files in the working directory"
        return finished

    def run_recipe(self, heading, **environment):
        """Run a recipe as it stands on its page; return its output folder and the finished process."""
        script, *flags = commands()[heading]
        finished = self.run([script, *flags], on_ipex="--use_ipex" in flags, **environment)
        return self.workdir / flags[flags.index("--output_dir") + 1], finished

    def results(self, name):
        return json.loads((self.out / name / "all_results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from qa.questions.examples import read_examples

    folder = tmp_path_factory.mktemp("recipes")
    (folder / "squad").mkdir()
    train = read_examples(str(SAMPLE / "train.json"), "train", TRAIN_ROWS)
    dev = read_examples(str(SAMPLE / "dev.json"), "dev")
    save_as_on_hub({"train": train, "validation": dev}, folder / "squad")
    sparse = folder / "sparse"
    prune_half(SAMPLE / "distilbert-qa", sparse)
    with running_hub() as hub:
        hub.folders = {
            ("datasets", "rajpurkar/squad"): folder / "squad",
            ("models", "distilbert/distilbert-base-uncased"): SAMPLE / "distilbert-qa",
            ("models", "distilbert/distilbert-base-uncased-distilled-squad"): SAMPLE / "distilbert-qa-teacher",
            ("models", "Intel/distilbert-base-uncased-sparse-90-unstructured-pruneofa"): sparse,
        }
        place = Place(folder, hub)
        place.sparse = sparse
        place.run_recipe("Baseline")
        yield place


def test_the_sample_model_answers_most_questions(place):
    assert place.results("fp32")["eval_f1"] >= 85


@pytest.mark.parametrize("heading", F1_LOST_AT_MOST)
def test_quantization_recipe(heading, place):
    folder, finished = place.run_recipe(heading)
    assert_verified(finished)
    assert "eval_f1" in finished.stdout
    fp32, results = place.results("fp32"), place.results(folder.name)
    assert fp32["eval_f1"] - results["eval_f1"] <= F1_LOST_AT_MOST[heading]
    # On IPEX the embeddings, most of this small model, stay in fp32.
    assert results["model_size_mb"] < fp32["model_size_mb"] * 2 / 3
    assert_quiet(finished.stderr)
    if "export_format" not in " ".join(commands()[heading]):
        assert_reloads_to_the_same_f1(heading, place)


def test_a_recipe_as_a_file(place):
    script, *flags = commands()["Recipes as files"]
    flags[0] = str(ROOT / flags[0])
    place.run([script, *flags])
    assert place.results("first-look")["eval_samples"] == 100


def test_a_recipe_without_the_hub(place, tmp_path):
    with running_hub() as gone:
        pass
    before = len(place.hub.requests)
    words = commands()["Baseline"]
    words[-1] = str(tmp_path / "again")
    place.run(words, forked=False, HF_ENDPOINT=gone.url)
    assert len(place.hub.requests) == before
    first, again = (place.out / "fp32" / "eval_predictions.json", tmp_path / "again" / "eval_predictions.json")
    assert first.read_bytes() == again.read_bytes()


def assert_verified(finished):
    assert re.search(r"^verify_loading: .* passed$", finished.stdout, flags=re.MULTILINE), finished.stdout


def assert_quiet(stderr):
    """Progress bars are all that the libraries may print."""
    lines = [line for line in re.split(r"[\r\n]", stderr) if line.strip() and not re.search(r"\d+%\||\d+/\d+", line)]
    assert not lines, lines


def test_distillation_and_quantization_recipe(place):
    heading = "Distillation and quantization-aware training"
    folder, finished = place.run_recipe(heading)
    assert_verified(finished)
    # Against the model that it starts from; that of the other recipes is the teacher here.
    words = commands()["Baseline"]
    words[words.index("--model_name_or_path") + 1] = "distilbert-base-uncased"
    place.run([*words[:-1], str(place.out / "student-fp32")])
    assert place.results("student-fp32")["eval_f1"] - place.results(folder.name)["eval_f1"] <= 2.0
    assert_reloads_to_the_same_f1(heading, place)


def test_pruning_and_quantization_recipe(place):
    heading = "Pruning and quantization-aware training"
    folder, finished = place.run_recipe(heading)
    assert_verified(finished)
    results = place.results(folder.name)
    assert place.results("fp32")["eval_f1"] - results["eval_f1"] <= 2.0
    assert results["sparsity"] == pytest.approx(0.1, abs=0.001)
    saved = json.loads((folder / "inc_config.json").read_text(encoding="utf-8"))["pruning"]
    assert saved["sparsity"] == results["sparsity"]
    assert not any("qa_outputs" in name or "embedding" in name for name in saved["sparsity_per_op"])
    assert_reloads_to_the_same_f1(heading, place)


def test_prune_once_for_all_recipes_keep_every_zero(place):
    from transformers import AutoModelForQuestionAnswering

    from qa.models.compressed import load_compressed

    patterns = {"before": zero_pattern(AutoModelForQuestionAnswering.from_pretrained(place.sparse))}
    results = {}
    for stage in ("stage 1", "stage 2"):
        heading = f"Prune Once For All, {stage}"
        folder, finished = place.run_recipe(heading)
        if stage == "stage 2":
            assert_verified(finished)
        assert_reloads_to_the_same_f1(heading, place)
        patterns[stage] = zero_pattern(load_compressed(folder).model)
        results[stage] = place.results(folder.name)
    for pattern in patterns.values():
        assert pattern.keys() == patterns["before"].keys()
        assert all(zeros.equal(patterns["before"][name]) for name, zeros in pattern.items())
    assert round(results["stage 1"]["sparsity"], 6) == round(results["stage 2"]["sparsity"], 6)
    assert results["stage 1"]["eval_f1"] - results["stage 2"]["eval_f1"] <= 1.0


def test_a_model_without_half_of_its_heads_and_channels_is_a_model_like_any_other(place):
    from transformers import pipeline

    folder, finished = place.run_recipe("Half of a model")
    assert_verified(finished)
    left = dict(re.findall(r"^  (\S.*?) +\S+ of +\S+  \((\d+) %\)$", finished.stdout, flags=re.MULTILINE))
    assert left["heads"] == left["feed-forward channels"] == left["linear operations a token, millions"] == "50"
    assert_reloads_to_the_same_f1("Half of a model", place)
    context = "The letter was written by Ada in 1843."
    assert pipeline("question-answering", model=str(folder))(question="When was it written?", context=context)[
        "answer"
    ]
    script, *flags = commands()["Dynamic"]
    names = {"--model_name_or_path": str(folder), "--output_dir": "out/slim-dynamic"}
    for flag, value in names.items():
        flags[flags.index(flag) + 1] = value
    assert_verified(place.run([script, *flags]))
    assert place.results(folder.name)["eval_f1"] - place.results("slim-dynamic")["eval_f1"] <= 2.0
    exported = ["export_qa.py", *flags[: flags.index("--apply_quantization")], "--do_eval", "--verify_loading"]
    exported[exported.index("--model_name_or_path") + 1] = "out/slim-dynamic"
    assert_verified(place.run([*exported, "--output_dir", "out/slim-onnx"]))
    assert abs(place.results("slim-onnx")["eval_f1"] - place.results("slim-dynamic")["eval_f1"]) <= 1.0


def test_the_smoke_test_of_the_examples(place):
    """As it is written there, abbreviation and all."""
    flags = """--model_name_or_path distilbert-base-uncased-distilled-squad --dataset_name squad --apply_quantization
        --apply_pruning --target_sparsity 0.02 --do_eval --do_train --per_device_eval_batch_size 1
        --per_device_train_batch_size 1 --max_eval_samples 50 --max_train_samples 4 --num_train_epoch 2
        --learning_rate 1e-10 --verify_loading --output_dir out/smoke"""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import run_qa; run_qa.main()"
    place.run(["-c", program, *flags.split()], forked=False)
    results = place.results("smoke")
    assert results["eval_f1"] >= 70 and results["eval_exact_match"] >= 70


def prune_half(source, target):
    """Save a copy of a model with the smaller half of each linear operator's weights set to zero."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from qa.compression.sparsity import prunable_weights

    model = AutoModelForQuestionAnswering.from_pretrained(source)
    for weight in prunable_weights(model).values():
        weight[weight.abs() <= weight.abs().median()] = 0.0
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def zero_pattern(model):
    from qa.compression.sparsity import prunable_weights

    return {name: weight == 0 for name, weight in prunable_weights(model).items()}


def assert_reloads_to_the_same_f1(heading, place):
    """Load a recipe's model as its users do, in a process of its own, and score it again to the last digit.

    What else the recipe names comes from the cache alone.
    """
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from qa.models.compressed import load_compressed
from qa.models.loading import load_teacher_config_and_tokenizer, load_config_and_tokenizer, load_model
from qa.models.passes import Batches
from qa.questions.examples import load_examples
from qa.questions.features import dataset_of, prepare_features
from qa.results.evaluation import Prepared, evaluate_model
from qa.start.arguments import parse_arguments
script, *words = {commands()[heading]!r}
sys.argv = [script]
module = __import__(script.removesuffix(".py"))
model_args, data_args, training_args, optimization_args = parse_arguments(module.OptimizationArguments, words)
examples = dataset_of(load_examples(data_args, model_args, ["validation"])["validation"])
config, tokenizer = load_config_and_tokenizer(model_args)
if config.torch_dtype is not None and "int8" not in str(config.torch_dtype):
    load_model(model_args, config)
if teacher := getattr(optimization_args, "teacher_model_name_or_path", None):
    load_teacher_config_and_tokenizer(teacher, tokenizer, model_args)
features = prepare_features(examples, tokenizer, data_args)
folder = training_args.output_dir
multiple = 64 if "ipex" in open(folder + "/config.json").read() else 1
batches = Batches(features, tokenizer, training_args.per_device_eval_batch_size, data_args.fixed_width, multiple)
prepared = Prepared(examples, features, batches)
print(evaluate_model(load_compressed(folder), prepared, data_args, "..", "eval")[0]["eval_f1"])
"""
    words = commands()[heading]
    finished = place.run(["-c", program], on_ipex="--use_ipex" in words, HF_HUB_OFFLINE="1")
    folder = words[words.index("--output_dir") + 1]
    assert float(finished.stdout.split()[-1]) == place.results(Path(folder).name)["eval_f1"]
