"""Lets a command end with one line instead of a traceback, also while the command imports.

This goes for Ctrl-C, and for a system that has no memory or no open file left for a library.

This module is the first that a command loads, so it imports little.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import TracebackType

STOPPED = "stopped"
CODE = 128 + signal.SIGINT
# Parts of the messages of the loader of shared libraries.
_OF_SYSTEM = ("failed to map segment", "annot allocate memory", "Too many open files")


def _stop(*_: object) -> None:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(CODE)


def stop_quietly() -> None:
    """Lets Ctrl-C end this process with one line and code 130.

    A command is in this state while it imports and after it has ended: there is nothing to save.
    Nothing changes in a process that ignores Ctrl-C or has its own handler.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def raise_errors() -> bool:
    """Lets Ctrl-C raise KeyboardInterrupt again after `stop_quietly`; returns whether it did not.

    A program that never called `stop_quietly` keeps its handler.
    """
    is_quiet = signal.getsignal(signal.SIGINT) is _stop
    if is_quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return is_quiet


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignores Ctrl-C within the block, and for good in processes that are started there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # other threads cannot set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def begin() -> None:
    """Does `stop_quietly` in the process of a command. Other programs keep their handlers.

    Python calls itself `-m` until it has found the module of `python -m relabel_jax.MODULE`.
    """
    program = sys.argv[0] if getattr(sys, "argv", None) else ""
    if program == "-m" or os.path.basename(program) == "relabel-jax":
        stop_quietly()
        sys.excepthook = _in_one_line


def _in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an error as Python does, but one of the system, not of the program, in one line."""
    text = " ".join(str(error).split())
    is_of_import = issubclass(kind, ImportError) and any(each in text for each in _OF_SYSTEM)
    if issubclass(kind, MemoryError):
        print("error: out of memory", file=sys.stderr)
    elif issubclass(kind, OSError) or is_of_import:
        print(f"error: {text}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
