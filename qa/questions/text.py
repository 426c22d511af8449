"""Plain text for a language model: files in, windows of tokens out.

Belongs here: which part of a row is text, and how text is cut into windows.
Does not belong here: file formats (`files.py`), and questions about a text (`examples.py`).
"""

from qa.questions.columns import first_named
from qa.questions.data_sets import open_data_set, rows_of_split
from qa.questions.examples import source_of
from qa.questions.files import kind_of_value, reading, rows_of_file
from qa.questions.spans import own_rules
from qa.start.errors import UsageError

# Texts that are cut into tokens at once.
BATCH = 1000


def load_texts(data_args, model_args, splits):
    """Load the text to learn from: each row's column of that name or a like one, of question files the contexts.

    Args:
        data_args: `DataTrainingArguments`.
        model_args: `ModelArguments` (cache folder and token for the hub).
        splits: `["train"]`, or none.

    Returns:
        Dictionary from `train` to a list of texts, each of them once, in the order of the file.

    Raises:
        UsageError: the split is missing or unreadable, a row has no text, or all texts are blank.
    """
    if not splits:
        return {}
    source = source_of(data_args, "train")
    if data_args.dataset_name is None:
        rows = rows_of_file(data_args.train_file)
    else:
        rows = rows_of_split(open_data_set(data_args, model_args), "train", source)
    texts = {}
    with reading(source):
        for place, row in rows:
            if len(texts) == data_args.max_train_samples:
                break
            text = first_named(row, "context") if isinstance(row, dict) else row
            if not isinstance(text, str):
                raise UsageError(
                    f"{source}, {place}: there is no text, but {kind_of_value(text)}; call the column 'text'"
                )
            texts[text] = None
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"{source}: there is no text in it")
    return {"train": texts}


def text_windows(texts, tokenizer, length):
    """Cut texts, one behind the other, into windows that are full but for the last.

    Args:
        texts: list of texts.
        tokenizer: a fast one with CLS and SEP tokens; a SEP stands between two texts.
        length: tokens of a window, those at its ends included.

    Returns:
        `datasets.Dataset` with `input_ids` (int32) and `attention_mask` (int8), lists of at most `length`, and
        `token_type_ids` (int8) if the tokenizer makes them.

    Raises:
        UsageError: a text cannot be cut, as one with half a character, the tokenizer has no SEP token, or a window
            has no room for text.
    """
    import datasets
    import numpy as np
    import pyarrow as pa

    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    if last is None:
        raise UsageError("the tokenizer has no SEP token, which stands between two texts; use a BERT-like model")
    if length < 3:
        raise UsageError(f"--max_seq_length is {length}; give at least 3: a token between CLS and SEP")
    parts = []
    with own_rules(tokenizer):
        for begin in range(0, len(texts), BATCH):
            try:
                encoded = tokenizer(texts[begin : begin + BATCH], add_special_tokens=False, verbose=False)["input_ids"]
            except (UnicodeEncodeError, TypeError) as error:
                raise UsageError(f"the training text cannot be cut into tokens: {error}") from error
            parts += [np.array([*tokens, last], dtype=np.int32) for tokens in encoded if tokens]
    if not parts:
        raise UsageError("there is no token in the training text; give another --train_file")
    tokens = np.concatenate(parts)[:-1]
    inner = length - 2
    windows = [tokens[begin : begin + inner] for begin in range(0, len(tokens), inner)]
    windows = [np.concatenate(([first], window, [last])) for window in windows]
    lengths = np.array([len(window) for window in windows])
    ids = np.concatenate(windows).astype(np.int32)
    columns = {"input_ids": ids, "attention_mask": np.ones(len(ids), np.int8)}
    if "token_type_ids" in tokenizer.model_input_names:
        columns["token_type_ids"] = np.zeros(len(ids), np.int8)
    ends = pa.array(np.concatenate(([0], np.cumsum(lengths))), type=pa.int32())
    lists = {name: pa.ListArray.from_arrays(ends, pa.array(values)) for name, values in columns.items()}
    return datasets.Dataset(pa.table(lists))
