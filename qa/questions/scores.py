"""Answers to scores.

Belongs here: which metric answers are scored with.
Does not belong here: the metrics themselves (`squad_metric.py`, which `evaluate` loads as a file of its own).
"""

import pyarrow.compute as pc

from qa.start.process import is_first_process


def compute_metrics(examples, answers, null_score_diff_threshold=0.0):
    """Score answers with the functions behind the project's `evaluate` module (`squad_metric.py`).

    Loading the module itself takes three times as long as scoring: it types, copies and hashes all that it is given.

    Args:
        examples: `datasets.Dataset` with `id` and `answers`.
        answers: `Answers` for these examples.
        null_score_diff_threshold: the threshold that `answers` were chosen with (SQuAD 2.0).

    Returns:
        Dictionary of floats in percent: `exact_match` and `f1`; for SQuAD 2.0 the entries of its official script.
    """
    from qa.questions.squad_metric import squad_scores, squad_v2_scores

    texts = pc.struct_field(examples.with_format("arrow")["answers"], "text").to_pylist()
    golds = dict(zip(examples["id"], texts, strict=True))
    if answers.null_odds is None:
        return squad_scores(answers.predictions, golds)
    return squad_v2_scores(answers.predictions, golds, answers.null_odds, null_score_diff_threshold)


def score(examples, answers, data_args):
    """Score answers if every example says what is right, else return no metrics, with a note where some do."""
    golds = examples["answers"]
    lacking = sum(gold is None or not (gold["text"] or data_args.version_2_with_negative) for gold in golds)
    if not lacking:
        return compute_metrics(examples, answers, data_args.null_score_diff_threshold)
    if lacking < len(golds) and is_first_process():
        print(f"note: {lacking} of {len(golds)} questions say nothing of right answers, so that none is scored")
    return {}
