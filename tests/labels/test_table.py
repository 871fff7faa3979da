"""Label tables: what a lookup returns, and under which names it finds a clip."""

import pickle

import numpy as np
import pytest

from data_prep.relabel import relabel_files
from relabel_jax.errors import InputError
from relabel_jax.labels.class_indices import class_indices_text, read_class_indices
from relabel_jax.labels.labelings import LABELINGS, relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.table import LabelTable


@pytest.fixture(scope="module")
def path(segments_sample, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "labels.npz"
    relabel_files(segments=[segments_sample], output=path, format="torch", labelings=LABELINGS)
    return path


@pytest.fixture(scope="module")
def originals(segments_sample) -> dict[str, set[str]]:
    """The raters' mids by clip id."""
    ontology = Ontology.audioset()
    segments = read_segments([segments_sample], ontology)
    return {
        clip_id: {ontology.mids[number] for number in numbers}
        for clip_id, numbers in zip(
            segments.clip_ids.to_pylist(), segments.labels.to_pylist(), strict=True
        )
    }


@pytest.mark.parametrize("labeling", LABELINGS)
def test_every_clip_against_the_set_form(path, originals, labeling):
    ontology = Ontology.audioset()
    chosen = list(np.random.default_rng(0).permutation(ontology.mids)[:527])
    for classes in (None, chosen):
        table = LabelTable(path, classes, labeling=labeling)
        targets, known = table.lookup(tuple(originals))
        assert targets.shape == known.shape == (len(originals), len(table.mids))
        assert list(table.mids) == list(ontology.mids if classes is None else chosen)
        assert table.display_names[5] == ontology.display_names[ontology.index[table.mids[5]]]
        for labels, target, is_known in zip(originals.values(), targets, known, strict=True):
            positive, masked = relabel_set(labels, ontology, labeling)
            assert target.tolist() == [mid in positive for mid in table.mids]
            assert is_known.tolist() == [mid not in masked for mid in table.mids]


NAMES = [
    "{id}",
    "Y{id}",
    "{id}.wav",
    "/data/audioset/Y{id}.flac",
    "{id}_30",
    "{id}_30000",
    "Y{id}_30.000_40.000.wav",
    "{id}_30000_40000",
    "/data/{id}_30.0-40.0.wav",
    "{id}_30_10.flac",
    "{id}_000030.mp4",
    "A title (live) [{id}].opus",
]


@pytest.fixture
def odd_ids(tmp_path):
    """Ids that look like other ids with a prefix or a time."""
    (tmp_path / "segments.csv").write_text(
        'abc, 30.000, 40.000, "/m/09x0r"\n'
        'Yabc, 0.000, 10.000, "/m/0bt9lr"\n'
        'abc_30, 50.000, 60.000, "/m/04rlf"\n'
        'Yx_y_-z, 30.000, 40.000, "/m/01yrx"\n'
        'p.q, 30.000, 40.000, "/m/06mb1"\n'
    )
    path = tmp_path / "labels.npz"
    relabel_files(segments=[tmp_path / "segments.csv"], output=path, format="torch")
    return LabelTable(path, ["/m/09x0r", "/m/0bt9lr", "/m/04rlf", "/m/01yrx", "/m/06mb1"])


@pytest.mark.parametrize("name", NAMES)
def test_names_of_recordings(odd_ids, name):
    targets, _ = odd_ids.lookup([name.format(id="Yx_y_-z"), "abc"])
    assert targets.tolist() == [[False] * 3 + [True, False], [True] + [False] * 4]


def test_the_ids_own_name_comes_first(odd_ids):
    targets, _ = odd_ids.lookup(["abc", "Yabc", "abc_30", "abc_30_40", "Yabc_0_10", "p.q"])
    assert targets.argmax(1).tolist() == [0, 1, 2, 0, 1, 4]
    # This may be `abc` from 30 s to 50 s or `abc_30` from 50 s on.
    assert "abc_30_50" not in odd_ids


@pytest.mark.parametrize(
    "absent", ["", "x", "abc_31", "abc_50", "abc_30_40_50", "Y", "é" * 40, "abc" * 9]
)
def test_an_absent_clip(odd_ids, absent):
    assert absent not in odd_ids
    assert "Yabc_0" in odd_ids
    assert len(odd_ids) == 5
    with pytest.raises(InputError, match="1 of 2 clips are not in the table") as caught:
        odd_ids.lookup(("abc", absent))
    assert repr(absent) in str(caught.value)
    lenient = LabelTable(odd_ids.path, odd_ids.mids, missing="unknown")
    targets, known = lenient.lookup(("abc", absent))
    assert (targets.sum(1).tolist(), known.sum(1).tolist()) == ([1, 0], [5, 0])


def test_a_single_string_is_not_a_list(odd_ids):
    with pytest.raises(TypeError, match="got the single id 'abc'"):
        odd_ids.lookup("abc")


def test_it_travels_as_a_path(path, originals):
    table = LabelTable(path, Ontology.audioset().mids[:100], labeling="pel", missing="unknown")
    data = pickle.dumps(table)
    assert len(data) < 5_000
    copy = pickle.loads(data)
    clip_ids = [*originals, "absent"]
    for ours, theirs in zip(table.lookup(clip_ids), copy.lookup(clip_ids), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tables_of_earlier_versions_open(segments_sample, tmp_path, originals):
    """They are as the default is now: `ol`, `pel` and `masked` beside what finds a clip."""
    path = tmp_path / "labels.npz"
    relabel_files(segments=[segments_sample], output=path, format="torch")
    with np.load(path) as members:
        names = "clip_ids start_s set_numbers buckets mids display_names ol pel masked"
        assert members.files == names.split()
    for labeling in ("ol", "pel", "pe_cml"):
        LabelTable(path, labeling=labeling).lookup(list(originals))
    with pytest.raises(InputError, match="'hlp' is none of ol, pel, pe_cml, which the table has"):
        LabelTable(path, labeling="hlp")


def test_the_order_of_class_labels_indices(path, tmp_path):
    ontology = Ontology.audioset()
    (tmp_path / "indices.csv").write_text(class_indices_text(ontology, [72, 3, 0]))
    table = LabelTable(path, tmp_path / "indices.csv")
    assert table.mids == tuple(ontology.mids[number] for number in (0, 3, 72))


def test_audiosets_own_class_labels_indices(audioset_dir):
    """The 527 classes are those of the balanced segments, in the ontology's order."""
    path = audioset_dir / "class_labels_indices.csv"
    ontology = Ontology.audioset()
    segments = read_segments([audioset_dir / "balanced_train_segments.csv"], ontology)
    used = np.unique(segments.label_sets.indices)
    assert class_indices_text(ontology, used[::-1]) == path.read_text()
    assert read_class_indices(path) == [ontology.mids[number] for number in used]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,mid\n0,/m/a\n2,/m/b\n", "no index '1'"),
        ("mid\n/m/a\n", "no column 'index' .found mid."),
        ("", "no column 'index'"),
        ("index,mid\n", "has no classes"),
        ("index,mid\n0,/m/a\n0,/m/b\n", "1 rows repeat an index"),
        ("index,mid\n0,/m/09x0r\n1,/m/a\n", "lacks 1 of the 2 classes, the first is '/m/a'"),
        ("index,mid\n0,/m/09x0r\n1,/m/09x0r\n", "name a mid twice"),
    ],
)
def test_refused_classes(path, tmp_path, text, message):
    (tmp_path / "indices.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        LabelTable(path, str(tmp_path / "indices.csv"))


def test_refused_files(segments_sample, tmp_path):
    for format in ("npz", "parquet"):
        path = tmp_path / format
        relabel_files(segments=[segments_sample], output=path, format=format)
        with pytest.raises(InputError, match=r"not a label table; write one with: .*=torch"):
            LabelTable(path)
    with pytest.raises(InputError, match="absent: cannot read it: No such file"):
        LabelTable(tmp_path / "absent")


@pytest.mark.parametrize("options", [{"labeling": "ple"}, {"missing": "drop"}])
def test_refused_options(path, options):
    with pytest.raises(ValueError, match="is none of"):
        LabelTable(path, **options)
