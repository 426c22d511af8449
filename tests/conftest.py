"""What the tests share: caches in a temporary folder, no hub, small question files, the sample model, the script."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The libraries read these when they are imported, so they must be set before any test module is.
_CACHE = tempfile.mkdtemp(prefix="qa-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
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


@pytest.fixture
def run_script(tmp_path):
    """Return a function that runs the post-training script in an empty working directory."""
    workdir = tmp_path / "workdir"
    workdir.mkdir()

    def run(*words, python_flags=()):
        return subprocess.run(
            [sys.executable, *python_flags, str(ROOT / "run_qa_post_training.py"), *map(str, words)],
            cwd=workdir,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
