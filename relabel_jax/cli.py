"""The script `relabel-jax VERB`, and the parsers, exit codes and error lines of all commands.

Exit codes: 0 for success, 1 for a wrong input or a failure, 2 for wrong usage, 130 after Ctrl-C and
143 after a SIGTERM. A command answers a wrong input with one line on stderr, without a traceback.
"""

import argparse
import contextlib
import difflib
import importlib
import os
import pathlib
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import relabel_jax
from relabel_jax import interrupts, terminal
from relabel_jax.errors import InputError, Interrupted

SCRIPT = "relabel-jax"
VERBS = {
    "metadata": ("data_prep.metadata", "fetch AudioSet's ontology and segment files"),
    "relabel": ("data_prep.relabel", "re-label segment files by the ontology"),
    "release": ("data_prep.release", "write all labelings as a data set to publish"),
    "audit": ("data_prep.audit", "count what the raters said and left unsaid"),
    "judge": ("data_prep.judge", "judge labels by a better reference on the same clips"),
    "excerpt": ("data_prep.excerpt", "draw a set of the paper's size from segment files"),
    "raters": ("data_prep.raters", "degrade complete labels as AudioSet's raters would"),
    "datasets": ("data_prep.datasets", "convert FSD50K or ESC-50 for `build`"),
    "miniature": ("data_prep.miniature", "synthesise a small AudioSet whose truth is known"),
    "scenes": ("data_prep.scenes", "mix scenes whose truth is known from recordings"),
    "build": ("data_prep.build", "turn recordings and labels into a data set"),
    "verify": ("data_prep.verify", "check a data set from end to end"),
    "train": ("relabel_jax.main", "train and test a network, or a grid of them"),
    "report": ("relabel_jax.report.__main__", "write the tables and the page of finished runs"),
    "score": ("relabel_jax.score", "measure anybody's predictions under every labeling"),
    "import_weights": ("relabel_jax.import_weights", "take published weights"),
    "embed": ("relabel_jax.embed", "embed a folder of recordings"),
    "nearest": ("relabel_jax.nearest", "find the nearest recordings of an embedded folder"),
    "export": ("relabel_jax.export", "write a trained network for other frameworks"),
    "demo": ("relabel_jax.demo", "show on a local page what a network hears"),
    "benchmark": ("relabel_jax.benchmark.__main__", "measure the train step on this machine"),
}
"""The module whose `main(arguments)` a verb runs, and what it does, by verb."""

_HOME = re.compile(r"(?:(?<=[=,])|^)~[\w.-]*(?=/|,|$)")
RESUMES = "stopped; the same command continues from here"
_GRACE_S = 5.0
"""Seconds that a program has after an error to end by itself."""
_USAGE = f"""\
usage: {SCRIPT} VERB [--FLAG=VALUE ...]
       {SCRIPT} VERB --help
       {SCRIPT} --version"""
_GROUPS = {
    "labels (need no JAX)": (
        "metadata",
        "relabel",
        "release",
        "audit",
        "judge",
        "score",
        "excerpt",
    ),
    "data": ("datasets", "miniature", "scenes", "raters", "build", "verify"),
    "training": ("train", "report", "benchmark"),
    "trained networks": ("import_weights", "embed", "nearest", "export", "demo"),
}
_COMMON_CASES = f"""\
better labels for your own training code:
  {SCRIPT} metadata --output_dir=META
  {SCRIPT} relabel --segments=META/balanced_train_segments.csv --output=labels.parquet

the whole chain on synthetic data, in minutes:
  {SCRIPT} miniature --output_dir=MINI --num_clips=600
  {SCRIPT} build --ontology=MINI/ontology.json --segments=MINI/segments.csv \\
      --audio=MINI/audio --output_dir=DATA
  {SCRIPT} train --config=quickstart --workdir=W --config.data_dir=DATA

Results go to the folder or file that a flag names. The last lines of a command name them."""


def run(command: Callable[[], int | None], *, stopped: str = interrupts.STOPPED) -> int:
    """Runs a command and answers mistakes of the user and failures of the system with one line.

    Control characters in what the command prints are shown as escapes.

    After an error the program ends within seconds, even if threads are left.

    Args:
      command: does the work; returns the exit code, or None for 0.
      stopped: the line after Ctrl-C; `RESUMES` if the same command continues the work.

    Returns:
      The exit code.
    """
    code = 1
    try:
        with _interruptible(), terminal.printable_output():
            code = command() or 0
            sys.stdout.flush()
    except InputError as error:
        code = _failed(str(error))
    except MemoryError as error:
        code = _failed(f"out of memory{f': {error}' if str(error) else ''}")
    except OSError as error:  # such as a full disk, or too many open files
        code = _failed(str(error))
    except RuntimeError as error:
        if str(error) != "can't start new thread":  # Python has no other name for it
            raise
        code = _failed("out of memory or of threads: the system starts no further thread")
    except Interrupted as interrupted:
        print(terminal.one_line(str(interrupted)), file=sys.stderr)
        code = 143
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        code = interrupts.CODE
    finally:
        if code and _is_program():
            _end_in_time(code)
    return code


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt within the block, and then stop the process at once."""
    was_quiet = interrupts.raise_errors()
    try:
        yield
    finally:
        if was_quiet:
            interrupts.stop_quietly()


def _failed(message: str) -> int:
    """Prints the error line and returns the exit code."""
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again when it exits, and tell of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"error: {terminal.one_line(message)}", file=sys.stderr)
    return 1


def _is_program() -> bool:
    """Whether this process runs a command and nothing else."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is None:
        return pathlib.Path(getattr(main, "__file__", "")).stem == SCRIPT
    return spec.name in {module for module, _ in VERBS.values()}


