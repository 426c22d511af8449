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


def read_tree(path, tags=PLAIN_TAGS):
    """Parse a YAML file to a tree of nodes that is small and has plain tags only; nothing is built from it.

    Args:
        path: of the file.
        tags: those that are allowed.

    Returns:
        `(root, lines)`: the root node, `None` for an empty file; and a dictionary from the keys and indices that lead
        to a value, as a tuple, to the lines of its key and of the value itself.

    Raises:
        UsageError: the file cannot be read, unfolds to too many values, has other tags, a key that is no text, or one
            twice in a mapping.
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
    lines, waiting = {(): (1, 1)}, [((), root, root)] if root else []
    for trail, key, node in waiting:
        line, value_line = (part.start_mark.line + 1 for part in (key, node))
        for part, its_line in ((key, line), (node, value_line)):
            if part.tag not in tags and (part.tag, part.id) != ("!Pruner", "mapping"):
                tag = part.tag.replace("tag:yaml.org,2002:", "!!")
                allowed = "plain text, numbers, lists and mappings"
                raise UsageError(f"{path}, line {its_line}: {_described(part)} has the tag {tag}; give {allowed}")
        if key is not node and key.tag != _Loader.DEFAULT_SCALAR_TAG:
            found = key.value if isinstance(key, yaml.ScalarNode) else _described(key)
            allowed = "names, and regular expressions in quotes"
            raise UsageError(f"{path}, line {line}: unknown key {found:.100}; allowed are {allowed}")
        if trail and trail in lines:
            raise UsageError(f"{path}, line {line}: the key {trail[-1]!r:.100} stands twice in one mapping; keep one")
        lines[trail] = line, value_line
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(((*trail, i), child, child) for i, child in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(((*trail, name.value), name, child) for name, child in node.value)
        if len(waiting) > MAX_NODES:
            raise UsageError(f"{path}, line 1: it unfolds to more than {MAX_NODES} values; write less, no aliases")
    return root, lines


def plain(node):
    """Build the plain values of a node from `read_tree`; text that contradicts its tag stays text."""
    if isinstance(node, yaml.SequenceNode):
        return [plain(child) for child in node.value]
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    try:
        return _Loader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, LookupError):
        return node.value


def _described(node):
    return f"{node.value!r:.100}" if isinstance(node, yaml.ScalarNode) else f"a {node.id.replace('sequence', 'list')}"
