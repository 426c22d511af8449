"""Examples to features, logits to answers, answers to metrics.

Belongs here: the SQuAD pre- and post-processing that all scripts share, on Arrow tables and NumPy arrays.
Does not belong here: reading files (`data_qa.py`), running models (`inference_qa.py`, `trainer_qa.py`).

Features are stored unpadded; whatever forms a batch pads it. So the CLS token of a feature is at position 0, and
position `i` of its logits is token `i` of its `input_ids`.
"""

import hashlib
import json
import logging
from itertools import chain, repeat
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from environment_qa import UsageError
from output_qa import saving, write_text

logger = logging.getLogger(__name__)

EXAMPLE_FEATURES = datasets.Features(
    {
        **{name: datasets.Value("string") for name in ("id", "title", "context", "question")},
        "answers": {
            "text": datasets.Sequence(datasets.Value("string")),
            "answer_start": datasets.Sequence(datasets.Value("int32")),
        },
    }
)

# Pairs of starts and ends that examples handled at once may have, one feature each: it bounds the memory.
POSTPROCESSING_PAIRS = 400_000


class Answers(NamedTuple):
    """What post-processing found, one entry for each example id."""

    predictions: dict  # id -> answer text ("" for no answer)
    nbest: dict  # id -> list of {"start_logit", "end_logit", "text", "probability"}, best first
    null_odds: dict | None  # id -> null score minus the score of the best answer; None for SQuAD v1.1


def dataset_of(examples):
    """Turn a list of examples (see `data_qa.py`) into a `datasets.Dataset`."""
    return datasets.Dataset.from_list(examples, features=EXAMPLE_FEATURES)


def draw_features(examples, tokenizer, data_args, count, seed):
    """Draw `count` features at random without preparing those of all examples.

    Args:
        examples, tokenizer, data_args: as in `prepare_features`.
        count: features wanted; all there are, if they are fewer.
        seed: of the draw. The same seed draws the same features.

    Returns:
        `datasets.Dataset` of features.
    """
    generator = np.random.default_rng(seed)
    drawn = examples.select(generator.permutation(len(examples))[:count])
    windows = _windows_of(drawn.with_format("arrow")[:], tokenizer, data_args.max_seq_length, data_args.doc_stride)
    return datasets.Dataset(windows).select(generator.permutation(len(windows))[:count])


def feature_cache(cache_dir=None):
    """Make, if need be, and return the folder for what is computed from features; `cache_dir` as given by the user."""
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "qa_features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--cache_dir: {folder} cannot be made ({error.strerror}); name another folder") from error
    return folder


def prepare_features(examples, tokenizer, data_args, cache_dir=None, desc=None):
    """Split examples into windows of at most `max_seq_length` tokens.

    Args:
        examples: `datasets.Dataset` from `dataset_of`.
        tokenizer: a fast tokenizer with a CLS token.
        data_args: `DataTrainingArguments`; of these `max_seq_length` (tokens, special ones included), `doc_stride`
            (context tokens that two neighbouring windows share), `preprocessing_num_workers` and `overwrite_cache`.
        cache_dir: folder of the feature cache; that of `datasets` if `None`.
        desc: label of the progress bar.

    Returns:
        `datasets.Dataset`, one row a window, in the order of the examples: what the tokenizer returns (`input_ids`
        int32, `attention_mask` and `token_type_ids` int8, unpadded lists of length L), `example_id`,
        `offset_mapping` (L pairs of character positions in the context, null for tokens outside it), and
        `start_positions` and `end_positions` (int32, token positions of the first answer; 0, the CLS token, if it
        is not wholly inside the window).

    Raises:
        SaveError: there is no room for them in the cache.
        UsageError: a question is so long that the windows could not advance through its context, or the file in the
            cache is damaged.
    """
    settings = {"max_seq_length": data_args.max_seq_length, "doc_stride": data_args.doc_stride}
    backend = tokenizer.backend_tokenizer
    # The last call leaves its own settings there, and every call makes its own.
    backend.no_truncation()
    backend.no_padding()
    rules = (backend.to_str(), tokenizer.padding_side, tokenizer.model_input_names, settings)
    digest = hashlib.sha256(json.dumps(rules).encode())
    for batch in examples.with_format("arrow")[:].to_batches(max_chunksize=1000):
        digest.update(batch.serialize())
    key = digest.hexdigest()[:32]
    cached = feature_cache(cache_dir) / f"{key}.arrow"
    try:
        with saving(cached):
            features = examples.with_format("arrow").map(
                _windows_of,
                batched=True,
                fn_kwargs={"tokenizer": tokenizer, **settings},
                remove_columns=examples.column_names,
                num_proc=data_args.preprocessing_num_workers,
                load_from_cache_file=not data_args.overwrite_cache,
                cache_file_name=str(cached),
                new_fingerprint=key,
                desc=desc,
            )
    except pa.ArrowInvalid as error:
        raise UsageError(f"{cached} in the cache is damaged ({error}); remove it or give --overwrite_cache") from error
    return features.with_format(None)