def _end_in_time(code: int) -> None:
    """Ends the process after a while, if it has not ended by itself then."""
    try:
        threading.Thread(target=_end, args=(code, _GRACE_S), daemon=True).start()
    except RuntimeError:  # the system starts no further thread
        _end(code, 0)


def _end(code: int, grace_s: float) -> None:
    """Ends the process after `grace_s` seconds.

    After a fatal error of a disk, a thread of a library may wait for ever, and Python would wait
    for the thread. Processes that train as one are left alone: they wait for the one that saves.
    """
    time.sleep(grace_s)
    jax = sys.modules.get("jax")
    if jax is not None and jax.distributed.is_initialized():
        return
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def program(module: str) -> str:
    """How the user calls a command: `relabel-jax VERB` from the script, else `python -m MODULE`."""
    if pathlib.Path(sys.argv[0]).stem == SCRIPT:
        for verb, (of_verb, _) in VERBS.items():
            if of_verb == module:
                return f"{SCRIPT} {verb}"
    return f"python -m {module.removesuffix('.__main__')}"


def embed_command(checkpoint: pathlib.Path) -> str:
    """The command that embeds recordings by a run folder or an export, as the next step."""
    return (
        f"{program('relabel_jax.embed')} --checkpoint={shlex.quote(str(checkpoint))} "
        "--audio=RECORDINGS --output=embeddings.parquet"
    )


class _Parser(argparse.ArgumentParser):
    """A parser that expands `~` in the values of flags, as the shell does in `--FLAG VALUE`."""

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parses the arguments after the expansion; `parse_args` calls this method too."""
        arguments = sys.argv[1:] if args is None else args
        return super().parse_known_args([expand_home(each) for each in arguments], namespace)

    def error(self, message):
        """Ends the program with the usage and an error line, exit code 2."""
        super().error(terminal.one_line(message))


def expand_home(argument: str) -> str:
    """The argument with home folders for `~/` and `~USER/` where a path can begin.

    The shell leaves `--FLAG=~/PATH` as it is. A path can begin an argument, or follow `=` or a
    comma. A user that does not exist stays.

    >>> expand_home("--audio=~/a,~/b") == f"--audio={pathlib.Path.home()}/a,{pathlib.Path.home()}/b"
    True
    >>> expand_home("--audio=a~/b")
    '--audio=a~/b'
    """
    return _HOME.sub(lambda match: os.path.expanduser(match.group()), argument)


def parser(module: str, description: str | None, **options: Any) -> argparse.ArgumentParser:
    """Makes an argument parser that keeps line breaks and refuses abbreviated flags.

    It expands `~` where a path begins in the value of a flag (`expand_home`).

    Commands `python -m MODULE` in the help become `relabel-jax VERB` if the user called the script.

    Args:
      module: the command's module, as in `VERBS`.
      description: the purpose of the command.
      **options: further arguments of `argparse.ArgumentParser`.
    """
    if epilog := options.get("epilog"):
        options["epilog"] = _as_called(epilog)
    defaults: dict[str, Any] = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    return _Parser(
        prog=program(module), description=_as_called(description or ""), **(defaults | options)
    )


def path(text: str) -> pathlib.Path:
    """The path that a flag gives, as the `type` of an argument. An empty one is wrong usage."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty text")
    return pathlib.Path(text)


def paths(text: str) -> list[pathlib.Path]:
    """The paths of a flag that takes several, separated by commas, as the `type` of an argument."""
    return [path(part) for part in text.split(",")]


def _as_called(text: str) -> str:
    """The text with the commands in it in the form in which the user called this one."""
    for module, _ in VERBS.values():
        name = re.escape(module.removesuffix(".__main__"))
        text = re.sub(rf"python -m {name}\b(?!\.)", program(module), text)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The script `relabel-jax`: runs the command of a verb with the other arguments.

    Returns:
      The exit code.
    """
    verb, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    if verb in VERBS:
        return run(lambda: importlib.import_module(VERBS[verb][0]).main(rest))
    if verb in ("-h", "--help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"{SCRIPT} {relabel_jax.__version__}")
        return 0
    nearest = difflib.get_close_matches(verb, VERBS, n=1)
    problem = f"{verb!r} is not a verb" if verb else "expected a verb"
    suggestion = f"; did you mean {nearest[0]}" if nearest else ""
    problem = terminal.one_line(f"{problem}{suggestion}")
    print(f"error: {problem}; {SCRIPT} --help lists the verbs", file=sys.stderr)
    return 2


def _help() -> str:
    """The help of the script: its verbs in groups, and the common cases."""
    grouped = {verb for verbs in _GROUPS.values() for verb in verbs}
    others = {"other": tuple(verb for verb in VERBS if verb not in grouped)}
    parts = [_USAGE, str(relabel_jax.__doc__)]
    for title, verbs in (_GROUPS | others).items():
        if verbs:
            lines = [f"  {verb:10} {VERBS[verb][1]}" for verb in verbs]
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join([*parts, _COMMON_CASES])
