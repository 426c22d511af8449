"""YAML files in, plain values out, and the line of each.

Belongs here: reading a file that may come from anybody with PyYAML's safe loader, so that no tag builds an object.
Does not belong here: what the values mean (`qa/compression/settings.py`, `arguments.py`).
"""

import re
from pathlib import Path

import yaml

from qa.start.errors import UsageError

# Far more than a sensible file has. Aliases can make a short file unfold to billions, or contain itself.
MAX_NODES = 10_000
# Dates, merge keys, sets and Python objects are left out: nothing here needs them.
PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """To YAML 1.1, unlike to people and here, 2:4 is the number 124 and 1e-3 is text."""

    def resolve(self, kind, value, implicit):
        if kind is yaml.ScalarNode and implicit[0] and ":" in value:
            return self.DEFAULT_SCALAR_TAG
        if kind is yaml.ScalarNode and implicit[0] and re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", value, re.ASCII):
            return "tag:yaml.org,2002:float"
        return super().resolve(kind, value, implicit)

    def construct_object(self, node, deep=False):
        if isinstance(node, yaml.CollectionNode):
            node.tag = self.DEFAULT_MAPPING_TAG if node.id == "mapping" else self.DEFAULT_SEQUENCE_TAG
        try:
            return super().construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, LookupError):
            return node.value  # text that contradicts its tag stays text


def compose(path, tags=PLAIN_TAGS):
    """Parse a YAML file to a tree of nodes that is small and has plain tags only; nothing is built from it.

    Args:
        path: of the file.
        tags: those that are allowed.

    Returns:
        The root node, or `None` for an empty file.

    Raises:
        UsageError: the file cannot be read, unfolds to too many values, has other tags, or a key twice.
    """
    content = b""
    try:
        content = Path(path).read_bytes()
        root = yaml.compose(content.decode(), Loader=_Loader)
    except (OSError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        offset = getattr(error, "start", getattr(error, "position", 0))
        line = 1 + (mark.line if mark else content.count(b"\n", 0, offset))
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{path}, line {line}: this cannot be read as YAML: {problem}") from error
    waiting, count = [root] if root else [], 1
    while waiting:
        node = waiting.pop()
        found = f"{path}, line {node.start_mark.line + 1}: {_described(node)}"
        if node.tag not in tags and (node.tag, node.id) != ("!Pruner", "mapping"):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UsageError(f"{found} has the tag {tag}; give plain text, numbers, lists and mappings")
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        count += len(children)
        if count > MAX_NODES:
            raise UsageError(f"{found} unfolds to more than {MAX_NODES} values; write less, no aliases")
        waiting.extend(reversed(children))
    return root


def read_values(path):
    """Read a YAML file as plain values.

    Returns:
        `(values, lines)`: what the file holds, and a dictionary from the keys and indices that lead to a value, as a
        tuple, to the lines of its key and of the value itself.

    Raises:
        UsageError: as `compose`, or a key is no text or number, or stands twice in a mapping.
    """
    root = compose(path) or yaml.compose("{}", Loader=_Loader)
    lines, waiting = {}, [((), root, root)]
    for trail, key, node in waiting:
        line = key.start_mark.line + 1
        if key is not node and key.tag != _Loader.DEFAULT_SCALAR_TAG:
            found = key.value if isinstance(key, yaml.ScalarNode) else _described(key)
            allowed = "names of settings, and regular expressions for operators in quotes"
            raise UsageError(f"{path}, line {line}: unknown key {found:.100}; allowed are {allowed}")
        if trail in lines:
            raise UsageError(f"{path}, line {line}: the key {trail[-1]!r:.100} stands twice in one mapping; keep one")
        lines[trail] = line, node.start_mark.line + 1
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(((*trail, i), child, child) for i, child in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(((*trail, name.value), name, child) for name, child in node.value)
    return _Loader("").construct_document(root), lines


def _described(node):
    return f"{node.value!r:.100}" if isinstance(node, yaml.ScalarNode) else f"a {node.id.replace('sequence', 'list')}"