def _windows_of(batch, tokenizer, max_seq_length, doc_stride):
    """Tokenize one `pyarrow.Table` of examples into one of features."""
    questions = [question.lstrip() for question in batch["question"].to_pylist()]
    contexts = batch["context"].to_pylist()
    question_first = tokenizer.padding_side == "right"
    _refuse_long_questions(batch["id"].to_pylist(), questions, tokenizer, max_seq_length, doc_stride)
    tokenizer.set_truncation_and_padding(
        padding_strategy=PaddingStrategy.DO_NOT_PAD,
        truncation_strategy=TruncationStrategy.ONLY_SECOND if question_first else TruncationStrategy.ONLY_FIRST,
        max_length=max_seq_length,
        stride=doc_stride,
        pad_to_multiple_of=None,
        padding_side=None,
    )
    pairs = list(zip(questions, contexts, strict=True) if question_first else zip(contexts, questions, strict=True))
    # Not through the tokenizer's own call: it makes Python lists of all that an encoding knows, twice over.
    encodings = tokenizer.backend_tokenizer.encode_batch(pairs)
    windows_of_each = [[encoding, *encoding.overflowing] for encoding in encodings]
    example_of = np.repeat(np.arange(len(batch)), [len(windows) for windows in windows_of_each])
    windows = list(chain.from_iterable(windows_of_each))

    # The context is one unbroken run of tokens in each window; what is around it has no place in the context.
    context_sequence = 1 if question_first else 0
    sequences = [window.sequence_ids for window in windows]
    counts = np.array([sequence.count(context_sequence) for sequence in sequences], dtype=np.int64)
    begins = np.array(
        [sequence.index(context_sequence) if count else 0 for sequence, count in zip(sequences, counts, strict=True)],
        dtype=np.int64,
    )
    spans = chain.from_iterable(
        window.offsets[begin : begin + count] for window, begin, count in zip(windows, begins, counts, strict=True)
    )
    offsets = np.fromiter(chain.from_iterable(spans), dtype=np.int32, count=2 * counts.sum()).reshape(-1, 2)
    first_span = np.concatenate(([0], np.cumsum(counts)))
    starts, ends = label_windows(offsets, first_span, begins, _first_answers(batch)[example_of])

    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    boundaries = pa.array(np.concatenate(([0], np.cumsum(lengths))), type=pa.int32())
    total = int(lengths.sum())
    columns = {
        "input_ids": chain.from_iterable(window.ids for window in windows),
        "token_type_ids": chain.from_iterable(window.type_ids for window in windows),
        "attention_mask": repeat(1, total),  # nothing is padded
    }
    table = {}
    for name in tokenizer.model_input_names:
        if name in columns:
            values = np.fromiter(columns[name], dtype=_dtype_of(name), count=total)
            table[name] = pa.ListArray.from_arrays(boundaries, pa.array(values))
    table["example_id"] = batch["id"].take(pa.array(example_of))
    # A null pair for each token outside the context: it takes up no values, and its slot is masked.
    place = np.arange(total) - np.repeat(boundaries.to_numpy()[:-1], lengths)
    in_context = (place >= np.repeat(begins, lengths)) & (place < np.repeat(begins + counts, lengths))
    pair_ends = np.concatenate(([0], np.cumsum(in_context * 2)))
    pairs = pa.ListArray.from_arrays(
        pa.array(pair_ends, type=pa.int32()), pa.array(offsets.ravel()), mask=pa.array(~in_context)
    )
    table["offset_mapping"] = pa.ListArray.from_arrays(boundaries, pairs)
    table["start_positions"] = pa.array(starts)
    table["end_positions"] = pa.array(ends)
    return pa.table(table)


