"""Examples to features: the SQuAD pre-processing that all scripts share, on Arrow tables and NumPy arrays.

Belongs here: windows of tokens, their labels, and the cache of both.
Does not belong here: reading files (`files.py`), and answers (`answers.py`).

Features are stored unpadded; whatever forms a batch pads it. So the CLS token of a feature is at position 0, and
position `i` of its logits is token `i` of its `input_ids`.
"""

import hashlib
import json
from itertools import chain, repeat
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import tokenizers
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils import PaddingStrategy

from qa.questions.checks import ids_in_a_file
from qa.questions.spans import mend_late, own_rules, spans_are_late, tokenizer_rules, trim_white
from qa.start.digests import code_of
from qa.start.errors import UsageError
from qa.start.writing import saving

EXAMPLE_FEATURES = datasets.Features(
    {
        **{name: datasets.Value("string") for name in ("id", "context", "question")},
        "answers": {
            "text": datasets.Sequence(datasets.Value("string")),
            "answer_start": datasets.Sequence(datasets.Value("int32")),
        },
    }
)


def dataset_of(examples):
    """Turn a list of examples (see `examples.py`) into a `datasets.Dataset`."""
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
    features = uncached_features(examples.select(generator.permutation(len(examples))[:count]), tokenizer, data_args)
    return features.select(generator.permutation(len(features))[:count])


def uncached_features(examples, tokenizer, data_args):
    """Prepare the features of a few examples, without a file in the cache; parameters as in `prepare_features`."""
    table = examples.with_format("arrow")[:]
    return datasets.Dataset(_windows_of(table, tokenizer, data_args.max_seq_length, data_args.doc_stride))


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
        `offset_mapping` (L pairs of character positions in the context, white space at either end left out, null for
        tokens outside it and for those of white space alone), and `start_positions` and `end_positions` (int32, token
        positions of the first answer; 0, the CLS token, if it is not wholly inside the window).

    Raises:
        SaveError: there is no room for them in the cache.
        UsageError: a question is so long that the windows could not advance through its context, or the file in the
            cache is damaged.
    """
    settings = {"max_seq_length": data_args.max_seq_length, "doc_stride": data_args.doc_stride}
    rules = [*tokenizer_rules(tokenizer), settings, tokenizers.__version__, code_of("questions")]
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
    pairs = list(zip(questions, contexts, strict=True) if question_first else zip(contexts, questions, strict=True))
    with own_rules(tokenizer):
        _refuse_long_questions(batch["id"].to_pylist(), questions, tokenizer, max_seq_length, doc_stride)
        tokenizer.set_truncation_and_padding(
            padding_strategy=PaddingStrategy.DO_NOT_PAD,
            truncation_strategy=TruncationStrategy.ONLY_SECOND if question_first else TruncationStrategy.ONLY_FIRST,
            max_length=max_seq_length,
            stride=doc_stride,
            pad_to_multiple_of=None,
            padding_side=None,
        )
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
    if spans_are_late(tokenizer):
        _mend_windows(offsets, first_span, example_of, contexts, doc_stride)
    blank = trim_white(offsets, contexts, np.repeat(example_of, counts))
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
            kind = "int32" if name == "input_ids" else "int8"
            values = np.fromiter(columns[name], dtype=kind, count=total)
            table[name] = pa.ListArray.from_arrays(boundaries, pa.array(values))
    table["example_id"] = batch["id"].take(pa.array(example_of))
    # A null pair for each token that no answer begins or ends with: it takes up no values, and its slot is masked.
    place = np.arange(total) - np.repeat(boundaries.to_numpy()[:-1], lengths)
    in_context = (place >= np.repeat(begins, lengths)) & (place < np.repeat(begins + counts, lengths))
    in_context[in_context] = ~blank
    pair_ends = np.concatenate(([0], np.cumsum(in_context * 2)))
    pairs = pa.ListArray.from_arrays(
        pa.array(pair_ends, type=pa.int32()), pa.array(offsets[~blank].ravel()), mask=pa.array(~in_context)
    )
    table["offset_mapping"] = pa.ListArray.from_arrays(boundaries, pairs)
    table["start_positions"] = pa.array(starts)
    table["end_positions"] = pa.array(ends)
    return pa.table(table)


def _mend_windows(offsets, first_span, example_of, contexts, doc_stride):
    """Mend late spans in place; each window but the first shares its first `doc_stride` with the one before it."""
    for row, context in enumerate(contexts):
        windows = np.flatnonzero(example_of == row)
        runs = [np.arange(first_span[window], first_span[window + 1]) for window in windows]
        whole = np.concatenate([runs[0], *(run[doc_stride:] for run in runs[1:])])
        mended = np.array(mend_late(offsets[whole].tolist(), context), dtype=offsets.dtype).reshape(-1, 2)
        place = 0
        for run in runs:
            offsets[run] = mended[place : place + len(run)]
            place += len(run) - doc_stride


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
    counts = {ids[number]: len(tokens) for number, tokens in zip(suspects, encoded["input_ids"], strict=True)}
    if long := [identifier for identifier, count in counts.items() if count >= room]:
        raise UsageError(
            f"question {long[0]} has {counts[long[0]]} tokens; with --max_seq_length {max_seq_length} and "
            f"--doc_stride {doc_stride} it may have {max(room - 1, 0)}: raise the first, lower the second or "
            f"shorten the question{ids_in_a_file(long)}"
        )


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
