"""Labels from a file: your own labeling, or a reference to compare labelings with.

A file gives each clip positive mids and, if it has them, masked ones, which are unknown. Three
forms are read; `.gz` may follow the extension of the last two:

- Parquet with the columns `clip_id`, and `NAME` and `NAME_masked` or `positive` and `masked`, which
  are lists of mids. NAME is the name of the labeling.
- CSV in the form of AudioSet's segment files, whose rows may have a fifth, quoted field of masked
  mids, or with the header line `clip_id,positive` or `clip_id,positive,masked`.
- JSON as AST, PSLA and their descendants read it: `{"data": [{"wav": PATH, "labels": "mid,mid"}]}`
  with an optional `masked`. The name of the recording is the clip's id.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from scipy import sparse

from relabel_jax.errors import InputError, some
from relabel_jax.labels import clip_names, segments_csv
from relabel_jax.labels.ast_json import read_ast_json
from relabel_jax.labels.label_texts import parse_label_sets
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.text_files import read_start, read_text

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_COLUMNS = ("clip_id", "end_s", "masked", "positive", "start_s")
_ARRAYS = ("buckets", "clip_ids", "display_names", "mids", "set_numbers")
_RESERVED = ("base", "scratch", "truth", *_COLUMNS, *_ARRAYS)
_FORMS = ".parquet, .csv, .csv.gz, .json or .json.gz"


@dataclasses.dataclass(frozen=True, eq=False)
class LabelFile:
    """The labels of a file. Clips with the same labels share a row of the sets.

    Attributes:
      path: the file.
      clip_ids: string array [clips].
      positive_sets, masked_sets: bool[sets, classes], sparse, over the classes of the ontology.
      set_numbers: int32[clips], the row in the sets of each clip.
      dropped: by mid, the number of clips that lost this label because the ontology lacks it.
      times_s: float64[2, clips]: start and end of each clip; None if the file has no times.
    """

    path: pathlib.Path
    clip_ids: pa.Array
    positive_sets: sparse.csr_array
    masked_sets: sparse.csr_array
    set_numbers: np.ndarray
    dropped: Mapping[str, int]
    times_s: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.clip_ids)

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of the clip ids and their labels."""
        digest = hashlib.sha256()
        for ids in (self.clip_ids.to_pylist(), self.set_numbers.tolist()):
            digest.update(json.dumps(ids).encode())
        for sets in (self.positive_sets, self.masked_sets):
            digest.update(json.dumps([sets.indptr.tolist(), sets.indices.tolist()]).encode())
        return digest.hexdigest()

    def rows(self, clip_ids: Sequence[str]) -> np.ndarray:
        """The row of each clip.

        An id that the file lacks counts as the name of a recording, with or without folder and
        extension: `relabel_jax.labels.clip_names` has the names. It is also tried with the prefix
        `Y` that PANNs' recordings have. If the file has no times, times in a name fit any clip.

        Returns:
          int64[clips]; -1 where the file lacks the clip.
        """
        rows = self._exact_rows(clip_ids)
        if not (absent := np.flatnonzero(rows < 0)).size:
            return rows
        stems = [clip_names.stem(clip_ids[i]) for i in absent.tolist()]
        found = clip_names.rows_of_names(stems, self._exact_rows, self._times)
        with_y = self._exact_rows([f"Y{stem}" for stem in stems])
        rows[absent] = np.where(found < 0, with_y, found)
        return rows

    def labels(self, clip_ids: Sequence[str]) -> tuple[sparse.csr_array, sparse.csr_array]:
        """The labels of clips: `(positive, masked)`, both bool[clips, classes of the ontology].

        Raises:
          InputError: the file lacks a clip.
        """
        sets = self.clip_sets(clip_ids)
        return self.positive_sets[sets], self.masked_sets[sets]

    def clip_sets(self, clip_ids: Sequence[str]) -> np.ndarray:
        """int32[clips]: the row in the sets of each clip. Raises as `labels` does."""
        rows = self.rows(clip_ids)
        if (absent := np.flatnonzero(rows < 0)).size:
            first = some([clip_ids[i] for i in absent[:4]])
            raise InputError(
                f"{self.path}: has no labels for {len(absent)} of the {len(clip_ids)} clips "
                f"({first}); expected a row for every clip"
            )
        return self.set_numbers[rows]

    def _times(self, row: int) -> clip_names.Times:
        if self.times_s is None:
            return math.nan, math.nan
        start_s, end_s = self.times_s[:, row].tolist()
        return start_s, end_s

    def _exact_rows(self, clip_ids: Sequence[str]) -> np.ndarray:
        found = pc.index_in(pa.array(clip_ids, pa.string()), value_set=self.clip_ids)
        return np.asarray(found.fill_null(-1)).astype(np.int64)


