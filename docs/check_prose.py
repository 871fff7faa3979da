"""Checks the English of the documents and of the code's docstrings, comments and messages.

    python docs/check_prose.py [PATH...]

A sentence has at most 45 words, and the sentences of a file have at most 22 on average. Some
phrases are banned, because simpler ones exist (`_BANNED`). The script prints a line for each
problem, `FILE:LINE: ...`, and exits with 1 if there are any. A PATH is a Markdown file, a Python
file or a folder of them; by default all documents and all code except the tests.

Code blocks, tables, headings and doctests are skipped. Inline code counts as one word. A list item
and a field of a docstring are sentences.
"""

import ast
import io
import pathlib
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Sequence

MAX_MEAN_WORDS = 22
MAX_WORDS = 45
_DEFAULT_PATHS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"]
_DEFAULT_PATHS += ["relabel_jax", "data_prep", "configs", "benchmarks"]

_BANNED = {  # by pattern, the better wording
    r"ours|theirs|of mine": "the owner's name",
    r"of (its|their|our|your|one's) own": "'its own' before the noun",
    r"of which|of whom": "a second sentence",
    r"none of (its|their|whose)": "'no X'",
    r"what (is|was) needed( of \w+)?": "the noun",
    r"(have|has|had) no use for": "'does not need'",
    r"of (no )?use(?! cases?\b)": "'useful' or 'not needed'",
    r"taken for": "'counts as'",
    r"is the identity": "'returns its input unchanged'",
    r"so long as": "'while' or 'if'",
    r"(there|where|here)(of|in|from|by|upon|with|to|unto)|lest|save for|to be had|as such": (
        "the noun or a simpler word"
    ),
    r"without a word": "'silently'",
    r"by the hour": "'for hours'",
    r"at hand": "'this' or 'available'",
    r"anew": "'again'",
    r"but for(?! \w+ing)": "'except'",
    r"nothing (else )?(but|than)": "'only'",
    r"stands?(?! for\b|-)|stood": "'is'",
    r"go(es|ne)? on|going on|went on": "'continue'",
    r"(is|are) to be": "'must be'",
    r"(?<!there )(is|are|was|were) no(?! (longer|more|less|such|\w+er)\b)": "'is not a'",
    r"(has|have|had) not (a|an|the|any|its|their|one|enough)": "'does not have'",
    r"nor (do|does|did|is|are|was|were|has|have|had|can|may|will|must)": "'X does not ...'",
    r"^(to|from|by|in|of|with|for|on) (whom|which)": "subject, verb, object",
    r"^(were|had|should) (it|they|there|one)": "'if'",
    r"^what(?! to\b)(?!.*\?$)": "the noun",
}
_PATTERNS = [
    (re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.I), instead)
    for pattern, instead in _BANNED.items()
]

_DIRECTIVE = re.compile(r"#!|# ?(type|noqa|mypy|ruff)\b")
_LIST_ITEM = re.compile(r"\s*([-*+]|\d+\.)\s+")
_NO_PROSE = re.compile(r"\s*(#+ |\||>>> |\[[^\]]+\]: |[=-]{3,}$|\([\w-]+\)=$)")
_SECTION = re.compile(r"\s*(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note):$")
_FIELD = re.compile(r"\s*\**[\w.]+(, \**[\w.]+)*( \([^)]*\))?: ")
_INLINE_CODE = re.compile(r"(\{[\w:-]+\})?(`+)(?!`).+?(?<!`)\2(?!`)", re.S)
_SENTENCE_END = re.compile(
    r"""(?<![ (]vs|e\.g|i\.e|[ (]cf|Fig)[.!?]["')\]*_]*\s+(?=["'(\[*_]*[A-Z0-9])"""
)
_WORD = re.compile(r"[^\W_][\w'’.,/+-]*")


Sentence = tuple[int, str]
"""The line on which a sentence begins, and its text."""


