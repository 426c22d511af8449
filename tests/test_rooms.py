"""The rooms of the project: which imports which, how long files and commands are, what importing changes."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

# From the top to the bottom; each imports from what stands behind it, and from its own room.
COMMANDS = ("run_qa", "run_qa_post_training", "export_qa", "report_qa", "answer_qa", "prune_encoder_qa")
ROOMS = ("commands", "for import", "results", "training", "compression", "models", "questions", "start", "corrections")
FOR_IMPORT = ("trainer_qa", "utils_qa")
PATHS = sorted([*ROOT.glob("*.py"), *ROOT.glob("qa/*/*.py")])
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in PATHS}
MOST_LINES, MOST_LINES_OF_MAIN = 400, 80


def room_of(module):
    if module.startswith("qa."):
        return module.split(".")[1]
    return "commands" if module in COMMANDS else "for import"


def imported_by(path):
    """Return the project's modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level < 2, "what lies outside of a room is written out"
            room = ".".join(path.relative_to(ROOT).parent.parts)
            module = f"{room}.{node.module}" if node.level else node.module
            # What is imported from a package may be a module of it.
            names.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return names & MODULES.keys()


IMPORTS = {module: imported_by(path) for module, path in MODULES.items()}


def test_every_file_is_in_a_room():
    assert {module for module in MODULES if "." not in module} == {*COMMANDS, *FOR_IMPORT}
    assert {room_of(module) for module in MODULES} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    for other in IMPORTS[module]:
        above, below = ROOMS.index(room_of(module)), ROOMS.index(room_of(other))
        assert above <= below, f"{module} imports {other}, which is above it"
        assert other not in COMMANDS, f"{module} imports the command {other}"


def test_there_is_no_circle():
    left = {module: set(imports) for module, imports in IMPORTS.items()}
    while free := {module for module, imports in left.items() if not imports & left.keys()}:
        left = {module: imports for module, imports in left.items() if module not in free}
    assert not left, "these import each other"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_is_too_long_to_be_read_in_one_go(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_reads_from_top_to_bottom(command):
    tree = ast.parse(MODULES[command].read_text(encoding="utf-8"))
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert main.end_lineno - main.lineno + 1 <= MOST_LINES_OF_MAIN


@pytest.mark.recipe
def test_importing_changes_no_variable():
    """Libraries set some of their own as they are imported; none is set by a line of ours, but to put them back."""
    program = """
import importlib, os, sys
def note(event, args):
    if event in ("os.putenv", "os.unsetenv"):
        frame = sys._getframe(1)
        while frame.f_code.co_filename in ("<frozen os>", "<frozen _collections_abc>"):
            frame = frame.f_back
        if frame.f_globals.get("__name__") in sys.argv:
            print(frame.f_globals["__name__"], args[0])
sys.addaudithook(note)
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    putting_back = "qa.corrections.imports"  # `test_trainer_qa.py` sees that it leaves nothing behind
    words = [sys.executable, "-c", program, *(module for module in MODULES if module != putting_back)]
    finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""


def test_no_two_files_that_are_imported_by_their_name_alone_have_the_same():
    """Those of the root, of tests/ and of benchmarks/ are looked for on one path, where the first one wins."""
    names = [path.stem for place in (ROOT, ROOT / "tests", ROOT / "benchmarks") for path in place.glob("*.py")]
    assert len(names) == len(set(names))
