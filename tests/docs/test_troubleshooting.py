"""The messages on the page "Troubleshooting" are those of the code."""

import ast
import re
from collections.abc import Iterator

import pytest
from documents import CHECKOUT, DOCS

PAGE = (DOCS / "troubleshooting.md").read_text()
# Their messages are made by argparse and pip.
OF_OTHERS = ("the following arguments are required", "unrecognized arguments", "ERROR: Could not")


def messages(source: str) -> Iterator[str]:
    """The string constants of Python code; a line break stands for each value in an f-string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "\n" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def quoted() -> list[str]:
    """The messages that the page explains."""
    terms = re.findall(r"^(`.*`)\n: ", PAGE, re.MULTILINE)
    found = [message for term in terms for message in re.findall(r"`([^`]+)`", term)]
    return [message for message in found if not message.startswith(OF_OTHERS)]


@pytest.fixture(scope="module")
def code() -> str:
    """All messages of the code, one after another."""
    files = [
        file for name in ("relabel_jax", "data_prep") for file in (CHECKOUT / name).rglob("*.py")
    ]
    return "\0".join(each for file in files for each in messages(file.read_text(encoding="utf-8")))


def fixed_parts(message: str) -> list[str]:
    """The parts of a message between the words that change, which are in capital letters."""
    parts = re.split(r"\.\.\.|\b[A-Z][A-Z_]*\b", message)
    return [part.strip(" :;,()=") for part in parts if len(part.strip(" :;,()=")) > 5]


@pytest.mark.parametrize("message", quoted())
def test_the_code_has_the_message(message, code):
    parts = fixed_parts(message)
    assert parts, "nothing of the message is fixed"
    for part in parts:
        assert part in code, f"no message of the code has {part!r}"


def test_a_message_that_the_code_does_not_have_is_found(code):
    (part,) = fixed_parts("FILE: the moon is not made of cheese")
    assert part not in code
