"""The report: intervals, the Pareto front, tables, and what a whole run with --report leaves behind."""

import json
import sys
from itertools import combinations

import forked_main
import hypothesis
import numpy as np
import pytest
from conftest import SAMPLE
from hypothesis import strategies as st
from matplotlib.image import imread

from qa.questions.answers import Answers
from qa.results import plots
from qa.results.comparison import compare_runs, pareto_front, print_results, side_by_side
from qa.results.measure import bootstrap_means, interval, timed_rows
from qa.results.page import LARGEST_PAGE
from qa.results.report import changed_answers, compare_scores, report_table
from qa.results.tables import markdown_table, print_table
from qa.start.errors import UsageError
from report_qa import main

POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=8)


@hypothesis.given(POINTS)
def test_the_pareto_front_holds_what_no_other_point_beats(points):
    def beats(other, point):
        return other[0] <= point[0] and other[1] >= point[1] and other != point

    plain = {number for number, point in enumerate(points) if not any(beats(other, point) for other in points)}
    assert pareto_front(points) == plain


def test_the_bootstrap_has_the_spread_of_a_mean():
    scores = np.random.default_rng(0).normal(50, 10, size=(400, 1))
    means = bootstrap_means(scores, seed=1)[:, 0]
    low, high = interval(means)
    # 1.96 standard errors of 10 / sqrt(400) on either side.
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.1)
    assert low < scores.mean() < high
    assert np.array_equal(means, bootstrap_means(scores, seed=1)[:, 0])


def test_a_change_is_judged_on_the_same_questions():
    draw = np.random.default_rng(0)
    before = draw.uniform(0, 100, size=(300, 2))
    after = before - 1.0
    metrics = [{"eval_f1": scores[:, 0].mean(), "eval_exact": scores[:, 1].mean()} for scores in (before, after)]
    original, result = compare_scores(metrics, [before, after], seed=3)
    assert result["f1_change"] == pytest.approx(-1.0)
    # Each question lost one point: about the loss there is no doubt, about the score itself there is.
    assert result["f1_change_interval"] == pytest.approx([-1.0, -1.0])
    assert original["f1_interval"][1] - original["f1_interval"][0] > 5
    assert "f1_change" not in original


def answers_in(examples, texts):
    """Return `Answers` with these texts, id -> text, each where it first stands in its context."""
    spans = {}
    for identifier, context in zip(examples["id"], examples["context"], strict=True):
        begin = context.index(texts[identifier])
        spans[identifier] = (begin, begin + len(texts[identifier]))
    return Answers(texts, {}, None, spans)


def test_changed_answers_come_with_both_texts_losses_first():
    examples = {
        "id": ["a", "b", "c"],
        "question": ["Who?", "When?", "Where?"],
        "answers": [{"text": ["Ann"]}, {"text": ["1843"]}, {"text": ["Rome"]}],
        "context": ["Ann came.", "It was in 1843.", "From Rome to Oslo."],
    }
    before = answers_in(examples, {"a": "Ann", "b": "in", "c": "Rome"})
    after = answers_in(examples, {"a": "Ann", "b": "1843", "c": "Oslo"})
    changes = changed_answers(examples, before, after, np.array([0.0, 100.0, -100.0]))
    assert [(change["id"], change["before"], change["after"], change["f1_change"]) for change in changes] == [
        ("c", "Rome", "Oslo", -100.0),
        ("b", "in", "1843", 100.0),
    ]
    assert changes[0]["context"] == [
        {"text": "From ", "of": []},
        {"text": "Rome", "of": ["original"]},
        {"text": " to ", "of": []},
        {"text": "Oslo", "of": ["result"]},
        {"text": ".", "of": []},
    ]


def test_cells_are_shown_as_they_are():
    rows = [["run", "F1"], ["a|b", "<b>57</b>\nx"]]
    assert markdown_table(rows).splitlines()[2] == "| a\\|b | &lt;b&gt;57&lt;/b&gt; x |"


def test_cells_are_printed_as_they_are(capsys):
    print_table([["run", "F1 [low, high]"], ["[b]long[/b] :cat:" + 90 * "x", "9"]])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("run  ") and first.endswith("  F1 [low, high]")
    assert second == "[b]long[/b] :cat:" + 90 * "x" + 15 * " " + "9"


def test_a_closed_output_is_shown_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    print_table([["run", "F1"], ["a", "9"]])


