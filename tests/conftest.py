"""What the tests share: caches in a temporary folder, no hub, small question files, the sample model, whole runs.

The tests run on all cores (`make test`), each worker with one thread. How to write the test of a whole run that keeps
nobody waiting:

- Mark it `recipe`. Start it with `forked_main.run("run_qa.py", *flags, cwd=tmp_path)`, which forks it from a process
  with the libraries imported: `returncode`, `stdout`, `stderr` as of `subprocess.run`, 8 s sooner. `kind="ipex"` for
  what works on IPEX, and for lines that users run; `-c` and a program in place of the script. `forked_main.start` for
  a run that is looked at, or killed, while it lasts. `subprocess.run` only for what the imports are a part of:
  --help, what is printed while libraries are imported, torchrun, variables that the libraries read (`HF_ENDPOINT`).
- Tests that look at one run share it: a fixture with `scope="module"`, named in `SHARED_RUNS` below, or each worker
  would make it again. Tests without such a fixture go to whoever is free.
- 48 training questions, 40 to score and one epoch are enough for most; see `test_run_qa.train`.
- Nothing on a fixed port, nothing outside `tmp_path`; bounds on time hold on a machine where all cores are busy.
"""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path

# One folder for all workers of pytest-xdist, which inherit the variables of the process that starts them.
if "QA_TESTS_FOLDER" not in os.environ:
    os.environ.update(QA_TESTS_FOLDER=tempfile.mkdtemp(prefix="qa-tests-"), QA_TESTS_PID=str(os.getpid()))
    atexit.register(shutil.rmtree, os.environ["QA_TESTS_FOLDER"], ignore_errors=True)
_CACHE = os.environ["QA_TESTS_FOLDER"]
if "PYTEST_XDIST_WORKER" in os.environ:
    # Not by default: the process that starts the workers has chosen a number for itself, and they inherit it.
    os.environ["OMP_NUM_THREADS"] = "1"
# The libraries read these when they are imported, so they must be set before any test module is.
os.environ.update(
    HF_HOME=_CACHE,
    HF_DATASETS_CACHE=str(Path(_CACHE) / "datasets"),
    HF_MODULES_CACHE=str(Path(_CACHE) / "modules"),
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    TQDM_DELAY="600",  # or a slow machine would show progress bars that a fast one does not
)

from qa.start.process import prepare_process  # noqa: E402

prepare_process()  # or some test would be the first to find its variables set
# Those that the processes start with that others are forked from, whatever a test has set since.
VARIABLES = dict(os.environ)
import hypothesis  # noqa: E402
import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "sample"

# The same examples in every run: a red suite must be about the change at hand.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.data_too_large,
    ],
)
hypothesis.settings.load_profile("suite")
# For a mutation tester, which asks whether a test fails and not of which smallest example.
hypothesis.settings.register_profile(
    "mutants", hypothesis.settings.get_profile("suite"), phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)


def contents(folder):
    """Return the texts of all files in a folder by their paths, but for the lock of a run."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


# Fixtures that hold whole runs: tests that ask for one of them are for one worker.
SHARED_RUNS = {"exported", "folders", "hub_of_all", "place", "pruned", "runs"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whole runs first: at the end there are short tests only, and no worker waits long for another."""
    for item in items:
        for name in SHARED_RUNS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}.{name}"))
    items.sort(key=lambda item: item.get_closest_marker("recipe") is None)


@pytest.fixture(autouse=True)
def environment_as_it_was():
    """Undo what a run in this process leaves in the environment: --bf16 would train later ones in bf16."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def squad_file(path, paragraphs, version="v2.0"):
    """Write the nested layout; `paragraphs` is a list of `(context, [(id, question, [(text, start)])])`."""
    article = {
        "title": "Title",
        "paragraphs": [
            {
                "context": context,
                "qas": [
                    {
                        "id": identifier,
                        "question": question,
                        "answers": [{"text": text, "answer_start": start} for text, start in answers],
                        "is_impossible": not answers,
                    }
                    for identifier, question, answers in questions
                ],
            }
            for context, questions in paragraphs
        ],
    }
    Path(path).write_text(json.dumps({"version": version, "data": [article]}), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer():
    """The sample model's tokenizer, padding on the right."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa")


@pytest.fixture(scope="session")
def left_tokenizer():
    """The same with padding on the left, which puts the context before the question."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(SAMPLE / "distilbert-qa", padding_side="left")


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory):
    """One of RoBERTa's kind, whose tokens are bytes, with the words of the sample."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    from qa.questions.examples import read_examples

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = ByteLevelBPETokenizer()
    contexts = [each["context"] for each in read_examples(str(SAMPLE / "dev.json"), "dev")]
    words.train_from_iterator(contexts, vocab_size=1000, special_tokens=specials, show_progress=False)
    return RobertaTokenizerFast(*words.save_model(str(tmp_path_factory.mktemp("bytes"))), model_max_length=512)


@pytest.fixture
def questions(tmp_path):
    """A question file with one good example."""
    return squad_file(
        tmp_path / "questions.json", [("Ann met Bob in Rome.", [("q1", "Where did they meet?", [("Rome", 15)])])]
    )


@pytest.fixture
def model(tmp_path):
    """A copy of the sample model that a test may damage."""
    folder = tmp_path / "model"
    shutil.copytree(SAMPLE / "distilbert-qa", folder)
    return folder
