r"""Embeds recordings by a trained network: a folder of any size in, a Parquet file out.

  python -m relabel_jax.embed --checkpoint=W/base --audio=RECORDINGS --output=embeddings.parquet
  python -m relabel_jax.embed --checkpoint=W/base --audio=a.wav,b.flac --hop_s=1 --scores=5 \
      --output=embeddings.parquet

The output has a row for each window of 10 s:

  path       as found below --audio
  start_s    where the window starts in the recording; the last one is zero-padded
  embedding  list<float32>, 128 values
  mids, display_names, scores    with --scores: the classes that score highest, best first

Recordings that cannot be read are listed in OUTPUT.rejects.csv (path, reason, detail), and nothing
of them is in the output. Stopped in whatever way, the same command goes on: what is done lies in
OUTPUT.parts until the output is complete.
"""

import contextlib
import csv
import itertools
import json
import os
import pathlib
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tqdm

from relabel_jax.audio.decode import EXTENSIONS, decode_blocks, list_recordings
from relabel_jax.audio.resample import resample_blocks
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.audio.windows import cut_windows
from relabel_jax.data.schema import DURATION_S, SAMPLE_RATE_HZ
from relabel_jax.errors import InputError, Rejected
from relabel_jax.files import complete_file, only_process, read_json, reading, write_json
from relabel_jax.inference.embedder import Embedder

NETWORK_KEY = b"relabel_jax.network"  # in the Parquet file's metadata: the network's fingerprint

_PLAN_NAME = "plan.json"
_PART_ROWS = 4_096  # a part is closed when it has so many, or so many recordings
_QUEUE = 64  # windows that are read but not yet embedded
_REJECTS_FIELDS = ("path", "reason", "detail")

# Of one recording: its number, and a window with its start, why it is left out, or None at its end.
_Item = tuple[int, tuple[int, np.ndarray] | Rejected | Exception | None]


