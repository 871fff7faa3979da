"""A grid of runs: what is shared, what fails alone, what is refused, and continuing."""

import json
import pathlib
import shutil
import struct

import numpy as np
import pytest
import small_network
from sklearn.metrics import average_precision_score

from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments import cells, grid, run
from relabel_jax.experiments.config import METHODS, TUNED
from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.labels.views import SPLITS
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[2]
SMALL = {
    "batch_size": 8,
    "num_epochs": 1,
    "resident": "never",  # one program less: validation and test clips share one
}


def small_config(data_dir, roots=("Human sounds",), labelings=PAPER_LABELINGS, **fields):
    config = cells.grid_config(roots=roots, target_labelings=labelings)
    small_network.use_in(config)
    config.update_from_flattened_dict({"data_dir": str(data_dir), **SMALL, **fields})
    return config


@pytest.fixture(scope="module")
def finished(miniature_data, tmp_path_factory):
    """The workdir and the report of a grid of one root, and how many clips were embedded."""
    workdir = tmp_path_factory.mktemp("grid")
    embedded, predict = [], run.predict

    def counting(*arguments, method="scores", **options):
        if method == "embed":
            embedded.append(arguments[3])
        return predict(*arguments, method=method, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "predict", counting)
        report = grid.run_grid(small_config(miniature_data), workdir)
    return workdir, report, sum(embedded)


@pytest.fixture
def copying(finished, monkeypatch):
    """Runs are not trained but copied from the finished grid."""

    def copy(configs, workdirs, on_clips):
        for config, workdir in zip(configs, workdirs, strict=True):
            if config.root != "Human sounds":
                raise InputError(f"root {config.root!r}: the data set has no test clip")
            shutil.copytree(finished[0] / "human_sounds" / workdir.name, workdir)

    monkeypatch.setattr(grid, "run_population", copy)
    return copy


def tables(workdir):
    names = ("table1.csv", "table3.csv", "table4.csv")
    return [(workdir / "report" / name).read_text() for name in names]


def test_the_tables_are_those_of_the_runs(finished):
    workdir, report, _ = finished
    checked = set()
    for row in report["table4"]:
        from_base = f"from_{row['base_labeling']}" if row["base_labeling"] else ""
        name = "_".join(filter(None, (row["method"], from_base, row["labeling"], "seed0")))
        folder = workdir / "human_sounds" / name
        with np.load(folder / "test_scores.npz") as file:
            scores, labels, known = file["scores"], file["labels"], ~file["masked"]
        values = [
            average_precision_score(labels[k, i], scores[k, i])
            for i, k in enumerate(known.T)
            if labels[k, i].any()
        ]
        assert row["mAP"] == pytest.approx(np.mean(values), abs=1e-9)
        result = json.loads((folder / "result.json").read_text())
        assert result["base_labeling"] == row["base_labeling"]
        checked.add(folder)
    assert len(checked) == 9 + 9 + 3


def test_what_the_report_says_of_the_run(finished, miniature_data):
    _, report, _ = finished
    assert report["data_set"] == open_data_set(miniature_data).fingerprint
    assert report["provenance"]["versions"]["jax"]
    assert "cores" in report["provenance"]["hardware"]["processor"]
    assert report["provenance"]["config"]["roots"] == ["Human sounds"]


def test_event_files(finished):
    """TensorBoard's files hold the lines of metrics.jsonl."""
    from tensorboardX.proto.event_pb2 import Event

    workdir, *_ = finished
    folder = workdir / "human_sounds" / "scratch_pe_cml_seed0"
    (path,) = folder.glob("events.out.tfevents.*")
    content, found = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    (line,) = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    assert found == {
        (field, line["epoch"]): pytest.approx(value)
        for field, value in line.items()
        if field not in ("epoch", "step")
    }


def test_embeddings_are_taken_once(finished):
    """Three bases, whatever the number of target labelings."""
    _, report, embedded = finished
    assert embedded == 3 * sum(report["table1"][-1][f"{split}_clips"] for split in SPLITS)