def test_timed_batches_are_full_and_of_all_lengths():
    from types import SimpleNamespace

    lengths = np.arange(100)[::-1]
    batches = SimpleNamespace(by_length=lambda: (np.arange(100)[begin : begin + 8] for begin in range(0, 100, 8)))
    longest, *timed = timed_rows(batches)
    assert lengths[longest].max() == 99
    assert len(timed) == 12
    assert all(len(rows) == 8 for rows in timed)
    assert lengths[timed[-1]].mean() < 10 < 90 < lengths[timed[0]].mean()


ONE_PLACE = [(10.0 + number / 100, 57.0, 30.0) for number in range(12)]
# The latencies, F1 and sizes of docs/pareto.png, on which labels once lay over each other.
MEASURED = [(5.7, 58.52, 22.9), (6.0, 58.27, 23.3), (6.7, 57.74, 34.8), (6.4, 57.2, 58.7), (10.5, 57.27, 90.4)]
MEASURED += [(13.4, 57.83, 33.9), (13.1, 57.47, 33.9), (23.1, 57.27, 90.3)]


@pytest.mark.parametrize("places", [MEASURED, ONE_PLACE, [(10.0, 57.0, 30.0)] * 8], ids=["measured", "near", "same"])
def test_no_two_labels_of_the_pareto_picture_overlap(places, tmp_path, monkeypatch):
    labels = []
    # Where they lie at the end, when the picture is written.
    monkeypatch.setattr(plots, "label_points", lambda *words, place=plots.label_points: labels.extend(place(*words)))
    points = [
        {
            "name": f"quantized-{number}",
            "latency_ms": latency,
            "f1": f1,
            "size_mb": size,
            "f1_interval": [f1 - 4, f1 + 4],
            "on_pareto_front": number == 0,
        }
        for number, (latency, f1, size) in enumerate(places)
    ]
    plots.plot_pareto(points, tmp_path / "pareto.png")
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) == len(places)
    assert not [pair for pair in combinations(range(len(boxes)), 2) if boxes[pair[0]].overlaps(boxes[pair[1]])]
    picture = labels[0].figure.bbox
    assert all(picture.x0 <= box.x0 and box.x1 <= picture.x1 and box.y1 <= picture.y1 for box in boxes)


# --- whole runs ---

WORDS = ["--model_name_or_path", SAMPLE / "distilbert-qa", "--train_file", SAMPLE / "train.json"]
WORDS += ["--validation_file", SAMPLE / "dev.json", "--max_eval_samples", 40, "--do_eval", "--no_cuda"]
PNG_OF_RUN = ["report_cost.png", "report_scores.png"]


