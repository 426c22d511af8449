"""Logits to answers: the SQuAD post-processing that all scripts share, on Arrow tables and NumPy arrays.

Belongs here: choosing answers, and their files.
Does not belong here: features (`features.py`), scores (`scores.py`), and running models.
"""

import json
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from qa.start.output import ANSWERS
from qa.start.writing import write_text

# Pairs of starts and ends that examples handled at once may have, one feature each: it bounds the memory.
POSTPROCESSING_PAIRS = 400_000


class Answers(NamedTuple):
    """What post-processing found, one entry for each example id."""

    predictions: dict  # id -> answer text ("" for no answer)
    nbest: dict  # id -> list of {"start_logit", "end_logit", "text", "probability"}, best first
    null_odds: dict | None  # id -> null score minus the score of the best answer; None for SQuAD v1.1
    spans: dict | None = None  # id -> (begin, end), the answer's characters in the context; None for no answer


def extract_answers(
    examples,
    features,
    predictions,
    version_2_with_negative=False,
    n_best_size=20,
    max_answer_length=30,
    null_score_diff_threshold=0.0,
):
    """Choose the answer of each example from the start and end logits of its features.

    The rules are those of the transformers question-answering example (`utils_qa.py`, after the BERT paper's SQuAD
    script): candidates are pairs from the `n_best_size` best starts and ends of a feature that lie in the context, in
    order, and are not longer than `max_answer_length`; the `n_best_size` best pairs of all the features of an example
    share the probability. In SQuAD 2.0 the null score is the lowest CLS score of the features.

    Args:
        examples: `datasets.Dataset`, or sequence of mappings, with `id` and `context`.
        features: `datasets.Dataset`, or sequence of mappings, with `example_id` and `offset_mapping` (pairs of
            characters, or null for tokens outside the context), and optionally `token_is_max_context`.
        predictions: `(start_logits, end_logits)`, each `(n, l)` float, in the order of the features.
        version_2_with_negative: whether questions may have no answer.
        n_best_size: candidate starts and ends in a feature, and answers kept for an example.
        max_answer_length: longest answer in tokens.
        null_score_diff_threshold: answer nothing if the null score exceeds the best answer's by more than this.

    Returns:
        `Answers`, in the order of the examples.

    Raises:
        ValueError: `predictions` do not fit the features, or an example of SQuAD 2.0 has no feature.
    """
    start_logits, end_logits = (np.asarray(logits) for logits in predictions)
    if not len(start_logits) == len(end_logits) == len(features):
        raise ValueError(f"Got {len(start_logits)} predictions and {len(features)} features.")
    ids, contexts = _column(examples, "id"), _column(examples, "context")
    row_of = {identifier: row for row, identifier in enumerate(ids)}
    example_of = np.array([row_of[identifier] for identifier in _column(features, "example_id")], dtype=np.int64)
    # Features of one example side by side, in their own order.
    order = np.argsort(example_of, kind="stable")
    first_feature = np.searchsorted(example_of[order], np.arange(len(ids) + 1))
    # Without one, as where features were cut off behind the first so many, an example of v1.1 is answered "empty".
    if version_2_with_negative and (featureless := np.flatnonzero(np.diff(first_feature) == 0)).size:
        raise ValueError(f"Example {ids[featureless[0]]!r} has no feature.")

    answers = Answers({}, {}, {} if version_2_with_negative else None, {})
    chunk = max(1, POSTPROCESSING_PAIRS // n_best_size**2)
    for begin in tqdm(range(0, len(ids), chunk), desc="Post-processing", unit="chunk", delay=2):
        end = min(begin + chunk, len(ids))
        rows = order[first_feature[begin] : first_feature[end]]
        spans, in_context = _token_spans(features, rows, start_logits.shape[1])
        can_start = in_context & _seen_best(features, rows, in_context.shape)
        candidates = _candidates(
            start_logits[rows], end_logits[rows], spans, can_start, in_context, n_best_size, max_answer_length
        )
        candidates["example"] = (example_of[rows] - begin)[candidates.pop("feature")]
        nulls = None
        if version_2_with_negative:
            first = first_feature[begin:end] - first_feature[begin]
            nulls = _null_candidates(start_logits[rows, 0], end_logits[rows, 0], first)
        kept = _best_of_each(candidates, nulls, n_best_size)
        _write_down(answers, ids[begin:end], contexts[begin:end], kept, nulls, null_score_diff_threshold)
    return answers


def _column(rows, name):
    """Return one column of a `datasets.Dataset` or of a sequence of mappings as a list."""
    return rows[name] if isinstance(rows, datasets.Dataset) else [row[name] for row in rows]


def _token_spans(features, rows, length):
    """Unpack the offset mappings of some features.

    Returns:
        `(spans, in_context)`: `(f, length, 2)` int64 character spans and `(f, length)` bool, where a token has one.
    """
    if isinstance(features, datasets.Dataset):
        mappings = features.with_format("arrow")[rows]["offset_mapping"]
        mappings = mappings.combine_chunks() if isinstance(mappings, pa.ChunkedArray) else mappings
    else:
        mappings = pa.array([features[row]["offset_mapping"] for row in rows], type=pa.list_(pa.list_(pa.int64())))
    token_counts = pc.list_value_length(mappings).to_numpy()
    if token_counts.max(initial=0) > length:
        raise ValueError(f"A feature has {token_counts.max()} tokens but logits for {length} only.")
    pairs = mappings.flatten()
    usable = pc.fill_null(pc.equal(pc.list_value_length(pairs), 2), False)
    in_context = np.zeros((len(rows), length), dtype=bool)
    in_context[np.arange(length) < token_counts[:, None]] = usable.to_numpy(zero_copy_only=False)
    spans = np.zeros((len(rows), length, 2), dtype=np.int64)
    spans[in_context] = pairs.filter(usable).flatten().to_numpy().reshape(-1, 2)
    return spans, in_context


def _seen_best(features, rows, shape):
    """Return `(f, l)` bool: false where a feature says through `token_is_max_context` that another one sees more."""
    names = features.column_names if isinstance(features, datasets.Dataset) else next(iter(features), ())
    seen_best = np.ones(shape, dtype=bool)
    if "token_is_max_context" in names:
        for row, number in enumerate(rows):
            best = features[int(number)]["token_is_max_context"] or {}
            seen_best[row] = [bool(best.get(str(token))) for token in range(shape[1])]
    return seen_best


def _candidates(start_logits, end_logits, spans, can_start, can_end, n_best_size, max_answer_length):
    """Pair the best starts and ends of each feature, feature by feature, better starts first, then better ends.

    Returns:
        Dictionary of arrays, one entry for each pair that can be an answer: `feature`, `start_logit`, `end_logit`,
        `score`, and the characters `begin` and `end`.
    """
    starts = np.argsort(start_logits, axis=1)[:, : -n_best_size - 1 : -1]
    ends = np.argsort(end_logits, axis=1)[:, : -n_best_size - 1 : -1]
    tokens = ends[:, None, :] - starts[:, :, None] + 1
    possible = (tokens >= 1) & (tokens <= max_answer_length)
    possible &= np.take_along_axis(can_start, starts, axis=1)[:, :, None]
    possible &= np.take_along_axis(can_end, ends, axis=1)[:, None, :]
    feature, start_rank, end_rank = np.nonzero(possible)
    start, end = starts[feature, start_rank], ends[feature, end_rank]
    start_logit, end_logit = start_logits[feature, start], end_logits[feature, end]
    return {
        "feature": feature,
        "start_logit": start_logit,
        "end_logit": end_logit,
        "score": start_logit + end_logit,
        "begin": spans[feature, start, 0],
        "end": spans[feature, end, 1],
    }


def _null_candidates(start_logits, end_logits, first_feature):
    """Choose for each example the feature with the lowest CLS score; its fields are those of `_candidates`."""
    scores = start_logits + end_logits
    lowest = np.minimum.reduceat(scores, first_feature)
    lengths = np.diff(np.append(first_feature, len(scores)))
    example_of = np.repeat(np.arange(len(first_feature)), lengths)
    hits = np.flatnonzero(scores == lowest[example_of])
    row = hits[np.unique(example_of[hits], return_index=True)[1]]
    zeros = np.zeros(len(row), dtype=np.int64)
    return {
        "example": np.arange(len(row)),
        "start_logit": start_logits[row],
        "end_logit": end_logits[row],
        "score": scores[row],
        "begin": zeros,
        "end": zeros,
    }


def _best_of_each(candidates, nulls, n_best_size):
    """Keep the best candidates of each example, best first; equal scores stay in the order in which they were found.

    The null candidate takes part after all others, and is kept in any case.
    """
    if nulls is not None:
        candidates = {name: np.concatenate((values, nulls[name])) for name, values in candidates.items()}
    if not np.isfinite(candidates["score"]).all():
        raise ValueError("The model's logits are not finite.")
    order = np.argsort(-candidates["score"], kind="stable")
    # Numbers of 16 bits are sorted in one go over them.
    example = candidates["example"].astype(np.min_scalar_type(candidates["example"].max(initial=0)))
    order = order[np.argsort(example[order], kind="stable")]
    example = candidates["example"][order]
    rank = np.arange(len(order)) - np.searchsorted(example, example)
    kept = {name: values[order[rank < n_best_size]] for name, values in candidates.items()}
    if nulls is not None:
        has_null = kept["example"][(kept["begin"] == 0) & (kept["end"] == 0)]
        added = np.setdiff1d(nulls["example"], has_null)
        kept = {name: np.concatenate((values, nulls[name][added])) for name, values in kept.items()}
        order = np.argsort(kept["example"], kind="stable")
        kept = {name: values[order] for name, values in kept.items()}
    return kept


def _write_down(answers, ids, contexts, kept, nulls, null_score_diff_threshold):
    """Add the kept candidates of some examples to `answers`, as texts with probabilities."""
    first = np.searchsorted(kept["example"], np.arange(len(ids) + 1))
    probabilities = _probabilities(kept["score"], first).tolist()
    start_logits, end_logits = kept["start_logit"].tolist(), kept["end_logit"].tolist()
    begins, ends = kept["begin"].tolist(), kept["end"].tolist()
    first = first.tolist()
    for row, (identifier, context) in enumerate(zip(ids, contexts, strict=True)):
        nbest = [
            {
                "start_logit": start_logits[number],
                "end_logit": end_logits[number],
                "text": context[begins[number] : ends[number]],
                "probability": probabilities[number],
            }
            for number in range(first[row], first[row + 1])
        ]
        rank = next((rank for rank, entry in enumerate(nbest) if entry["text"]), None)
        if rank is None and (len(nbest) < 2 or nulls is not None):
            # No span to answer with: the transformers example puts the word "empty" with logits of 0 in front.
            nbest.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0})
            scores = np.append(0.0, kept["score"][first[row] : first[row + 1]])
            for entry, probability in zip(nbest, _softmax(scores).tolist(), strict=True):
                entry["probability"] = probability
        answers.nbest[identifier] = nbest
        best = first[row] + (rank or 0)
        span = None if rank is None else (begins[best], ends[best])
        if nulls is None:
            answers.predictions[identifier] = nbest[0]["text"]
            answers.spans[identifier] = span if nbest[0]["text"] else None
            continue
        null_odds, text = nulls["score"][row], "empty"
        if rank is not None:
            null_odds, text = null_odds - kept["start_logit"][best] - kept["end_logit"][best], nbest[rank]["text"]
        answers.null_odds[identifier] = float(null_odds)
        answers.predictions[identifier] = "" if null_odds > null_score_diff_threshold else text
        answers.spans[identifier] = span if answers.predictions[identifier] else None


def _probabilities(scores, first):
    """Softmax over each run of `scores`; run `i` is `scores[first[i]:first[i + 1]]`."""
    probabilities = np.empty_like(scores)
    counts = np.diff(first)
    # Runs of one length form a matrix without padding: padding would change how NumPy rounds the sums.
    for count in np.unique(counts[counts > 0]):
        places = first[:-1][counts == count][:, None] + np.arange(count)
        probabilities[places] = _softmax(scores[places])
    return probabilities


def _softmax(scores):
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def write_answers(answers, output_dir, prefix=None):
    """Write a file each of what `ANSWERS` names, the last one for SQuAD 2.0 alone, as indented JSON.

    Args:
        answers: `Answers`.
        output_dir: existing folder.
        prefix: put before each name, with an underscore.
    """
    prefix = f"{prefix}_" if prefix else ""
    for name, content in zip(ANSWERS, (answers.predictions, answers.nbest, answers.null_odds), strict=True):
        if content is not None:
            write_text(Path(output_dir) / f"{prefix}{name}.json", _as_json(content))


def _as_json(content):
    try:
        return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # half a character, which no UTF-8 has bytes for; in files of questions it is refused
        return json.dumps(content, indent=2) + "\n"
