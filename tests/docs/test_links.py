"""Links of the documents outside docs/ lead to files and headings; Sphinx checks those inside."""

import itertools
import pathlib
import re

import pytest
from documents import CHECKOUT
from markdown_it import MarkdownIt

DOCUMENTS = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


def addresses(text: str) -> list[str]:
    """The addresses of all links and images of a Markdown text."""
    inline = [token for token in MarkdownIt("commonmark").parse(text) if token.type == "inline"]
    children = [child for token in inline for child in token.children or []]
    found = [child.attrGet("href") or child.attrGet("src") for child in children]
    return [str(address) for address in found if address]


def anchors(path: pathlib.Path) -> set[str]:
    """The anchors of the headings of a Markdown file, as GitHub and MyST make them."""
    tokens = MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
    titles = [
        "".join(child.content for child in inline.children or [])
        for heading, inline in itertools.pairwise(tokens)
        if heading.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def problems(path: pathlib.Path, text: str) -> list[str]:
    """The links that lead nowhere."""
    found = []
    for address in addresses(text):
        file, _, anchor = address.partition("#")
        target = path.parent / file if file else path
        if re.match(r"https?:", address):
            continue
        if not target.exists():
            found.append(f"{address}: there is no {file}")
        elif anchor and anchor not in anchors(target):
            found.append(f"{address}: {target.name} has no such heading")
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    assert problems(path, path.read_text(encoding="utf-8")) == []


def test_dead_links_are_found():
    text = "[a](docs/none.md) [b](docs/labels.md#none) [c](#none) ![d](none.png) [e](docs/data.md)"
    assert [line.partition(":")[0] for line in problems(CHECKOUT / "README.md", text)] == [
        "docs/none.md",
        "docs/labels.md#none",
        "#none",
        "none.png",
    ]
