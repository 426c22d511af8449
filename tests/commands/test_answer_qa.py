"""Asking saved models: the answers are those of --do_predict, what is refused, and the prompt."""

import json
import os
import pty
import shutil
import subprocess
import sys

import forked_main
import pytest
from conftest import ROOT, SAMPLE
from transformers import AutoTokenizer

import answer_qa
from qa.questions.examples import read_examples
from qa.results.asking import ask, kind_of_model, load, sentence_around

MODEL = SAMPLE / "distilbert-qa"
QUESTION = "Where did they meet?"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Ann met Bob in Rome. It rained.", encoding="utf-8")
    return path


def main(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["answer_qa.py", *map(str, words)])
    answer_qa.main()


@pytest.mark.parametrize(
    ("span", "parts"),
    [
        ((8, 11), ("Ann met ", "Bob", " there.")),
        ((25, 27), ("He is ", "it", "!")),
        ((0, 18), ("", "Ann met Bob there.", "")),
        ((30, 33), ("", "Dr.", " No")),
        ((12, 18), ("Ann met Bob ", "there.", "")),
        ((8, 27), ("Ann met ", "Bob there. He is it", "!")),
    ],
)
def test_an_answer_stands_in_its_sentence(span, parts):
    context = "Ann met Bob there. He is it!\n\nDr. No"
    before, answer, after = sentence_around(context, span)
    assert answer == context[slice(*span)]
    assert (before, answer, after) == parts


def test_a_sentence_does_not_end_behind_a_title_or_an_initial():
    sentence = "Mrs. Ann B. Coe met Dr. Zed of the U.S. Navy."
    context = f"It rained. {sentence} It went on."
    for word in sentence.removesuffix(".").split():
        begin = context.index(word)
        assert "".join(sentence_around(context, (begin, begin + len(word)))) == sentence


