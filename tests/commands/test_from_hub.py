"""What a hub does not give: one line for each, and nothing else. What it gives, `test_recipes.py` runs."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, SAMPLE
from stand_in_hub import running_hub, save_as_on_hub

from qa.questions.examples import read_examples

pytestmark = pytest.mark.recipe

# Each run in a process forked from one that has imported the libraries, since they read where the hub is as they are
# imported.
PROGRAM = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
import datasets, run_qa_post_training, transformers
from transformers import AutoConfig, AutoTokenizer, AutoModelForQuestionAnswering
for name, words in json.loads(sys.stdin.read()).items():
    if not os.fork():
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{{name}}.{{stream}}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv = ["run_qa_post_training.py", *words]
        run_qa_post_training.main()
        os._exit(0)
    print(name, os.waitstatus_to_exitcode(os.wait()[1]))
"""
MODEL = ["--validation_file", str(SAMPLE / "dev.json"), "--model_name_or_path"]
DATA = ["--model_name_or_path", str(SAMPLE / "distilbert-qa"), "--dataset_name"]
# Words, and what stands in the line that refuses them.
REFUSED = {
    "missing": ([*MODEL, "me/missing"], ["--model_name_or_path me/missing", "nothing of that name", "local folder"]),
    "private": ([*MODEL, "me/private"], ["--model_name_or_path me/private", "private", "--use_auth_token"]),
    "gated": ([*MODEL, "me/gated"], ["--model_name_or_path me/gated", "does not know you", "--use_auth_token"]),
    "no token": ([*MODEL, "me/private", "--use_auth_token"], ["--use_auth_token", "huggingface-cli login"]),
    "no revision": ([*MODEL, "me/model", "--model_revision", "v9"], ["me/model", "correct --model_revision"]),
    "broken": ([*MODEL, "me/model"], ["--model_name_or_path me/model", "broke off", "same command again"]),
    "missing data": ([*DATA, "me/missing"], ["--dataset_name me/missing", "nothing of that name", "local folder"]),
    "private data": ([*DATA, "me/private"], ["--dataset_name me/private", "private", "--use_auth_token"]),
    "gated data": ([*DATA, "me/gated"], ["--dataset_name me/gated", "does not know you", "--use_auth_token"]),
    "broken data": ([*DATA, "squad"], ["--dataset_name squad", "broke off", "same command again"]),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Everything in `REFUSED`, run against one hub: name to `(exit code, standard output, standard error)`."""
    folder = tmp_path_factory.mktemp("hub")
    workdir, served = folder / "work", folder / "served"
    workdir.mkdir()
    served.mkdir()
    questions = read_examples(str(SAMPLE / "dev.json"), "dev", 8)
    save_as_on_hub({"train": questions[:4], "validation": questions}, served)
    with running_hub() as hub:
        for name in ("me/model", "me/private", "me/gated"):
            hub.folders["models", name] = SAMPLE / "distilbert-qa"
        for name in ("rajpurkar/squad", "me/private", "me/gated"):
            hub.folders["datasets", name] = served
        hub.private, hub.gated = {"me/private"}, {"me/gated"}
        hub.broken = {"model.safetensors", "validation-00000-of-00001.parquet"}
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "cache")}
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"):
            del environment[name]
        out = str(folder / "out")
        words = {name: [*words, "--do_eval", "--output_dir", out] for name, (words, _) in REFUSED.items()}
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(words),
            cwd=workdir,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert finished.returncode == 0, finished.stderr
    assert not (folder / "out").exists()
    codes = dict(line.rsplit(" ", 1) for line in finished.stdout.splitlines())
    return {
        name: (int(codes[name]), *((workdir / f"{name}.{stream}").read_text() for stream in ("out", "err")))
        for name in REFUSED
    }


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_hub_does_not_give_is_refused_with_one_line(name, runs):
    code, out, error = runs[name]
    assert code == 2, error
    assert not out and error.count("\n") == 1 and error.startswith("error: ")
    for part in REFUSED[name][1]:
        assert part in error