def test_going_on(finished, miniature_data, tmp_path):
    """What is finished is not done again, the rest is; the same tables."""
    workdir = tmp_path / "W"
    shutil.copytree(finished[0], workdir)
    folder = workdir / "human_sounds"
    (folder / "finetune_from_pel_ol_seed0" / "result.json").unlink()  # trained, but not tested
    for cell in folder.glob("scratch_*"):
        shutil.rmtree(cell)
    shutil.rmtree(workdir / "report")
    description = json.loads((workdir / "grid.json").read_text())
    del description["config"]["base_labelings"], description["label_files"]  # as in version 0.1
    for digest in ("digest", "ontology"):
        del description[digest]
    (workdir / "grid.json").write_text(json.dumps(description))
    done = {path: path.stat().st_mtime_ns for path in workdir.rglob("result.json")}
    assert len(done) == 24 - 1 - 3
    grid.run_grid(small_config(miniature_data), workdir)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert tables(workdir) == tables(finished[0])


def test_a_root_by_its_mid(finished, copying, miniature_data, tmp_path):
    """The same folders, below the workdir, and the same tables."""
    report = grid.run_grid(small_config(miniature_data, roots=("/m/0dgw9r",)), tmp_path / "W")
    assert report["problems"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["W"]
    assert len(list((tmp_path / "W" / "human_sounds").iterdir())) == 24
    assert tables(tmp_path / "W") == tables(finished[0])


def test_a_root_without_clips(finished, copying, miniature_data, tmp_path):
    """The other root is done; the report says what is missing."""
    roots = ("Animal", "Human sounds")
    report = grid.run_grid(small_config(miniature_data, roots=roots), tmp_path)
    assert report["problems"] == [
        "root 'Animal': the data set has no test clip",
        "24 of 48 runs failed or have no base",
    ]
    assert "root 'Animal'" in (tmp_path / "report" / "index.html").read_text()
    for table in ("table3", "table4"):
        rows = [row for row in report[table] if row["root"] == "Animal"]
        assert rows
        assert all(row["mAP"] is None for row in rows)
        others = [row for row in report[table] if row["root"] == "Human sounds"]
        assert others == finished[1][table]


def test_a_failed_cell(copying, miniature_data, tmp_path, monkeypatch):
    """Its population continues without it, and what starts from it is not begun."""
    begun = []

    def failing(configs, workdirs, on_clips):
        begun.append([path.name for path in workdirs])
        if "base_pel_seed0" in begun[-1]:
            raise InputError("epoch 1: the training loss is nan")
        copying(configs, workdirs, on_clips)

    config = small_config(miniature_data, labelings=("ol",))
    with monkeypatch.context() as patch:
        patch.setattr(grid, "run_population", failing)
        report = grid.run_grid(config, tmp_path)
    assert report["problems"] == [
        "epoch 1: the training loss is nan",
        "3 of 10 runs failed or have no base",
    ]
    together = [f"base_{labeling}_seed0" for labeling in PAPER_LABELINGS]
    assert begun[:4] == [together, *([name] for name in together)]
    assert begun[4:] == [
        *([f"{m}_from_{base}_ol_seed0"] for base in ("ol", "pe_cml") for m in TUNED),
        ["scratch_ol_seed0"],
    ]
    results = list(tmp_path.rglob("result.json"))
    assert len(results) == 7

    for path in results:  # so that it can be copied again
        shutil.rmtree(path.parent)
    report = grid.run_grid(config, tmp_path)
    assert report["problems"] == []
    assert len(report["runs"]) == 10


def test_seeds():
    """Base trainings and those from scratch train over the seeds; a transfer has its base's."""
    config = small_config("D", num_seeds=2, seed=5)
    populations = cells.populations(cells.all_cells(config))
    assert sorted(map(len, populations)) == [3] * 12 + [6, 6]
    for population in populations:
        configs = [cells.run_config(config, cell, pathlib.Path("W")) for cell in population]
        assert {c.seed for c in configs} <= {5, 6}
        (base,) = {c.base for c in configs}
        if base:
            (seed,) = {c.seed for c in configs}
            assert base in {f"W/human_sounds/base_{of}_seed{seed}" for of in PAPER_LABELINGS}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("", {"base", "features", "finetune", "scratch"}),
        ("human,finetune", {"base", "finetune"}),
        ("Human, Scratch", {"scratch"}),
        ("base", {"base"}),
    ],
)
def test_only(only, expected):
    config = small_config("D", roots=("Human sounds", "Natural sounds"), only=only)
    chosen = cells.all_cells(config)
    assert {cell.method for cell in chosen} == expected
    roots = {cell.root for cell in chosen}
    assert roots == ({"Human sounds"} if "uman" in only else {"Human sounds", "Natural sounds"})


