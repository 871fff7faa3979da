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
| `ID.webm`, `ID_30_40.mp4`              | converters that write `ID.webm.wav`                |

Times are decimal seconds or whole milliseconds, and must be those of the clip. A name that is the
id of a clip means that clip and no other.
"""

import collections
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{2,4}$")
_INNER_EXTENSION = re.compile(r"\.(?=\d?[A-Za-z])[A-Za-z0-9]{2,4}$")
_NUMBER = r"\d+(?:\.\d+)?"
_START = re.compile(rf"(.+)_({_NUMBER})", re.ASCII)
_START_END = re.compile(rf"(.+)_({_NUMBER})[_-]({_NUMBER})", re.ASCII)
_IN_BRACKETS = re.compile(r".*\[([^\[\]]+)\]")
_YOUTUBE_ID_LENGTH = 11
_VGGSOUND_DIGITS = 6
_WITH_TIMES = (2, 3)  # the plainness of names with times

Times = tuple[float, float]
"""Start and end of a clip in seconds. NaN stands for a time that is not known and fits any time."""


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
      two times, 3 with one time, 4 with a title, 5 with another extension. There are several clips
      only if the name is ambiguous.
    """
    row = row_of(name)
    if row is not None:
        return {row: 0}
    found: dict[int, int] = {}
    for clip_id, times, plainness in _readings(name):
        for each in _ids(clip_id, times):
            row = row_of(each)
            if row is not None and row not in found and _fit(times, times_of(row)):
                found[row] = plainness
    return found


def rows_of_names(
    names: Sequence[str],
    rows_of: Callable[[Sequence[str]], np.ndarray],
    times_of: Callable[[int], Times],
) -> np.ndarray:
    """Finds the clip that each name means.

    Args:
      names: names of recordings, without folder and extension.
      rows_of: gives the rows of clip ids, int64[ids]; -1 where there is no such clip.
      times_of: gives the times of the clip in a row.

    Returns:
      int64[names]: the row of the clip; -1 if there is none, or if the name is ambiguous. Several
      names with times do not mean the same clip if its start is not known.
    """
    ids = list(dict.fromkeys(clip_id for name in names for clip_id in _possible_ids(name)))
    rows = dict(zip(ids, rows_of(ids).tolist(), strict=True))
    known = {clip_id: row for clip_id, row in rows.items() if row >= 0}
    found = np.full(len(names), -1)
    unsure: dict[int, set[str]] = collections.defaultdict(set)
    for number, name in enumerate(names):
        clips = clips_of_name(name, known.get, times_of)
        if len(clips) == 1:
            ((row, plainness),) = clips.items()
            found[number] = row
            if plainness in _WITH_TIMES and math.isnan(times_of(row)[0]):
                unsure[row].add(name)
    for of_row in unsure.values():
        if len(of_row) > 1:
            found[[name in of_row for name in names]] = -1
    return found


def _possible_ids(name: str) -> Iterator[str]:
    """Yields all ids that `clips_of_name` looks up."""
    yield name
    for clip_id, times, _ in _readings(name):
        yield from _ids(clip_id, times)


def _ids(clip_id: str, times: Sequence[str]) -> Iterable[str]:
    """Returns an id, and those of the clips with these times if a video has several clips.

    Those have the ids `ID_START` or `ID_START_END`, in milliseconds.
    """
    if not times:
        return (clip_id,)
    start, *ends = (round(float(time) * 1000) for time in times)
    ids = [clip_id, f"{clip_id}_{start}", f"{clip_id}_{times[0]}"]
    for text, end in zip(times[1:], ends, strict=True):  # it may be the duration
        ids += [f"{clip_id}_{start}_{end}", f"{clip_id}_{start}_{start + end}"]
        ids.append(f"{clip_id}_{times[0]}_{text}")
    return dict.fromkeys(ids)


def _readings(name: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Yields clip ids that a name may contain, with the texts of their times, plainest first."""
    names = (name, name[1:]) if name.startswith("Y") else (name,)
    if len(names) > 1:
        yield names[1], (), 1
    if name[-1:].isdigit():
        for each in names:
            if match := _START_END.fullmatch(each):
                yield match[1], (match[2], match[3]), 2
        for each in names:
            if match := _START.fullmatch(each):
                yield match[1], (match[2],), 3
    if name.endswith("]") and (match := _IN_BRACKETS.fullmatch(name)):
        yield match[1], (), 4
    if name[:-_YOUTUBE_ID_LENGTH].endswith("-"):
        yield name[-_YOUTUBE_ID_LENGTH:], (), 4
    if "." in name and (inner := _INNER_EXTENSION.sub("", name)) != name:
        yield inner, (), 5
        for clip_id, times, _ in _readings(inner):
            yield clip_id, times, 5


def _fit(texts: tuple[str, ...], times: Times) -> bool:
    """Whether the texts are the start, or the start and the end or the duration, of a clip."""
    start_s, end_s = times
    if not texts:
        return True
    if not _is_time(texts[0], start_s):
        return False
    return len(texts) == 1 or _is_time(texts[1], end_s) or _is_time(texts[1], end_s - start_s)


def _is_time(text: str, seconds: float) -> bool:
    if math.isnan(seconds):
        return True
    whole = text.partition(".")[0]
    if len(whole) > 1 and whole[0] == "0" and len(text) != _VGGSOUND_DIGITS:
        return False
    milliseconds = round(seconds * 1000)
    return round(float(text) * 1000) == milliseconds or text == str(milliseconds)
