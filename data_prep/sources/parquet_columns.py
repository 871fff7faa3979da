"""The types of Parquet columns that may hold ids, labels and recordings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from data_prep.sources import Labels
from data_prep.sources.samples import split_labels
from relabel_jax.errors import Rejected

_RATES = ("sampling_rate", "sample_rate")
_LABEL_FIELDS = ("mid", "id", "label", "labels", "name", "display_name")


@dataclasses.dataclass(frozen=True)
class AudioColumn:
    """Where the recordings are.

    Attributes:
      paths: the columns or fields of structs to read.
      field: the field of `audio` with the bytes or the samples; "" if the column itself has them.
      rate: the field of `audio` or the column with the sample rate; "" if there are bytes.
    """

    paths: tuple[str, ...]
    field: str
    rate: str

    @classmethod
    def of(cls, types: Mapping[str, pa.DataType]) -> "AudioColumn | None":
        """Finds the recordings by the types of the columns; None if there are none."""
        audio = types.get("audio")
        if audio is None:
            return None
        if not pa.types.is_struct(audio):
            rate = next((name for name in _RATES if name in types), "")
            if _is_binary(audio):
                return cls(("audio",), "", "")
            return cls(("audio", rate), "", rate) if rate and _is_samples(audio) else None
        fields = {field.name: field.type for field in audio}
        if "bytes" in fields:
            return cls(("audio.bytes",), "bytes", "") if _is_binary(fields["bytes"]) else None
        rate = next((name for name in _RATES if name in fields), "")
        if rate and "array" in fields and _is_samples(fields["array"]):
            return cls(("audio",), "array", rate)
        return None

    def content(self, row: pa.RecordBatch) -> pa.Buffer | tuple[np.ndarray, int]:
        """Returns the bytes, or the samples and their rate, of a batch of one row.

        Raises:
          Rejected: the row has none.
        """
        audio = row["audio"][0]
        content = audio[self.field] if self.field and audio.is_valid else audio
        if not content.is_valid:
            raise Rejected("empty", "no bytes, only a path")
        if not self.rate:
            return content.as_buffer()
        rate_hz = (audio[self.rate] if self.field else row[self.rate][0]).as_py()
        if not rate_hz or rate_hz < 0 or rate_hz != int(rate_hz):
            raise Rejected("unreadable", f"{self.rate} is {rate_hz}; expected a number of Hz")
        samples = content.values
        if samples.null_count:
            raise Rejected("not_finite", "a sample is null")
        return samples.to_numpy(zero_copy_only=False), int(rate_hz)


def is_id(kind: pa.DataType) -> bool:
    """Whether a column may hold ids: text, bytes or whole numbers."""
    return _is_text(kind) or pa.types.is_integer(kind)


def id_text(found: str | bytes | int | None) -> str:
    """Returns an id as text; "" if there is none."""
    if isinstance(found, bytes):
        return found.rstrip(b"\0").decode(errors="backslashreplace")
    return "" if found is None else str(found)


def is_labels(kind: pa.DataType) -> bool:
    """Whether a column may hold labels.

    They are text, or lists of text, numbers or structs that have one of `_LABEL_FIELDS`, or a
    struct with such a list.
    """
    if _is_text(kind):
        return True
    if pa.types.is_struct(kind):
        field = _label_field([field.name for field in kind])
        return field is not None and is_labels(kind.field(field).type)
    if not _is_list(kind):
        return False
    item = kind.value_type
    if pa.types.is_struct(item):
        field = _label_field([field.name for field in item])
        return field is not None and _is_label(item.field(field).type)
    return _is_label(item)


def labels_of(found: Any, where: str) -> Labels | Rejected:
    """Returns the labels of a row, or the reason why they cannot be used."""
    if isinstance(found, dict):
        found = found[_label_field(list(found))]
    if found is None:
        return ()
    if isinstance(found, str | bytes):
        found = split_labels(line) if (line := id_text(found).strip()) else ()
    if any(isinstance(each, dict) for each in found):
        found = [each and each[_label_field(list(each))] for each in found]
    if None in found:
        return Rejected("bad_labels", f"{where}: a label is null")
    return tuple(id_text(each) if isinstance(each, bytes) else each for each in found)


def _label_field(names: list[str]) -> str | None:
    return next((name for name in _LABEL_FIELDS if name in names), None)


def _is_label(kind: pa.DataType) -> bool:
    return (
        _is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)  # of empty lists only
    )


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or _is_binary(kind)
    )


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_samples(kind: pa.DataType) -> bool:
    return _is_list(kind) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_int16(kind.value_type)
    )
