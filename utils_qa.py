"""SQuAD pre- and post-processing for import, under the names that users of the transformers example know.

Belongs here: names. What is behind them lives in `qa/questions/`.
"""

import logging
from pathlib import Path

from qa.questions.answers import extract_answers, write_answers
from qa.questions.features import prepare_features

__all__ = ["postprocess_qa_predictions", "prepare_features"]

logger = logging.getLogger(__name__)


def postprocess_qa_predictions(
    examples,
    features,
    predictions,
    version_2_with_negative=False,
    n_best_size=20,
    max_answer_length=30,
    null_score_diff_threshold=0.0,
    output_dir=None,
    prefix=None,
    log_level=logging.WARNING,
):
    """Choose answers and write them down, under the name and with the parameters of the transformers example.

    Args:
        output_dir: existing folder for the JSON files of `write_answers`; none are written if `None`.
        prefix: start of their names.
        log_level: level of this module's logger during the call.

    The other parameters are those of `extract_answers`.

    Returns:
        Dictionary from example id to answer text.

    Raises:
        EnvironmentError: `output_dir` is not a folder.
        ValueError: `predictions` are not start and end logits, or do not fit the features.
    """
    if len(predictions) != 2:
        raise ValueError(f"Expected start and end logits, got {len(predictions)} arrays.")
    logger.setLevel(log_level)
    answers = extract_answers(
        examples,
        features,
        predictions,
        version_2_with_negative=version_2_with_negative,
        n_best_size=n_best_size,
        max_answer_length=max_answer_length,
        null_score_diff_threshold=null_score_diff_threshold,
    )
    if output_dir is not None:
        if not Path(output_dir).is_dir():
            raise OSError(f"{output_dir} is not a folder.")
        write_answers(answers, output_dir, prefix)
        logger.info("Answers written to %s.", output_dir)
    return answers.predictions
