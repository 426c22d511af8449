"""The scores: equal to other code's, on any predictions, called as functions and through `evaluate`."""

import math

import datasets
import hypothesis
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import strategies as st
from textbook import plain_normalize, plain_squad, plain_squad_v2

from qa.questions.answers import Answers
from qa.questions.features import dataset_of
from qa.questions.scores import score
from qa.questions.squad_metric import SquadQA
from qa.questions.squad_scores import normalize_answer, squad_scores, squad_v2_scores
from qa.start.arguments import DataTrainingArguments

MODULE = str(ROOT / "qa/questions/squad_metric.py")

# Few words, so that predictions meet answers; and what normalization takes away, alone and attached.
WORDS = [
    "the",
    "a",
    "an",
    "The",
    "cat",
    "Cat",
    "cats",
    "cat,",
    "the-cat",
    "sat.",
    "on",
    "mat",
    "mat!",
    "1999",
    "theatre",
]
ODD = [
    "",
    " ",
    ".",
    "...",
    "the",
    "A",
    "the a an",
    "\u00a0cat",
    "ÉCOLE",
    "école",
    "ﬁn",
    "東京",
    "cat\tsat",
    "“cat”",
    "a_b",
    "I",
]


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert math.isclose(found[name], value, rel_tol=0, abs_tol=1e-9), (name, found[name], value)


def random_text(generator):
    if generator.random() < 0.15:
        return str(generator.choice(ODD))
    return " ".join(generator.choice(WORDS, size=generator.integers(1, 6)))


def random_case(generator, unanswerable=0.0, size=40):
    golds, texts, odds = {}, {}, {}
    for number in range(size):
        identifier = f"q{number}"
        golds[identifier] = [random_text(generator) for _ in range(generator.integers(1, 4))]
        texts[identifier] = str(generator.choice(golds[identifier])) if generator.random() < 0.3 else ""
        if generator.random() < 0.8:
            texts[identifier] = texts[identifier] or random_text(generator)
        if generator.random() < unanswerable:
            golds[identifier] = []
        odds[identifier] = float(generator.choice([generator.normal(0, 5), generator.integers(-2, 3)]))
    order = generator.permutation(size)
    texts = {f"q{number}": texts[f"q{number}"] for number in order}
    return texts, golds, {identifier: odds[identifier] for identifier in texts}


@hypothesis.settings(max_examples=150)
@hypothesis.given(st.text() | st.lists(st.sampled_from(WORDS + ODD)).map(" ".join))
def test_normalization_is_that_of_the_official_script(text):
    from transformers.data.metrics.squad_metrics import normalize_answer as transformers_normalize

    assert normalize_answer(text) == transformers_normalize(text) == plain_normalize(text)


@pytest.mark.parametrize("seed", range(25))
def test_squad_scores_equal_the_plain_ones(seed):
    generator = np.random.default_rng(seed)
    texts, golds, _ = random_case(generator)
    for identifier in list(texts)[: seed % 5]:
        del texts[identifier]
    assert_equal(squad_scores(texts, golds), plain_squad(texts, golds))


@pytest.mark.parametrize("seed", range(40))
def test_squad_v2_scores_equal_those_of_transformers(seed):
    generator = np.random.default_rng([2, seed])
    texts, golds, odds = random_case(generator, unanswerable=(0.0, 0.3, 0.7, 1.0)[seed % 4])
    for threshold in (0.0, 1.0, -1.5, float(generator.normal(0, 5)), 1e9, -1e9):
        assert_equal(squad_v2_scores(texts, golds, odds, threshold), plain_squad_v2(texts, golds, odds, threshold))


texts_ = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join) | st.sampled_from(ODD) | st.text(max_size=10)
cases = st.lists(
    st.tuples(
        texts_,
        st.lists(texts_, min_size=1, max_size=3),
        st.booleans(),
        st.floats(-20, 20) | st.sampled_from([0.0, -0.0, 1.0]),
    ),
    min_size=1,
    max_size=8,
)


@hypothesis.settings(max_examples=120)
@hypothesis.given(case=cases, threshold=st.floats(-20, 20) | st.sampled_from([0.0, 1.0]))
def test_scores_equal_the_oracles_on_any_texts(case, threshold):
    texts = {str(number): text for number, (text, *_) in enumerate(case)}
    golds = {str(number): answers for number, (_, answers, *_) in enumerate(case)}
    assert_equal(squad_scores(texts, golds), plain_squad(texts, golds))
    golds = {str(number): answers if answerable else [] for number, (_, answers, answerable, _) in enumerate(case)}
    odds = {str(number): value for number, (*_, value) in enumerate(case)}
    assert_equal(squad_v2_scores(texts, golds, odds, threshold), plain_squad_v2(texts, golds, odds, threshold))


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The cat!", ["cat"], 100, 100),
        ("cat sat", ["cat", "sat on mat"], 0, 200 / 3),
        ("the", ["a"], 100, 0),  # both are empty after normalization: equal, but no word in common
        ("", ["cat"], 0, 0),
        ("cat cat", ["cat"], 0, 200 / 3),
        ("the theatre", ["theatre"], 100, 100),
        ("ÉCOLE", ["école"], 100, 100),
        ("cat-sat", ["catsat"], 100, 100),
    ],
)
def test_squad_scores_of_known_pairs(prediction, answers, exact, f1):
    assert_equal(squad_scores({"a": prediction}, {"a": answers}), {"exact_match": exact, "f1": f1})


