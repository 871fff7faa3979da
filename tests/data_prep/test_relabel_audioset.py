"""Real segments re-labelled into every format."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_prep.relabel import main
from data_prep.relabelled import relabel_segments
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS, relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segment_flags import segment_files
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


def test_counts_of_all_segments(audioset_dir):
    """The mean labels of a clip under every labeling, and what PEL adds without its being entailed.

    Hierarchical Label Propagation's authors print 2.39 labels a clip.
    """
    ontology = Ontology.audioset()
    segments = read_segments(segment_files([audioset_dir]), ontology)
    assert len(segments) == 2_084_320
    labels = relabel_segments(segments, ontology, labelings=LABELINGS)
    means = {name: round(labels.mean_per_clip(name), 4) for name in labels.columns}
    assert means == {
        "ol": 1.9790,
        "pel": 4.0807,
        "masked": 63.4110,
        "hlp": 2.3867,
        "entailed": 3.9575,
        "entailed_masked": 63.5342,
    }
    ol, pel, entailed = (labels.columns[name].sets for name in ("ol", "pel", "entailed"))
    added, guessed = pel > ol, pel > entailed
    assert np.diff(added.indptr) @ segments.clips_per_set == 4_380_644
    assert np.diff(guessed.indptr) @ segments.clips_per_set == 256_812
    assert segments.clips_per_set[np.diff(guessed.indptr) > 0].sum() == 68_441
    # 49 classes have ancestors that are not entailed; 46 of them are raters' labels. They add 70.
    is_guessed = ontology.is_ancestor & ~ontology.is_entailed_ancestor
    from_classes = is_guessed.any(axis=0)
    used = np.unique(ol.indices)
    assert (from_classes.sum(), from_classes[used].sum()) == (49, 46)
    assert len(np.unique(guessed.indices)) == 70
