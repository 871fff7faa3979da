"""The progress display: a bar on a terminal, single lines in a log, one display at a time."""

import contextlib
import io
import logging
import re

import pytest

from relabel_jax.progress import LineHandler, Progress, duration, track


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self):
        return True


def test_a_log_gets_single_lines_with_rate_and_time_left(capsys):
    with Progress("embedding", 2000, "recordings", done=500, log_every_s=0) as progress:
        progress.update(500)
    (line,) = capsys.readouterr().err.splitlines()
    pattern = (
        r"\d\d:\d\d:\d\d embedding: 1,000 of 2,000 recordings, [\d,.]+ recordings/s, \d+ s left"
    )
    assert re.fullmatch(pattern, line)


def test_a_log_gets_no_line_before_a_minute_is_over(capsys):
    assert list(track(range(100), "listing", "files")) == list(range(100))
    assert capsys.readouterr().err == ""


def test_an_unknown_total_has_no_time_left(capsys):
    with Progress("listing", None, "B", log_every_s=0) as progress:
        progress.update(2_500_000)
    assert re.search(r" listing: 2.5 MB, [\d,.]+ MB/s$", capsys.readouterr().err.strip())


def test_a_terminal_gets_a_bar_that_leaves_nothing():
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal), Progress("embedding", 4, "recordings") as progress:
        progress.update(4)
        progress.describe("closing")
    shown = terminal.getvalue()
    assert "embedding" in shown
    assert "closing" in shown
    assert "\n" not in shown
    assert shown.rpartition("\r")[0].rpartition("\r")[2].strip() == ""


def test_only_the_outer_display_is_shown(capsys):
    with (
        Progress("outer", 2, "runs", log_every_s=0) as outer,
        Progress("inner", 2, "clips", log_every_s=0) as inner,
    ):
        inner.update()
        outer.update()
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["outer:"]
    with Progress("next", 2, "clips", log_every_s=0) as progress:
        progress.update()
    assert " next: 1 of 2 clips" in capsys.readouterr().err


def test_log_records_stand_above_the_bar():
    terminal = Terminal()
    logger = logging.getLogger("test_progress")
    handler = LineHandler()
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stderr(terminal), Progress("training", 4, "clips") as progress:
            progress.update(1)
            logger.warning("epoch %d", 3)
    finally:
        logger.removeHandler(handler)
    assert re.search(r"\r *\repoch 3\n", terminal.getvalue())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "2 min"),
        (3600, "1 h 0 min"),
        (11_100, "3 h 5 min"),
        (187_200, "2 d 4 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
