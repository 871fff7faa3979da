"""Embeds folders of any size; the command `relabel_jax.embed` calls `embed`."""

import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import only_process, reading
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.parts import Output, PartWriter, assemble, first_without_part
from relabel_jax.inference.recording_list import RecordingList
from relabel_jax.inference.recordings import Readers
from relabel_jax.progress import Progress

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
    retry_rejects: bool = False,
) -> dict[str, Any]:
    """Embeds all recordings and writes a Parquet file.

    If the program is stopped, even by a kill, the same call continues after the last complete part.
    It embeds the recordings of the list that the first call made. Files that were replaced since
    are rejected, even if they are in a complete part.

    Args:
      checkpoint: the workdir of a finished training, or an exported folder.
      audio: folders and files, separated by commas; wildcards too.
      output: the Parquet file.
      hop_s: seconds from the start of one window to the start of the next. The default, and the
        largest value, is the length of a window.
      num_scores: the number of classes to write for each window, those with the highest scores.
      ontology: see `Embedder.load`.
      num_workers: number of threads that decode; by default the number of cores.
      part_rows: number of rows after which a part is written.
      retry_rejects: embed the rejected recordings of a finished output again, and add their rows at
        its end. The other arguments must be those of the first call.

    Returns:
      The summary: the numbers of `recordings`, `rejects` and `windows`.

    Raises:
      InputError: an argument is wrong, the output cannot be written, or a fault of the system
        lasts (relabel_jax/faults.py).
    """
    output = pathlib.Path(output)
    parts = output.with_name(f"{output.name}.parts")
    recordings = RecordingList(parts)
    with reading(output):
        exists = output.exists()
    if exists and not recordings.exists and not retry_rejects:
        raise InputError(f"{output}: exists already; delete it or give another --output")
    if not exists and retry_rejects:
        raise InputError(f"{output}: does not exist; --retry_rejects needs a finished output")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected a number of at least 1")
    embedder = Embedder.load(checkpoint, ontology=ontology)
    hop_s = _checked_hop_s(hop_s, embedder)
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
            "retry_rejects": retry_rejects or None,
        }
        is_begun = recordings.exists
        before = None
        if retry_rejects:
            before = Output.open(output, embedder.fingerprint, num_scores)
            num_recordings = recordings.begin_with(identity, before)
        else:
            num_recordings = recordings.begin(identity, str(audio))
        # If the output is complete, the program was stopped while it deleted the parts.
        if recordings.is_to_do(output):
            changed = recordings.changed(str(audio)) if is_begun and not retry_rejects else set()
            workers = num_workers or os.cpu_count() or 1
            _write_parts(
                embedder, recordings, parts, num_recordings, hop_s, num_scores, workers, part_rows
            )
            assemble(parts, output, num_recordings, embedder.fingerprint, changed, before)
        done = Output.open(output, embedder.fingerprint, num_scores)
        summary = {"rejects": len(done.rejected), "windows": done.num_rows}
        embedded = done.count_recordings() if retry_rejects else num_recordings - len(done.rejected)
        # Before the list, which says what the output was made of.
        for part in parts.glob("*.parquet"):
            part.unlink()
        shutil.rmtree(parts)
    return {"recordings": embedded + summary["rejects"]} | summary


def _checked_hop_s(hop_s: float | None, embedder: Embedder) -> float:
    duration_s = embedder.waveform_format.duration_s
    if hop_s is None:
        return duration_s
    if not 1 / embedder.sample_rate_hz <= hop_s <= duration_s:
        raise InputError(f"--hop_s={hop_s}: expected more than 0 and at most {duration_s:g} s")
    return hop_s


def _write_parts(
    embedder: Embedder,
    recordings: RecordingList,
    parts: pathlib.Path,
    num_recordings: int,
    hop_s: float,
    num_scores: int,
    num_workers: int,
    part_rows: int,
) -> None:
    """Embeds the recordings that are not in a part yet."""
    first = first_without_part(parts)
    if first == num_recordings:
        return
    writer = PartWriter(
        parts,
        recordings.read(first),
        first,
        part_rows=part_rows,
        embedding_size=embedder.embedding_size,
        classes=embedder.classes if num_scores else (),
        num_scores=num_scores,
    )
    hop = embedder.hop_samples(hop_s)
    waiting: list[tuple[int, int]] = []  # recording and start of each window that is being computed
    with (
        Readers(recordings.read(first), embedder.waveform_format, hop, num_workers) as readers,
        Progress("embedding", num_recordings, "recordings", done=first) as progress,
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
            progress.update(writer.write_complete(waiting))
        progress.update(writer.write_complete([]))
    writer.close()
