"""The names that recordings have, and the clips that they mean.

For a clip `ID` from 30 s to 40 s, the name of a recording without its folder and extension may be

| name                                   | as written by                                      |
|----------------------------------------|----------------------------------------------------|
| `ID`                                   | most downloaders                                   |
| `YID`                                  | PANNs                                              |
| `ID_30_40`, `YID_30.000_40.000`        | AudioSet's own TFRecords, DCASE, DESED             |
| `ID_30.0-40.0`                         | audioset-download                                  |
| `ID_30_10`                             | start and duration                                 |
| `ID_30`, `YID_30`, `ID_000030`         | VGGSound                                           |
| `ID_30000`, `ID_30000_40000`           | AudioSet-Strong, in milliseconds                   |
| `Title [ID]`, `Title-ID`               | yt-dlp, youtube-dl; the second if ID has 11 letters |

Times are decimal seconds or whole milliseconds, and must be those of the clip. A name that is the
id of a clip means that clip and no other.
"""

import re
from collections.abc import Callable, Iterator

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{2,4}$")
_NUMBER = r"\d+(?:\.\d+)?"
_START = re.compile(rf"(.+)_({_NUMBER})", re.ASCII)
_START_END = re.compile(rf"(.+)_({_NUMBER})[_-]({_NUMBER})", re.ASCII)
_IN_BRACKETS = re.compile(r".*\[([^\[\]]+)\]")
_YOUTUBE_ID_LENGTH = 11
_VGGSOUND_DIGITS = 6

Times = tuple[float, float]
"""Start and end of a clip in seconds."""


def stem(name: str) -> str:
    """The name of a recording without its folder and extension.

    >>> stem("audio/Y-0Gj8-vB1q4.wav")
    'Y-0Gj8-vB1q4'
    """
    name = name.rpartition("/")[2]
    return _EXTENSION.sub("", name) if "." in name else name


def clips_of_name(
    name: str,
    row_of: Callable[[str], int | None],
    times_of: Callable[[int], Times],
) -> dict[int, int]:
    """Finds the clips that a name can mean.

    >>> rows = {"a": 0, "a_30": 1}
    >>> clips_of_name("Ya_30.0-40.0", rows.get, lambda row: (30.0, 40.0))
    {0: 2}
    >>> clips_of_name("a_30", rows.get, lambda row: (30.0, 40.0))
    {1: 0}

    Args:
      name: the name of a recording, without folder and extension.
      row_of: gives the row of a clip id, or None.
      times_of: gives the times of the clip in a row.

    Returns:
      By row of the clip, how plain the name is: 0 for the id itself, 1 for the id after `Y`, 2 with
      two times, 3 with one time, 4 with a title. There are several clips only if the name is
      ambiguous.
    """
    row = row_of(name)
    if row is not None:
        return {row: 0}
    found: dict[int, int] = {}
    for clip_id, times, plainness in _readings(name):
        for row in _rows(clip_id, times, row_of):
            if row not in found and _fit(times, times_of(row)):
                found[row] = plainness
    return found


def _rows(
    clip_id: str, times: tuple[str, ...], row_of: Callable[[str], int | None]
) -> Iterator[int]:
    """Yields the clip of an id, and the clip with that start if a video has several clips.

    Those have the ids `ID_START`, in milliseconds.
    """
    starts = {str(round(float(time) * 1000)) for time in times[:1]} | set(times[:1])
    for each in (clip_id, *(f"{clip_id}_{start}" for start in starts)):
        row = row_of(each)
        if row is not None:
            yield row


def _readings(name: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yields clip ids that a name may contain, with the texts of their times, plainest first."""
    names = (name, name[1:]) if name.startswith("Y") else (name,)
    if len(names) > 1:
        yield names[1], (), 1
    for each in names:
        if match := _START_END.fullmatch(each):
            yield match[1], (match[2], match[3]), 2
    for each in names:
        if match := _START.fullmatch(each):
            yield match[1], (match[2],), 3
    if match := _IN_BRACKETS.fullmatch(name):
        yield match[1], (), 4
    if name[:-_YOUTUBE_ID_LENGTH].endswith("-"):
        yield name[-_YOUTUBE_ID_LENGTH:], (), 4


def _fit(texts: tuple[str, ...], times: Times) -> bool:
    """Whether the texts are the start, or the start and the end or the duration, of a clip."""
    start_s, end_s = times
    if not texts:
        return True
    if not _is_time(texts[0], start_s):
        return False
    return len(texts) == 1 or _is_time(texts[1], end_s) or _is_time(texts[1], end_s - start_s)


def _is_time(text: str, seconds: float) -> bool:
    whole = text.partition(".")[0]
    if len(whole) > 1 and whole[0] == "0" and len(text) != _VGGSOUND_DIGITS:
        return False
    milliseconds = round(seconds * 1000)
    return round(float(text) * 1000) == milliseconds or text == str(milliseconds)
