"""The names that files give to clips."""

import re

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{2,4}$")


def stem(name: str) -> str:
    """The name of a recording without its folder and extension.

    >>> stem("audio/Y-0Gj8-vB1q4.wav")
    'Y-0Gj8-vB1q4'
    """
    name = name.rpartition("/")[2]
    return _EXTENSION.sub("", name) if "." in name else name
