"""The forms in which re-labelled segments are written.

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

from data_prep.relabelled import Column, Relabelled
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import label_columns
from relabel_jax.labels.segments_csv import write_segments
from relabel_jax.labels.table import write_label_table
from relabel_jax.progress import track

ROWS_PER_GROUP = 1 << 16
_SETS_PER_STEP = 4096


def write_parquet(file: BinaryIO, labels: Relabelled, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Writes a row for each clip: clip_id, start_s, end_s, and each column as a list of mids.

    The lists are written from class numbers, so that no string is encoded twice; readers see lists
    of strings.

    Args:
      file: opened for writing bytes.
      labels: the labels.
      rows_per_group: the rows that a writer or reader holds at once.
    """
    table = labels.segments
    lists = {
        name: _dictionary_lists(column.sets, labels.mids) for name, column in labels.columns.items()
    }
    schema = pa.schema(
        [
            pa.field("clip_id", pa.string(), nullable=False),
            pa.field("start_s", pa.float64(), nullable=False),
            pa.field("end_s", pa.float64(), nullable=False),
            *(pa.field(name, each.type, nullable=False) for name, each in lists.items()),
        ]
    )

    def group(first: int) -> pa.Table:
        rows = slice(first, first + rows_per_group)
        columns = [table.clip_ids[rows], table.start_s[rows], table.end_s[rows]]
        columns += [
            lists[name].take(pa.array(column.set_numbers[rows]))
            for name, column in labels.columns.items()
        ]
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


def write_csv(file: BinaryIO, labels: Relabelled, labeling: str) -> None:
    """Writes a labeling in AudioSet's own form.

    The fourth, quoted column has the positive mids. A labeling that masks has a fifth with the
    masked mids.
    """
    table = labels.segments
    positive, masked = label_columns(labeling)
    columns = {"positive_labels": labels.columns[positive].sets}
    if masked in labels.columns:
        columns["masked_labels"] = labels.columns[masked].sets
    write_segments(
        file,
        clip_ids=table.clip_ids,
        start_s=table.start_s,
        end_s=table.end_s,
        label_columns=columns,
        set_numbers=labels.columns[positive].set_numbers,
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
        **{name: _packed(column)[column.set_numbers] for name, column in labels.columns.items()},
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
        columns={name: _packed(column) for name, column in labels.columns.items()},
        own_set_numbers={
            name: column.set_numbers
            for name, column in labels.columns.items()
            if column.set_numbers is not table.set_numbers and not name.endswith("_masked")
        },
    )


def _packed(column: Column) -> np.ndarray:
    """uint8[sets, bytes]: the labels of each set as packed bits."""
    sets = column.sets
    steps = range(0, sets.shape[0], _SETS_PER_STEP)
    empty = np.zeros((0, -(-sets.shape[1] // 8)), np.uint8)
    return np.concatenate(
        [empty, *(np.packbits(sets[i : i + _SETS_PER_STEP].toarray(), axis=1) for i in steps)]
    )


def write_ast_json(file: BinaryIO, labels: Relabelled, labeling: str, wav: str) -> None:
    """Writes a labeling as the data file that AST, PSLA and their descendants read.

    It is `{"data": [{"wav": PATH, "labels": "mid,mid", "masked": "mid,mid"}, ...]}`. The loaders
    of these projects ignore `masked`. They fail on a clip without labels, so such clips are left
    out.

    Args:
      file: opened for writing bytes.
      labels: the labels.
      labeling: the labeling to write. The masked mids are empty if it masks nothing.
      wav: the path of a clip's recording, as `check_wav` accepts it.
    """
    table = labels.segments
    positive_name, masked_name = label_columns(labeling)
    column = labels.columns[positive_name]
    positive_texts = _joined(column, labels.mids)
    masked_texts = [""] * len(positive_texts)
    if masked_name in labels.columns:
        masked_texts = _joined(labels.columns[masked_name], labels.mids)
    endings = [
        f'"labels": "{positive}", "masked": "{masked}"}}' if positive else ""
        for positive, masked in zip(positive_texts, masked_texts, strict=True)
    ]
    clips = zip(
        table.clip_ids.to_pylist(),
        table.start_s.tolist(),
        table.end_s.tolist(),
        column.set_numbers.tolist(),
        strict=True,
    )
    separator = '{"data": [\n'
    for clip_id, start_s, end_s, number in track(clips, "writing", "clips", total=len(table)):
        if ending := endings[number]:
            path = json.dumps(_wav_path(wav, clip_id, start_s, end_s))
            file.write(f'{separator}{{"wav": {path}, {ending}'.encode())
            separator = ",\n"
    file.write(("]}\n" if separator == ",\n" else '{"data": []}\n').encode())


def _joined(column: Column, mids: Sequence[str]) -> list[str]:
    """The text `mid,mid,...` of each set."""
    return [",".join(each) for each in _dictionary_lists(column.sets, mids).to_pylist()]


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