def run(script, *words, cwd):
    finished = forked_main.run(script, *words, cwd=cwd)
    assert finished.returncode == 0, finished.stderr


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs: only evaluated, static, pruned and distilled, and one without a report."""
    place = tmp_path_factory.mktemp("reports")
    run("run_qa_post_training.py", *WORDS, "--report", "--output_dir", place / "fp32", cwd=place)
    static = ["--apply_quantization", "--quantization_approach", "static", "--num_calibration_samples", 16]
    run("run_qa_post_training.py", *WORDS, *static, "--report", "--output_dir", place / "static", cwd=place)
    training = ["--do_train", "--max_train_samples", 48, "--num_train_epochs", 1, "--save_strategy", "no"]
    training += ["--apply_pruning", "--target_sparsity", 0.5, "--apply_distillation"]
    training += ["--teacher_model_name_or_path", SAMPLE / "distilbert-qa-teacher"]
    run("run_qa.py", *WORDS, *training, "--report", "--output_dir", place / "pruned", cwd=place)
    run("run_qa_post_training.py", *WORDS, "--apply_quantization", "--output_dir", place / "unreported", cwd=place)
    return place


@pytest.mark.recipe
@pytest.mark.parametrize("name", ["static", "pruned"])
def test_a_report_says_what_became_of_the_model(name, runs):
    folder = runs / name
    report, results = read(folder, "report.json"), read(folder, "all_results.json")
    original, result = report["models"].values()
    fp32 = read(runs / "fp32", "all_results.json")
    assert original["f1"] == pytest.approx(fp32["eval_f1"], abs=1e-9)
    assert result["f1"] == results["eval_f1"]
    assert result["f1_change"] == pytest.approx(result["f1"] - original["f1"], abs=1e-9)
    assert result["f1_interval"][0] <= result["f1"] <= result["f1_interval"][1]
    assert result["size_mb"] == results["model_size_mb"]
    for model in (original, result):
        assert [speed["batch_size"] for speed in model["speed"]] == [1, 8]
        for speed in model["speed"]:
            assert 0 < speed["p50_ms"] <= speed["p95_ms"]
            assert speed["questions_per_second"] > 0
            assert speed["peak_memory_mb"] > model["libraries_memory_mb"]
    # INC's libraries are weighed where they are needed.
    share = result["libraries_memory_mb"] / original["libraries_memory_mb"]
    assert (share > 1.2) if name == "static" else (0.9 < share < 1.1)
    memory = [[float(cell.split()[0]) for cell in row[1:]] for row in report_table(report) if "memory" in row[0]]
    _, added, libraries, both = memory  # that of batches of 1 comes first
    assert np.add(added, libraries) == pytest.approx(both, rel=1e-3)  # four digits are shown
    answers = [read(runs / run_name, "eval_predictions.json") for run_name in ("fp32", name)]
    changed = {identifier for identifier in answers[0] if answers[0][identifier] != answers[1][identifier]}
    assert {change["id"] for change in report["changed_answers"]} == changed
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(page) < LARGEST_PAGE and page.count('<tr role="row" data-direction') == len(changed)
    for change in report["changed_answers"]:
        marked = dict.fromkeys(("original", "result"), "")
        for piece in change["context"]:
            for of in piece["of"]:
                marked[of] += piece["text"]
        assert list(marked.values()) == [change["before"], change["after"]]
    text = (folder / "report.md").read_text(encoding="utf-8")
    for path in folder.glob("report_*.png"):
        assert imread(path).shape[1] >= 800
        assert f"({path.name})" in text


@pytest.mark.recipe
def test_a_report_of_a_training_has_its_loss_and_its_zeros(runs):
    report = read(runs / "pruned", "report.json")
    assert report["sparsity"] == pytest.approx(0.5, abs=0.001)
    assert len(report["sparsity_per_op"]) == 18
    steps = [entry["step"] for entry in report["loss"]]
    assert steps == sorted(set(steps)) and len(steps) >= 3
    for entry in report["loss"]:
        # The recipe's file weighs the two parts.
        low, high = sorted((entry["loss_student"], entry["loss_distillation"]))
        assert low - 1e-3 <= entry["loss"] <= high + 1e-3
    assert sorted(path.name for path in (runs / "pruned").glob("*.png")) == [
        "report_cost.png",
        "report_loss.png",
        "report_scores.png",
        "report_sparsity.png",
    ]
    assert sorted(path.name for path in (runs / "static").glob("*.png")) == PNG_OF_RUN


@pytest.mark.recipe
def test_runs_side_by_side_have_one_table_and_one_plot(runs, monkeypatch, capsys):
    folders = [runs / name for name in ("fp32", "static", "pruned", "unreported")]
    monkeypatch.setattr(sys, "argv", ["report_qa.py", *map(str, folders), "--output_dir", str(runs / "all")])
    main()
    output = capsys.readouterr().out
    rows = read(runs / "all", "report.json")["runs"]
    assert [row["name"] for row in rows] == ["fp32", "static", "pruned", "unreported"]
    front = pareto_front([(row["latency_ms"], row["f1"]) for row in rows[:3]])
    assert [row["on_pareto_front"] for row in rows[:3]] == [number in front for number in range(3)]
    assert "latency_ms" not in rows[3] and rows[3]["f1"] == read(runs / "unreported", "all_results.json")["eval_f1"]
    assert "no report" in next(line for line in output.splitlines() if line.startswith("unreported"))
    page = (runs / "all" / "report.html").read_text(encoding="utf-8")
    assert page.count("<pre><code>python ") == 4 and "Not known" in page and str(runs) not in page
    assert imread(runs / "all" / "report_pareto.png").shape[1] >= 800
    # Without the run that only evaluated it, the original is listed from the others' reports, once.
    assert [row["name"] for row in side_by_side(folders[1:3])] == ["original (distilbert-qa)", "static", "pruned"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["no-such-run", "--output_dir", "all"], "no-such-run: there is no such folder"),
        (["no-such-run"], "no-such-run"),
        (["broken", "--output_dir", "all"], "report.json is no report of a run"),
        (["broken", "--output_dir", "broken"], "holds a run"),
    ],
)
def test_what_cannot_be_compared_is_refused(words, named, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "report.json").write_text('{"models": {}}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["report_qa.py", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not (tmp_path / "all").exists()


def finished_run(folder, ids, exact="eval_exact_match", digest=None):
    """What a finished evaluation leaves, as far as runs are compared by it."""
    folder.mkdir(parents=True)
    if digest:
        content = {"made_from": {}, "scored": {"digest": digest}}
        (folder / "run.json").write_text(json.dumps(content), encoding="utf-8")
    results = {exact: 50.0, "eval_f1": 60.0, "model_size_mb": 1.0, "eval_samples_per_second": 9.0}
    (folder / "all_results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "eval_predictions.json").write_text(json.dumps(dict.fromkeys(ids, "x")), encoding="utf-8")
    return folder


def test_runs_on_other_questions_or_by_other_rules_are_not_compared(tmp_path, capsys):
    first = finished_run(tmp_path / "a", "abc")
    print_results([first, finished_run(tmp_path / "same", "cba")])
    assert "same" in capsys.readouterr().out
    v2, other = finished_run(tmp_path / "v2", "abc", "eval_exact"), finished_run(tmp_path / "other", "ab")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(UsageError, match=r"v2 is scored as SQuAD v2\.0"):
        compare_runs([nothing, first, v2], tmp_path / "out")
    compares = {"p": print_results, "c": lambda folders: compare_runs(folders, tmp_path / "out")}
    for folder, compare in ((tmp_path / name, each) for name, each in compares.items()):
        with pytest.raises(UsageError, match=r"v2 is scored as SQuAD v2\.0 and \S+a as SQuAD v1\.1"):
            compare([first, v2])
        with pytest.raises(UsageError, match=r"other answered 2 questions and \S+a 3, of which 2 are the same"):
            compare([first, other])
        with pytest.raises(UsageError, match=r"d2 and \S+d1 answered questions of the same ids, but other ones"):
            compare([finished_run(folder / each, "ab", digest=each) for each in ("d1", "d2")])
    assert not (tmp_path / "out").exists()


def test_runs_of_others_and_of_one_name_are_listed(tmp_path, capsys):
    """The examples of transformers leave no size, and folders of two experiments may be called alike."""
    folders = [finished_run(tmp_path / name / "out", "ab") for name in "xy"]
    (folders[1] / "all_results.json").write_text('{"eval_f1": 61.0, "eval_exact_match": 50.0}', encoding="utf-8")
    print_results(folders)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1] == [str(folders[0]), "50.00", "60.00", "0.00", "1.00", "9.0"]
    assert rows[2] == [str(folders[1]), "50.00", "61.00", "-1.00", "-", "-"]


def test_a_report_does_not_take_the_place_of_a_runs(tmp_path):
    first, second = (finished_run(tmp_path / name, "ab", digest="d") for name in "xy")
    with pytest.raises(UsageError, match=f"--output_dir {second} holds a run"):
        compare_runs([first], second)
    own = tmp_path / "own"
    own.mkdir()
    (own / "report.md").write_text("my notes", encoding="utf-8")
    with pytest.raises(UsageError, match=f"--output_dir {own}: report.md is in the way"):
        compare_runs([first], own)
    assert (own / "report.md").read_text(encoding="utf-8") == "my notes"
    for _ in range(2):  # a comparison takes the place of another one
        compare_runs([first, second], tmp_path / "both")


def test_originals_of_one_name_are_told_apart_by_their_weights(tmp_path):
    speed = [{"batch_size": 1, "p50_ms": 1.0, "questions_per_second": 9.0, "peak_memory_mb": 5.0}]
    model = {"f1": 50.0, "exact_match": 50.0, "size_mb": 1.0, "libraries_memory_mb": 1.0, "speed": speed}
    for name, weights in (("a", "111111aaaa"), ("b", "222222bbbb"), ("c", "111111aaaa")):
        finished_run(tmp_path / name, "ab")
        models = {"original": {**model, "f1": 100.0 if weights[0] == "1" else 55.0}, "result": model}
        report = {"model": "base", "weights": weights, "questions": 2, "models": models}
        (tmp_path / name / "report.json").write_text(json.dumps(report), encoding="utf-8")
    known = {run["name"]: run["f1"] for run in side_by_side([tmp_path / name for name in "abc"])}
    assert known.pop("original (base 111111)") == 100.0 and known.pop("original (base 222222)") == 55.0
    assert known == dict.fromkeys("abc", 50.0)
    assert side_by_side([tmp_path / name for name in "ac"])[0]["name"] == "original (base)"
