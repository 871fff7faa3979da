"""The errors that a command answers with one line instead of a traceback."""

from collections.abc import Sequence


class InputError(ValueError):
    """An input is wrong: a file, a row, a field, a flag or a config key.

    The message is one line. It says what is wrong and where, what was expected, and what to do.
    Commands print it without a traceback and exit with code 1.
    """


class ProcessFailed(Exception):
    """One of several processes met an InputError while the others continued.

    Sooner or later the others wait for this process. So the command prints the message and ends
    this process at once, which ends the others too. No collective operation follows.
    """


class Interrupted(Exception):
    """The program was asked to end (SIGTERM), and its work is saved.

    Commands print the message and exit with code 143, as if the signal had ended them.
    """


class Rejected(Exception):
    """A recording cannot be used.

    Attributes:
      reason: a short slug, the `reason` column of rejects.csv.
      detail: one line for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.detail


def some(values: Sequence[object]) -> str:
    """The first three of several values, for a message of one line.

    >>> some(["a", "b", "c", "d"])
    'a, b, c, ...'
    """
    return ", ".join(map(str, values[:3])) + (", ..." if len(values) > 3 else "")


def install_command(extra: str) -> str:
    """The command that installs an extra. relabel_jax is on no package index."""
    return f"pip install '.[{extra}]' in the checkout of relabel_jax"
