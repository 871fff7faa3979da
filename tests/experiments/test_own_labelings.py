"""Labelings from files in trainings and grids: their numbers, continuing, what is refused."""

import json
import shutil

import numpy as np
import pytest
import small_network

from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments.cells import all_cells, grid_config
from relabel_jax.experiments.config import members, paper_config
from relabel_jax.experiments.experiment import Experiment
from relabel_jax.experiments.grid import run_grid
from relabel_jax.experiments.run import member_workdirs, run, run_population
from relabel_jax.labels.labelings import relabel
from relabel_jax.runs.schema import MAY_CHANGE, Identity
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

SMALL = {
    "batch_size": 8,
    "num_epochs": 1,
    "resident": "never",  # one program less: validation and test clips share one
}


def small_config(data_dir, **fields):
    config = paper_config("Human sounds", "base")
    small_network.use_in(config)
    config.update_from_flattened_dict({"data_dir": str(data_dir), **SMALL, **fields})
    return config


def small_grid(data_dir, **fields):
    config = grid_config(("Human sounds",), ("mine",), ("ol", "entailed"))
    small_network.use_in(config)
    config.update_from_flattened_dict({"data_dir": str(data_dir), **SMALL, **fields})
    return config


@pytest.fixture(scope="module")
def labels_of(miniature_data):
    """A function that gives `clip_id,positive,masked` of all clips under a labeling."""
    data_set = open_data_set(miniature_data)
    mids = np.array(data_set.ontology.mids)

    def rows(labeling):
        both = relabel(data_set.labels, data_set.ontology, labeling)
        return [
            ",".join([str(clip_id), *(f'"{",".join(mids[labels])}"' for labels in of_clip)])
            for clip_id, *of_clip in zip(data_set.clip_ids, *both, strict=True)
        ]

    return rows