def problems(path: pathlib.Path) -> list[str]:
    """Checks a Markdown or Python file. Returns a line for each problem, in the file's order."""
    read = python_sentences if path.suffix == ".py" else markdown_sentences
    sentences = sorted(read(path.read_text(encoding="utf-8")))
    found, total = [], 0
    for first_line, text in sentences:
        num_words = len(_WORD.findall(text))
        total += num_words
        if num_words > MAX_WORDS:
            found.append(f"{path}:{first_line}: {num_words} words, expected at most {MAX_WORDS}")
        for pattern, instead in _PATTERNS:
            for match in pattern.finditer(text.replace("\n", " ")):
                line = first_line + text.count("\n", 0, match.start())
                found.append(f"{path}:{line}: {match[0]!r}: write {instead}")
    mean = total / max(1, len(sentences))
    if mean > MAX_MEAN_WORDS:
        found.append(f"{path}:1: {mean:.1f} words on average, expected at most {MAX_MEAN_WORDS}")
    return found


def markdown_sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a Markdown text (CommonMark, and MyST's directives and roles)."""
    text = re.sub(r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), text, flags=re.S)
    lines = text.splitlines()
    fence, in_list = "", False
    for i, line in enumerate(lines):
        opened = re.match(r"\s*(`{3,}|~{3,}|:{3,})", line)
        if fence:
            fence = "" if opened and opened[1].startswith(fence) else fence
            lines[i] = ""
        elif opened:  # a directive such as :::{note} contains prose, a code fence does not
            fence, lines[i] = opened[1].strip(":"), ""
        else:
            in_list = bool(_LIST_ITEM.match(line)) or (in_list and line[:1] in ("", " "))
            if _NO_PROSE.match(line) or (line.startswith("    ") and not in_list):
                lines[i] = ""
    return _sentences(lines, 1)


def python_sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a module's docstrings, comments and messages."""
    seen = set()
    for node in ast.walk(ast.parse(text)):  # outer nodes first
        message = ""
        match node:
            case ast.Expr(ast.Constant(str() as docstring) as constant):
                seen.add(constant)
                yield from _sentences(_docstring_lines(docstring), node.lineno)
            case ast.JoinedStr(parts):
                seen.update(parts)
                message = "".join(p.value if isinstance(p, ast.Constant) else "X" for p in parts)
            case ast.Constant(str() as value) if node not in seen:
                message = value
        if len(message.split()) > 3 and not re.search(r"[\n|\\]", message):
            yield from _sentences([message], node.lineno)
    block: list[str] = []
    first = before = column = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        line, at = token.start
        if (line, at) != (before + 1, column):
            yield from _sentences(block, first)
            block, first, column = [], line, at
        block.append(token.string.lstrip("#").removeprefix(" "))
        before = line
    yield from _sentences(block, first)


def _docstring_lines(docstring: str) -> list[str]:
    """A docstring's lines of prose; code, tables and the names of fields become empty."""
    first, _, rest = docstring.partition("\n")
    lines = [first.strip(), *textwrap.dedent(rest).splitlines()]
    in_section = is_doctest = False
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        is_section = bool(_SECTION.match(line))
        in_section = is_section or (in_section and (indent > 0 or not line))
        is_doctest = bool(line) and (is_doctest or line.lstrip().startswith(">>> "))
        is_code = indent >= 4 and not in_section
        if is_section or is_doctest or is_code or re.search(r"\S {2,}\S", line):
            lines[i] = ""
        elif in_section and (field := _FIELD.match(line)):
            lines[i] = "- " + line[field.end() :]
    return lines


def _sentences(lines: Sequence[str], first_line: int) -> Iterator[Sentence]:
    """Splits lines into paragraphs and list items, and these into sentences."""
    paragraph: list[str] = []
    for number, line in enumerate([*lines, ""], first_line):
        item = _LIST_ITEM.match(line)
        if paragraph and (item or not line.strip()):
            text, at = _plain("\n".join(paragraph)), 0
            for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
                yield number - len(paragraph) + text.count("\n", 0, at), text[at:end].strip()
                at = end
            paragraph = []
        if line.strip():
            paragraph.append(line[item.end() :] if item else line.strip())


def _plain(text: str) -> str:
    """Text without its markup: inline code becomes the word X, a link its text."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"https?://\S+|<[^>\s]+>", "X", text)
    return _INLINE_CODE.sub(lambda match: "X" + "\n" * match[0].count("\n"), text)


def main(arguments: Sequence[str]) -> int:
    found = []
    for path in map(pathlib.Path, arguments or _DEFAULT_PATHS):
        inside = [*path.rglob("*.py"), *path.rglob("*.md")]
        for file in sorted(inside) if path.is_dir() else [path]:
            found += problems(file)
    print(*found, sep="\n", end="\n" * bool(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
