"""Reads files of scores, clips x classes, in the forms that evaluation code writes.

- `.npz`, `.h5`, `.hdf5`: an array of ids and a matrix of scores; `mids` may give its columns.
- `.parquet`: a column of ids, and a column of lists or a column for each class.
- `.csv`, `.csv.gz`: a column of ids, and a column for each class.

`ID_NAMES` and `SCORE_NAMES` are the names that arrays and columns may have. They include those of
PANNs' evaluation, `audio_name` and `clipwise_output`.
"""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from relabel_jax.errors import InputError, install_command, some
from relabel_jax.labels.class_indices import audioset_mids
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.text_files import most_bytes
from relabel_jax.runs.workdir import Workdir

ID_NAMES = ("clip_id", "clip_ids", "video_id", "audio_name")
SCORE_NAMES = ("scores", "output", "clipwise_output")
_READ = (*ID_NAMES, *SCORE_NAMES, "mids")
_NUM_AUDIOSET_CLASSES = 527
_FORMS = ".npz, .parquet, .csv, .csv.gz, .h5 or .hdf5"


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreFile:
    """The scores of a file. Larger scores mean that a class is more likely.

    Attributes:
      path: the file.
      names: the clips, under the names that the file gives them; each once.
      columns: int64[classes], the class numbers in the ontology; each once.
      scores: float32 or float64[clips, classes]; finite, in any range.
      unknown_classes: classes of the file that the ontology lacks. They are left out.
      class_order: where the order of the classes comes from, in words.
    """

    path: pathlib.Path
    names: Sequence[str]
    columns: np.ndarray
    scores: np.ndarray
    unknown_classes: Sequence[str]
    class_order: str


class _Content(NamedTuple):
    """A file as it is: its clips, its classes or None if it does not name them, its scores."""

    names: Sequence[str]
    classes: Sequence[str] | None
    scores: np.ndarray


