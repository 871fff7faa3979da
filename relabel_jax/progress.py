"""The progress display of every command: a bar on a terminal, a line a minute in a log.

Both go to stderr. A command shows one display at a time: a `Progress` that is opened while another
one is shown counts, but shows nothing.
"""

import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from tqdm import tqdm

from relabel_jax import terminal

LOG_EVERY_S = 60.0
_T = TypeVar("_T")


class Progress:
    """Counts work and shows how much is done, the rate, and the time left.

    A context manager: the display ends with the block. `update` and `describe` may be called from
    any thread.

    Args:
      what: the work, such as `embedding`.
      total: the number of units in all; None if it is not known.
      unit: the plural of what is counted, such as `clips`; `B` for bytes.
      done: the units that were done before this program started.
      log_every_s: the seconds between two lines of a log.
    """

    _shown: "Progress | None" = None

    def __init__(
        self,
        what: str,
        total: float | None,
        unit: str,
        *,
        done: float = 0,
        log_every_s: float = LOG_EVERY_S,
    ):
        self._what = what
        self._total = total
        self._unit = unit
        self._done = self._done_before = done
        self._log_every_s = log_every_s
        self._began_s = self._logged_s = time.monotonic()
        self._bar: tqdm | None = None

    def __enter__(self) -> "Progress":
        self._began_s = self._logged_s = time.monotonic()
        if Progress._shown is None:
            Progress._shown = self
            if sys.stderr.isatty():
                self._bar = tqdm(
                    desc=terminal.printable(self._what),
                    total=self._total,
                    initial=self._done,
                    unit=self._unit if self._unit == "B" else f" {self._unit}",
                    unit_scale=True,
                    dynamic_ncols=True,
                    smoothing=0.05,
                    leave=False,
                    file=terminal.raw(sys.stderr),
                )
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if Progress._shown is self:
            Progress._shown = None

    def update(self, number: float = 1) -> None:
        """Adds units that are done. A negative number takes back what must be done again."""
        self._done += number
        if self._bar is not None:
            self._bar.update(number)
        elif Progress._shown is self and time.monotonic() - self._logged_s >= self._log_every_s:
            self._logged_s = time.monotonic()
            write_line(f"{time.strftime('%H:%M:%S')} {self}")

    def describe(self, what: str) -> None:
        """Changes the name of the work, such as `epoch 3/5`."""
        self._what = what
        if self._bar is not None:
            self._bar.set_description(terminal.printable(what))

    def __str__(self) -> str:
        """The line of a log."""
        seconds = time.monotonic() - self._began_s
        rate = (self._done - self._done_before) / seconds if seconds else 0.0
        total = "" if self._total is None else f" of {_count(self._total, self._unit)}"
        number = _count(self._done, self._unit)
        if total and self._unit != "B":
            number = number.removesuffix(f" {self._unit}")
        text = f"{self._what}: {number}{total}, {_rate(rate, self._unit)}"
        if self._total is not None and rate > 0:
            text += f", {duration(max(0.0, self._total - self._done) / rate)} left"
        return text


def track(items: Iterable[_T], what: str, unit: str, total: int | None = None) -> Iterator[_T]:
    """Yields the items and shows the progress.

    Args:
      items: the items.
      what: the work, such as `listing`.
      unit: the plural of the items' name, such as `files`.
      total: the number of items; by default `len(items)` if they have a length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total, unit) as progress:
        for item in items:
            yield item
            progress.update()


def write_line(text: str) -> None:
    """Prints a line on stderr, above the bar if one is shown, without control characters."""
    text = terminal.printable(text)
    if Progress._shown is not None and Progress._shown._bar is not None:
        tqdm.write(text, file=terminal.raw(sys.stderr))
    else:
        print(text, file=sys.stderr, flush=True)


class LineHandler(logging.Handler):
    """A handler of log records that prints them by `write_line`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        try:
            write_line(self.format(record))
        except Exception:
            self.handleError(record)


def duration(seconds: float) -> str:
    """A duration for people: `45 s`, `12 min`, `3 h 5 min`, `2 d 4 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = math.ceil(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _count(number: float, unit: str) -> str:
    return f"{number / 1e6:,.1f} MB" if unit == "B" else f"{number:,.0f} {unit}"


def _rate(rate: float, unit: str) -> str:
    return f"{rate / 1e6:,.1f} MB/s" if unit == "B" else f"{rate:,.1f} {unit}/s"
