"""A grid of runs: what is shared, what fails alone, what is refused, and going on."""

import json
import pathlib
import shutil
import struct

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from relabel_jax import grid, run
from relabel_jax.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.labelings import LABELINGS

REPOSITORY = pathlib.Path(__file__).parents[1]
SMALL = {"filters": (4,) * 9, "dense_units": (8, 8), "batch_size": 8, "num_epochs": 1}


def small_config(data_dir, roots=("Human sounds",), labelings=LABELINGS, **fields):
    config = grid.grid_config(roots=roots, target_labelings=labelings)
    config.update({"data_dir": str(data_dir), **SMALL, **fields})
    return config


# The target side of Animal has no validation clip in these 96.
ROOTS = ("Animal", "Human sounds")


@pytest.fixture(scope="module")
def finished(miniature_data, tmp_path_factory):
    """The workdir and the report of a grid of two roots."""
    workdir = tmp_path_factory.mktemp("grid")
    return workdir, grid.run_grid(small_config(miniature_data, roots=ROOTS), workdir)


def tables(workdir):
    names = ("table1.csv", "table3.csv", "table4.csv")
    return [(workdir / "report" / name).read_text() for name in names]


def test_the_tables_are_those_of_the_runs(finished):
    workdir, report = finished
    checked = set()
    for row in [*report["table3"], *report["table4"]]:
        if row["root"] == "Animal":
            assert row["mAP"] is None
            continue
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


def test_a_root_without_clips(finished):
    """Its base trainings and all of the other root are done; the report says what is missing."""
    workdir, report = finished
    why, how_many = report["problems"]
    assert "root 'Animal': the data set has no validation clip on the target side" in why
    assert how_many == "21 of 48 runs failed or have no base"
    assert len(list((workdir / "animal").glob("*/result.json"))) == 3
    assert "no validation clip" in (workdir / "report" / "index.html").read_text()


def test_what_the_report_says_of_the_run(finished, miniature_data):
    _, report = finished
    assert report["data_set"] == open_data_set(miniature_data).fingerprint
    assert report["provenance"]["versions"]["jax"]
    assert "cores" in report["provenance"]["hardware"]["processor"]
    assert report["provenance"]["config"]["roots"] == list(ROOTS)


def test_event_files(finished):
    """TensorBoard's files hold the lines of metrics.jsonl."""
    from tensorboardX.proto.event_pb2 import Event

    workdir, _ = finished
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


def test_stopped_and_gone_on(finished, miniature_data, tmp_path, monkeypatch):
    """Stopped between and within runs; what is finished is not done again; the same tables."""
    config = small_config(miniature_data, roots=ROOTS)
    whole = run.run_population
    trained = []

    def stopping(configs, workdirs, on_epoch):
        if len(trained) == 3:
            trained.append("stop")
            raise KeyboardInterrupt
        trained.append(workdirs)
        if len(trained) == 6:
            monkeypatch.setattr(run, "predict", stop)  # after the last epoch, before the result
        return whole(configs, workdirs, on_epoch)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(grid, "run_population", stopping)
            with pytest.raises(KeyboardInterrupt):
                grid.run_grid(config, tmp_path)
        monkeypatch.undo()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert 0 < len(done) < 27
    grid.run_grid(config, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert tables(tmp_path) == tables(finished[0])


def test_embeddings_are_taken_once(miniature_data, tmp_path, monkeypatch):
    embedded, predict = [], run.predict

    def counting(*arguments, method="__call__", **options):
        if method == "embed":
            embedded.append(arguments[3])
        return predict(*arguments, method=method, **options)

    monkeypatch.setattr(run, "predict", counting)
    config = small_config(miniature_data, only="features", num_seeds=2)
    report = grid.run_grid(config, tmp_path)
    clips = report["table1"][-1]
    assert sum(embedded) == 3 * 2 * sum(
        clips[f"{s}_clips"] for s in ("train", "validation", "test")
    )
    assert all(row["seeds"] == 2 and row["mAP_sd"] is not None for row in report["table3"])
    assert all(row["seeds"] == 0 for row in report["table4"])
    assert not list(tmp_path.rglob("finetune*"))


def test_a_failed_cell(miniature_data, tmp_path, monkeypatch):
    """Its population goes on without it, and what starts from it is not begun."""
    whole = run.run_population

    def failing(configs, workdirs, on_epoch):
        if any(path.name == "base_pel_seed0" for path in workdirs):
            raise InputError("epoch 1: the training loss is nan")
        return whole(configs, workdirs, on_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(grid, "run_population", failing)
        report = grid.run_grid(small_config(miniature_data, labelings=("ol",)), tmp_path)
    assert report["problems"] == [
        "epoch 1: the training loss is nan",
        "3 of 10 runs failed or have no base",
    ]
    done = {path.parent.name for path in tmp_path.rglob("result.json")}
    assert len(done) == 7
    assert not any("pel" in name for name in done)

    report = grid.run_grid(small_config(miniature_data, labelings=("ol",)), tmp_path)
    assert report["problems"] == []
    assert len(report["runs"]) == 10


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
    cells = grid._cells(config)
    assert {cell.method for cell in cells} == expected
    roots = {cell.root for cell in cells}
    assert roots == ({"Human sounds"} if "uman" in only else {"Human sounds", "Natural sounds"})


def test_the_papers_grid():
    module = {}
    exec((REPOSITORY / "configs" / "paper.py").read_text(), module)
    for size in ("paper", "small"):
        cells = grid._cells(module["get_config"](size))
        counts = [sum(cell.method == method for cell in cells) for method in run.METHODS]
        assert counts == [12, 36, 36, 12]
        assert len({cell.folder for cell in cells}) == 96
    config = module["get_config"]()
    assert (config.num_epochs, config.batch_size, config.num_seeds) == (100, 24, 1)
    assert "paper.py:small" in module["__doc__"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.01}, "was begun with config.learning_rate 0.001, not 0.01"),
        ({"roots": ("Human sounds",)}, "was begun with config.roots .*, not"),
        ({"data_dir": "other"}, "was begun on another data set than"),
        ({"data_dir": "nowhere"}, "nowhere: not a finished data set"),
        ({"num_seeds": 0}, "config.num_seeds: expected 1 or more"),
        ({"only": "tuning"}, "config.only: 'tuning' is neither in a root"),
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
    fields = {"roots": ROOTS} | {k: v for k, v in change.items() if not k.endswith(".json")}
    for name in change.keys() & {"grid.json", "config.json"}:
        (workdir / name).unlink(missing_ok=True)
        if change[name] is not None:
            (workdir / name).write_text(change[name])
    data_dir = fields.pop("data_dir", str(miniature_data))
    if data_dir == "other":
        data_dir = tmp_path / "other"
        shutil.copytree(miniature_data, data_dir)
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
