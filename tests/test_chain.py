"""The whole chain on a small miniature: recordings, a data set, a training, embeddings."""

import math

import numpy as np
import pyarrow.parquet as pq

from relabel_jax import embed
from relabel_jax.data.data_set import open_data_set
from relabel_jax.runs.workdir import Workdir


def test_from_recordings_to_embeddings(miniature_data, small_base, tmp_path):
    recordings = sorted((miniature_data.parent / "mini" / "audio").iterdir())
    assert len(open_data_set(miniature_data).clip_ids) == len(recordings)

    workdir = Workdir(small_base)
    result = workdir.read_result()
    assert 0 < result.test["mAP"] <= 1
    (line,) = workdir.read_curve()
    assert math.isfinite(line["train_loss"])
    assert result.num_labels == len(workdir.read_scored_mids())

    some = ",".join(map(str, recordings[:3]))
    output = tmp_path / "embeddings.parquet"
    flags = [f"--checkpoint={small_base}", f"--audio={some}", f"--output={output}", "--scores=2"]
    assert embed.main(flags) == 0
    table = pq.read_table(output)
    assert table["path"].to_pylist() == [str(path) for path in recordings[:3]]
    embeddings = np.array(table["embedding"].to_pylist())
    assert embeddings.shape == (3, 8)
    assert (embeddings.std(axis=0) > 0).any()
    assert all(set(mids) <= set(workdir.read_scored_mids()) for mids in table["mids"].to_pylist())
