"""YAML files in, checked settings for Intel Neural Compressor out.

Belongs here: reading the files of `config/` and users' own ones, and saying which line of which file is wrong.
Does not belong here: what the settings are used for.

Files are read as trees of nodes by PyYAML's safe loader: no tag builds an object, and every message knows its line.
"""

import re
from pathlib import Path

import yaml

from environment_qa import PROJECT_DIR, UsageError

CONFIG_DIR = PROJECT_DIR / "config"
# Far more than a sensible file has. Aliases can make a short file unfold to billions.
MAX_NODES = 10_000


class Choice:
    """One of some words or numbers; INC takes a list of them as well where `many` is true."""

    def __init__(self, *allowed, many=False):
        self.allowed, self.many = allowed, many
        self.text = f"{'some' if many else 'one'} of {', '.join(map(str, allowed))}"

    def accepts(self, value):
        values = value if self.many and isinstance(value, list) else [value]
        return bool(values) and all(type(value) in (str, int) and value in self.allowed for value in values)


class Number:
    """A number of a type within bounds, both included; an `int` will do for a `float`."""

    def __init__(self, kind, lowest, highest=float("inf")):
        self.kind, self.lowest, self.highest = kind, lowest, highest
        name = "whole number" if kind is int else "number"
        self.text = f"a {name} of at least {lowest}" + (f" and at most {highest}" if highest < float("inf") else "")

    def accepts(self, value):
        return type(value) in (int, self.kind) and self.lowest <= value <= self.highest


class Flag:
    """True or false."""

    text = "true or false"

    def accepts(self, value):
        return isinstance(value, bool)


class AnyKey:
    """A mapping whose keys are the user's (operator names or types) and whose values follow one schema."""

    def __init__(self, schema):
        self.schema = schema


_PRECISION = Choice("int8", "uint8", "fp32", "bf16", many=True)
_OPERATOR = {
    side: {
        "dtype": _PRECISION,
        "scheme": Choice("sym", "asym", many=True),
        "granularity": Choice("per_tensor", "per_channel", many=True),
        "algorithm": Choice("minmax", "kl", many=True),
    }
    for side in ("weight", "activation")
}
_QUANTIZATION = {
    "op_type_dict": AnyKey(_OPERATOR),
    "op_name_dict": AnyKey(_OPERATOR),
    "quant_level": Choice("auto", 0, 1),
    "recipes": {
        "smooth_quant": Flag(),
        "smooth_quant_args": {"alpha": Number(float, 0.0, 1.0), "folding": Flag()},
        "fast_bias_correction": Flag(),
        "weight_correction": Flag(),
    },
}
# Keys of INC's PostTrainingQuantConfig, at the top for every approach or under the name of the one they are for.
QUANTIZATION_SCHEMA = {**_QUANTIZATION, "dynamic": _QUANTIZATION, "static": _QUANTIZATION, "ipex": _QUANTIZATION}


def find_config(path, flag):
    """Return the path of a configuration file: as given, else by its name in the project's `config/`.

    Raises:
        UsageError: there is neither.
    """
    for candidate in (Path(path), CONFIG_DIR / Path(path).name):
        if candidate.is_file():
            return candidate
    raise UsageError(f"--{flag} {path}: there is no such file, nor {CONFIG_DIR / Path(path).name}")


def read_config(path, schema):
    """Read a YAML file and check every key and value in it.

    Args:
        path: an existing file.
        schema: nested dictionary from key to `Choice`, `Number`, `Flag`, `AnyKey` or another such dictionary.

    Returns:
        Nested dictionary of plain values.

    Raises:
        UsageError: the file is no YAML mapping, or a key or value is not in the schema; the message has the line.
    """
    try:
        node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    return {} if node is None else _checked(node, schema, str(path), "", [0])


def _checked(node, schema, path, name, visited):
    """Turn a node into plain values after `schema`; `visited` counts the nodes seen so far."""
    visited[0] += 1
    place = f"{path}, line {node.start_mark.line + 1}: "
    if visited[0] > MAX_NODES:
        raise UsageError(f"{place}the file unfolds to more than {MAX_NODES} values; write it without aliases")
    if not node.tag.startswith("tag:yaml.org,2002:") or ":python/" in node.tag:
        raise UsageError(f"{place}the tag {node.tag} is not allowed; write plain values")
    if not isinstance(schema, (dict, AnyKey)):
        value = _plain(node, place, visited)
        if not schema.accepts(value):
            raise UsageError(f"{place}{name} is {value!r}; give {schema.text}")
        return value
    if not isinstance(node, yaml.MappingNode):
        if node.tag == "tag:yaml.org,2002:null":
            return {}
        known = "operators" if isinstance(schema, AnyKey) else ", ".join(schema)
        raise UsageError(f"{place}{name or 'the file'} must be a mapping with keys among: {known}")
    values = {}
    for key_node, value_node in node.value:
        key = _plain(key_node, place, visited)
        place_of_key = f"{path}, line {key_node.start_mark.line + 1}: "
        if isinstance(schema, AnyKey):
            _refuse_bad_pattern(key, place_of_key)
        elif key not in schema:
            raise UsageError(f"{place_of_key}unknown key {key!r}; allowed here: {', '.join(schema)}")
        if key in values:
            raise UsageError(f"{place_of_key}the key {key!r} stands twice")
        inner = schema.schema if isinstance(schema, AnyKey) else schema[key]
        values[key] = _checked(value_node, inner, path, str(key), visited)
    return values


def _plain(node, place, visited):
    """Build a scalar, or a list of scalars."""
    if isinstance(node, yaml.SequenceNode):
        visited[0] += len(node.value)
        return [_plain(child, place, visited) for child in node.value if isinstance(child, yaml.ScalarNode)]
    if not isinstance(node, yaml.ScalarNode):
        raise UsageError(f"{place}expected a single value here, found a mapping")
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{place}{node.value!r} cannot be read: {' '.join(str(error).split())}") from error


def _refuse_bad_pattern(key, place):
    """INC matches operator names as regular expressions."""
    try:
        re.compile(key)
    except (re.error, TypeError) as error:
        raise UsageError(f"{place}the operator name {key!r} is not a regular expression: {error}") from error


def quantization_settings(approach, path=CONFIG_DIR / "quantization.yml"):
    """Read INC's settings for one approach.

    Args:
        approach: `dynamic`, `static` or `ipex`.
        path: YAML file after `QUANTIZATION_SCHEMA`.

    Returns:
        Keyword arguments for `PostTrainingQuantConfig`: the keys at the top of the file, then those of the approach.
    """
    content = read_config(path, QUANTIZATION_SCHEMA)
    common = {key: value for key, value in content.items() if key in _QUANTIZATION}
    return {**common, **content.get(approach, {})}
