"""Which characters a token stands for: checked against the text, mended, and without white space around them.

Belongs here: what a tokenizer says of a text beside the tokens, and leaving it as it was.
Does not belong here: windows and labels (`features.py`).
"""

import contextlib
import string

import numpy as np

# Words that tokenizers split in one way or another, letters that stand alone, and characters of several bytes.
PROBE = "Zoë's naïve crew of 9 saw a mill, in 1874 (I think): x-ray no. 7 b."
WHITE = np.array([place for place in range(0x3001) if chr(place).isspace()])  # there are none behind


@contextlib.contextmanager
def own_rules(tokenizer):
    """Use a fast tokenizer without truncation and padding, and give it back those that it came with.

    They are saved with it: with others, whoever loads what a run wrote would have texts cut. What is done with it
    meanwhile may set its own. Yields its backend.
    """
    backend = tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        yield backend
    finally:
        if truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**truncation)
        if padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(**padding)


def tokenizer_rules(tokenizer):
    """Return all that decides how a fast tokenizer splits text, but for the settings that its last call left there."""
    with own_rules(tokenizer) as backend:
        sides = [tokenizer.padding_side, tokenizer.truncation_side]
        return [backend.to_str(), *sides, tokenizer.model_input_names]


def spans_are_late(tokenizer):
    """Tell whether the spans of a tokenizer begin behind their tokens, so that `mend_late` has to put them right.

    That comes of pre-tokenizers that put a space before each word, which the post-processor then counts as one of the
    text.

    Args:
        tokenizer: a fast tokenizer; it is not changed.

    Raises:
        ValueError: they are wrong in some other way; the message shows a token.
    """
    with own_rules(tokenizer) as backend:
        # Some are wrong in the first word alone, and there only where it begins with a piece that they know.
        texts = [first + PROBE[1:] for first in string.ascii_letters]
        encodings = [backend.encode("a", text) for text in texts]
    late = [_is_late(tokenizer, *each) for each in zip(texts, encodings, strict=True)]
    return any(late)


def _is_late(tokenizer, text, encoding):
    found = [
        (token, span)
        for token, span, sequence in zip(encoding.ids, encoding.offsets, encoding.sequence_ids, strict=True)
        if sequence == 1
    ]
    if not found:
        raise ValueError("it says of no token that it is of the second of two texts")
    tokens, spans = [token for token, _ in found], [span for _, span in found]
    if _misfit(tokenizer, text, tokens, spans) is None:
        return False
    wrong = _misfit(tokenizer, text, tokens, mend_late(spans, text))
    if wrong is None:
        return True
    token, (begin, end) = wrong
    raise ValueError(
        f"it says that the token {tokenizer.decode([token]).strip()!r} is {text[begin:end]!r} in the text"
    )


def _misfit(tokenizer, text, tokens, spans):
    """Return the first token and span that do not fit, where the spans leave out letters or digits of the text."""
    covered = {place for begin, end in spans for place in range(begin, end)}
    letters = {place for place, character in enumerate(text) if character.isascii() and character.isalnum()}
    if letters <= covered:
        return None
    joint = getattr(tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None) or ""
    for token, (begin, end) in zip(tokens, spans, strict=True):
        piece = tokenizer.decode([token], clean_up_tokenization_spaces=False).strip().removeprefix(joint)
        known = token != tokenizer.unk_token_id and piece.isascii() and text[begin:end].isascii()
        if known and piece.casefold() != text[begin:end].strip().casefold():
            return token, (begin, end)
    return None  # some characters have no token, but those that have one are where they should be


def mend_late(spans, text):
    """Move spans that begin too late to the characters before them that no token has.

    Args:
        spans: list of `(begin, end)`, of all tokens of the text in their order.
        text: what they are of.

    Returns:
        List of `(begin, end)`.
    """
    mended, done = [], 0
    following = [begin for begin, _ in spans[1:]]
    for (begin, end), limit in zip(spans, [*following, len(text)], strict=True):
        if done <= limit < begin:  # what was skipped is the next token's
            end = limit
        skipped = text[done:begin]
        if skipped.strip():
            begin = done + len(skipped) - len(skipped.lstrip())
        begin = min(begin, end)
        done = max(done, end)
        mended.append((begin, end))
    return mended


def trim_white(offsets, texts, text_of):
    """Take white space away from both ends of spans.

    Args:
        offsets: `(t, 2)` int32 character spans, changed in place; those of white space alone stay as they are.
        texts: list of texts.
        text_of: `(t,)` int, the text that each span is of.

    Returns:
        `(t,)` bool, which spans are white space alone.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    ink = ~np.isin(characters, WHITE)
    places = np.arange(len(ink))
    # For each character, the next and the last one that is not white, itself included.
    following = np.minimum.accumulate(np.where(ink, places, len(ink))[::-1])[::-1]
    before = np.maximum.accumulate(np.where(ink, places, -1))
    shift = (np.cumsum(lengths) - lengths)[text_of]
    begin, end = offsets[:, 0] + shift, offsets[:, 1] + shift
    full = offsets[:, 1] > offsets[:, 0]
    trimmed = np.stack((following[begin[full]] - shift[full], before[end[full] - 1] + 1 - shift[full]), axis=1)
    blank = np.zeros(len(offsets), dtype=bool)
    blank[full] = trimmed[:, 0] >= trimmed[:, 1]
    offsets[np.flatnonzero(full)[~blank[full]]] = trimmed[~blank[full]]
    return blank
