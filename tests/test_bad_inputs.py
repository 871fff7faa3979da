"""Bad inputs of all commands: one line that begins with `error: `, exit 1 (2 for wrong usage).

Each row is a command line. `{name}` in it is a file or folder of `places`. No row may leave a
traceback, a control character, or a file.
"""

import gzip
import importlib
import io
import itertools
import json
import os

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import (
    ARRAYS,
    CONFIGS,
    IDS,
    LABEL_TABLES,
    NODE,
    ONTOLOGIES,
    REFERENCES,
    RESULTS,
    ROWS,
    SEGMENTS,
    TABLES,
)

from relabel_jax import cli


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Files and folders by name; `none` and `new` do not exist."""
    tmp_path = tmp_path_factory.mktemp("places")
    made = {name: tmp_path / name for name in ("folder", "none", "new")}
    made["folder"].mkdir()

    def add(name, content, suffix=""):
        made[name] = tmp_path / f"{name}{suffix}"
        made[name].write_bytes(content if isinstance(content, bytes) else content.encode())

    add("segments", SEGMENTS, ".csv")
    add("ontology", json.dumps([NODE]), ".json")
    add("binary", bytes(range(256)) * 8)
    add("control_row", SEGMENTS + "\x1b[2J\u202eclip, 0, 0, 0\n", ".csv")
    add("truncated_gz", gzip.compress(SEGMENTS.encode() * 100)[:-20], ".csv.gz")
    for name, text in ONTOLOGIES.items():
        add(name, text, ".json")
    for name, text in CONFIGS.items():
        add(name, text, ".py")
    add("short_npz", npz(ARRAYS["nan"])[:-30], ".npz")
    add("no_zip", b"\x93NUMPY", ".npz")
    add("binary_h5", bytes(range(256)), ".h5")
    for name, text in REFERENCES.items():
        add(
            name,
            text,
            ".tsv" if name.startswith("strong") else ".csv" if "fsd" in name else ".json",
        )
    for name, arrays in ARRAYS.items():
        add(f"npz_of_{name}", npz(arrays), ".npz")
    for kind, tables in (("table", TABLES), ("labels", LABEL_TABLES)):
        for name, columns in tables.items():
            made[f"{kind}_{name}"] = tmp_path / f"{kind}_{name}.parquet"
            pq.write_table(pa.table(columns), made[f"{kind}_{name}"])
    made["numbers"] = made["table_numbers"]
    for name in ("empty_h5", "group_h5", "huge_h5"):
        made[name] = tmp_path / f"{name}.h5"
        with h5py.File(made[name], "w") as file:
            if name == "group_h5":
                file.create_group("clip_id")
                file.create_group("scores")
            if name == "huge_h5":  # a few kB that claim 16 GiB
                file["clip_id"] = ["clip1"]
                file.create_dataset("scores", (1, 1 << 32), np.float32, chunks=(1, 1 << 20))
    made["huge_npz"] = tmp_path / "huge.npz"
    np.savez_compressed(made["huge_npz"], clip_id=IDS, scores=np.zeros((2, 1 << 23)))
    files = {f"run_{name}": ("result.json", text) for name, text in RESULTS.items()}
    files["grid_list"] = ("grid.json", "[]")
    files["grid_controls"] = ("grid.json", json.dumps({"config": "\x1b[2J"}))
    for name, (file_name, text) in files.items():
        made[name] = tmp_path / name
        made[name].mkdir()
        (made[name] / file_name).write_text(text)
    return made


def npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def listing(folder):
    return sorted(
        os.path.join(at, name) for at, *names in os.walk(folder) for name in itertools.chain(*names)
    )


@pytest.mark.parametrize("row", ROWS)
def test_one_line_and_nothing_left(row, places, capsys, monkeypatch):
    tmp_path = places["folder"].parent
    monkeypatch.chdir(tmp_path)
    # Other tests in this process use JAX. Commands then cannot choose the number of devices.
    flags = os.environ.get("XLA_FLAGS", "")
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=1")
    verb, *arguments = row.split()
    before = listing(tmp_path)
    try:
        code = importlib.import_module(cli.VERBS[verb][0]).main(
            [argument.format_map(places) for argument in arguments]
        )
    except SystemExit as exiting:
        code = exiting.code
    output = capsys.readouterr()
    *others, last = output.err.splitlines()
    assert listing(tmp_path) == before
    assert code in (1, 2)
    assert "Traceback" not in output.err
    assert not {"\x1b", "\u202e"} & set(output.err + output.out)
    if code == 1:
        assert last.startswith("error: ")
        assert others == []
    else:
        assert " error: " in last
    assert output.out == ""