def test_the_papers_grid():
    module = {}
    exec((REPOSITORY / "configs" / "paper.py").read_text(), module)
    for size in ("paper", "small"):
        grid_cells = cells.all_cells(module["get_config"](size))
        counts = [sum(cell.method == method for cell in grid_cells) for method in METHODS]
        assert counts == [12, 36, 36, 12]
        assert len({cell.folder for cell in grid_cells}) == 96
    config = module["get_config"]()
    assert (config.num_epochs, config.batch_size, config.num_seeds) == (100, 24, 1)
    assert "paper.py:small" in module["__doc__"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.01}, "was begun with config.learning_rate 0.001, not 0.01"),
        ({"roots": ("Natural sounds",)}, "was begun with config.roots .*, not"),
        ({"roots": ()}, "config.roots: expected at least one target root"),
        ({"num_epochs": 2}, "was begun with config.num_epochs 1, not 2"),
        ({"data_dir": "other"}, "was begun on another data set than"),
        ({"data_dir": "nowhere"}, "nowhere: not a finished data set"),
        ({"num_seeds": 0}, "config.num_seeds: expected 1 or more"),
        ({"only": "tuning"}, "config.only: 'tuning' is neither in a root"),
        ({"truth": "nowhere.csv"}, "config.truth=nowhere.csv: .* cannot read the truth"),
        (
            {"truth": str(REPOSITORY / "tests" / "data_prep" / "segments_sample.csv")},
            "config.truth=.*: the truth has no row for the test clip",
        ),
        ({"roots": ("Human sound",)}, "no class 'Human sound'"),
        ({"grid.json": "{"}, "grid.json: cannot read it"),
        ({"grid.json": "[]"}, "grid.json: is damaged or of an older version"),
        ({"config.json": "{}", "grid.json": None}, "is the workdir of a single run"),
    ],
)
def test_refused(finished, miniature_data, tmp_path, change, message):
    workdir = tmp_path / "W"
    workdir.mkdir()
    shutil.copy(finished[0] / "grid.json", workdir)
    fields = {k: v for k, v in change.items() if not k.endswith(".json")}
    for name in change.keys() & {"grid.json", "config.json"}:
        (workdir / name).unlink(missing_ok=True)
        if change[name] is not None:
            (workdir / name).write_text(change[name])
    data_dir = fields.pop("data_dir", str(miniature_data))
    if data_dir == "other":
        data_dir = tmp_path / "other"
        shutil.copytree(miniature_data, data_dir)
        (data_dir / "sha256.json").unlink()  # or the change would be refused as damage
        text = (data_dir / "ontology.json").read_text()
        (data_dir / "ontology.json").write_text(text + " ")
    before = sorted(workdir.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        grid.run_grid(small_config(data_dir, **fields), workdir)
    assert "\n" not in str(caught.value)
    assert sorted(workdir.iterdir()) == before


def test_nothing_runs(miniature_data, tmp_path):
    with pytest.raises(InputError, match="training clips are fewer than a batch"):
        grid.run_grid(small_config(miniature_data, only="scratch", batch_size=1000), tmp_path)


def test_a_second_grid_in_the_same_workdir_is_one_line(miniature_data, tmp_path):
    with Workdir(tmp_path).locked(), pytest.raises(InputError, match="another process is training"):
        grid.run_grid(small_config(miniature_data), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_wrong_field_is_one_line(miniature_data, tmp_path):
    with pytest.raises(InputError, match=r"^config\.num_epochs: expected a positive"):
        grid.run_grid(small_config(miniature_data, num_epochs=0), tmp_path / "W")
    assert not (tmp_path / "W").exists()
