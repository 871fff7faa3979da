"""Prepares docstrings for Sphinx, so that they need no markup that is awkward in the code.

- All names of an `Args:` or `Attributes:` entry (`low, high: ...`) stay names: Sphinx would take
  all but the last for a type.
- The first words of a property's docstring (`int64[clips]: ...`) are not a type to link to.
- Indented commands in a module's docstring are code blocks.
- Letters may follow code (`Workdir`s), and a star may begin a name (`*shape`).
"""

import re
from collections.abc import Iterable, Iterator

from sphinx.application import Sphinx

_CODE_BEFORE_LETTERS = re.compile(r"(?<!`)(`[^`]+`)(?=[\w'])")
_STAR = re.compile(r"(?<=[\[(, ])\*(?=\w+[^\w*])")
_NAMES = re.compile(r"^ +\**\w+(, \**\w+)+:")


def process_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """The event `autodoc-process-docstring`, before napoleon's; changes `lines` in place."""
    if what == "module":
        lines[:] = _with_code_blocks(lines)
    elif what in ("property", "attribute", "data") and lines:
        # Napoleon takes the first line up to a colon for the type; this one is an empty comment.
        lines[:0] = ["..", ""]
    lines[:] = map(_escaped, lines)
    lines[:] = [
        line.replace(", ", ",", line[: match.end()].count(", ")) if match else line
        for line, match in ((line, _NAMES.match(line)) for line in lines)
    ]


def _escaped(line: str) -> str:
    """A line with code and stars as reStructuredText wants them; examples stay as they are."""
    if line.lstrip().startswith((">>>", "... ")):
        return line
    parts = line.split("`")  # every other one is code
    parts[::2] = [_STAR.sub(r"\\*", part) for part in parts[::2]]
    return _CODE_BEFORE_LETTERS.sub(r"\1\\ ", "`".join(parts))


def _with_code_blocks(lines: Iterable[str]) -> Iterator[str]:
    """The lines with `::` before each indented block that is not part of a list."""
    last, is_after_blank = "", False
    for line in lines:
        is_indented = line.startswith("  ")
        if is_indented and is_after_blank and not last.startswith((" ", "-", "*")):
            yield from ("::", "")
        if line.strip():
            last, is_after_blank = line, False
        else:
            is_after_blank = True
        yield line


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process_docstring, priority=400)
    return {"parallel_read_safe": True}
