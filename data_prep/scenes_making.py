"""Makes scenes: chooses the recordings, mixes what is missing, and writes the tables."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.process_map import process_map
from data_prep.scenes_draw import Pool, Scene, ScenesSpec, Sound, split_recordings
from data_prep.scenes_files import (
    Recording,
    read_recordings,
    true_labels,
    write_recordings,
    write_tables,
)
from data_prep.scenes_recordings import Labelled, find_files
from data_prep.scenes_sound import Mixer, survey
from data_prep.synthetic_labels import label_matrix
from relabel_jax.errors import InputError, Rejected
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS

ENOUGH_CLIPS = 5
"""A class with so many training scenes counts as one that can be learned."""


def make_missing(
    spec: ScenesSpec,
    folder: pathlib.Path,
    source: pathlib.Path,
    table: Sequence[Labelled],
    ontology: Ontology,
    num_workers: int,
) -> dict[str, Any]:
    """Makes what is missing of the scenes.

    Args:
      spec: the arguments of the scenes.
      folder: the folder of the scenes, which this process has locked.
      source: the folder of the recordings.
      table: the table of labels.
      ontology: the ontology of the labels.
      num_workers: number of processes.

    Returns:
      The counts that `scenes.json` and the last lines of the command report.

    Raises:
      InputError: no recording can be used, a split gets none, or a file cannot be written.
    """
    recordings = read_recordings(folder)
    if recordings is None:
        recordings = _choose_recordings(spec, folder, source, table, ontology, num_workers)
    given = label_matrix(
        [[ontology.index[mid] for mid in each.mids] for each in recordings], ontology
    )
    pool = Pool(
        spec,
        [each.sound for each in recordings],
        np.array([each.split for each in recordings]),
        given,
        ontology,
    )
    scenes = [
        pool.scene(split, number)
        for split in range(len(SPLITS))
        for number in range(spec.num_clips[split])
    ]
    present = {path.stem for path in (folder / "audio").iterdir()}
    missing = [scene for scene in scenes if scene.clip_id not in present]
    _mixer.cache_clear()
    write = functools.partial(_write_scene, spec=spec, source=source, folder=folder)
    for _ in process_map(write, missing, num_workers, what="mixing", unit="scenes"):
        pass
    with_ancestors, _ = relabel(given, ontology, "pel")
    truth = true_labels(scenes, with_ancestors)
    write_tables(folder, spec, scenes, recordings, truth, ontology)
    return _summary(scenes, recordings, len(table) - len(recordings), truth, ontology)


def _choose_recordings(
    spec: ScenesSpec,
    folder: pathlib.Path,
    source: pathlib.Path,
    table: Sequence[Labelled],
    ontology: Ontology,
    num_workers: int,
) -> list[Recording]:
    """Reads all recordings, leaves out those that cannot be used, and divides them into splits."""
    found = list(find_files(table, source))
    paths = [path for _, path in found if isinstance(path, str)]
    measure = functools.partial(survey, sample_rate_hz=spec.sample_rate_hz)
    sounds = process_map(measure, paths, num_workers, what="measuring", unit="recordings")
    kept: list[tuple[Labelled, str, Sound]] = []
    rejects = []
    for row, path in found:
        if isinstance(path, Rejected):
            rejects.append((row.name, "", path.reason, path.detail))
        elif isinstance(sound := next(sounds), Rejected):
            rejects.append((row.name, path, sound.reason, sound.detail))
        else:
            kept.append((row, os.path.relpath(path, source), sound))
    if not kept:
        raise InputError(
            f"{source}: none of the {len(found)} recordings of --labels can be used; the first, "
            f"{rejects[0][0]}: {rejects[0][3]}"
        )
    labels = label_matrix([row.labels for row, _, _ in kept], ontology)
    splits = split_recordings([row.group for row, _, _ in kept], labels, spec)
    recordings = [
        Recording(
            row.name,
            path,
            split,
            row.group,
            tuple(ontology.mids[label] for label in row.labels),
            tuple(ontology.display_names[label] for label in row.labels),
            sound,
        )
        for (row, path, sound), split in zip(kept, splits.tolist(), strict=True)
    ]
    write_recordings(folder, recordings, rejects)
    return recordings


@functools.lru_cache(maxsize=1)
def _mixer(spec: ScenesSpec, source: pathlib.Path, folder: pathlib.Path) -> Mixer:
    """The mixer of a process. Its recordings are read once, not sent with every few scenes."""
    recordings = read_recordings(folder)
    assert recordings is not None
    return Mixer(spec, recordings, source, folder)


def _write_scene(
    scene: Scene, spec: ScenesSpec, source: pathlib.Path, folder: pathlib.Path
) -> None:
    _mixer(spec, source, folder).write(scene)


def _summary(
    scenes: Sequence[Scene],
    recordings: Sequence[Recording],
    num_rejects: int,
    truth: np.ndarray,
    ontology: Ontology,
) -> dict[str, Any]:
    """The counts over the truth, bool[scenes, classes]."""
    split_of = np.array([scene.split for scene in scenes])
    counts = np.array([truth[split_of == split].sum(axis=0) for split in range(len(SPLITS))])
    roots = {}
    for root in ontology.roots:
        below = ontology.descendants(root).copy()
        below[root] = True
        has_root = truth[:, below].any(axis=1)
        roots[ontology.display_names[root]] = {
            "classes": int((counts[:, below] > 0).any(axis=0).sum()),
            "classes_to_learn": int((counts[0, below] >= ENOUGH_CLIPS).sum()),
            "classes_to_test": int(
                ((counts[0, below] >= ENOUGH_CLIPS) & (counts[2, below] > 0)).sum()
            ),
            **{
                name: int((has_root & (split_of == split)).sum())
                for split, name in enumerate(SPLITS)
            },
        }
    return {
        "scenes": {name: int((split_of == split).sum()) for split, name in enumerate(SPLITS)},
        "recordings": {
            name: sum(each.split == split for each in recordings)
            for split, name in enumerate(SPLITS)
        },
        "rejected_recordings": num_rejects,
        "events_per_scene": round(sum(len(scene.events) for scene in scenes) / len(scenes), 3),
        "true_labels_per_scene": round(float(truth.sum(axis=1).mean()), 3),
        "roots": roots,
    }
