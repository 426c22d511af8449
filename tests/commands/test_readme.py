"""README.md: each command in it is run by a test, or understood by the parser that it meets.

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
import run_qa
import run_qa_post_training
from qa.start.arguments import parse_arguments

SCRIPTS = {"run_qa.py": run_qa, "run_qa_post_training.py": run_qa_post_training, "export_qa.py": export_qa}
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def commands():
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL):
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
        # `test_report_qa.py`, `test_prune_encoder_qa.py` and `test_resume.py` run what these do.
        assert rest[0] in ("report_qa.py", "prune_encoder_qa.py", "tests/commands/test_resume.py")
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


def test_links_and_pictures_lead_somewhere():
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("https://"):
            assert (ROOT / target).is_file()


def test_every_module_and_every_argument_of_the_project_is_explained():
    for path in ROOT.glob("*_qa.py"):
        assert f"`{path.name}`" in TEXT or f"{path.stem}" in TEXT, path.name
    from dataclasses import fields

    from qa.start.arguments import DataTrainingArguments, ModelArguments

    kinds = [DataTrainingArguments, ModelArguments, *(script.OptimizationArguments for script in SCRIPTS.values())]
    for kind in kinds:
        for field in fields(kind):
            assert f"--{field.name}" in TEXT, field.name
