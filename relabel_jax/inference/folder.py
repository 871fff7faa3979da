"""Embeds folders of any size: the work of the command `relabel_jax.embed`."""

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import only_process, reading
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.parts import PartWriter, assemble, count_rows, first_without_part
from relabel_jax.inference.recordings import Plan, Readers

PART_ROWS = 4_096


def embed(
    checkpoint: str | pathlib.Path,
    audio: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    hop_s: float | None = None,
    num_scores: int = 0,
    ontology: str | pathlib.Path | None = None,
    num_workers: int | None = None,
    part_rows: int = PART_ROWS,
) -> dict[str, Any]:
    """Embeds all recordings and returns the summary: recordings, rejects, windows.

    If it is stopped in whatever way, the same call continues after the last complete part.

    Args:
      checkpoint: the workdir of a finished training, or an exported folder.
      audio: folders and files, with commas.
      output: the Parquet file.
      hop_s: seconds from the start of one window to the start of the next; at most, and by
        default, the length of a window.
      num_scores: this many classes that score highest are written with each window.
      ontology: as in `Embedder.load`.
      num_workers: threads that decode; by default as many as the machine has cores.
      part_rows: rows of a part, which is written when it is complete.

    Raises:
      InputError: an argument is wrong, or the output cannot be written.
    """
    output = pathlib.Path(output)
    parts = output.with_name(f"{output.name}.parts")
    plan = Plan(parts)
    with reading(output):
        exists = output.exists() and not plan.exists
    if exists:
        raise InputError(f"{output}: exists already; delete it or give another --output")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected a number of at least 1")
    embedder = Embedder.load(checkpoint, ontology=ontology)
    duration_s = embedder.waveform_format.duration_s
    if hop_s is None:
        hop_s = duration_s
    if not 1 / embedder.sample_rate_hz <= hop_s <= duration_s:
        raise InputError(f"--hop_s={hop_s}: expected more than 0 and at most {duration_s:g} s")
    if num_scores and not 0 < num_scores <= len(embedder.classes):
        raise InputError(
            f"--scores={num_scores}: expected at most {len(embedder.classes)}, the classes that "
            f"{checkpoint} knows"
        )
    busy = "another process is at it; wait or stop that one"
    with only_process(parts / ".lock", parts, busy):
        identity = {
            "audio": str(audio),
            "hop_s": hop_s,
            "scores": num_scores,
            "network": embedder.fingerprint,
        }
        num_recordings = plan.begin(identity, str(audio))
        if not output.exists():  # if it exists, only its parts were left to be deleted
            workers = num_workers or os.cpu_count() or 1
            _write_parts(
                embedder, plan, parts, num_recordings, hop_s, num_scores, workers, part_rows
            )
            assemble(parts, output, num_recordings, embedder.fingerprint)
    num_windows, num_rejects = count_rows(output)
    for part in parts.glob("*.parquet"):  # before the plan, which says what the output was made of
        part.unlink()
    shutil.rmtree(parts)
    return {"recordings": num_recordings, "rejects": num_rejects, "windows": num_windows}


def _write_parts(
    embedder: Embedder,
    plan: Plan,
    parts: pathlib.Path,
    num_recordings: int,
    hop_s: float,
    num_scores: int,
    num_workers: int,
    part_rows: int,
) -> None:
    """Embeds the recordings that are in no part yet."""
    first = first_without_part(parts)
    if first == num_recordings:
        return
    writer = PartWriter(
        parts,
        plan.recordings(first),
        first,
        part_rows=part_rows,
        embedding_size=embedder.embedding_size,
        classes=embedder.classes if num_scores else (),
        num_scores=num_scores,
    )
    hop = embedder.hop_samples(hop_s)
    waiting: list[tuple[int, int]] = []  # recording and start of windows that are being embedded
    with (
        Readers(plan.recordings(first), embedder.waveform_format, hop, num_workers) as readers,
        tqdm.tqdm(total=num_recordings, initial=first, desc="embedding", unit=" recordings") as bar,
    ):

        def windows() -> Iterator[np.ndarray]:
            for number, what in readers.items():
                if isinstance(what, tuple):
                    waiting.append((number, what[0]))
                    yield what[1]
                elif what is None or isinstance(what, Rejected):
                    writer.end(number, what)
                else:
                    raise what

        for embeddings, scores in embedder.embed_windows(windows()):
            for (number, start), *row in zip(waiting, embeddings, scores, strict=False):
                writer.add(number, start / embedder.sample_rate_hz, *row)
            del waiting[: len(embeddings)]
            bar.update(writer.write_complete(waiting))
        bar.update(writer.write_complete([]))
    writer.close()
