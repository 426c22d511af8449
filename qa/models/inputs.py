"""What a model is given: columns that its forward pass takes, windows that it has positions for.

Belongs here: the one place that decides both, from the model itself and its own tokenizer. Whoever forms inputs asks
the tokenizer, which `settle_inputs` has told.
Does not belong here: loading either (`loading.py`) and running over features (`passes.py`).
"""

import inspect

import torch

from qa.models.engine_runs import LOGITS
from qa.questions.spans import PROBE, own_rules
from qa.start.errors import UsageError

# Columns of a training feature's answer; text without questions has none.
LABELS = ("start_positions", "end_positions")
# Column of features with the token types of a teacher that takes others than its student.
TEACHER_TYPES = "teacher_token_type_ids"
# No model whose positions are not counted one by one is asked for longer windows.
LONGEST = 4096
# Tokens that a short window has, and those of padding behind it, to see whether the model looks at them.
SHORT, PADDED = 16, 24
# Difference of the logits, as a share of their standard deviation, that padding may make: that of rounding.
ROUNDING = 1e-3


def dummy_inputs(model):
    """Return a few tokens to run any model on: a dictionary of `(b, l)` int64 tensors, on the model's device.

    A mask is among them where the model takes one: transformers warns without.
    """
    ids = model.dummy_inputs["input_ids"].to(next(model.parameters()).device)
    if model.config.model_type == "longformer":  # it looks for the three separators of question and context
        end = model.config.sep_token_id
        ids = torch.nn.functional.pad(ids.masked_fill(ids == end, end + 1), (0, 3), value=end)
    return {"input_ids": ids, **{name: torch.ones_like(ids) for name in columns_taken(model, ["attention_mask"])}}


def columns_taken(model, names):
    """Choose the columns that a model takes and looks at.

    Args:
        model: a transformers model.
        names: of columns.

    Returns:
        List of those that are parameters of its `forward`. Token types are none of them where there is one row for all
        of them: any other would be beyond the table, and 0 is what the model takes by itself.
    """
    takes = inspect.signature(model.forward).parameters
    return [
        name for name in names if name in takes and not (name == "token_type_ids" and token_type_rows(model) in (0, 1))
    ]


def token_type_rows(model):
    """Return how many token types a model has embeddings for, `None` if it has no such table."""
    tables = (module for name, module in model.named_modules() if name.endswith("token_type_embeddings"))
    table = next((table for table in tables if isinstance(table, torch.nn.Embedding)), None)
    return getattr(model.config, "type_vocab_size", None) if table is None else table.num_embeddings


def settle_inputs(model, tokenizer, data_args, name, flag="model_name_or_path", reads_questions=True):
    """Find out what a model takes, and tell its tokenizer and the arguments.

    `tokenizer.model_input_names` is narrowed to the columns that the model takes, `data_args.max_seq_length` lowered
    where it takes less, with a warning, and `data_args.never_pad` set where it sees padding.

    Args:
        model: a transformers model on the CPU, in evaluation mode.
        tokenizer: its own.
        data_args: `DataTrainingArguments`.
        name: folder or hub name of the model.
        flag: the argument that names it. The windows of a teacher are those of its student, and are not lowered.
        reads_questions: whether windows share `data_args.doc_stride` tokens.

    Raises:
        UsageError: the model cannot be run on any window, or not on those that the arguments need.
    """
    names = columns_taken(model, tokenizer.model_input_names)
    rows = token_type_rows(model)
    if "token_type_ids" in names and rows and max(_window(tokenizer, SHORT)["token_type_ids"]) >= rows:
        names.remove("token_type_ids")
    if names != tokenizer.model_input_names:
        # In `init_kwargs` it is saved as well: a pipeline asks the tokenizer what the model takes.
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    longest, reason = _longest_window(model, tokenizer, data_args.max_seq_length)
    if not longest:
        raise UsageError(f"--{flag} {name} does not run on a window of question and context: {reason}")
    if longest < data_args.max_seq_length:
        said = f"--max_seq_length is {data_args.max_seq_length}, but the model takes at most {longest} tokens"
        if flag != "model_name_or_path":
            raise UsageError(f"{said} (--{flag} {name}); lower it")
        if reads_questions and data_args.doc_stride >= longest:
            raise UsageError(f"{said} (--{flag} {name}), and --doc_stride is {data_args.doc_stride}; lower both")
        print(f"warning: {said} (--{flag} {name}); {longest} is used")
        data_args.max_seq_length = longest
    if flag == "model_name_or_path" and not data_args.pad_to_max_length and _sees_padding(model, tokenizer, longest):
        print(f"note: {name} sees padding; so that no answer depends on others, features of one length are evaluated")
        data_args.never_pad = True


