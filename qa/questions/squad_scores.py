"""Exact match and F1 of SQuAD v1.1 and v2.0, as the official evaluation scripts count them.

Belongs here: the two official scores (Rajpurkar et al. 2016, arXiv 1606.05250; 2018, arXiv 1806.03822), from plain
dictionaries. `evaluate` copies this file beside `squad_metric.py`, so it must not import the project's modules.
Does not belong here: which of them answers are scored with (`scores.py`).
"""

import collections
import re
import string

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text):
    """Lower the case and take away punctuation, articles and surplus white space, in this order."""
    text = text.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _overlap_f1(gold_tokens, predicted_tokens):
    if gold_tokens == predicted_tokens:
        return float(bool(gold_tokens))
    common = sum((collections.Counter(gold_tokens) & collections.Counter(predicted_tokens)).values())
    if not common:
        return 0.0
    precision, recall = common / len(predicted_tokens), common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def squad_scores(texts, golds):
    """Score as SQuAD v1.1 does: the best of an example's answers counts, a question without a prediction counts 0.

    Args:
        texts: id -> predicted text.
        golds: id -> list of answer texts.

    Returns:
        `{"exact_match", "f1"}` in percent of all questions.
    """
    exact = f1 = 0.0
    for identifier, answers in golds.items():
        if identifier not in texts:
            continue
        predicted = normalize_answer(texts[identifier])
        normalized = [normalize_answer(answer) for answer in answers]
        exact += max((float(predicted == gold) for gold in normalized), default=0.0)
        f1 += max((_overlap_f1(gold.split(), predicted.split()) for gold in normalized), default=0.0)
    return {"exact_match": 100.0 * exact / len(golds), "f1": 100.0 * f1 / len(golds)}


def squad_v2_scores(texts, golds, null_odds, no_answer_threshold):
    """Score as SQuAD v2.0 does, where saying nothing is right for a question without an answer.

    Args:
        texts: id -> predicted text, "" for no answer; questions without a prediction are left out of the average.
        golds: id -> list of answer texts, empty where there is no answer.
        null_odds: id -> number that grows with the belief that there is no answer.
        no_answer_threshold: predictions with higher null odds count as no answer.

    Returns:
        Dictionary of `exact` and `f1` in percent and `total`, the same with the prefixes HasAns_ and NoAns_ where
        there are such questions, and `best_exact`, `best_f1` with the thresholds that reach them, where predictions
        that are empty already stay so; 0.0 also stands for no answer at all.
    """
    ids = [identifier for identifier in texts if identifier in golds]
    has_answer = np.array([bool(golds[identifier]) for identifier in ids])
    odds = np.array([null_odds[identifier] for identifier in ids])
    raw = {"exact": np.zeros(len(ids)), "f1": np.zeros(len(ids))}
    for row, identifier in enumerate(ids):
        predicted = normalize_answer(texts[identifier])
        # An answer that normalization empties ("the") cannot be asked for.
        normalized = [gold for gold in map(normalize_answer, golds[identifier]) if gold] or [""]
        raw["exact"][row] = max(predicted == gold for gold in normalized)
        raw["f1"][row] = max(
            _overlap_f1(gold.split(), predicted.split()) if gold and predicted else float(gold == predicted)
            for gold in normalized
        )
    scores = {name: np.where(odds > no_answer_threshold, ~has_answer, values) for name, values in raw.items()}

    result = _averages(scores)
    for prefix, group in (("HasAns_", has_answer), ("NoAns_", ~has_answer)):
        if group.any():
            averages = _averages({name: values[group] for name, values in scores.items()})
            result.update({prefix + name: value for name, value in averages.items()})
    predicted_nothing = np.array([not texts[identifier] for identifier in ids])
    unanswerable = sum(not answers for answers in golds.values())
    for name, values in raw.items():
        best, threshold = _best_threshold(values, predicted_nothing, odds, has_answer, unanswerable)
        result[f"best_{name}"], result[f"best_{name}_thresh"] = best, threshold
    return result


def _averages(scores):
    total = len(scores["exact"])
    averages = {name: 100.0 * float(values.sum()) / total for name, values in scores.items()}
    return {**averages, "total": total}


def _best_threshold(raw, predicted_nothing, odds, has_answer, unanswerable):
    """Try each null-odds value as the threshold, from the lowest on; the first best one wins.

    Below all of them every question counts as unanswered. Raising the threshold past a question lets its prediction
    count: it gains the raw score if there is an answer, and costs 1 if there is none and one was predicted.
    """
    order = np.argsort(odds, kind="stable")
    gains = np.where(has_answer, raw, np.where(predicted_nothing, 0.0, -1.0))[order]
    totals = np.cumsum(np.concatenate(([float(unanswerable)], gains)))
    best = int(np.argmax(totals))
    threshold = 0.0 if best == 0 else float(odds[order[best - 1]])
    return 100.0 * float(totals[best]) / len(raw), threshold