def labeling_files(text: str) -> dict[str, pathlib.Path]:
    """Parses `NAME=FILE,NAME=FILE`, the flag that gives your own labelings their names.

    >>> labeling_files("psla=psla.json")
    {'psla': PosixPath('psla.json')}

    Raises:
      InputError: a part has another form, or a name is taken or cannot be one.
    """
    files: dict[str, pathlib.Path] = {}
    for part in re.split(r",(?=[^,/=]*=)", text) if text else []:
        name, equals, path = part.partition("=")
        if not equals or not path:
            raise InputError(f"labeling_files: {part!r} is not NAME=FILE, such as psla=psla.json")
        if name in LABELINGS or name in files or name in _RESERVED:
            raise InputError(f"labeling_files: the name {name!r} is taken; choose another one")
        if not _NAME.fullmatch(name) or name.endswith("_masked"):
            raise InputError(
                f"labeling_files: {name!r} cannot be a name; expected lower-case letters, digits "
                "and underscores, the first a letter, and no _masked at the end"
            )
        files[name] = pathlib.Path(path)
    return files


def read_label_file(
    path: str | pathlib.Path, ontology: Ontology, name: str = "", unknown: str = "refuse"
) -> LabelFile:
    """Reads the labels of a file.

    Args:
      path: a file in one of the forms above.
      ontology: the ontology with the labels' mids.
      name: the name of the labeling, for the columns of a Parquet file.
      unknown: `refuse` or `drop` labels that are not in the ontology.

    Raises:
      InputError: the file cannot be read or has another form; a mid is not in the ontology; a clip
        occurs twice; a label of a clip is both positive and masked.
    """
    path = pathlib.Path(path)
    forms: dict[str, Callable[[pathlib.Path], pa.Table]] = {
        ".parquet": functools.partial(_read_parquet, name=name),
        ".csv": _read_csv,
        ".json": lambda path: read_ast_json(path).drop_columns("path"),
    }
    form = path.with_suffix("") if path.suffix == ".gz" else path
    if form.suffix not in forms or (form.suffix, path.suffix) == (".parquet", ".gz"):
        raise InputError(f"{path}: expected a file that ends in {_FORMS}")
    try:
        table = forms[form.suffix](path)
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = f"{error}".partition("\n")[0]
        raise InputError(f"{path}: cannot read the labels: {reason}") from error
    if not len(table):
        raise InputError(f"{path}: has no clips")
    return _grouped(path, table, ontology, unknown)


def refuse_unknown(path: pathlib.Path, dropped: Mapping[str, int], unknown: str) -> None:
    """Raises InputError if a file has mids that are not in the ontology, unless they are dropped.

    Args:
      path: the file.
      dropped: the unknown mids.
      unknown: `refuse` or `drop`.
    """
    if dropped and unknown != "drop":
        raise InputError(
            f"{path}: {len(dropped)} mids are not in the ontology ({some(list(dropped))}); use the "
            "ontology of these labels, or leave them out (--unknown=drop)"
        )


