"""Makes the plan of a data set: places every clip in a shard."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from data_prep.plan import PLAN_NAME
from data_prep.recordings import Candidates
from data_prep.sources import Recording
from relabel_jax import digests
from relabel_jax.audio.decode import decoders
from relabel_jax.data.layout import CLIP_SCHEMA, INDEX_NAME
from relabel_jax.errors import Rejected
from relabel_jax.files import complete_file
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import Segments
from relabel_jax.labels.views import SPLITS

_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int32()),  # row in the segments
        *CLIP_SCHEMA,
        pa.field("path", pa.binary()),  # file names are bytes and need not be UTF-8
        pa.field("member", pa.string()),  # name in a file with many recordings; else ""
        # The recordings to try if this one cannot be read.
        pa.field("others", pa.list_(pa.struct({"path": pa.binary(), "member": pa.string()}))),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)


def write_plan(
    data_dir: pathlib.Path,
    *,
    inputs: Mapping[str, str],
    ontology: Ontology,
    segments: Segments,
    recordings: Sequence[Candidates | Rejected],
    clip_splits: np.ndarray,
    clips_per_shard: int,
    seed: int,
) -> None:
    """Places every clip in a shard and writes the plan.

    Args:
      data_dir: the data set's folder, which has its working folder.
      inputs: the inputs of the plan, by flag; a later build compares them.
      ontology: the ontology, which is written into the plan.
      segments: all clips.
      recordings: for each clip its recordings in the order in which they are tried, or the reason
        if it has none. The first one places the clip.
      clip_splits: int8[clips], index into `SPLITS`.
      clips_per_shard: the largest number of clips in a shard.
      seed: the seed of the hash that orders the clips.
    """
    nowhere = (Recording(""),)
    candidates = [nowhere if isinstance(each, Rejected) else each for each in recordings]
    places = [first for first, *_ in candidates]
    has_recording = np.array([not isinstance(each, Rejected) for each in recordings])
    order = _random_order(segments.clip_ids.to_pylist(), places, seed)
    batches: list[np.ndarray] = []
    num_shards: dict[str, int] = {}
    for split_number, split in enumerate(SPLITS):
        rows = order[((clip_splits == split_number) & has_recording)[order]]
        num_shards[split] = -(-len(rows) // clips_per_shard)
        if len(rows):
            batches += np.array_split(rows, num_shards[split])
    batches.append(np.flatnonzero(~has_recording))

    columns = {
        "row": np.arange(len(segments)),
        "clip_id": segments.clip_ids,
        "split": pa.array(SPLITS).take(pa.array(clip_splits)),
        "start_s": segments.start_s,
        "end_s": segments.end_s,
        "ol": segments.labels,
        "path": [os.fsencode(place.path) for place in places],
        "member": [place.member for place in places],
        "others": [
            [{"path": os.fsencode(other.path), "member": other.member} for other in others]
            for _, *others in candidates
        ],
        "reason": [each.reason if isinstance(each, Rejected) else None for each in recordings],
        "detail": [each.detail if isinstance(each, Rejected) else None for each in recordings],
    }
    about = {"inputs": dict(inputs), "num_shards": num_shards, "decoders": decoders()}
    clips = pa.RecordBatch.from_pydict(
        columns,
        _SCHEMA.with_metadata({"about": json.dumps(about), "ontology": ontology.text}),
    )
    # With a new plan the data set is unfinished, whatever an older build left in the folder.
    (data_dir / INDEX_NAME).unlink(missing_ok=True)
    plan_path = data_dir / PLAN_NAME
    with complete_file(plan_path) as path:
        with pa.ipc.new_file(os.fspath(path), clips.schema) as file:
            for rows in batches:
                file.write_batch(clips.take(pa.array(rows)))
        digests.write_list(plan_path.parent, {plan_path.name: digests.of_file(path)})


def _random_order(clip_ids: Sequence[str], places: Sequence[Recording], seed: int) -> np.ndarray:
    """Sorts the clips by a seeded hash of their id or, if they are in a block, of its name.

    Returns:
      int64[clips], the numbers of the clips in their order.
    """
    salt = f"shard:{seed}:".encode()

    def key(row: int):
        place = places[row]
        name = (place.block or clip_ids[row]).encode()
        digest = hashlib.blake2b(salt + name, digest_size=8).digest()
        return digest, place.path if place.block else "", place.row, clip_ids[row]

    return np.array(sorted(range(len(clip_ids)), key=key))