def embed(
    checkpoint: str | pathlib.Path,
    audio: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    hop_s: float = DURATION_S,
    num_scores: int = 0,
    ontology: str | pathlib.Path | None = None,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Embeds all recordings and returns the summary: recordings, rejects, windows.

    Args:
      checkpoint: the workdir of a finished training, or an exported folder.
      audio: folders and files, with commas.
      output: the Parquet file.
      hop_s: seconds from one window to the next, at most 10.
      num_scores: so many classes that score highest go into the output.
      ontology: as of `Embedder.load`.
      num_workers: threads that decode; by default as many as the machine has cores.

    Raises:
      InputError: an argument does not fit, or the output cannot be written.
    """
    output = pathlib.Path(output)
    parts = output.with_name(f"{output.name}.parts")
    with reading(output):
        exists = output.exists() and not (parts / _PLAN_NAME).exists()
    if exists:
        raise InputError(f"{output}: exists already; delete it or give another --output")
    if not 1 <= hop_s * SAMPLE_RATE_HZ <= DURATION_S * SAMPLE_RATE_HZ:
        raise InputError(f"--hop_s={hop_s}: expected more than 0 and at most {DURATION_S} s")
    if num_workers is not None and num_workers < 1:
        raise InputError(f"--num_workers={num_workers}: expected a number of at least 1")
    embedder = Embedder.load(checkpoint, ontology=ontology)
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
        num_recordings = _plan(parts, identity, str(audio))
        if not output.exists():  # else only its parts were left to be deleted
            num_workers = num_workers or os.cpu_count() or 1
            _write_parts(embedder, parts, num_recordings, hop_s, num_scores, num_workers)
            _assemble(parts, output, num_recordings, embedder.fingerprint)
    summary = _summary(output, num_recordings)
    for part in parts.glob("*.parquet"):  # before the plan, which says whose the output is
        part.unlink()
    shutil.rmtree(parts)
    return summary


def _plan(parts: pathlib.Path, identity: dict[str, Any], audio: str) -> int:
    """Lists the recordings, once, and returns their number."""
    plan = parts / _PLAN_NAME
    if plan.exists():
        before = read_json(plan)
        for field, value in identity.items():
            if before.get(field) != value:
                raise InputError(
                    f"{parts}: was begun with {field} {before.get(field)!r}, not {value!r}; give "
                    f"the same, or delete {parts} to begin anew"
                )
        return before["num_recordings"]
    number = 0
    with (
        complete_file(parts / "recordings") as temporary,
        open(temporary, "wb") as file,
        tqdm.tqdm(desc="listing", unit=" recordings", leave=False) as bar,
    ):
        for path in _recordings(audio):
            file.write(os.fsencode(path) + b"\0")  # a name may have line ends
            number += 1
            bar.update()
    if not number:
        raise InputError(
            f"--audio={audio}: no recordings below it; expected files that end in "
            f"{', '.join(EXTENSIONS)}"
        )
    write_json(plan, identity | {"num_recordings": number})
    return number


def _recordings(audio: str) -> Iterator[str]:
    for place in [audio] if os.path.exists(audio) else audio.split(","):
        if os.path.isdir(place):
            yield from list_recordings(place)
        elif os.path.isfile(place):
            yield place
        else:
            raise InputError(f"--audio: {place}: no such file or folder")


def _planned(parts: pathlib.Path, first: int) -> Iterator[tuple[int, str]]:
    """Number and path of the recordings from `first` on."""

    def paths() -> Iterator[str]:
        rest = b""
        path = parts / "recordings"
        with reading(path), open(path, "rb") as file:
            while block := file.read(1 << 16):
                *names, rest = (rest + block).split(b"\0")
                yield from map(os.fsdecode, names)

    return itertools.islice(enumerate(paths()), first, None)


class _Readers:
    """Threads that decode; libsndfile, FFmpeg and soxr let go of Python's lock."""

    def __init__(self, recordings: Iterator[tuple[int, str]], hop: int, num_workers: int):
        self._recordings = recordings
        self._hop = hop
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._items: queue.Queue[_Item | None] = queue.Queue(_QUEUE)
        self._threads = [
            threading.Thread(target=self._read, daemon=True) for _ in range(num_workers)
        ]

    def __enter__(self) -> "_Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopped.set()
        while any(thread.is_alive() for thread in self._threads):
            with contextlib.suppress(queue.Empty):
                self._items.get(timeout=0.01)

    def items(self) -> Iterator[_Item]:
        """Of every recording its windows and its end; recordings are mixed."""
        running = len(self._threads)
        while running:
            item = self._items.get()
            if item is None:
                running -= 1
            else:
                yield item

    def _read(self) -> None:
        try:
            self._read_recordings()
        except Exception as error:  # is raised in the main thread
            self._items.put((-1, error))
        finally:
            self._items.put(None)

    def _read_recordings(self) -> None:
        while not self._stopped.is_set():
            with self._lock:
                number, path = next(self._recordings, (-1, ""))
            if number < 0:
                break
            outcome: Rejected | None = None
            try:
                pieces = resample_blocks(decode_blocks(path), PAPER_FORMAT.sample_rate_hz)
                for window in cut_windows(pieces, PAPER_FORMAT.num_samples, self._hop):
                    self._items.put((number, window))
                    if self._stopped.is_set():
                        return
            except Rejected as rejected:
                outcome = rejected
            except Exception as error:
                error.add_note(f"While reading the recording {path!r}.")
                raise
            self._items.put((number, outcome))


def _write_parts(
    embedder: Embedder,
    parts: pathlib.Path,
    num_recordings: int,
    hop_s: float,
    num_scores: int,
    num_workers: int,
) -> None:
    """Embeds what no part has yet."""
    first = 0
    while (part := _part_path(parts, first)).exists():
        first = _part_about(part)["end"]
    if first == num_recordings:
        return
    writer = _PartWriter(parts, first, embedder, num_scores)
    hop = round(hop_s * SAMPLE_RATE_HZ)
    numbers: list[tuple[int, int]] = []  # of the windows that are being embedded
    with (
        _Readers(_planned(parts, first), hop, num_workers) as readers,
        tqdm.tqdm(total=num_recordings, initial=first, desc="embedding", unit=" recordings") as bar,
    ):

        def windows() -> Iterator[np.ndarray]:
            for number, what in readers.items():
                if isinstance(what, tuple):
                    numbers.append((number, what[0]))
                    yield what[1]
                elif what is None or isinstance(what, Rejected):
                    writer.ends(number, what)
                else:
                    raise what

        for embeddings, scores in embedder.embed_windows(windows()):
            for (number, start), *row in zip(numbers, embeddings, scores, strict=False):
                writer.add(number, start / SAMPLE_RATE_HZ, *row)
            del numbers[: len(embeddings)]
            bar.update(writer.write_complete(numbers))
        bar.update(writer.write_complete([]))
    writer.close()


class _PartWriter:
    """Rows by recording, in the order of the recordings, and the parts that they go into."""

    def __init__(self, parts: pathlib.Path, first: int, embedder: Embedder, num_scores: int):
        self._parts = parts
        self._first = first  # recording of the part
        self._next = first  # recording that is not yet in it
        self._num_scores = num_scores
        self._classes = embedder.classes if num_scores else ()
        self._schema = _schema(embedder.embedding_size, num_scores)
        self._rows: dict[int, list[tuple[float, np.ndarray, np.ndarray]]] = {}
        self._ended: dict[int, Rejected | None] = {}
        self._paths = _planned(parts, first)
        self._part: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._rejects: list[tuple[str, str, str]] = []

    def add(self, number: int, start_s: float, embedding: np.ndarray, scores: np.ndarray) -> None:
        best = np.argsort(-scores, kind="stable")[: self._num_scores]
        row = (start_s, embedding.copy(), np.stack([best, scores[best]]))
        self._rows.setdefault(number, []).append(row)

    def ends(self, number: int, outcome: Rejected | None) -> None:
        """All windows of a recording are read; or it is left out."""
        self._ended[number] = outcome

    def write_complete(self, waiting: Sequence[tuple[int, int]]) -> int:
        """Takes over the earliest recordings that are complete; returns how many.

        Args:
          waiting: recording and start of the windows that are read but not yet added.
        """
        begun = {number for number, _ in waiting}
        before = self._next
        while self._next in self._ended and self._next not in begun:
            outcome = self._ended.pop(self._next)
            rows = self._rows.pop(self._next, [])
            _, path = next(self._paths)
            name = os.fsencode(path).decode(errors="replace")
            self._next += 1
            if outcome is not None:
                self._rejects.append((name, outcome.reason, outcome.detail))
                rows = []
            for start_s, embedding, best in rows:
                self._part["path"].append(name)
                self._part["start_s"].append(start_s)
                self._part["embedding"].append(embedding)
                if self._num_scores:
                    classes = [self._classes[int(i)] for i in best[0]]
                    self._part["mids"].append([each.mid for each in classes])
                    self._part["display_names"].append([each.display_name for each in classes])
                    self._part["scores"].append(best[1])
            if max(len(self._part["path"]), self._next - self._first) >= _PART_ROWS:
                self.close()
        return self._next - before

    def close(self) -> None:
        """Writes the part, if there is anything in it, and begins the next one."""
        if self._next == self._first:
            return
        about = json.dumps({"end": self._next, "rejects": self._rejects})
        table = pa.Table.from_pydict(self._part, self._schema.with_metadata({"about": about}))
        with complete_file(_part_path(self._parts, self._first)) as temporary:
            pq.write_table(table, temporary)
        self._first = self._next
        self._part = {name: [] for name in self._schema.names}
        self._rejects = []


def _schema(embedding_size: int, num_scores: int) -> pa.Schema:
    schema = pa.schema(
        {
            "path": pa.string(),
            "start_s": pa.float64(),
            "embedding": pa.list_(pa.float32(), embedding_size),
        }
    )
    if num_scores:
        for name, kind in (("mids", pa.string()), ("display_names", pa.string())):
            schema = schema.append(pa.field(name, pa.list_(kind)))
        schema = schema.append(pa.field("scores", pa.list_(pa.float32())))
    return schema


def _part_path(parts: pathlib.Path, first: int) -> pathlib.Path:
    return parts / f"{first:09}.parquet"


def _part_about(part: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(pq.read_schema(part).metadata[b"about"])
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise InputError(
            f"{part}: damaged ({error}); delete it and run the same command"
        ) from error


def _assemble(parts: pathlib.Path, output: pathlib.Path, num_recordings: int, network: str) -> None:
    """The parts as one file, and the rejects as another, which gets its name first."""
    first = 0
    schema = pq.read_schema(_part_path(parts, 0)).with_metadata({NETWORK_KEY: network})
    with (
        complete_file(output) as temporary,
        complete_file(_rejects_path(output)) as rejects_temporary,
        open(rejects_temporary, "w", newline="", encoding="utf-8") as rejects_file,
        pq.ParquetWriter(temporary, schema) as writer,
    ):
        rejects = csv.writer(rejects_file)
        rejects.writerow(_REJECTS_FIELDS)
        while first < num_recordings:
            part = _part_path(parts, first)
            about = _part_about(part)
            table = pq.read_table(part).replace_schema_metadata(None)
            writer.write_table(table.cast(schema))
            rejects.writerows(about["rejects"])
            first = about["end"]


def _summary(output: pathlib.Path, num_recordings: int) -> dict[str, Any]:
    with open(_rejects_path(output), newline="", encoding="utf-8") as file:
        num_rejects = sum(1 for _ in csv.DictReader(file))
    num_windows = pq.read_metadata(output).num_rows
    return {"recordings": num_recordings, "rejects": num_rejects, "windows": num_windows}


def _rejects_path(output: pathlib.Path) -> pathlib.Path:
    return output.with_name(f"{output.name}.rejects.csv")