def refuse_without_mask(tokenizer, name):
    """Refuse a model that is to be compared with a teacher, and is told nothing of padding.

    Args:
        tokenizer: the model's own, settled.
        name: folder or hub name of the model.

    Raises:
        UsageError: it takes no attention mask.
    """
    if "attention_mask" not in tokenizer.model_input_names:
        raise UsageError(
            f"--model_name_or_path {name} takes no attention mask, so that a teacher would teach it padding; use "
            "another kind of model"
        )


def _window(tokenizer, length):
    """Return a window of question and context with so many tokens: a dictionary of lists."""
    question, context = "a", f"{PROBE} " * (length // 10 + 2)
    question_first = tokenizer.padding_side == "right"
    with own_rules(tokenizer):
        window = tokenizer(
            *((question, context) if question_first else (context, question)),
            truncation="only_second" if question_first else "only_first",
            max_length=length,
        )
    return {name: window[name] for name in tokenizer.model_input_names}


def _logits(model, window, padding=()):
    """Run a model on one window; return its logits as `(2, l)` float32.

    Args:
        model: a transformers model.
        window: dictionary of lists.
        padding: dictionary of lists, to be put behind those.
    """
    inputs = {name: torch.tensor([values + (padding[name] if padding else [])]) for name, values in window.items()}
    # In inference mode layers that keep a table of positions could no longer be trained.
    with torch.no_grad():
        outputs = model(**inputs)
    logits = torch.cat([outputs[name] for name in LOGITS])
    if logits.shape != (2, inputs["input_ids"].shape[1]):
        raise ValueError(f"its logits have the shape {list(logits.shape)}")
    return logits


def _longest_window(model, tokenizer, wanted):
    """Find the longest window that a model runs on, by running it.

    Returns:
        `(length, reason)`: tokens, at most `wanted`, 0 if there is none; and the error of a longer one.
    """
    positions = getattr(model.config, "max_position_embeddings", 0)
    longest = min(wanted, max(positions, LONGEST))
    if tokenizer.model_max_length > 0:
        longest = min(longest, tokenizer.model_max_length)

    def failure(length):
        window = _window(tokenizer, length)
        # An unknown word may have the id of the padding, which takes no place in some layouts.
        ids = window["input_ids"]
        window["input_ids"] = [ids[0] if number == tokenizer.unk_token_id else number for number in ids]
        try:
            _logits(model, window)
        except Exception as error:  # layers raise whatever comes of a place beyond their tables
            return f"{type(error).__name__}: {error}"
        return None

    reason = failure(longest)
    if reason is None:
        return longest, None
    shortest = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if failure(shortest) is not None:
        return 0, reason
    fits, fails = shortest, longest
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if failure(middle) is None else (fits, middle)
    return fits, reason


def _sees_padding(model, tokenizer, longest):
    """Tell whether the logits of a short window change with padding behind it: not all layouts mask it everywhere."""
    if longest < PADDED:
        return False
    window = _window(tokenizer, SHORT)
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    alone = _logits(model, window)
    padded = _logits(model, window, {name: [padding.get(name, 0)] * (PADDED - SHORT) for name in window})
    change = (padded[:, :SHORT] - alone).abs().max()
    return bool(change > ROUNDING * (alone.std() + 1e-6))
