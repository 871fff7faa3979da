"""Real segments re-labelled into every format."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_prep.relabel import main
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments

pytestmark = pytest.mark.slow


def test_audioset_in_every_format(real_segments, tmp_path):
    """Real segments in each format against the set form, clip by clip."""
    ontology = Ontology.audioset()
    path = real_segments[0]
    for format in ("parquet", "csv", "npz"):
        flags = [f"--segments={path}", f"--output={tmp_path / 'labels'}.{format}"]
        assert main([*flags, f"--format={format}"]) == 0
    # AudioSet's form, read row by row.
    original = pd.read_csv(path, skiprows=3, header=None, skipinitialspace=True)
    pel = pd.read_csv(tmp_path / "labels.pel.csv", skiprows=3, header=None, skipinitialspace=True)
    pe_cml = pd.read_csv(
        tmp_path / "labels.pe_cml.csv",
        skiprows=3,
        header=None,
        skipinitialspace=True,
        keep_default_na=False,
    )
    table = pq.read_table(tmp_path / "labels.parquet").to_pylist()
    with np.load(tmp_path / "labels.npz") as arrays:
        bits = {
            name: np.unpackbits(arrays[name], axis=1, count=632).astype(bool)
            for name in ("ol", "pel", "masked")
        }
    num_clips = 22_160 if len(real_segments) == 2 else 300
    assert len(table) == len(original) == len(pel) == len(pe_cml) == num_clips
    np.testing.assert_array_equal(original[[0, 1, 2]].to_numpy(), pe_cml[[0, 1, 2]].to_numpy())
    mids = np.array(ontology.mids)
    for clip, row in enumerate(table):
        labels = set(original[3][clip].split(","))
        positive, masked = relabel_set(labels, ontology, "pe_cml")
        assert row["clip_id"] == original[0][clip]
        assert (row["start_s"], row["end_s"]) == (original[1][clip], original[2][clip])
        assert set(row["ol"]) == labels
        assert set(row["pel"]) == positive
        assert set(row["masked"]) == masked
        for name in ("ol", "pel", "masked"):
            assert mids[bits[name][clip]].tolist() == row[name]  # in the ontology's order
        assert pel[3][clip] == pe_cml[3][clip] == ",".join(row["pel"])
        assert pe_cml[4][clip] == ",".join(row["masked"])
    # The output is a segment file again.
    assert len(read_segments([tmp_path / "labels.pel.csv"], ontology)) == num_clips
    with pytest.raises(InputError, match=f"{num_clips} malformed rows"):
        read_segments([tmp_path / "labels.pe_cml.csv"], ontology)
