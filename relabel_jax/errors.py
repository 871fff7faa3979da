"""The errors that a command line answers with one line."""


class InputError(ValueError):
    """Something given to the program is wrong: a file, a row, a field, a flag or a config key.

    The message is one line that says what is wrong, where it stands, what was expected and what to
    do. Command lines print it without a traceback and exit with status 1.
    """


class Interrupted(Exception):
    """The system asked the program to end (SIGTERM) and the work is saved.

    Command lines print it and exit with status 143, as a program does that the signal ends.
    """
