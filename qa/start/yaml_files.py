"""YAML files in, trees of plain nodes out, each of which knows its line.

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


def compose(path, tags=PLAIN_TAGS):
    """Parse a YAML file to a tree of nodes that is small and has plain tags only; nothing is built from it.

    Args:
        path: of the file.
        tags: those that are allowed.

    Returns:
        The root node, or `None` for an empty file.

    Raises:
        UsageError: the file cannot be read, unfolds to too many values, or has other tags.
    """
    content = b""
    try:
        content = Path(path).read_bytes()
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        offset = getattr(error, "start", getattr(error, "position", 0))
        line = 1 + (mark.line if mark else content.count(b"\n", 0, offset))
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{at_line(path, line)}this cannot be read as YAML: {problem}") from error
    waiting, count = [root] if root else [], 1
    while waiting:
        node = waiting.pop()
        place = at_line(path, node.start_mark.line + 1)
        if node.tag not in tags and not (node.tag == "!Pruner" and isinstance(node, yaml.MappingNode)):
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UsageError(
                f"{place}{described(node)} has the tag {tag}; give plain text, numbers, lists and mappings"
            )
        children = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        count += len(children)
        if count > MAX_NODES:
            raise UsageError(f"{place}the file unfolds to more than {MAX_NODES} values; write less, no aliases")
        waiting.extend(reversed(children))
    return root


def at_line(path, line):
    return f"{path}, line {line}: "


def plain(node):
    """Build the value of a single node; what cannot be built stays text, and lists and mappings become `None`."""
    if not isinstance(node, yaml.ScalarNode):
        return None
    # To YAML 1.1, unlike to people, 2:4 is the number 124 and 1e-3 is text.
    if ":" in node.value:
        return node.value
    if node.style is None and re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", node.value, re.ASCII):
        return float(node.value)
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError, LookupError):
        return node.value


def described(node):
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    return "empty" if node.tag == "tag:yaml.org,2002:null" else f"{plain(node)!r:.100}"
