"""Answers to scores.

Belongs here: which metric answers are scored with.
Does not belong here: the metrics themselves (`squad_scores.py`).
"""

import pyarrow.compute as pc

from qa.questions.squad_scores import squad_scores, squad_v2_scores
from qa.start.process import is_first_process


def scores_of(texts, golds, null_odds, threshold):
    """Score texts by the metric of SQuAD 2.0 if there are null odds, else by that of v1.1; see `squad_scores.py`."""
    if null_odds is None:
        return squad_scores(texts, golds)
    return squad_v2_scores(texts, golds, null_odds, threshold)


def compute_metrics(examples, answers, null_score_diff_threshold=0.0):
    """Score answers.

    Args:
        examples: `datasets.Dataset` with `id` and `answers`.
        answers: `Answers` for these examples.
        null_score_diff_threshold: the threshold that they were chosen with (SQuAD 2.0).

    Returns:
        Dictionary of floats in percent: `exact_match` and `f1`; for SQuAD 2.0 the entries of its official script.
    """
    texts = pc.struct_field(examples.with_format("arrow")["answers"], "text").to_pylist()
    golds = dict(zip(examples["id"], texts, strict=True))
    return scores_of(answers.predictions, golds, answers.null_odds, null_score_diff_threshold)


def score(examples, answers, data_args):
    """Score answers if every example says what is right, else return no metrics, with a note where some do."""
    golds = examples["answers"]
    lacking = sum(gold is None or not (gold["text"] or data_args.version_2_with_negative) for gold in golds)
    if not lacking:
        return compute_metrics(examples, answers, data_args.null_score_diff_threshold)
    if lacking < len(golds) and is_first_process():
        print(f"note: {lacking} of {len(golds)} questions say nothing of right answers, so that none is scored")
    return {}