def _refuse_long_questions(ids, questions, tokenizer, max_seq_length, doc_stride):
    """Refuse a question that leaves the context no more room than the stride takes: windows would never advance."""
    room = max_seq_length - tokenizer.num_special_tokens_to_add(pair=True) - doc_stride
    # Few questions come near it. A token of plain ASCII is a character at least, but for a prefix that some tokenizers
    # put before the first word; normalization can make many tokens of one other character.
    suspects = [
        number for number, question in enumerate(questions) if len(question) + 1 >= room or not question.isascii()
    ]
    if not suspects:
        return
    encoded = tokenizer([questions[number] for number in suspects], add_special_tokens=False)
    for number, tokens in zip(suspects, encoded["input_ids"], strict=True):
        if len(tokens) >= room:
            raise UsageError(
                f"question {ids[number]} has {len(tokens)} tokens; with --max_seq_length {max_seq_length} and "
                f"--doc_stride {doc_stride} it may have {max(room - 1, 0)}: raise the first, lower the second or "
                "shorten the question"
            )


def _dtype_of(name):
    return "int32" if name == "input_ids" else "int8"


def _first_answers(batch):
    """Return `(n, 2)` int64: the characters of each example's first answer, white space trimmed; (-1, -1) if none."""
    spans = np.full((len(batch), 2), -1, dtype=np.int64)
    for row, answers in enumerate(batch["answers"].to_pylist()):
        if answers is not None and answers["text"] and (trimmed := answers["text"][0].strip()):
            start = answers["answer_start"][0] + answers["text"][0].find(trimmed)
            spans[row] = start, start + len(trimmed)
    return spans


def label_windows(offsets, first_token, context_begin, answers):
    """Find the tokens of an answer in each window.

    The label starts at the first context token that ends behind the answer's first character, and ends at the last one
    that starts before the answer's end; both are 0 (CLS) unless the whole answer lies inside the window.

    Args:
        offsets: `(t, 2)` int, character span of each context token, all windows one behind the other.
        first_token: `(w + 1,)` int, where each window begins in `offsets`, and where the last one ends.
        context_begin: `(w,)` int, position of the first context token in its window.
        answers: `(w, 2)` int, character span of the answer asked for in each window, (-1, -1) for none.

    Returns:
        `(start_positions, end_positions)`, both `(w,)` int32, counted from the beginning of the window.
    """
    tokens = np.diff(first_token)
    window_of = np.repeat(np.arange(len(tokens)), tokens)

    def count(mask):
        # Sums over windows through a running total: `np.add.reduceat` has no answer for empty windows.
        return np.diff(np.concatenate(([0], np.cumsum(mask)))[first_token])

    start = count(offsets[:, 1] <= answers[window_of, 0])
    end = count(offsets[:, 0] < answers[window_of, 1]) - 1
    inside = (answers[:, 0] >= 0) & (start <= end)
    # A window without context has no first and no last token to look at; there, end is -1.
    rows = np.flatnonzero(inside)
    inside[rows] = (offsets[first_token[:-1][rows], 0] <= answers[rows, 0]) & (
        offsets[first_token[1:][rows] - 1, 1] >= answers[rows, 1]
    )
    start_positions = np.where(inside, context_begin + start, 0).astype(np.int32)
    end_positions = np.where(inside, context_begin + end, 0).astype(np.int32)
    return start_positions, end_positions


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
        ValueError: `predictions` do not fit the features, or an example has no feature.
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
    if (featureless := np.flatnonzero(np.diff(first_feature) == 0)).size:
        raise ValueError(f"Example {ids[featureless[0]]!r} has no feature.")

    answers = Answers({}, {}, {} if version_2_with_negative else None)
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
    names = features.column_names if isinstance(features, datasets.Dataset) else features[0]
    seen_best = np.ones(shape, dtype=bool)
    if "token_is_max_context" in names:
        for row, number in enumerate(rows):
            best = features[int(number)]["token_is_max_context"] or {}
            seen_best[row] = [bool(best.get(str(token), False)) for token in range(shape[1])]
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
        if nulls is None:
            answers.predictions[identifier] = nbest[0]["text"]
            continue
        null_odds, text = nulls["score"][row], "empty"
        if rank is not None:
            best = first[row] + rank
            null_odds, text = null_odds - kept["start_logit"][best] - kept["end_logit"][best], nbest[rank]["text"]
        answers.null_odds[identifier] = float(null_odds)
        answers.predictions[identifier] = "" if null_odds > null_score_diff_threshold else text


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
    """Write `predictions.json`, `nbest_predictions.json` and, for SQuAD 2.0, `null_odds.json` as indented JSON.

    Args:
        answers: `Answers`.
        output_dir: existing folder.
        prefix: put before each name, with an underscore.
    """
    folder = Path(output_dir)
    prefix = f"{prefix}_" if prefix else ""
    _write_json(folder / f"{prefix}predictions.json", answers.predictions)
    write_text(folder / f"{prefix}nbest_predictions.json", _nbest_json(answers.nbest))
    if answers.null_odds is not None:
        _write_json(folder / f"{prefix}null_odds.json", answers.null_odds)


