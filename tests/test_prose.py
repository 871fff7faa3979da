"""The prose check finds long sentences and banned phrases in prose, and only there."""

import pathlib
import subprocess
import sys

import pytest

CHECK = pathlib.Path(__file__).parents[1] / "docs" / "check_prose.py"
LONG = " ".join(["word"] * 46)


def check(folder: pathlib.Path, name: str, text: str) -> list[str]:
    """Runs the check on a file with this text. Returns its output lines without the file's name."""
    file = folder / name
    file.write_text(text)
    run = subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True)
    assert not run.stderr
    lines = run.stdout.splitlines()
    assert run.returncode == bool(lines)
    assert all(line.startswith(f"{file}:") for line in lines)
    return [line.removeprefix(f"{file}:") for line in lines]


MARKDOWN = f"""# A heading, ours

A short sentence. A run that stopped
goes on.

- {LONG}
- one, and
  the network of its own

| ours | theirs |
|---|---|

    ours = 1

```python
ours = {LONG!r}
```

:::{{note}}
The ours note has `ours` and [a link](ours.md).
:::
"""


def test_markdown(tmp_path):
    assert check(tmp_path, "page.md", MARKDOWN) == [
        "4: 'goes on': write 'continue'",
        "6: 46 words, expected at most 45",
        "8: 'of its own': write 'its own' before the noun",
        "20: 'ours': write the owner's name",
    ]


PYTHON = f'''"""What a module has.

A paragraph.

    ours = [{LONG}]

>>> ours
ours
"""

ours = 1  # a comment about
# ours


def load(path):
    """Loads a file.

    Args:
      ours: {LONG[5:]}
      path: a short sentence.
        It is no file.

    Raises:
      ValueError: {LONG}
    """
    # {LONG[:100]}
    # {LONG[:150]}
    raise ValueError(f"{{path}}: stands at {{ours}} as before")
'''


def test_python(tmp_path):
    assert check(tmp_path, "module.py", PYTHON) == [
        "1: 'What': write the noun",
        "12: 'ours': write the owner's name",
        "21: 'is no': write 'is not a'",
        "24: 46 words, expected at most 45",
        "26: 50 words, expected at most 45",
        "28: 'stands': write 'is'",
    ]


def test_the_mean_of_a_file(tmp_path):
    sentences = ["Some words " + "more " * 19 + "here. ", "Another word " + "more " * 21 + "here."]
    assert not check(tmp_path, "page.md", "# Heading\n\n" + sentences[0] * 2)
    assert check(tmp_path, "page.md", "# Heading\n\n" + "".join(sentences)) == [
        "1: 23.0 words on average, expected at most 22"
    ]


@pytest.mark.parametrize(
    "sentence",
    [
        "There is no file. This one is no longer there.",
        "PEL stands for parent-expanded labels.",
        "What does it print? It prints e.g. A or B.",
        "The hours are yours. It goes one step on.",
        "He has not been there, and ``go on`` is a {func}`go on` command.",
    ],
)
def test_good_english_passes(tmp_path, sentence):
    assert not check(tmp_path, "page.md", sentence + "\n")
