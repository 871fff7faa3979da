"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something given to the program is wrong: a file, a row, a field, a flag or a config key.

    The message is one line that says what is wrong, where it stands, what was expected and what to
    do. Command lines print it without a traceback and exit with status 1.
    """
