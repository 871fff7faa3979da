"""Output for the terminal: text without control characters.

File names, ids, class names and the answers of servers come from others. Printed as they are, their
control characters could clear the screen, rewrite lines, or reverse the order of the letters.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import IO, Any, cast

# Control characters except tab and newline, separators of lines, marks of writing direction, and
# the halves of characters that stand for bytes of a file name that are not UTF-8.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""The text with escapes such as `\x1b` in place of control characters.

    Tabs and newlines stay.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


def one_line(text: str) -> str:
    r"""The same, with `\n` in place of newlines: the text of an error message."""
    return printable(text).replace("\n", "\\n")


class _PrintableStream:
    """A text stream that writes everything in its `printable` form."""

    def __init__(self, stream: IO[str]):
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Lets stdout and stderr show control characters as escapes within the block."""
    with (
        contextlib.redirect_stdout(_wrapped(sys.stdout)),
        contextlib.redirect_stderr(_wrapped(sys.stderr)),
    ):
        yield


def _wrapped(stream: IO[str]) -> IO[str]:
    is_wrapped = isinstance(stream, _PrintableStream)
    return stream if is_wrapped else cast(IO[str], _PrintableStream(stream))


def raw(stream: IO[str]) -> IO[str]:
    """The stream below `printable_output`, for a bar that moves the cursor itself."""
    return stream.stream if isinstance(stream, _PrintableStream) else stream
