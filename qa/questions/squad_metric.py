"""The official scores as a module that `evaluate` loads from this file.

    evaluate.load("qa/questions/squad_metric.py", "squad")      # or "squad_v2"

Belongs here: what `evaluate` asks of a metric. The commands do without it: it types, copies and hashes all that it is
given, which takes three times as long as scoring, and its import takes a second.
Does not belong here: the scores themselves (`squad_scores.py`).
"""

import datasets
import evaluate

from .squad_scores import squad_scores, squad_v2_scores

_DESCRIPTION = "Exact match and F1, in percent, as the official SQuAD v1.1 and v2.0 evaluation scripts count them."
_CITATION = "Rajpurkar et al., arXiv 1606.05250 (SQuAD v1.1) and arXiv 1806.03822 (SQuAD v2.0)"
_INPUTS = """
Args:
    predictions: list of {"id", "prediction_text"}, for squad_v2 also "no_answer_probability": any number that grows
        with the belief that there is no answer.
    references: list of {"id", "answers": {"text", "answer_start"}}.
    no_answer_threshold: squad_v2 only; a prediction whose no_answer_probability is higher counts as no answer.
Returns:
    squad: exact_match, f1. squad_v2: what the official script prints.
"""


class SquadQA(evaluate.Metric):
    """The metric module; `config_name` is `squad` or `squad_v2`."""

    def _info(self):
        prediction = {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")}
        if self.config_name == "squad_v2":
            prediction["no_answer_probability"] = datasets.Value("float64")
        elif self.config_name != "squad":
            raise ValueError(f"There are the configurations squad and squad_v2, not {self.config_name!r}.")
        answers = {"text": datasets.Value("string"), "answer_start": datasets.Value("int64")}
        reference = {"id": datasets.Value("string"), "answers": datasets.Sequence(answers)}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": prediction, "references": reference}),
        )

    def _compute(self, predictions, references, no_answer_threshold=1.0):
        texts = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        golds = {reference["id"]: reference["answers"]["text"] for reference in references}
        if self.config_name == "squad":
            return squad_scores(texts, golds)
        null_odds = {prediction["id"]: prediction["no_answer_probability"] for prediction in predictions}
        return squad_v2_scores(texts, golds, null_odds, no_answer_threshold)
