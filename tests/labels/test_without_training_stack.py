"""The label commands run where NumPy, SciPy, PyArrow and tqdm are all that is installed."""

import os
import pathlib
import subprocess
import sys

import pytest

from data_prep.metadata import SOURCES

CHECKOUT = pathlib.Path(__file__).parents[2]
# Runs a command where other packages cannot be imported.
PROGRAM = """
import importlib.metadata
import sys

ALLOWED = {"numpy", "scipy", "pyarrow", "tqdm", "relabel_jax", "data_prep"}
REFUSED = importlib.metadata.packages_distributions().keys() - ALLOWED


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name in REFUSED else self.finder.find_spec(name, path, target)


sys.meta_path[:] = map(Hiding, sys.meta_path)
from relabel_jax.cli import main

sys.exit(main(sys.argv[1:]))
"""


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )


def succeeds(*arguments: object) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_other_packages_are_hidden():
    assert "No module named 'absl'" in run("train", "--help").stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "flags"),
    [("parquet", []), ("csv", []), ("npz", []), ("torch", []), ("ast_json", ["--wav={clip_id}"])],
)
def test_relabel(segments_sample, tmp_path, format, flags):
    output = tmp_path / "labels.x"
    flags = [f"--segments={segments_sample}", f"--output={output}", f"--format={format}", *flags]
    assert "clips             300" in succeeds("relabel", *flags)
    assert all(path.stat().st_size for path in tmp_path.iterdir())
    assert os.listdir(tmp_path)


@pytest.mark.slow
def test_audit(segments_sample, tmp_path):
    log = succeeds("audit", f"--segments={segments_sample}", f"--output_dir={tmp_path}")
    assert sorted(os.listdir(tmp_path)) == ["audit.json", "classes.csv", "edges.csv", "files.csv"]
    assert log.splitlines()[-1] == (
        "left out audit.html: the page needs plotly (pip install plotly)"
    )


@pytest.mark.slow
def test_excerpt(segments_sample, tmp_path):
    output = tmp_path / "excerpt.csv"
    succeeds("excerpt", f"--segments={segments_sample}", f"--output={output}", "--min_per_label=2")
    assert output.read_text().startswith("# Segments csv excerpted by relabel_jax")


@pytest.mark.slow
def test_score(segments_sample, tmp_path):
    rows = [line.partition(",")[0] for line in segments_sample.read_text().splitlines()[3:]]
    (tmp_path / "a.csv").write_text(
        "clip_id,Speech,Music\n" + "".join(f"{row},0.{i},0.5\n" for i, row in enumerate(rows))
    )
    flags = [f"--scores={tmp_path / 'a.csv'}", f"--segments={segments_sample}"]
    log = succeeds("score", *flags, f"--output_dir={tmp_path / 'OUT'}")
    assert "written scores.json and classes.csv" in log


@pytest.mark.slow
def test_metadata(audioset_dir, tmp_path):
    """From a folder; a download says what it needs."""
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:  # the small segment files alone, for the large one takes seconds
        of = name.replace("unbalanced", "balanced")
        (source / name).symlink_to(audioset_dir / of)
    succeeds("metadata", f"--from_dir={source}", f"--output_dir={tmp_path / 'meta'}")
    assert len(os.listdir(tmp_path / "meta")) == 5
    done = run("metadata", f"--output_dir={tmp_path / 'new'}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "downloading needs pooch: pip install pooch requests" in done.stderr


@pytest.mark.slow
def test_datasets_explains_itself():
    assert "ESC-50" in run("datasets", "--help").stdout
