"""Words of the command line and of argument files, made ready for the parser.

Belongs here: what happens to arguments before they have a type: reading files, leaving out what says nothing. Nothing
here imports a library that takes time.
Does not belong here: what the arguments are and what is refused about their values (`arguments.py`).
"""

import itertools
import json
import re

from qa.start.errors import UsageError
from qa.start.yaml_files import read_yaml

# So many names of `TrainingArguments` nobody writes into a file by hand; it has over a hundred.
NAMES_OF_A_DUMP = 50
# What a dump holds besides defaults though nobody asked for it: all trackers that are installed, settings of what is
# off, and what follows from the machine and the day.
OF_ITSELF = ("report_to", "fsdp_config", "accelerator_config", "dataloader_pin_memory", "local_rank", "logging_dir")


def refuse(message):
    """Raise a `UsageError` that points at the list of all arguments."""
    message = re.sub(r"^(ambiguous option: --\w+)=\S+", r"\1", message)  # it may be a token
    raise UsageError(f"{message} (--help lists all arguments)")


def value_of(flag, words):
    """Return the last value that words give an argument, cut short or not, or `None`.

    Args:
        flag: its name.
        words: list of command-line words.
    """
    value = None
    for word, following in itertools.zip_longest(words, words[1:]):
        name, separator, text = word.partition("=")
        if len(name) > 2 and f"--{flag}".startswith(name) and name != "--token":  # a flag of its own
            value = text if separator else following
    return value


def values_of_file(path):
    """Read an argument file to a dictionary from name to plain value."""
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        else:
            values, _ = read_yaml(path)
        if not isinstance(values, dict):
            raise TypeError(f"it holds a {type(values).__name__}; give a mapping from names to values")
        words_of(values)  # for the errors
        return values
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"argument file {path} cannot be read: {error or type(error).__name__}") from error


def known_values(values, actions, defaults, file):
    """Leave out of an argument file what is no argument, if it is a dump of `TrainingArguments`; else refuse it.

    Such a dump holds names of the release of transformers that wrote it, and what that filled in by itself.

    Args:
        values: dictionary from name to value.
        actions: dictionary with all flags of the parser as keys.
        defaults: dictionary from the names of all fields of `TrainingArguments` to their defaults.
        file: name for the messages.

    Raises:
        UsageError: there is no argument of some name, and the file is no dump.
    """
    given = {name: value for name, value in values.items() if _is_given(name, value)}
    unknown = [name for name in given if not any(flag.startswith(f"--{name}") for flag in actions)]
    if len(defaults.keys() & values) >= NAMES_OF_A_DUMP:
        if unknown:
            print(f"note: argument file {file}: left out, no arguments of this release: {', '.join(unknown)}")
        if (trackers := given.get("report_to", "none")) not in ("none", ["none"]):
            trackers = trackers if isinstance(trackers, str) else " ".join(trackers)
            print(f"note: argument file {file}: --report_to {trackers} is left out; give it to the command")
        filled_in = [name for name, value in given.items() if name in OF_ITSELF or value in (defaults.get(name), {})]
        filled_in += ["run_name"] if values.get("run_name") == values.get("output_dir") else []
        return {name: value for name, value in given.items() if name not in (*unknown, *filled_in)}
    if unknown:
        refuse(f"argument file {file}: there is no argument named {unknown[0]}")
    return values


def _is_given(name, value):
    """Tell whether an entry of an argument file asks for anything; a dump also holds what does not.

    That is what was left out, empty lists, what the library keeps for itself (`_n_gpu`), and tokens that were blotted
    out (`<HUB_TOKEN>`).
    """
    return value not in (None, [], f"<{str(name).upper()}>") and not str(name).startswith("_")


def words_of(values):
    """Turn the values of an argument file into command-line words, to be typed and checked like the flags are."""
    words = []
    for name, value in values.items():
        if not _is_given(name, value):
            continue
        if isinstance(value, list):
            words.extend([f"--{name}", *map(str, value)])
        elif isinstance(value, dict):
            try:
                words.append(f"--{name}={json.dumps(value)}")
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from error
        else:
            # One word with "=": argparse would take -1e-3 as a word of its own for a flag.
            words.append(f"--{name}={value}")
    return words
