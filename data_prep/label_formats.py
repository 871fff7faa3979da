"""Re-labelled segments, and the forms in which they are written.

Every writer takes a binary file and the labels. `data_prep.relabel` is the command.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel_sparse
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import GroupedSegments
from relabel_jax.labels.segments_csv import write_segments
from relabel_jax.labels.table import write_label_table
from relabel_jax.progress import track

ROWS_PER_GROUP = 1 << 16


class Relabelled:
    """Segments and their three kinds of labels over the chosen classes.

    Attributes:
      segments: the segments.
      mids, display_names: the chosen classes, in the ontology's order.
      ol, pel, masked: bool[sets, chosen classes], sparse: the labels for each distinct label set.
    """

    def __init__(self, segments: GroupedSegments, ontology: Ontology, classes: str = "all"):
        pel, masked = relabel_sparse(segments.label_sets, ontology, "pe_cml")
        if classes == "used":
            columns = np.unique(segments.label_sets.indices)
        else:
            columns = np.arange(len(ontology))
        self.segments = segments
        self.mids = [ontology.mids[column] for column in columns]
        self.display_names = [ontology.display_names[column] for column in columns]
        self.ol, self.pel, self.masked = (
            _columns(sets, columns) for sets in (segments.label_sets, pel, masked)
        )

    def mean_per_clip(self, sets: sparse.csr_array) -> float:
        """The mean number of labels of a clip, from bool[sets, classes]."""
        return float(np.diff(sets.indptr) @ self.segments.clips_per_set) / len(self.segments)


def _columns(sets: sparse.csr_array, columns: np.ndarray) -> sparse.csr_array:
    chosen = sets[:, columns]
    chosen.sort_indices()
    return chosen


def write_parquet(file: BinaryIO, labels: Relabelled, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Writes a row for each clip: clip_id, start_s, end_s, and ol, pel, masked as lists of mids.

    The lists are written from class numbers, so that no string is encoded twice; readers see lists
    of strings.

    Args:
      file: opened for writing bytes.
      labels: the labels.
      rows_per_group: the rows that a writer or reader holds at once.
    """
    table = labels.segments
    lists = {
        name: _dictionary_lists(sets, labels.mids)
        for name, sets in (("ol", labels.ol), ("pel", labels.pel), ("masked", labels.masked))
    }
    schema = pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            *(pa.field(name, column.type, nullable=False) for name, column in lists.items()),
        ]
    )

    def group(first: int) -> pa.Table:
        rows = slice(first, first + rows_per_group)
        numbers = pa.array(table.set_numbers[rows])
        columns = [table.clip_ids[rows], table.start_s[rows], table.end_s[rows]]
        columns += [column.take(numbers) for column in lists.values()]
        return pa.table(columns, schema=schema)

    with (
        pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=[f"{name}.list.element" for name in lists],
            write_statistics=False,
            store_schema=False,  # it would make pyarrow read dictionaries in place of strings
        ) as writer,
        ThreadPoolExecutor(1) as pool,
    ):
        # The groups are gathered while others are written; all of AudioSet's take 0.3 GB.
        for rows in pool.map(group, range(0, len(table), rows_per_group)):
            writer.write_table(rows)


def _dictionary_lists(sets: sparse.csr_array, mids: Sequence[str]) -> pa.ListArray:
    """list<dictionary<string>> [sets]: the mids of each row of bool[sets, classes]."""
    elements = pa.DictionaryArray.from_arrays(
        pa.array(sets.indices, pa.int16()), pa.array(mids, pa.string())
    )
    return pa.ListArray.from_arrays(pa.array(sets.indptr, pa.int32()), elements)


def write_pel_csv(file: BinaryIO, labels: Relabelled) -> None:
    """Writes AudioSet's own form with the positive mids as the fourth, quoted column."""
    _write_csv(file, labels, "pel", {"positive_labels": labels.pel})


def write_pe_cml_csv(file: BinaryIO, labels: Relabelled) -> None:
    """Writes AudioSet's own form with the masked mids as a fifth, quoted column."""
    columns = {"positive_labels": labels.pel, "masked_labels": labels.masked}
    _write_csv(file, labels, "pe_cml", columns)


