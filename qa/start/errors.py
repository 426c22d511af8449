"""How a run says that it cannot go on: errors that are one line for the user.

Belongs here: the errors that any room may raise.
Does not belong here: what happens to them (`command.py`).
"""


class UsageError(Exception):
    """Input that a run cannot work with.

    The message is one line for the user: the flag or file, what was found there, and what to do about it. Names and
    the libraries' own messages may bring anything along: white space is folded, what a terminal could take for a
    command is replaced, and of what is very long the middle is left out.
    """

    def __init__(self, message):
        line = "".join(
            character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
            for character in " ".join(message.split())
        )
        super().__init__(line if len(line) <= 900 else f"{line[:600]} ... {line[-250:]}")


class SaveError(Exception):
    """Something that a run made cannot be written, for want of room or rights."""


class CriterionError(Exception):
    """No mix of int8 and fp32 operators met the accuracy criterion."""
