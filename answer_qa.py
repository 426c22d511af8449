"""Questions about a text, answered by models that the other scripts saved, side by side.

    python answer_qa.py OUT [OUT ...] --context FILE --question "Who wrote it?"
    python answer_qa.py OUT [OUT ...] --context FILE              # question after question

Answers as --do_predict does, with the lengths and thresholds of the folder's own run; only dynamic int8, whose scales
come from all questions of a batch, may differ in one of a hundred. Supported: folders of run_qa_post_training.py,
run_qa.py and export_qa.py, and any fp32 model for question answering.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from qa.questions.checks import is_blank
from qa.results.asking import ask, kind_of_model, load, prepare_imports, sentence_around
from qa.start.command import command
from qa.start.errors import UsageError
from qa.start.paths import names_of
from qa.start.process import check_one_process, prepare_process, quiet_libraries
from qa.start.stack import check_stack


def read_context(path):
    """Read the text that is asked about from a file, or from standard input for `-`.

    Raises:
        UsageError: it cannot be read, or has no visible character.
    """
    try:
        text = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        context = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"--context {path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error
    except (OSError, ValueError, AttributeError) as error:  # there is no standard input at all
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--context {path}: cannot be read: {reason}; name a text file") from error
    if is_blank(context):
        raise UsageError(f"--context {path}: there is no visible character in it; name a text file")
    return context


def check_question(question):
    """Refuse a question that no tokenizer takes.

    Raises:
        UsageError: it has no visible character, or is no Unicode text.
    """
    if is_blank(question):
        raise UsageError("--question has no visible character; ask something")
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"--question is not UTF-8 text (character {error.start}); set the terminal to it") from error


def questions_of(args):
    """Yield the question that was given, else those typed at a prompt, or the lines of standard input."""
    if args.question is not None:
        yield args.question
    elif sys.stdin is None:
        raise UsageError("there is nobody to ask questions: give --question, or standard input")
    elif sys.stdin.isatty():
        import readline  # noqa: F401  lets lines be edited and brought back

        shown = sys.stdout.isatty()
        while True:
            try:
                if not shown:  # what stands there is for a program
                    print("question: ", end="", file=sys.stderr, flush=True)
                question = input("question: " if shown else "")
            except EOFError:
                print(file=sys.stdout if shown else sys.stderr)
                return
            if question.strip():
                yield question
    else:
        sys.stdin.reconfigure(errors="surrogateescape")  # one wrong line is no reason not to answer the others
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())


def show(found, context, console):
    """Print the answers of each model, in their sentences.

    Args:
        found: dictionary from the name of a model to what `ask` returns.
        context: text that was asked about.
        console: `rich.console.Console`.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    table.add_column("answer in its sentence", ratio=1, overflow="fold")
    graded = any("null_odds" in answer for answer in found.values())
    for title in ("score", *(["no-answer odds"] if graded else []), "ms"):
        table.add_column(title, justify="right")
    for name, answer in found.items():
        if answer["span"]:
            before, words, after = map(_printable, sentence_around(context, answer["span"]))
            # Where nothing can be highlighted, brackets say which words are the answer.
            marked = (words, "bold reverse") if console.color_system else f"[{words}]"
            text = Text.assemble(before, marked, after)
        else:
            text = Text("(no answer)", style="italic")
        odds = [f"{answer['null_odds']:+.2f}" if "null_odds" in answer else ""] if graded else []
        row = [f"{answer['score']:.3f}", *odds, f"{1000 * answer['seconds']:.0f}"]
        table.add_row(Text(_printable(name)), text, *row)
    console.print(table)


def _printable(text):
    """Replace what a terminal could take for a command."""
    return "".join(character if character.isprintable() else " " for character in text)


@command
def main():
    prepare_process()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", metavar="OUT", nargs="+", type=Path, help="output folder of a finished run")
    parser.add_argument("--context", metavar="FILE", required=True, help="text to ask about; - for standard input")
    parser.add_argument("--question", metavar="TEXT", help="one question; without it, question after question")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each question")
    args = parser.parse_args()
    check_one_process("answer_qa.py")
    check_stack()
    if args.context == "-" and args.question is None:
        raise UsageError("--context - takes standard input for the text: give --question as well")
    kinds = [kind_of_model(folder) for folder in args.folders]
    context = read_context(args.context)
    if args.question is not None:
        check_question(args.question)
    quiet_libraries()
    prepare_imports(kinds)
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        models = [load(*words) for words in zip(args.folders, kinds, names_of(args.folders), strict=True)]

    from rich.console import Console

    console = Console(highlight=False)
    for question in questions_of(args):
        try:
            check_question(question)
            found = {model.name: ask(model, question, context) for model in models}
        except UsageError as error:
            if args.question is not None:
                raise
            print(f"error: {error}", file=sys.stderr)
            continue
        if args.json:
            print(json.dumps({"question": question, "answers": found}, ensure_ascii=False), flush=True)
        else:
            show(found, context, console)


if __name__ == "__main__":
    main()