def test_best_thresholds_come_from_the_null_odds():
    texts = {"a": "cat", "b": "mat", "c": "", "d": "cat"}
    golds = {"a": ["cat"], "b": [], "c": [], "d": ["cat"]}
    odds = {"a": -3.0, "b": 2.5, "c": 4.0, "d": 1.5}
    scores = squad_v2_scores(texts, golds, odds, 0.0)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (100, 1.5)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (100, 1.5)
    # At threshold 0 the answer of d counts as none.
    assert scores["exact"] == 75
    assert (scores["HasAns_exact"], scores["HasAns_total"]) == (50, 2)
    assert (scores["NoAns_exact"], scores["NoAns_total"]) == (100, 2)


def test_questions_without_a_prediction():
    """v1.1 counts them as wrong, v2.0 leaves them out."""
    golds = {"a": ["cat"], "b": ["mat"]}
    assert squad_scores({"a": "cat"}, golds) == {"exact_match": 50, "f1": 50}
    assert squad_scores({}, golds) == {"exact_match": 0, "f1": 0}
    scores = squad_v2_scores({"a": "cat"}, golds, {"a": 0.0}, 1.0)
    assert (scores["exact"], scores["total"]) == (100, 1)


def as_inputs(texts, golds, odds=None):
    predictions = [{"id": identifier, "prediction_text": text} for identifier, text in texts.items()]
    if odds is not None:
        for prediction in predictions:
            prediction["no_answer_probability"] = odds[prediction["id"]]
    references = [
        {"id": identifier, "answers": {"text": golds[identifier], "answer_start": [0] * len(golds[identifier])}}
        for identifier in texts
    ]
    return {"predictions": predictions, "references": references}


@pytest.fixture(params=["loaded from the file", "imported"])
def metric_of(request):
    """The metric module of a configuration, as `evaluate` loads it into a module of its own, and as a class."""

    def loaded(name):
        import evaluate

        return evaluate.load(MODULE, name, keep_in_memory=True)

    def imported(name):
        return SquadQA(config_name=name, keep_in_memory=True)

    return imported if request.param == "imported" else loaded


def test_squad_through_evaluate(metric_of):
    texts, golds, _ = random_case(np.random.default_rng(8))
    assert_equal(metric_of("squad").compute(**as_inputs(texts, golds)), plain_squad(texts, golds))


def test_squad_v2_through_evaluate(metric_of):
    texts, golds, odds = random_case(np.random.default_rng(9), unanswerable=0.4)
    metric = metric_of("squad_v2")
    for threshold in (0.0, 2.0):
        found = metric.compute(**as_inputs(texts, golds, odds), no_answer_threshold=threshold)
        assert_equal(found, plain_squad_v2(texts, golds, odds, threshold))
    # What is a probability is at most 1, so that without a threshold all predictions count.
    probabilities = {identifier: 1 / (1 + np.exp(-value)) for identifier, value in odds.items()} | {"q0": 1.0}
    found = metric.compute(**as_inputs(texts, golds, probabilities))
    assert_equal(found, plain_squad_v2(texts, golds, probabilities, 1.0))


def test_there_are_two_configurations(metric_of):
    with pytest.raises(ValueError, match=r"^There are the configurations squad and squad_v2, not 'squad_v3'\.$"):
        metric_of("squad_v3")


def test_the_module_says_what_it_takes_and_where_the_scores_come_from(metric_of):
    metric = metric_of("squad")
    assert metric.features["references"]["answers"].feature == {
        "text": datasets.Value("string"),
        "answer_start": datasets.Value("int64"),
    }
    assert metric.features["predictions"].keys() == {"id", "prediction_text"}
    assert "in percent" in metric.description
    assert "arXiv 1606.05250" in metric.citation
    assert "no_answer_threshold" in metric.inputs_description


def scored(golds, null_odds=None, threshold=0.0):
    """Score the prediction "cat" for questions with these answers."""
    rows = [
        {
            **{"id": f"q{number}", "context": "cat", "question": ""},
            "answers": gold and {"text": gold["text"], "answer_start": [0] * len(gold["text"])},
        }
        for number, gold in enumerate(golds)
    ]
    predictions = {row["id"]: "cat" for row in rows}
    odds = null_odds and dict(zip(predictions, null_odds, strict=True))
    data_args = DataTrainingArguments(
        version_2_with_negative=null_odds is not None, null_score_diff_threshold=threshold
    )
    return score(dataset_of(rows), Answers(predictions, {}, odds), data_args)


CAT, NONE = {"text": ["cat"]}, {"text": []}


def test_only_questions_that_all_say_what_is_right_are_scored(capsys):
    assert scored([CAT, {"text": ["dog", "cat"]}]) == {"exact_match": 100, "f1": 100}
    assert scored([CAT, {"text": ["dog"]}]) == {"exact_match": 50, "f1": 50}
    for golds in ([CAT, NONE], [None, CAT]):
        assert scored(golds) == {}
        note = "note: 1 of 2 questions say nothing of right answers, so that none is scored\n"
        assert capsys.readouterr().out == note
    assert scored([None, None]) == {}
    assert capsys.readouterr().out == ""
    assert scored([CAT, None], [0.0, 0.0]) == {}
    # In SQuAD 2.0 that there is no answer may be what is right.
    assert scored([CAT, NONE], [0.0, 0.0])["exact"] == 50


def test_scores_know_the_threshold_that_answers_were_chosen_with():
    golds, null_odds = [CAT, NONE, NONE], [0.5, 0.5, 1.5]
    for threshold, exact in ((0.0, 200 / 3), (1.0, 200 / 3), (2.0, 100 / 3)):
        assert scored(golds, null_odds, threshold)["exact"] == pytest.approx(exact)
    assert scored(golds, null_odds, 1.0)["HasAns_exact"] == 100