def read_score_file(
    path: str | pathlib.Path, ontology: Ontology, classes: Sequence[str] | None = None
) -> ScoreFile:
    """Reads a file of scores, or the `test_scores.npz` of a run folder.

    Args:
      path: the file or run folder.
      ontology: the ontology of the classes.
      classes: the mids of the columns, for a file that does not name its classes. Without them,
        527 columns count as AudioSet's classes in the order of `class_labels_indices.csv`.

    Raises:
      InputError: the file cannot be read or has another form; a clip or class occurs twice; a score
        is NaN or infinite; or the order of the classes is not known, or none of them is known.
        A run is not finished, or has files of another one.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        workdir = Workdir(path)
        if workdir.is_begun:  # else it has scores alone, without their digest
            workdir.read_result()
        path = workdir.scores_path
    content = _read(path)
    if content.scores.ndim != 2 or len(content.names) != len(content.scores):
        raise InputError(
            f"{path}: has {len(content.names)} clip ids, but scores of the shape "
            f"{list(content.scores.shape)}; expected scores[clips, classes]"
        )
    if twice := _twice(content.names):
        raise InputError(
            f"{path}: {len(twice)} clips occur more than once ({some(twice)}); expected one row "
            "a clip"
        )
    names, order = _class_names(path, content, classes)
    if len(names) != content.scores.shape[1]:
        raise InputError(
            f"{path}: has scores for {content.scores.shape[1]} classes, but {order} name "
            f"{len(names)}; expected a column for each class"
        )
    numbers = _class_numbers(names, ontology)
    known = np.flatnonzero(numbers >= 0)
    if not len(known):
        raise InputError(
            f"{path}: the ontology has no class of these: {some(names)}; expected mids or "
            "display names of the ontology"
        )
    columns = numbers[known]
    if twice := _twice(columns.tolist()):
        raise InputError(
            f"{path}: the class {ontology.mids[twice[0]]} ({ontology.display_names[twice[0]]}) has "
            "more than one column; expected one column a class"
        )
    scores = content.scores if len(known) == len(names) else content.scores[:, known]
    return ScoreFile(
        path=path,
        names=content.names,
        columns=columns,
        scores=_checked(path, scores, content.names, columns, ontology),
        unknown_classes=[names[i] for i in np.flatnonzero(numbers < 0).tolist()],
        class_order=order,
    )


def _class_names(
    path: pathlib.Path, content: _Content, classes: Sequence[str] | None
) -> tuple[Sequence[str], str]:
    """The classes of the columns, and in words where they come from."""
    if content.classes is not None:
        return content.classes, "the names in the file"
    if classes is not None:
        return classes, "the rows of --classes"
    if content.scores.shape[1] != _NUM_AUDIOSET_CLASSES:
        raise InputError(
            f"{path}: has {content.scores.shape[1]} classes without names; give their order with "
            "--classes=class_labels_indices.csv, or name them in the file (mids)"
        )
    return audioset_mids(), "assumed, that of AudioSet's class_labels_indices.csv"


def _class_numbers(names: Sequence[str], ontology: Ontology) -> np.ndarray:
    """int64[names]: the classes with these mids or display names; -1 for unknown ones."""
    by_name = {name.casefold(): i for i, name in enumerate(ontology.display_names)}
    by_name |= {name: i for i, name in enumerate(ontology.display_names)} | ontology.index
    found = [by_name.get(name, by_name.get(name.casefold(), -1)) for name in names]
    return np.array(found, np.int64)


def _checked(
    path: pathlib.Path,
    scores: np.ndarray,
    names: Sequence[str],
    columns: np.ndarray,
    ontology: Ontology,
) -> np.ndarray:
    """Returns the scores as float32 or float64. Raises InputError if one is not finite."""
    if scores.dtype.kind not in "fiu":
        raise InputError(f"{path}: the scores have the type {scores.dtype}; expected numbers")
    is_single = scores.dtype.kind == "f" and scores.dtype.itemsize <= 4
    scores = scores.astype(np.float32 if is_single else np.float64, copy=False)
    if not np.isfinite(scores).all():
        bad = np.argwhere(~np.isfinite(scores))
        clip, column = bad[0]
        number = columns[column]
        raise InputError(
            f"{path}: the score of the clip {names[clip]!r} for {ontology.mids[number]} "
            f"({ontology.display_names[number]}) is {scores[clip, column]}, and so are "
            f"{len(bad) - 1} others NaN or infinite; expected finite numbers"
        )
    return scores


def _read(path: pathlib.Path) -> _Content:
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    try:
        match suffix.lower():
            case ".npz":
                # `np.load` of a path would leave a damaged file open.
                with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                    _refuse_growth(path, sum(each.file_size for each in arrays.zip.infolist()))
                    return _from_arrays(path, arrays)
            case ".h5" | ".hdf5":
                with _hdf5(path) as datasets:
                    sizes = (getattr(datasets.get(name), "nbytes", 0) for name in _READ)
                    _refuse_growth(path, sum(sizes))
                    return _from_arrays(path, datasets)
            case ".parquet":
                return _from_table(path, pq.read_table(path))
            case ".csv" | ".csv.gz":
                return _from_table(path, _read_csv(path))
    except InputError:
        raise
    except Exception as error:  # zip, zlib, NumPy, HDF5 and Arrow raise errors of many kinds
        reason = f"{getattr(error, 'strerror', None) or error}".partition("\n")[0]
        raise InputError(f"{path}: cannot read the scores: {reason}") from error
    raise InputError(f"{path}: expected a run folder, or a file that ends in {_FORMS}")


def _refuse_growth(path: pathlib.Path, num_bytes: int) -> None:
    """Raises InputError if a file is far smaller than its arrays, which may fill the memory."""
    if num_bytes > (limit := most_bytes(path.stat().st_size)):
        raise InputError(
            f"{path}: its arrays have {num_bytes:,} bytes, expected at most {limit:,} in a file of "
            "this size; write them without compression if that is right"
        )


@contextlib.contextmanager
def _hdf5(path: pathlib.Path) -> Iterator[Mapping[str, Any]]:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: needs h5py: {install_command('sources')}") from error
    with h5py.File(path, "r", locking=False) as file:
        yield file


def _read_csv(path: pathlib.Path) -> pa.Table:
    """Reads ids as text and numbers as float64."""
    types = dict.fromkeys(ID_NAMES, pa.string())
    with pa.csv.open_csv(
        path, convert_options=pa.csv.ConvertOptions(column_types=types)
    ) as first_block:
        # The types come from the first block. A column of 0 and 1 there may have 0.5 later.
        for field in first_block.schema:
            is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            is_score = is_number or pa.types.is_null(field.type)
            types.setdefault(field.name, pa.float64() if is_score else pa.string())
    return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=types))


def _from_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> _Content:
    ids = _the_one(path, ID_NAMES, arrays.keys(), "an array of clip ids")
    scores = _the_one(path, SCORE_NAMES, arrays.keys(), "a matrix of scores")
    classes = _texts(path, "mids", np.asarray(arrays["mids"])) if "mids" in arrays else None
    names = _texts(path, ids, np.asarray(arrays[ids]))
    return _Content(names, classes, np.asarray(arrays[scores]))


def _texts(path: pathlib.Path, name: str, values: np.ndarray) -> list[str]:
    """The strings of a one-dimensional array of text or UTF-8 bytes."""
    texts = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
    if values.ndim != 1 or not all(isinstance(text, str) for text in texts):
        raise InputError(
            f"{path}: {name} has the type {values.dtype} and the shape {list(values.shape)}; "
            "expected a list of strings"
        )
    return texts


def _from_table(path: pathlib.Path, table: pa.Table) -> _Content:
    ids = _the_one(path, ID_NAMES, table.column_names, "a column of clip ids")
    if table[ids].null_count:
        raise InputError(f"{path}: the column {ids} has {table[ids].null_count} empty rows")
    names = table[ids].cast(pa.string()).to_pylist()
    is_list = {
        field.name: pa.types.is_list(field.type)
        or pa.types.is_large_list(field.type)
        or pa.types.is_fixed_size_list(field.type)
        for field in table.schema
    }
    for name in SCORE_NAMES:
        if is_list.get(name):
            classes = None
            if is_list.get("mids"):
                mids = _matrix(path, "mids", table["mids"])
                if (mids != mids[:1]).any():
                    raise InputError(
                        f"{path}: the mids differ from row to row; expected the scores of all "
                        "classes in one order"
                    )
                classes = _texts(path, "mids", mids[0]) if len(mids) else []
            return _Content(names, classes, _matrix(path, name, table[name]))
    return _from_columns(path, names, table.remove_column(table.column_names.index(ids)))


def _from_columns(path: pathlib.Path, names: Sequence[str], table: pa.Table) -> _Content:
    """The content of a table with a column for each class. Columns that are not numbers are NaN."""
    classes = table.column_names
    is_numbered = classes == [str(number) for number in range(len(classes))]
    scores = np.empty((len(table), len(classes)))
    for number, column in enumerate(table.columns):
        kind = column.type
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        scores[:, number] = column.cast(pa.float64()).to_numpy() if is_number else np.nan
    if all(pa.types.is_float32(kind) for kind in table.schema.types):
        scores = scores.astype(np.float32)
    return _Content(names, None if is_numbered else classes, scores)


def _matrix(path: pathlib.Path, name: str, column: pa.ChunkedArray) -> np.ndarray:
    """[rows, values] from a column of lists of one length."""
    lists = column.combine_chunks()
    lengths = np.asarray(pc.list_value_length(lists).fill_null(-1))
    if len(set(lengths.tolist())) > 1 or (lengths < 0).any():
        raise InputError(
            f"{path}: the lists in {name} have between {lengths.min()} and {lengths.max()} values; "
            "expected one length in all rows"
        )
    values = lists.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(lists), int(lengths[0]) if len(lists) else 0)


def _the_one(path: pathlib.Path, names: Sequence[str], found: Any, what: str) -> str:
    """The first of the names that the file has."""
    for name in names:
        if name in found:
            return name
    raise InputError(
        f"{path}: expected {what} with the name {' or '.join(names)}, found {some(list(found))}"
    )


def _twice(values: Sequence[Any]) -> list[Any]:
    return [value for value, count in collections.Counter(values).items() if count > 1]
