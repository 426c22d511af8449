"""Digests: short names of contents.

Belongs here: naming values and the project's own code by what is in them.
Does not belong here: what a run or a cache is named by (`qa/models/identity.py`, and each cache).
"""

import hashlib
import json

from qa.start.stack import PROJECT_DIR

# The files beside the package that decide what a run makes.
MAKERS = ("run_qa.py", "run_qa_post_training.py", "export_qa.py", "prune_encoder_qa.py", "trainer_qa.py")
# Digits that are kept: enough that two contents never share them by chance.
DIGITS = 16


def digest(value):
    """Return a digest of a JSON value or a text."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGITS]


def code_of(*rooms):
    """Return a digest of the code of some rooms of the package, of `MAKERS` and of the commands' common course."""
    found = hashlib.sha256()
    paths = [path for room in rooms for path in sorted((PROJECT_DIR / "qa" / room).glob("*.py"))]
    for path in [*paths, PROJECT_DIR / "qa" / "results" / "course.py", *(PROJECT_DIR / name for name in MAKERS)]:
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:DIGITS]
