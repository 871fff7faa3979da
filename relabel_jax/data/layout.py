"""The files of a data set: their names, the clip index's schema, and where the format is kept.

DATA/relabel_audioset-SPLIT.array_record-00000-of-00012    the records (schema.py)
DATA/features.json, DATA/dataset_info.json                 TFDS's metadata
DATA/clips.parquet       the clip index: a row for each record, in the order of the records
DATA/ontology.json       the ontology that the labels refer to
DATA/rejects.csv         the clips that were left out, and why
DATA/sha256.json         the digests of all these files (integrity.py)
"""

import json
import re

import pyarrow as pa

from relabel_jax.audio.waveform_format import PAPER_FORMAT, WaveformFormat

INDEX_NAME = "clips.parquet"
ONTOLOGY_NAME = "ontology.json"
REJECTS_NAME = "rejects.csv"
FEATURES_NAME = "features.json"
INFO_NAME = "dataset_info.json"

CLIP_SCHEMA = pa.schema(
    {
        "clip_id": pa.string(),
        "split": pa.string(),
        "start_s": pa.float64(),
        "end_s": pa.float64(),
        "ol": pa.list_(pa.int16()),  # class numbers of the original labels, ascending
    }
)
"""The columns that the plan knows. Older indexes have no more."""

INDEX_SCHEMA = CLIP_SCHEMA.append(pa.field("partial", pa.bool_()))
"""`partial`: a part of the recording is missing or damaged."""

REJECTS_FIELDS = ("clip_id", "source", "reason", "detail")

_DATASET_NAME = "relabel_audioset"
_FORMAT_KEY = b"relabel_jax.waveform_format"
_DECODERS_KEY = b"relabel_jax.decoders"

SHARD_NAME = re.compile(rf"{_DATASET_NAME}-(\w+)\.array_record-(\d+)-of-(\d+)")
"""Matches a shard's name; the groups are its split, its number and the number of shards."""


def shard_name(split: str, index: int, count: int) -> str:
    """The name of shard `index` of the `count` shards of a split, in TFDS's form."""
    return f"{_DATASET_NAME}-{split}.array_record-{index:05d}-of-{count:05d}"


def shard_pattern(split: str) -> str:
    """A glob pattern for the shards of a split.

    It does not match partial files of copying programs, such as `.NAME.x8Tq` or `NAME.part`.
    """
    return f"[!.]*-{split}.array_record-?????-of-?????"


def index_schema(waveform_format: WaveformFormat, decoders: str = "") -> pa.Schema:
    """`INDEX_SCHEMA` with metadata.

    Args:
      waveform_format: the format of the waveforms.
      decoders: the libraries that made the waveforms, see `audio.decode.decoders`; "" if unknown.
    """
    facts = {
        "sample_rate_hz": waveform_format.sample_rate_hz,
        "duration_s": waveform_format.duration_s,
    }
    of_decoders = {_DECODERS_KEY: decoders} if decoders else {}
    return INDEX_SCHEMA.with_metadata({_FORMAT_KEY: json.dumps(facts), **of_decoders})


def stored_decoders(schema: pa.Schema) -> str:
    """The libraries that made the waveforms, from the metadata of an index; "" if unknown."""
    return (schema.metadata or {}).get(_DECODERS_KEY, b"").decode(errors="replace")


def stored_format(schema: pa.Schema) -> WaveformFormat:
    """The format of the waveforms, from the metadata of an index.

    An index of version 0.1 has no such metadata: its waveforms have the paper's format.

    Raises:
      ValueError: the metadata are damaged.
    """
    text = (schema.metadata or {}).get(_FORMAT_KEY)
    if text is None:
        return PAPER_FORMAT
    try:
        facts = json.loads(text)
        found = WaveformFormat(int(facts["sample_rate_hz"]), float(facts["duration_s"]))
        is_good = found.num_samples > 0
    except (ValueError, KeyError, TypeError, OverflowError):
        is_good = False
    if not is_good:
        raise ValueError(f"its metadata {_FORMAT_KEY.decode()} are {text.decode(errors='replace')}")
    return found