def write_labels(path, rows):
    path.write_text("\n".join(["clip_id,positive,masked", *rows]) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(miniature_data, labels_of, tmp_path_factory):
    """A folder with `mine.csv`, which has the labels of `pe_cml`, and a run with each of them."""
    folder = tmp_path_factory.mktemp("own")
    path = write_labels(folder / "mine.csv", labels_of("pe_cml"))
    config = small_config(miniature_data, labelings="pe_cml,mine", labeling_files=f"mine={path}")
    configs = members(config)
    run_population(configs, member_workdirs(configs, folder))
    return folder


def test_a_file_with_the_labels_of_a_labeling_gives_its_bits(trained):
    named, own = (Workdir(trained / f"{name}_seed0") for name in ("pe_cml", "mine"))
    assert own.metrics_path.read_text().count("\n") == 1
    with np.load(named.scores_path) as expected, np.load(own.scores_path) as got:
        assert expected["masked"].any()
        for field in expected.files:
            np.testing.assert_array_equal(got[field], expected[field])
    assert own.read_result().labeling == "mine"
    assert own.read_result().test == named.read_result().test
    # A run without a file leaves the JSON that earlier versions left.
    config = json.loads(named.config_path.read_text())
    assert set(config) == {"format_version", "config", "data_set", "base", "run"}
    assert "labeling_files" not in config["config"] | named.read_result().config


def test_a_run_goes_on_with_the_same_labels_only(miniature_data, labels_of, trained, tmp_path):
    shutil.copytree(trained / "mine_seed0", tmp_path / "run")
    rows = labels_of("pe_cml")
    moved = write_labels(tmp_path / "moved.csv", rows)
    config = small_config(miniature_data, labeling="mine", labeling_files=f"mine={moved}")
    facts = Experiment.open([config], [tmp_path / "run"]).shared_facts()
    assert run(config, tmp_path / "run") == Workdir(trained / "mine_seed0").read_result()

    changed = write_labels(
        tmp_path / "changed.csv", [*rows[:-1], rows[-1].partition(",")[0] + ",,"]
    )
    config.labeling_files = f"mine={changed}"
    message = (
        "run: was begun with other labels 'mine' than config.labeling_files=mine=.*changed.csv"
    )
    with pytest.raises(InputError, match=message) as caught:
        run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    # Several processes compare these facts at the start.
    others = Experiment.open([config], [tmp_path / "run"]).shared_facts()
    assert [name for name in facts if facts[name] != others[name]] == ["labels 'mine' of digest"]


def test_a_grid(miniature_data, labels_of, tmp_path):
    path = write_labels(tmp_path / "mine.csv", labels_of("pel"))
    fields = {"labeling_files": f"mine={path}", "only": "features"}
    report = run_grid(small_grid(miniature_data, **fields), tmp_path / "W")
    assert report["problems"] == []
    assert {folder.name for folder in (tmp_path / "W" / "human_sounds").iterdir()} == {
        "base_ol_seed0",
        "base_entailed_seed0",
        "features_from_ol_mine_seed0",
        "features_from_entailed_mine_seed0",
    }
    folder = Workdir(tmp_path / "W" / "human_sounds" / "features_from_entailed_mine_seed0")
    result = folder.read_result()
    assert (result.labeling, result.base_labeling) == ("mine", "entailed")
    with np.load(folder.scores_path) as scores:
        assert not scores["masked"].any()

    before = folder.result_path.stat().st_mtime_ns
    path = path.rename(tmp_path / "moved.csv")
    fields["labeling_files"] = f"mine={path}"
    run_grid(small_grid(miniature_data, **fields), tmp_path / "W")
    assert folder.result_path.stat().st_mtime_ns == before
    write_labels(path, labels_of("ol"))
    with pytest.raises(InputError, match="W: was begun with other labels 'mine' than"):
        run_grid(small_grid(miniature_data, **fields), tmp_path / "W")
    write_labels(path, labels_of("ol")[1:])
    with pytest.raises(InputError, match="has no labels for 1 of the 96 clips"):
        run_grid(small_grid(miniature_data, **fields), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_grid_of_an_older_version_had_the_bases_of_the_paper(tmp_path):
    before = {"roots": ["Human sounds"], "num_epochs": 1, "model": {"name": "waveform_cnn"}}
    (tmp_path / "grid.json").write_text(json.dumps({"config": before, "data_set": "d"}))
    old = Identity.read(tmp_path / "grid.json")
    now = Identity(before | {"base_labelings": ["ol", "pel", "pe_cml"]}, "d")
    old.check_same(now, MAY_CHANGE, tmp_path, "D")
    with pytest.raises(InputError, match=r"was begun with config.base_labelings .*'pel'.*, not"):
        old.check_same(
            Identity(before | {"base_labelings": ["ol"]}, "d"), MAY_CHANGE, tmp_path, "D"
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labeling": "yours"}, "config.labeling: 'yours' is none of ol, .*, entailed, mine; conf"),
        ({"labeling_files": "ol=a.csv"}, "config.labeling_files: the name 'ol' is taken"),
        ({"labeling_files": "mine"}, "config.labeling_files: 'mine' is not NAME=FILE"),
        ({"labeling_files": "mine=nowhere.csv"}, "nowhere.csv: cannot read the labels"),
    ],
)
def test_refused_fields(miniature_data, tmp_path, fields, message):
    config = small_config(
        miniature_data, **({"labeling": "mine", "labeling_files": "mine=a.csv"} | fields)
    )
    with pytest.raises(InputError, match=message) as caught:
        run(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[5:],
            r"mine.csv: has no labels for 5 of the 96 clips \([^,]+, [^,]+, [^,]+, \.\.\.\)",
        ),
        (
            lambda rows: [*rows[1:], rows[0].partition(",")[0] + ",/m/0dgw9r,/m/0dgw9r"],
            r"mine.csv: the clip '.+', row 96 .* \(Human sounds\) as positive and as masked",
        ),
        (
            lambda rows: [*rows[1:], rows[0].partition(",")[0] + ",/m/nope,"],
            "mine.csv: 1 mids are not in the ontology",
        ),
    ],
)
def test_refused_files(miniature_data, labels_of, tmp_path, change, message):
    path = write_labels(tmp_path / "mine.csv", change(labels_of("ol")))
    config = small_config(miniature_data, labeling="mine", labeling_files=f"mine={path}")
    with pytest.raises(InputError, match=message) as caught:
        run(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "labelings", "message"),
    [
        ("base_labelings", ("ol", "pal"), "config.base_labelings: 'pal' is none of ol, pel"),
        ("target_labelings", ("mine",), "config.target_labelings: 'mine' is none of ol, pel"),
        ("target_labelings", ("ol", "ol"), "config.target_labelings: 'ol' is there twice"),
    ],
)
def test_refused_grids(field, labelings, message):
    config = grid_config(("Human sounds",), ("ol",))
    config[field] = labelings
    with pytest.raises(InputError, match=message):
        all_cells(config)