def _write_csv(
    file: BinaryIO, labels: Relabelled, labeling: str, columns: dict[str, sparse.csr_array]
) -> None:
    table = labels.segments
    write_segments(
        file,
        clip_ids=table.clip_ids,
        start_s=table.start_s,
        end_s=table.end_s,
        label_columns=columns,
        set_numbers=table.set_numbers,
        mids=labels.mids,
        title=f"Segments csv re-labelled by relabel_jax: {labeling}",
    )


def write_npz(file: BinaryIO, labels: Relabelled) -> None:
    """Writes a compressed npz with packed labels for each clip."""
    table = labels.segments
    np.savez_compressed(
        file,
        clip_ids=np.array(table.clip_ids.to_pylist()),
        start_s=table.start_s,
        end_s=table.end_s,
        mids=np.array(labels.mids),
        display_names=np.array(labels.display_names),
        **{name: packed[table.set_numbers] for name, packed in _packed(labels).items()},
    )


def write_torch(file: BinaryIO, labels: Relabelled) -> None:
    """Writes the label table that `relabel_jax.labels.torch` opens."""
    table = labels.segments
    write_label_table(
        file,
        clip_ids=np.array(table.clip_ids.cast(pa.binary()).to_pylist(), bytes),
        start_s=table.start_s,
        set_numbers=table.set_numbers,
        mids=labels.mids,
        display_names=labels.display_names,
        **_packed(labels),
    )


def _packed(labels: Relabelled) -> dict[str, np.ndarray]:
    """By name uint8[sets, bytes]: the three kinds of labels as packed bits."""
    kinds = {"ol": labels.ol, "pel": labels.pel, "masked": labels.masked}
    return {name: np.packbits(sets.toarray(), axis=1) for name, sets in kinds.items()}


def write_ast_json(file: BinaryIO, labels: Relabelled, wav: str) -> None:
    """Writes the data file that AST, PSLA and their descendants read.

    It is `{"data": [{"wav": PATH, "labels": "mid,mid", "masked": "mid,mid"}, ...]}`. The loaders
    of these projects ignore `masked`. They fail on a clip without labels, so such clips are left
    out.

    Args:
      file: opened for writing bytes.
      labels: the labels.
      wav: the path of a clip's recording, as `check_wav` accepts it.
    """
    table = labels.segments
    endings = [
        f'"labels": "{",".join(positive)}", "masked": "{",".join(masked)}"}}' if positive else ""
        for positive, masked in zip(
            _dictionary_lists(labels.pel, labels.mids).to_pylist(),
            _dictionary_lists(labels.masked, labels.mids).to_pylist(),
            strict=True,
        )
    ]
    clips = zip(
        table.clip_ids.to_pylist(),
        table.start_s.tolist(),
        table.end_s.tolist(),
        table.set_numbers.tolist(),
        strict=True,
    )
    separator = '{"data": [\n'
    for clip_id, start_s, end_s, number in track(clips, "writing", "clips", total=len(table)):
        if ending := endings[number]:
            path = json.dumps(_wav_path(wav, clip_id, start_s, end_s))
            file.write(f'{separator}{{"wav": {path}, {ending}'.encode())
            separator = ",\n"
    file.write(("]}\n" if separator == ",\n" else '{"data": []}\n').encode())


def check_wav(template: str) -> None:
    """Checks the path of a clip's recording.

    Args:
      template: a path with `{clip_id}`. `{start_s}`, `{end_s}`, `{start_ms}` and `{end_ms}` are the
        clip's times as whole numbers.

    Raises:
      InputError: there is another field or no `{clip_id}`.
    """
    try:
        fits = _wav_path(template, "A", 0, 1) != _wav_path(template, "B", 0, 1)
    except (ValueError, LookupError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            f"--wav={template}: expected a path with {{clip_id}}, such as "
            "/data/audioset/{clip_id}.wav; it may have {start_s}, {end_s}, {start_ms}, {end_ms} too"
        )


def _wav_path(template: str, clip_id: str, start_s: float, end_s: float) -> str:
    return template.format(
        clip_id=clip_id,
        start_s=int(start_s),
        end_s=int(end_s),
        start_ms=round(start_s * 1000),
        end_ms=round(end_s * 1000),
    )