def _write_json(path, content):
    # With its own indentation `json` would fall back to slow Python code. None of the dictionaries has any inside.
    lines = json.dumps(content, separators=(",\n    ", ": "))[1:-1]
    write_text(path, f"{{\n    {lines}\n}}\n" if lines else "{}\n")


def _nbest_json(nbest):
    """Format as `json.dumps(nbest, indent=4)` does, which falls back to slow Python code when it indents."""
    if not nbest:
        return "{}\n"
    values = [value for entries in nbest.values() for entry in entries for value in entry.values()]
    # One call of the fast encoder for all of them; a line feed in a text comes out escaped.
    encoded = json.dumps(values, separators=("\n", ":"))[1:-1].split("\n")
    templates = {}  # one for each sequence of entries and of their fields
    rows, begin = [], 0
    for identifier, entries in nbest.items():
        names = tuple(map(tuple, entries))
        if names not in templates:
            templates[names] = _nbest_template(names)
        end = begin + sum(map(len, entries))
        rows.append(templates[names] % (encode_basestring_ascii(identifier), *encoded[begin:end]))
        begin = end
    return "{\n" + ",\n".join(rows) + "\n}\n"


def _nbest_template(names):
    """Return a template for an example's id and values; `names` are the fields of each entry."""
    entries = []
    for fields in names:
        lines = ",\n".join(f"            {encode_basestring_ascii(field)}: %s" for field in fields)
        entries.append(f"        {{\n{lines}\n        }}")
    return "    %s: [\n" + ",\n".join(entries) + "\n    ]"


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


def compute_metrics(examples, answers, null_score_diff_threshold=0.0):
    """Score answers with the functions behind the project's `evaluate` module (`metric_qa.py`).

    Loading the module itself takes three times as long as scoring: it types, copies and hashes all that it is given.

    Args:
        examples: `datasets.Dataset` with `id` and `answers`.
        answers: `Answers` for these examples.
        null_score_diff_threshold: the threshold that `answers` were chosen with (SQuAD 2.0).

    Returns:
        Dictionary of floats in percent: `exact_match` and `f1`; for SQuAD 2.0 the entries of its official script.
    """
    from metric_qa import squad_scores, squad_v2_scores

    texts = pc.struct_field(examples.with_format("arrow")["answers"], "text").to_pylist()
    golds = dict(zip(examples["id"], texts, strict=True))
    if answers.null_odds is None:
        return squad_scores(answers.predictions, golds)
    return squad_v2_scores(answers.predictions, golds, answers.null_odds, null_score_diff_threshold)
