"""README.md and docs/: each command in them is run by a test, or understood by the parser that it meets.

The recipes are run in `test_recipes.py` and compared with their files in `test_recipe_files.py`.
"""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT
from torch.distributed.run import get_args_parser as torchrun_parser

import export_qa
import prune_encoder_qa
import run_qa
import run_qa_post_training
from qa.start.arguments import parse_arguments

SCRIPTS = {"run_qa.py": run_qa, "run_qa_post_training.py": run_qa_post_training, "export_qa.py": export_qa}
SCRIPTS["prune_encoder_qa.py"] = prune_encoder_qa
README = ROOT / "README.md"
PAGES = {path: path.read_text(encoding="utf-8") for path in (README, *sorted((ROOT / "docs").glob("*.md")))}
# What a person reads in the first five minutes; the rest is in docs/.
LINES_OF_README = 200


def commands():
    for text in PAGES.values():
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words


COMMANDS = list(commands())


def understood(script, words):
    assert parse_arguments(SCRIPTS[script].OptimizationArguments, words)


@pytest.mark.parametrize("words", COMMANDS, ids=[" ".join(words)[:60] for words in COMMANDS])
def test_every_command_is_one_that_works(words, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        # What the targets do is run by CI, and by hand.
        assert subprocess.run(["make", "-n", *rest], capture_output=True).returncode == 0
    elif program == "pip":
        assert rest[0] == "install"
        assert rest[1] == "-r" and (ROOT / rest[2]).is_file()
    elif program == "python" and rest[0] in SCRIPTS:
        script, *flags = rest
        if flags == ["--help"]:
            shown = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
            assert shown.returncode == 0 and "--model_name_or_path" in shown.stdout
        else:
            understood(script, flags)
    elif program == "python":
        # `test_report_qa.py` and `test_resume.py` run what these do.
        assert rest[0] in ("report_qa.py", "tests/commands/test_resume.py")
        assert (ROOT / rest[0]).is_file()
    elif program == "torchrun":
        launched = torchrun_parser().parse_args(rest)
        understood(launched.training_script, launched.training_script_args)
    elif program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert rest[0] == "launch"
        launched = launch_command_parser().parse_args(rest[1:])
        understood(launched.training_script, launched.training_script_args)
    else:
        # `test_tensorboard.py` reads what tensorboard shows.
        assert program == "tensorboard"


def headings(path):
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", PAGES[path], flags=re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file()
        assert not heading or heading in headings(path)


def test_the_readme_is_short_and_leads_to_every_other_page():
    text = PAGES[README]
    assert len(text.splitlines()) <= LINES_OF_README
    for page in PAGES:
        assert page.parent == ROOT or f"]({page.relative_to(ROOT)})" in text


def test_every_command_and_room_is_on_the_map():
    text = PAGES[ROOT / "docs" / "development.md"]
    for path in ROOT.glob("*_qa*.py"):
        assert f"`{path.name}`" in text
    for path in (ROOT / "qa").iterdir():
        assert not path.is_dir() or path.name.startswith("_") or f"`qa/{path.name}/`" in text


def test_every_argument_of_the_project_is_explained():
    from dataclasses import fields

    from qa.start.arguments import DataTrainingArguments, ModelArguments

    kinds = [DataTrainingArguments, ModelArguments, *(script.OptimizationArguments for script in SCRIPTS.values())]
    for kind in kinds:
        for field in fields(kind):
            assert f"`--{field.name}`" in PAGES[ROOT / "docs" / "arguments.md"], field.name


def test_every_file_that_a_page_names_is_there():
    for page, text in PAGES.items():
        for name in re.findall(r"`((?:qa|config|tests|benchmarks|sample)/[\w/.]*)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_make_on_another_python_says_in_one_line_which_ones_do(tmp_path):
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())

    def make(python):
        words = ["make", "--dry-run", ".venv/run-ready", f"BASE_PYTHON={python}"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "requirements.txt").touch()
    refused = make("false")
    assert (
        refused.returncode == 2 and refused.stderr.count("\n") == 1 and "Python 3.11 and 3.12 work" in refused.stderr
    )
    assert f"{sys.executable} -m venv .venv" in make(sys.executable).stdout
