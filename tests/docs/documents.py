"""The code blocks of the Markdown documents, and the rules for their command lines."""

import ast
import dataclasses
import importlib
import pathlib
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence

import pytest
from markdown_it import MarkdownIt
from packaging.requirements import Requirement

from relabel_jax import cli
from relabel_jax.experiments.config import check
from relabel_jax.experiments.flags import read_config

CHECKOUT = pathlib.Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
EXAMPLES = DOCS / "examples"
DOCUMENTS = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PROGRAMS = ("cd", "git", "hear-validator", "source", "tensorboard")
"""Programs of others, whose arguments are not checked."""
MODULES = {module.removesuffix(".__main__"): module for module, _ in cli.VERBS.values()}


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
      path: the document, relative to the checkout.
      line: the line of the block in it, from 1.
      info: the words after the fence: a language, and `no-run` for Python that is not executed.
      text: the code.
    """

    path: pathlib.Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The language; an indented block is a command line, as READMEs have them."""
        return self.info.split()[0] if self.info else "sh"

    @property
    def is_run(self) -> bool:
        return "no-run" not in self.info.split()

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read_blocks(path: pathlib.Path) -> list[Block]:
    """The fenced and the indented code blocks of a document."""
    tokens = MarkdownIt("commonmark").parse(path.read_text(encoding="utf-8"))
    return [
        Block(path.relative_to(CHECKOUT), token.map[0] + 1, token.info.strip(), token.content)
        for token in tokens
        if token.type in ("fence", "code_block") and token.map
    ]


BLOCKS = [block for path in DOCUMENTS for block in read_blocks(path)]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command; without comments, environment variables and job launchers."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        if words and words[0] == "srun":
            words = words[words.index("python") :]
        if words:
            yield words


def check_command(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parses a command line with the flags of the program that it calls.

    Raises:
      Exception: there is no such program, module, verb, flag, field, extra, target or file.
    """
    match list(words):
        case ["python", "-m", "venv", _]:
            pass
        case ["python", "-m", module, *arguments]:
            _check_flags(MODULES[module], arguments, monkeypatch)
        case ["relabel-jax", "--help" | "--version"]:
            pass
        case ["relabel-jax", verb, *arguments]:
            _check_flags(cli.VERBS[verb][0], arguments, monkeypatch)
        case ["python", script, *arguments]:
            _check_script(CHECKOUT / script, arguments)
        case ["make", *arguments]:
            _check_make(arguments)
        case ["pip", "install", *arguments]:
            _check_pip(arguments)
        case [program, *_]:
            assert program in PROGRAMS, f"{program}: no program that the documents may call"


def _check_flags(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command up to the end of its parsing; for a training, reads its config too."""
    parsers = []

    def recorded(*args, make=cli.parser, **options):
        parsers.append(make(*args, **options))
        return parsers[-1]

    with monkeypatch.context() as patch:
        patch.setattr(cli, "parser", recorded)
        patch.setattr(cli, "run", lambda *command, **options: 0)
        patch.syspath_prepend(EXAMPLES)
        try:
            status = importlib.import_module(module).main(arguments)
        except SystemExit as exiting:  # --help, or wrong usage
            status = exiting.code
        assert status == 0, f"{module}: wrong usage"
        if module == "relabel_jax.main" and "--help" not in arguments:
            flags, overrides = parsers[0].parse_known_args(arguments)
            config = read_config(flags.config, overrides)
            if "roots" not in config:
                config.data_dir = config.data_dir or "DATA"
                check(config)


def _check_script(path: pathlib.Path, arguments: Sequence[str]) -> None:
    """A script of the checkout: it is there and its source has the flags."""
    constants = {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    assert flags <= constants, f"{path.name} has no flag {', '.join(flags - constants)}"


def _check_make(arguments: Sequence[str]) -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    variables = set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE))
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        known = variables if is_variable else phony.split()
        assert name in known, f"make: no {name} in the Makefile"


def _check_pip(arguments: Sequence[str]) -> None:
    with open(CHECKOUT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    words = iter(arguments)
    for word in words:
        if word in ("--constraint", "-c"):
            assert (CHECKOUT / next(words)).is_file()
        elif word not in ("--no-deps", "--editable", "-e"):
            requirement = Requirement(re.sub(r"^\.", "relabel-jax", word))
            if requirement.name == "relabel-jax":
                assert requirement.extras <= extras.keys(), f"pip: no extra of {word}"


def resolve_names(code: str) -> None:
    """Imports what Python code imports, and looks up the attributes of these names.

    Raises:
      ImportError, AttributeError: a name is not there.
    """
    tree = ast.parse(code)
    names: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                module = importlib.import_module(alias.name)
                if alias.asname:
                    names[alias.asname] = module
                else:
                    names[alias.name.split(".")[0]] = importlib.import_module(
                        alias.name.split(".")[0]
                    )
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                names[alias.asname or alias.name] = getattr(module, alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            _resolve(node, names)


def _resolve(node: ast.Attribute, names: dict[str, object]) -> object:
    """The object that a dotted name stands for; None for what only a run would tell."""
    if isinstance(node.value, ast.Name):
        owner = names.get(node.value.id)
    elif isinstance(node.value, ast.Attribute):
        owner = _resolve(node.value, names)
    else:
        owner = None
    return None if owner is None else getattr(owner, node.attr)
