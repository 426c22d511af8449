"""Lists, numbers and mappings that a CSV file holds as text, back to values.

Belongs here: what `json`, Python, NumPy 1 and 2, pandas and `datasets` print for the values of a cell. Nothing in the
text is run.
Does not belong here: what the values mean (`examples.py`).
"""

import ast
import json
import re
import warnings

# What stands for no value: in Python, JSON, NumPy and pandas.
MISSING = ("None", "null", "nan", "NaN", "NAN", "NaT", "<NA>", "NA", "N/A")
_NAMES = {"True": True, "true": True, "False": False, "false": False, **dict.fromkeys(MISSING)}
# What is printed around a value or a list, and adds nothing to it.
_WRAPPERS = re.compile(
    r"(?:(?:np|numpy|torch|pd|pandas|builtins|collections)\.)?"
    r"(?:array|asarray|tensor|list|tuple|dict|OrderedDict|u?int(?:8|16|32|64|c|p|_)?|float(?:16|32|64|_)?|str_?|object_?)"
)
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>[bBuUrR]{0,2}(?:'''(?:[^\\]|\\.)*?'''|\"""(?:[^\\]|\\.)*?\"""|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"))
        | (?P<shortened>\.\.\.|…)
        | (?P<number>[-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
        | (?P<name><NA>|[-+]?[A-Za-z_][\w.]*)
        | (?P<header><\w+Array>)
        | (?P<sign>[\[\](){},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)
# pandas prints its own arrays with a line above and one below.
_FOOTER = re.compile(r"\s*Length: \d+, dtype: [^\n]*\s*")


class ShortenedError(ValueError):
    """The writer of the text left values out."""


def value_of_text(text):
    """Read a value that was printed.

    Args:
        text: JSON, a Python literal, or what NumPy, pandas or PyTorch print for arrays and numbers, in any mix. Commas
            between the entries of a list may be missing, as in NumPy's `[ 3 15]`.

    Returns:
        Numbers, texts, `None`, lists (also for tuples and arrays), sets and dictionaries.

    Raises:
        ShortenedError: there are three dots in place of some of the values.
        ValueError: it is none of these.
    """
    try:
        return json.loads(text, parse_constant=lambda name: None)  # NaN, which stands for a missing value
    except (ValueError, RecursionError):
        pass
    try:
        tokens = _tokens(text)
        value, place = _value(tokens, 0)
    except (RecursionError, IndexError, SyntaxError, TypeError, UnicodeDecodeError) as error:
        raise ValueError("it is no printed value") from error
    if tokens[place][0] != "end":
        raise ValueError("there is more behind the value")
    return value


def _tokens(text):
    tokens, place, end = [], 0, len(text.rstrip())
    while place < end:
        match = _TOKEN.match(text, place)
        if match is None:
            break
        if match.lastgroup == "shortened":
            raise ShortenedError("it is shortened by '...'")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        place = match.end()
        if tokens[0][0] == "header" and (footer := _FOOTER.match(text, place)):
            place = footer.end()
    if place < end:
        raise ValueError("there is no value")
    return [*(token for token in tokens if token[0] != "header"), ("end", "")]


def _value(tokens, place):
    """Read the value that begins at a token; return it and the place behind it."""
    kind, token = tokens[place]
    if kind == "text":
        return _text(token), place + 1
    if kind == "number":
        return (float(token) if re.search("[.eE]", token) else int(token)), place + 1
    if kind == "name":
        if tokens[place + 1][1] == "(" and _WRAPPERS.fullmatch(token):
            value, place = _wrapped(tokens, place + 2)
            return (dict(value) if token.lower().endswith("dict") else value), place
        if token in _NAMES:
            return _NAMES[token], place + 1
    if token == "[":
        return _sequence(tokens, place + 1, "]")
    if token == "(":
        values, place = _sequence(tokens, place + 1, ")")
        # One value in brackets is that value; a tuple of one has a comma.
        alone = len(values) == 1 and tokens[place - 2][1] != ","
        return (values[0] if alone else values), place
    if token == "{":
        return _mapping(tokens, place + 1)
    raise ValueError("there is no value")


def _text(token):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a backslash that escapes nothing
        value = ast.literal_eval(token)
    return value.decode("utf-8") if isinstance(value, bytes) else value


def _sequence(tokens, place, end):
    """Read values up to a closing bracket; return their list and the place behind it."""
    values, commas, joints = [], False, []
    while tokens[place][1] != end or tokens[place][0] != "sign":
        value, behind = _value(tokens, place)
        if values and tokens[place][0] == tokens[place - 1][0] == "text":
            joints.append(len(values))
        values.append(value)
        place = behind
        if tokens[place] == ("sign", ","):
            commas, place = True, place + 1
    if joints and (commas or end == ")"):
        # Python's pretty-printer breaks a long text into several, where NumPy leaves all commas out.
        for number in reversed(joints):
            values[number - 1 : number + 1] = ["".join(values[number - 1 : number + 1])]
    return values, place + 1


def _mapping(tokens, place):
    """Read a dictionary, or a set, up to its closing brace."""
    mapping, values = {}, []
    while tokens[place] != ("sign", "}"):
        key, place = _value(tokens, place)
        values.append(key)
        if tokens[place] == ("sign", ":"):
            mapping[key], place = _value(tokens, place + 1)
        if tokens[place] == ("sign", ","):
            place += 1
    if len(mapping) not in (0, len(values)):
        raise ValueError("it is no mapping")
    return (mapping if mapping or not values else set(values)), place + 1


def _wrapped(tokens, place):
    """Read the first argument of what is printed like a call, and pass over those with a name, such as `dtype`."""
    value, depth = [], 1
    if tokens[place] != ("sign", ")") and tokens[place + 1] != ("sign", "="):
        value, place = _value(tokens, place)
    while depth:
        kind, token = tokens[place]
        if kind == "end":
            raise ValueError("a bracket is open")
        depth += {"(": 1, ")": -1}.get(token, 0) if kind == "sign" else 0
        place += 1
    return value, place