def _grouped(path: pathlib.Path, table: pa.Table, ontology: Ontology, unknown: str) -> LabelFile:
    """Makes a `LabelFile` of the columns clip_id, positive and masked as `mid,mid`, maybe times."""
    clip_ids = table["clip_id"].combine_chunks()
    counts = pc.value_counts(clip_ids)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} clips occur more than once ({some(twice[:4].to_pylist())}); "
            "expected one row a clip"
        )
    texts, numbers, sets = [], [], []
    dropped: dict[str, int] = {}
    for column in ("positive", "masked"):
        encoded = table[column].combine_chunks().dictionary_encode()
        texts.append(encoded.dictionary)
        numbers.append(np.asarray(encoded.indices).astype(np.int64))
        parsed, unknown_mids = parse_label_sets(encoded.dictionary, ontology, path)
        sets.append(parsed)
        clips_per_text = np.bincount(numbers[-1], minlength=len(encoded.dictionary))
        for mid, of_texts in unknown_mids.items():
            dropped[mid] = dropped.get(mid, 0) + int(clips_per_text[of_texts].sum())
    refuse_unknown(path, dropped, unknown)
    # Each pair of a positive and a masked text is one set.
    pairs, set_numbers = np.unique(numbers[0] * len(texts[1]) + numbers[1], return_inverse=True)
    positive = sets[0][pairs // len(texts[1])]
    masked = sets[1][pairs % len(texts[1])]
    if (both := positive.multiply(masked).tocoo()).nnz:
        clip = int(np.flatnonzero(np.isin(set_numbers, both.row))[0])
        mid = ontology.mids[both.col[both.row == set_numbers[clip]][0]]
        raise InputError(
            f"{path}: the clip {clip_ids[clip].as_py()!r}, row {clip + 1} of the clips, has {mid} "
            f"({ontology.display_names[ontology.index[mid]]}) as positive and as masked; expected "
            "each label in at most one of the two"
        )
    times_s = None
    if "start_s" in table.column_names:
        times_s = np.stack([table[name].to_numpy() for name in ("start_s", "end_s")])
    numbers = set_numbers.astype(np.int32)
    return LabelFile(path, clip_ids, positive, masked, numbers, dropped, times_s)


def _read_parquet(path: pathlib.Path, name: str) -> pa.Table:
    file = pq.ParquetFile(path)
    found = file.schema_arrow.names
    positive = name if name in found else "positive"
    masked = f"{name}_masked" if name in found else "masked"
    if "clip_id" not in found or positive not in found:
        wanted = f"{name} or positive" if name else "positive"
        raise InputError(
            f"{path}: expected the columns clip_id and {wanted}, found {', '.join(found)}"
        )
    columns = {"clip_id": "clip_id", "positive": positive}
    if masked in found:
        columns["masked"] = masked
    table = file.read(columns=list(columns.values()))
    arrays = [_text(path, column, table[column]) for column in columns.values()]
    return _with_masked(pa.table(arrays, names=list(columns)))


def _text(path: pathlib.Path, column: str, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The strings of a column, with a list of strings as `mid,mid`."""
    kind = values.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if values.null_count:
        raise InputError(f"{path}: the column {column} has {values.null_count} empty rows")
    if column == "clip_id":
        is_list = False
    elif not is_list:
        raise InputError(f"{path}: the column {column} is {kind}; expected lists of mids")
    strings = pc.binary_join(values.cast(pa.list_(pa.string())), ",") if is_list else values
    if strings.null_count:
        raise InputError(f"{path}: the column {column} has empty mids in {strings.null_count} rows")
    return strings.cast(pa.string())


def _read_csv(path: pathlib.Path) -> pa.Table:
    header = line = ""
    for line in io.StringIO(read_start(path, "labels"), newline=None):  # up to the first row
        if line.strip() and not line.startswith(("#", '"#')):
            break
        header += line
    fields = [field.strip() for field in next(csv.reader([line], skipinitialspace=True), [])]
    if fields[:1] == ["clip_id"]:
        return _read_csv_with_header(path, fields)
    columns: tuple[str, ...] = segments_csv.COLUMNS
    if "masked_labels" in header or any(fields[len(columns) :]):
        columns = (*columns, "masked")
    with ThreadPoolExecutor(2) as pool:
        table = segments_csv.read_columns(path, pool, columns=columns)
    texts = pa.table([table[name].cast(pa.string()) for name in columns], names=list(columns))
    for number, name in enumerate(columns[1:3], start=1):
        texts = texts.set_column(number, name, texts[name].cast(pa.float64()))
    return _with_masked(texts.rename_columns({"mids": "positive"}))


def _read_csv_with_header(path: pathlib.Path, header: Sequence[str]) -> pa.Table:
    if header not in (["clip_id", "positive"], ["clip_id", "positive", "masked"]):
        raise InputError(
            f"{path}: has the columns {', '.join(header)}; expected clip_id,positive or "
            "clip_id,positive,masked"
        )
    table = pa.csv.read_csv(
        io.BytesIO(read_text(path, "labels").encode()),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False
        ),
    )
    return _with_masked(table.rename_columns(list(header)))


def _with_masked(table: pa.Table) -> pa.Table:
    if "masked" in table.column_names:
        return table
    return table.append_column("masked", pa.array([""] * len(table), pa.string()))
