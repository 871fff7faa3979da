"""The errors that a command line answers with one line."""


class InputError(ValueError):
    """Something given to the program is wrong: a file, a row, a field, a flag or a config key.

    The message is one line that says what is wrong, where it stands, what was expected and what to
    do. Command lines print it without a traceback and exit with status 1.
    """


class ProcessFailed(Exception):
    """What InputError is, in one of several processes while the others go on.

    They wait for it sooner or later: the command line prints the line and ends this process at
    once, so that they end too. Nothing that is common to all is tried after it.
    """


class Interrupted(Exception):
    """The system asked the program to end (SIGTERM) and the work is saved.

    Command lines print it and exit with status 143, as a program does that the signal ends.
    """


class Rejected(Exception):
    """Why a clip is not in the data set.

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
