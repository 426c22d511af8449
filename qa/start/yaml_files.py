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


class _Loader(yaml.SafeLoader):
    """To YAML 1.1, unlike to people and here, 2:4 is the number 124 and 1e-3 is text."""

    def resolve(self, kind, value, implicit):
        if kind is yaml.ScalarNode and implicit[0] and ":" in value:
            return self.DEFAULT_SCALAR_TAG
        if kind is yaml.ScalarNode and implicit[0] and re.fullmatch(r"[-+]?\d+(\.\d+)?[eE][-+]?\d+", value, re.ASCII):
            return "tag:yaml.org,2002:float"
        return super().resolve(kind, value, implicit)

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:
            problem = f"{node.value!r:.100} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from error


# INC's older layout has it.
_Loader.add_constructor("!Pruner", yaml.SafeLoader.construct_yaml_map)
for _kind in ("set", "binary", "omap", "pairs"):  # nothing here needs them
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", yaml.SafeLoader.construct_undefined)


def read_yaml(path):
    """Read a YAML file that is small and has plain tags only.

    Args:
        path: of the file.

    Returns:
        `(values, lines)`: plain values, `None` for an empty file; and a dictionary from the keys and indices that lead
        to a value, as a tuple, to the lines of its key and of the value itself.

    Raises:
        UsageError: the file cannot be read, unfolds to too many values, has other tags, a key that is no text, or one
            twice in a mapping.
    """
    content = b""
    try:
        content = Path(path).read_bytes()
        loader = _Loader(content.decode())
        root = loader.get_single_node()
        lines = _lines_of(root, path)  # refuses what would be built without end
        return root and loader.construct_document(root), lines
    except (OSError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        offset = getattr(error, "start", getattr(error, "position", 0))
        line = 1 + (mark.line if mark else content.count(b"\n", 0, offset))
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{path}, line {line}: this cannot be read as YAML: {problem}") from error


def _lines_of(root, path):
    lines, waiting = {(): (1, 1)}, [((), root, root)] if root else []
    for trail, key, node in waiting:
        line, value_line = (part.start_mark.line + 1 for part in (key, node))
        if key is not node and key.tag != _Loader.DEFAULT_SCALAR_TAG:
            found = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id.replace('sequence', 'list')}"
            merges = ", no merges" if key.tag == "tag:yaml.org,2002:merge" else ""
            allowed = f"names, and regular expressions in quotes{merges}"
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
    return lines
