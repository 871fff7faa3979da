"""The forms of times in segment files."""

import functools
import re

# A number of seconds, such as 30, 30.000, +30, .5, 3e1 or 30,5; or h:mm:ss or m:ss, with decimals.
TIME = re.compile(
    r"\+?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?"
    r"|(?:[0-9]+:[0-5]?[0-9]|[0-9]+):[0-5]?[0-9](?:[.,][0-9]*)?"
)
# A decimal comma or a thousands separator.
TWO_MEANINGS = re.compile(r"[0-9]{1,3},[0-9]{3}")


@functools.lru_cache(1 << 16)
def seconds(text: str) -> float | None:
    """The seconds that a text means; None if it is not a time.

    A comma is a decimal comma.

    >>> seconds("30.000"), seconds("3e1"), seconds("30,5"), seconds("1:02:03.5"), seconds("-1")
    (30.0, 30.0, 30.5, 3723.5, None)
    """
    if not TIME.fullmatch(text):
        return None
    value = 0.0
    for part in text.replace(",", ".").split(":"):
        value = value * 60 + float(part)
    return value
