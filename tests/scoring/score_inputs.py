"""Segment files and files of scores for the tests, and the command that measures them."""

import json
import pathlib
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from relabel_jax.labels.ontology import Ontology
from relabel_jax.score import main

# Two roots; Bell has two parents, and no path joins them.
TEXT = json.dumps(
    [
        {"id": "/m/animal", "name": "Animal", "child_ids": ["/m/dog", "/m/cow"]},
        {"id": "/m/dog", "name": "Dog", "child_ids": ["/m/bark"]},
        {"id": "/m/bark", "name": "Bark", "child_ids": []},
        {"id": "/m/cow", "name": "Cow, cattle", "child_ids": ["/m/bell"]},
        {"id": "/m/thing", "name": "Thing", "child_ids": ["/m/bell"]},
        {"id": "/m/bell", "name": "Bell", "child_ids": []},
    ]
)
ONTOLOGY = Ontology.from_text(TEXT)
NUM_CLIPS = 60
CLIP_IDS = [f"clip-{number:05}_" for number in range(NUM_CLIPS)]


def labels() -> list[set[str]]:
    """The original labels of the clips: one or two."""
    rng = np.random.default_rng(1)
    return [set(rng.choice(ONTOLOGY.mids, rng.integers(1, 3))) for _ in CLIP_IDS]


def scores(seed: int = 0) -> np.ndarray:
    """float32[clips, classes] in [0, 1], with ties, better than chance."""
    rng = np.random.default_rng(seed)
    truth = np.array([[mid in row for mid in ONTOLOGY.mids] for row in labels()])
    return (np.round((rng.random(truth.shape) + truth) * 16) / 32).astype(np.float32)


def write_inputs(folder: pathlib.Path) -> None:
    """Writes ontology.json and segments.csv, which has the clips in another order."""
    (folder / "ontology.json").write_text(TEXT)
    rows = [
        f'{clip_id}, 0.000, 10.000, "{",".join(sorted(row))}"\n'
        for clip_id, row in zip(CLIP_IDS, labels(), strict=True)
    ]
    (folder / "segments.csv").write_text("".join(rows[::-1]))


def write_scores(path: pathlib.Path, values: np.ndarray, **arrays: Any) -> pathlib.Path:
    """Writes an npz with `clip_id`, `mids` and `scores`; `arrays` replaces some, None drops."""
    arrays = {
        "clip_id": np.array(CLIP_IDS[: len(values)]),
        "mids": np.array(ONTOLOGY.mids),
        "scores": values,
    } | arrays
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def write_form(form: str, folder: pathlib.Path, values: np.ndarray) -> pathlib.Path:
    """Writes the scores of all clips in one of the forms that can be read."""
    columns = dict(zip(ONTOLOGY.mids, values.T, strict=True))
    recordings = [f"audio/Y{clip_id}.wav" for clip_id in CLIP_IDS]
    match form:
        case "npz":
            return write_scores(folder / "scores.npz", values)
        case "video_id":
            of_bytes = np.array(CLIP_IDS).astype("S")
            path = folder / "video_id.npz"
            return write_scores(path, values, clip_id=None, video_id=of_bytes)
        case "run":
            (folder / "run").mkdir()
            write_scores(folder / "run" / "test_scores.npz", values, masked=values > 2)
            return folder / "run"
        case "hdf5":
            with h5py.File(folder / "scores.h5", "w") as file:
                file["audio_name"] = [name.encode() for name in recordings]
                file["clipwise_output"] = values
                file["target"] = values > 0.5
                file["mids"] = list(ONTOLOGY.mids)
            return folder / "scores.h5"
        case "lists":
            lists = pa.array(values.tolist(), pa.list_(pa.float32()))
            mids = pa.array([list(ONTOLOGY.mids)] * len(values))
            table = pa.table({"clip_id": recordings, "scores": lists, "mids": mids})
            pq.write_table(table, folder / "lists.parquet")
            return folder / "lists.parquet"
        case "columns":
            pq.write_table(pa.table({**columns, "clip_id": CLIP_IDS}), folder / "columns.parquet")
            return folder / "columns.parquet"
        case "csv":
            names = ["video_id", *ONTOLOGY.display_names]
            table = pa.table([pa.array(recordings), *map(pa.array, values.T)], names=names)
            pa.csv.write_csv(table, folder / "scores.csv")
            return folder / "scores.csv"
    raise ValueError(form)


FORMS = ("npz", "video_id", "run", "hdf5", "lists", "columns", "csv")


def run(folder: pathlib.Path, capsys: Any, *paths: pathlib.Path, **flags) -> tuple[int, str, str]:
    """Runs the command; returns its exit code, its stdout and its stderr."""
    if not (folder / "segments.csv").exists():
        write_inputs(folder)
    arguments = {
        "scores": ",".join(map(str, paths)),
        "segments": folder / "segments.csv",
        "ontology": folder / "ontology.json",
    } | flags
    status = main(
        [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in arguments.items()]
    )
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def measured(folder: pathlib.Path, capsys: Any, *paths: pathlib.Path, **flags) -> dict[str, Any]:
    """Runs the command; returns the content of scores.json."""
    flags = {"output_dir": folder / "OUT", "overwrite": True} | flags
    status, _, error = run(folder, capsys, *paths, **flags)
    assert status == 0, error
    return json.loads((pathlib.Path(flags["output_dir"]) / "scores.json").read_text())
