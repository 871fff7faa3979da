"""The folder of scenes: its lock, its recordings, and the tables beside the sound."""

import contextlib
import csv
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_prep.scenes_draw import Event, Scene, ScenesSpec, Sound
from data_prep.synthetic_labels import write_segment_file
from relabel_jax.data.layout import REJECTS_FIELDS
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, csv_text, only_process, read_json, write_json
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

SUMMARY_NAME = "scenes.json"
_WORKING_FOLDER = ".scenes"
_ARGUMENTS_NAME = f"{_WORKING_FOLDER}/arguments.json"
_RECORDINGS_NAME = "recordings.csv"
_EVENT_TIMES = ("onset_s", "offset_s", "skipped_s")


class Recording(NamedTuple):
    """A recording that scenes are made of; a row of `recordings.csv`.

    Attributes:
      name: the file, as the table of labels names it.
      path: its path below the folder of the recordings.
      split: the index into `SPLITS`.
      group: the group.
      mids, label_names: the mids and display names of its labels.
      sound: the facts about its sound.
    """

    name: str
    path: str
    split: int
    group: str
    mids: tuple[str, ...]
    label_names: tuple[str, ...]
    sound: Sound


@contextlib.contextmanager
def scenes_folder(folder: pathlib.Path, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Locks a folder for this process and notes the arguments there.

    Args:
      folder: the folder; it is created if it does not exist.
      arguments: the arguments that determine the bytes of the scenes.

    Raises:
      InputError: the folder holds something else or scenes with other arguments, or another process
        is at work there.
    """
    is_free = (folder / _WORKING_FOLDER).exists() or not folder.exists()
    if not is_free and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder}: already exists and holds no scenes; remove it or give another --output_dir"
        )
    lock = folder / _WORKING_FOLDER / "lock"
    with only_process(lock, folder, "another process makes scenes there"):
        arguments = json.loads(json.dumps(arguments))  # as they will be read
        if (folder / _ARGUMENTS_NAME).exists():
            earlier = read_json(folder / _ARGUMENTS_NAME)
            changed = [name for name in arguments if earlier.get(name) != arguments[name]]
            if changed:
                raise InputError(
                    f"{folder}: was begun with other {', '.join(changed)}; give the same again, "
                    "or another --output_dir, or remove it"
                )
        else:
            write_json(folder / _ARGUMENTS_NAME, arguments)
        (folder / "audio").mkdir(exist_ok=True)
        for left_behind in (folder / "audio").glob(".*.tmp"):
            left_behind.unlink(missing_ok=True)
        yield


def write_recordings(
    folder: pathlib.Path,
    recordings: Iterable[Recording],
    rejects: Iterable[tuple[str, str, str, str]],
) -> None:
    """Writes `rejects.csv`, and then `recordings.csv`, which says that both are there."""
    rows = [
        {
            "recording": each.name,
            "path": each.path,
            "split": SPLITS[each.split],
            "group": each.group,
            "mids": ";".join(each.mids),
            "label_names": ";".join(each.label_names),
            **each.sound._asdict(),
        }
        for each in recordings
    ]
    left_out = [dict(zip(REJECTS_FIELDS, row, strict=True)) for row in rejects]
    _write(folder / "rejects.csv", left_out, REJECTS_FIELDS)
    _write(folder / _RECORDINGS_NAME, rows)


def read_recordings(folder: pathlib.Path) -> list[Recording] | None:
    """Reads `recordings.csv`; None if it is not there yet.

    Raises:
      InputError: it is damaged.
    """
    path = folder / _RECORDINGS_NAME
    if not path.exists():
        return None
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return [
                Recording(
                    row["recording"],
                    row["path"],
                    SPLITS.index(row["split"]),
                    row["group"],
                    tuple(row["mids"].split(";")),
                    tuple(row["label_names"].split(";")),
                    Sound(int(row["num_samples"]), int(row["loudest"]), float(row["level_db"])),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot read it ({error}); remove it and run the same command again"
        ) from error


def true_labels(scenes: Sequence[Scene], labels: np.ndarray) -> np.ndarray:
    """The true labels of scenes: bool[scenes, classes].

    Args:
      scenes: the scenes.
      labels: bool[recordings, classes], with all ancestors.
    """
    truth = np.zeros((len(scenes), labels.shape[1]), bool)
    for row, scene in enumerate(scenes):
        truth[row] = labels[[event.recording for event in scene.events]].any(axis=0)
    return truth


def write_tables(
    folder: pathlib.Path,
    spec: ScenesSpec,
    scenes: Sequence[Scene],
    recordings: Sequence[Recording],
    truth: np.ndarray,
    ontology: Ontology,
) -> None:
    """Writes `ontology.json`, `splits.csv`, `events.csv`, the folder `events`, and `truth.csv`.

    Raises:
      InputError: a file cannot be written.
    """
    with complete_file(folder / "ontology.json") as path:
        path.write_bytes(ontology.text.encode())
    _write(
        folder / "splits.csv",
        [{"clip_id": scene.clip_id, "split": SPLITS[scene.split]} for scene in scenes],
    )
    _write(
        folder / "events.csv",
        [
            {
                "clip_id": scene.clip_id,
                "recording": recordings[event.recording].name,
                **dict(zip(_EVENT_TIMES, _event_times(spec, event), strict=True)),
                "snr_db": f"{event.snr_db:.2f}",
            }
            for scene in scenes
            for event in scene.events
        ],
    )
    _write_event_lists(folder, spec, scenes, recordings)
    write_segment_file(
        folder / "truth.csv",
        "the truth about scenes",
        [scene.clip_id for scene in scenes],
        [spec.duration_s] * len(scenes),
        truth,
        ontology,
    )


def _write_event_lists(
    folder: pathlib.Path,
    spec: ScenesSpec,
    scenes: Sequence[Scene],
    recordings: Sequence[Recording],
) -> None:
    """Writes the events of each scene in scaper's text form, in a folder that appears complete.

    A line has onset and offset in seconds and a label, separated by tabs. An event has a line for
    each of its labels.
    """
    partial = folder / _WORKING_FOLDER / "events"
    for old in (partial, folder / "events"):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir()
    for scene in scenes:
        lines = [
            "\t".join([*_event_times(spec, event)[:2], name])
            for event in sorted(scene.events, key=lambda event: event.start)
            for name in recordings[event.recording].label_names
        ]
        text = "".join(f"{line}\n" for line in lines)
        (partial / f"{scene.clip_id}.txt").write_text(text, encoding="utf-8")
    partial.rename(folder / "events")


def _event_times(spec: ScenesSpec, event: Event) -> list[str]:
    """The seconds where an event begins and ends in the scene, and begins in its recording."""
    samples = (event.start, event.start + event.num_samples, event.skip)
    return [f"{number / spec.sample_rate_hz:.6f}" for number in samples]


def _write(
    path: pathlib.Path, rows: Sequence[Mapping[str, Any]], fields: Sequence[str] = ()
) -> None:
    # The name of a recording need not be UTF-8.
    with complete_file(path) as temporary:
        temporary.write_text(
            csv_text(rows, fields), encoding="utf-8", errors="surrogateescape", newline=""
        )