def test_a_long_sentence_is_cut():
    before, answer, after = sentence_around("x" * 1000 + "Ann" + "y" * 1000, (1000, 1003))
    assert (len(before), answer, len(after)) == (300, "Ann", 300)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["no-such", "--context", "text.txt"], "no-such: there is no such folder"),
        (["empty", "--context", "text.txt"], "empty holds no model"),
        (["broken", "--context", "text.txt"], "config.json cannot be read"),
        ([MODEL, "--context", "no-such.txt"], "--context no-such.txt: cannot be read: No such file"),
        ([MODEL, "--context", "latin.txt"], "--context latin.txt: not UTF-8 text (byte 1)"),
        ([MODEL, "--context", "blank.txt"], "--context blank.txt: there is no visible character"),
        ([MODEL, "--context", "text.txt", "--question", " \u200b"], "--question has no visible character"),
        ([MODEL, "--context", "-"], "--context - takes standard input"),
        (["settings", "--context", "text.txt", "--question", QUESTION], "max_seq_length is 'long'"),
        (["onnx", "--context", "text.txt", "--question", QUESTION], "onnx cannot be loaded"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(words, named, text, model, tmp_path, monkeypatch, capfd):
    for name in ("empty", "broken", "onnx"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "config.json").write_text("{", encoding="utf-8")
    model.rename(tmp_path / "settings")
    settings = {"answering": {"max_seq_length": "long"}}
    (tmp_path / "settings" / "run.json").write_text(json.dumps(settings), encoding="utf-8")
    for path in MODEL.glob("*token*"):
        (tmp_path / "onnx" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"no graph")
    (tmp_path / "latin.txt").write_bytes(b"M\xfcller")
    (tmp_path / "blank.txt").write_text(" \u200b\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(monkeypatch, *words)
    assert ended.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


def test_a_question_without_room_for_the_text_is_refused(text, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        main(monkeypatch, MODEL, "--context", text, "--question", "who " * 400)
    assert ended.value.code == 2
    assert "distilbert-qa reads 384 tokens at a time; shorten the question" in capsys.readouterr().err


def test_several_folders_answer_side_by_side_as_text_and_as_json(text, model, monkeypatch, capsys):
    main(monkeypatch, MODEL, model, "--context", text, "--question", QUESTION)
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["model", "answer", "in", "its", "sentence", "score", "ms"]
    assert [row.split()[0] for row in rows] == ["distilbert-qa", "model"]
    main(monkeypatch, MODEL, model, "--context", text, "--question", QUESTION, "--json")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    shown = json.loads(lines[0])
    assert shown["question"] == QUESTION
    one, other = shown["answers"].values()
    assert one["answer"] == other["answer"] == text.read_text()[slice(*one["span"])]
    assert one["score"] == other["score"] and 0 < one["score"] <= 1
    assert f"[{one['answer']}]" in rows[0] and f"{one['score']:.3f}" in rows[0]


def test_what_is_typed_by_others_moves_no_cursor(text, monkeypatch, capsys):
    text.write_text("Ann met \x1b[2JBob in Rome\x1b]0;x\x07. It rained.", encoding="utf-8")
    main(monkeypatch, MODEL, "--context", text, "--question", QUESTION)
    assert "\x1b" not in capsys.readouterr().out


def test_long_texts_are_answered_in_windows_as_in_evaluation(tmp_path, tokenizer):
    from transformers import AutoModelForQuestionAnswering

    from qa.models.passes import Batches
    from qa.questions.features import dataset_of, prepare_features
    from qa.results.evaluation import Prepared, evaluate_model
    from qa.start.arguments import DataTrainingArguments

    examples = read_examples(str(SAMPLE / "dev.json"), "dev", 12)
    data_args = DataTrainingArguments(max_seq_length=64, doc_stride=16, max_answer_length=8)
    features = prepare_features(dataset_of(examples), tokenizer, data_args, str(tmp_path))
    assert len(features) > 2 * len(examples)
    model = AutoModelForQuestionAnswering.from_pretrained(MODEL).eval()
    prepared = Prepared(dataset_of(examples), features, Batches(features, tokenizer, 8))
    evaluate_model(model, prepared, data_args, tmp_path, "predict")
    predictions = json.loads((tmp_path / "predict_predictions.json").read_text(encoding="utf-8"))

    asked = load(MODEL, kind_of_model(MODEL), "sample")._replace(data_args=data_args)
    for example in examples:
        found = ask(asked, example["question"], example["context"])
        assert found["answer"] == predictions[example["id"]]
        assert found["answer"] == example["context"][slice(*found["span"])]


def test_a_tokenizer_may_give_more_than_the_model_takes(tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    # BERT's also gives token types.
    path.write_text(path.read_text(encoding="utf-8").replace("DistilBertTokenizer", "BertTokenizer"), encoding="utf-8")
    asked = load(tmp_path / "model", "fp32", "model")
    assert ask(asked, QUESTION, "Ann met Bob in Rome.") | {"seconds": 0} == ask(
        load(MODEL, "fp32", "sample"), QUESTION, "Ann met Bob in Rome."
    ) | {"seconds": 0}
    asked.tokenizer.save_pretrained(tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert list(saved(QUESTION, "Ann met Bob.")) == ["input_ids", "attention_mask"]


# --- whole runs ---


def run(*words, **more):
    finished = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300, cwd=ROOT, **more
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An ONNX model, and a dynamic one for SQuAD 2.0 with a threshold of its own; both have predicted 25 answers."""
    place = tmp_path_factory.mktemp("asked")
    words = ["--model_name_or_path", MODEL, "--do_predict", "--max_predict_samples", 25, "--no_cuda"]
    exported = [*words, "--test_file", SAMPLE / "dev.json", "--output_dir", place / "onnx"]
    words += ["--version_2_with_negative", "--null_score_diff_threshold", -1.5, "--per_device_eval_batch_size", 1]
    words += ["--apply_quantization", "--max_answer_length", 5, "--test_file", SAMPLE / "dev_v2.json"]
    quantized = [*words, "--output_dir", place / "dynamic"]
    for script, flags in (("export_qa.py", exported), ("run_qa_post_training.py", quantized)):
        finished = forked_main.run(script, *flags, cwd=place)
        assert finished.returncode == 0, finished.stderr
    return place


# Asks a model 25 questions, in a process like that of the predictions: what int8 rounds hangs on the last bit.
ASKING = """
import json, sys
from pathlib import Path
from qa.questions.examples import read_examples
from qa.results.asking import ask, kind_of_model, load
folder, file = map(Path, sys.argv[1:])
asked = load(folder, kind_of_model(folder), "asked")
for example in read_examples(file, file, 25):
    print(json.dumps({"id": example["id"], **ask(asked, example["question"], example["context"])}))
"""


@pytest.mark.recipe
@pytest.mark.parametrize(("name", "file"), [("onnx", "dev.json"), ("dynamic", "dev_v2.json")])
def test_answers_are_those_of_do_predict(name, file, folders):
    folder = folders / name
    read = {
        kind: json.loads((folder / f"predict_{kind}.json").read_text(encoding="utf-8"))
        for kind in ("predictions", *(["null_odds"] if name == "dynamic" else []))
    }
    asked = forked_main.run("-c", ASKING, folder, SAMPLE / file, cwd=folders)
    assert asked.returncode == 0, asked.stderr
    answers = set()
    for found in map(json.loads, asked.stdout.splitlines()):
        assert found["answer"] == read["predictions"][found["id"]]
        assert (found["span"] is None) == (found["answer"] == "")
        answers.add(found["answer"])
        if name == "dynamic":
            assert found["null_odds"] == pytest.approx(read["null_odds"][found["id"]], abs=1e-4)
            assert found["null_score_diff_threshold"] == -1.5
    assert len(answers) > 5 and ("" in answers) == (name == "dynamic")


@pytest.mark.recipe
def test_an_exported_model_is_asked_without_pytorch(folders, text):
    program = (
        "import sys, answer_qa; answer_qa.main();"
        "print(sorted({'torch', 'optimum', 'neural_compressor'} & sys.modules.keys()))"
    )
    words = [folders / "onnx", "--context", text, "--question", QUESTION, "--json"]
    answer, heavy = run("-c", program, *words).splitlines()
    assert json.loads(answer)["answers"]["onnx"]["answer"]
    assert heavy == "[]"


@pytest.mark.recipe
def test_lines_of_json_are_all_that_a_program_reads(folders, text):
    """Neither the prompt of a terminal, nor a line that is no text, is in its way."""
    words = [sys.executable, ROOT / "answer_qa.py", folders / "onnx", "--context", text, "--json"]
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "TERM": "dumb"}
    told = subprocess.run(
        words, input=f"{QUESTION}\n".encode() + b"\xe9t\xe9?\n" + b"When?\n", capture_output=True, env=environment
    )
    assert [json.loads(line)["question"] for line in told.stdout.splitlines()] == [QUESTION, "When?"]
    assert b"is not UTF-8 text" in told.stderr and b"Traceback" not in told.stderr

    terminal, child = pty.openpty()
    process = subprocess.Popen(words, stdin=child, stdout=subprocess.PIPE, stderr=child, cwd=ROOT, env=environment)
    os.close(child)
    os.write(terminal, f"{QUESTION}\n".encode())
    os.write(terminal, b"\x04")
    written, _ = process.communicate(timeout=60)
    os.close(terminal)
    assert [json.loads(line)["question"] for line in written.splitlines()] == [QUESTION]


@pytest.mark.recipe
def test_the_prompt_edits_and_remembers(folders, text):
    terminal, child = pty.openpty()
    words = [sys.executable, ROOT / "answer_qa.py", folders / "onnx", "--context", text]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(words, stdin=child, stdout=child, stderr=child, cwd=ROOT, env=environment)
    os.close(child)

    def read_until(wanted):
        seen = b""
        while wanted not in seen:
            seen += os.read(terminal, 4096)
        return seen.decode()

    read_until(b"question: ")
    os.write(terminal, b"Who metX\x7f Bob?\n")  # the wrong letter taken back
    first = read_until(b"question: ")
    assert "\x1b[1;7m" in first
    os.write(terminal, b"\x1b[A\n")  # arrow up: the same again
    again = read_until(b"question: ")
    assert "Who met Bob?" in again and "\x1b[1;7m" in again
    os.write(terminal, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(terminal)
