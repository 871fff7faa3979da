"""Bad inputs of all commands: one line that begins with `error: `, exit 1 (2 for wrong usage).

Each row is a command line. `{name}` in it is a file or folder of `places`. No row may leave a
traceback, a control character, or a file.
"""

import gzip
import importlib
import itertools
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from relabel_jax import cli

SEGMENTS = '# YTID, start_seconds, end_seconds, positive_labels\nclip1, 0.0, 10.0, "/m/a"\n'
NODE = {"id": "/m/a", "name": "A", "child_ids": []}
ONTOLOGIES = {
    "no_json": "{",
    "empty": "",
    "object": "{}",
    "nothing": "[]",
    "number": "[1]",
    "number_id": json.dumps([NODE | {"id": 1}]),
    "null_name": json.dumps([NODE | {"name": None}]),
    "nan_name": '[{"id": "/m/a", "name": NaN}]',
    "empty_id": json.dumps([NODE | {"id": ""}]),
    "half_character": '[{"id": "/m/a", "name": "\\ud800"}]',
    "number_child": json.dumps([NODE | {"child_ids": [3]}]),
    "list_child": json.dumps([NODE | {"child_ids": [[]]}]),
    "text_children": json.dumps([NODE | {"child_ids": "/m/a"}]),
    "text_restrictions": json.dumps([NODE | {"restrictions": "abstract"}]),
    "nan_restrictions": '[{"id": "/m/a", "name": "A", "restrictions": NaN}]',
    "cycle": json.dumps([NODE | {"child_ids": ["/m/a"]}]),
    "twice": json.dumps([NODE, NODE]),
    "deep": "[" * 100_000,
    "long_number": "[" + "9" * 5_000 + "]",
    "controls": json.dumps([NODE | {"child_ids": ["\x1b[2J\u202e"]}]),
    "diamonds": json.dumps(
        [
            {"id": f"{x}{i}", "name": f"{x} {i}", "child_ids": [f"a{i + 1}", f"b{i + 1}"]}
            for i in range(60)
            for x in "ab"
        ]
        + [{"id": f"{x}60", "name": f"{x} 60"} for x in "ab"]
    ),
}
CONFIGS = {
    "syntax": "def get_config(:",
    "exits": "raise SystemExit(0)",
    "no_function": "",
    "returns_none": "def get_config(): return None",
    "returns_dict": "def get_config(): return {}",
    "empty_config": "from ml_collections import ConfigDict\nget_config = ConfigDict",
    "null": "\0",
}
LABELS = "--segments={segments} --ontology={ontology}"
TRAIN = "--config=target_human --workdir={new} --config.data_dir={folder}"
GRID = "--config=paper:small --workdir={new} --config.data_dir={folder}"
ROWS = [
    *(
        f"audit --segments={{segments}} --ontology={{{name}}} --output_dir={{new}}"
        for name in ONTOLOGIES
    ),
    *(f"train --config={{{name}}} --workdir={{new}}" for name in CONFIGS),
    "train --config=nowhere --workdir={new}",
    "train --config={binary} --workdir={new}",
    "train --config=target_human --workdir= --config.data_dir={folder}",
    "train --config=target_human --workdir={new} --config.data_dir={none}",
    *(
        f"train {TRAIN} --config.{field}"
        for field in (
            "seeds=abc",
            "seeds=1.5",
            "seeds=0,-1",
            "seeds=[1,[2]]",
            "seed=-1",
            "seed=99999999999999999999",
            "batch_size=0",
            "batch_size=1e9",
            "batch_size=1000000000",
            "num_epochs=0",
            "num_epochs=-5",
            "learning_rate=nan",
            "learning_rate=inf",
            "learning_rate=-1",
            "learning_rate_decay=0",
            "steps_per_call=0",
            "classifier.hidden_units=0",
            "classifier.norm_order=x",
            "model=3",
            "model.name=nowhere",
            "model.name=os:path",
            "loss=x",
            "labeling=x",
            "labeling_files=x",
            "no_such_field=1",
            "data_dir=",
        )
    ),
    *(
        f"train {GRID} --config.{field}"
        for field in (
            "num_seeds=0",
            "num_seeds=1000000000",
            "roots=(1,2)",
            "only=nothing",
            "base_labelings=x",
            "target_labelings=('ol','ol')",
        )
    ),
    *(
        f"relabel {LABELS} --output={{new}} {flags}"
        for flags in (
            "--labelings=x",
            "--labelings=ol,ol",
            "--labelings=",
            "--labeling_files=x",
            "--labeling_files=x={folder}/none",
            "--labelings=ol,x --labeling_files=x={binary}",
            "--labelings=ol,x --labeling_files=x={numbers}",
            "--format=ast_json",
            "--format=ast_json --wav=x{{",
            "--wav=x",
        )
    ),
    *(
        f"relabel --segments={{{place}}} --ontology={{ontology}} --output={{new}}"
        for place in ("none", "folder", "binary", "empty", "control_row", "truncated_gz")
    ),
    f"relabel {LABELS} --output={{segments}}",
    f"relabel {LABELS} --output={{segments}}/x",
    f"relabel {LABELS} --output=",
    "release --segments={control_row} --ontology={ontology} --output_dir={new}",
    f"release {LABELS} --output_dir={{segments}}/x",
    f"excerpt {LABELS} --output={{new}} --have={{binary}}",
    f"excerpt {LABELS} --output={{new}} --have={{none}}",
    f"excerpt {LABELS} --output={{new}} --min_per_label=0",
    f"excerpt {LABELS} --output={{new}} --seed=-1",
    f"excerpt {LABELS} --output={{new}} --seed=x",
    f"audit {LABELS} --output_dir=",
    f"audit {LABELS} --output_dir={{segments}}",
    f"judge {LABELS} --against={{none}}",
    f"judge {LABELS} --against={{binary}}",
    f"judge {LABELS} --against={{numbers}}",
    f"judge {LABELS} --against={{segments}} --replicates=0",
    f"judge {LABELS} --against={{segments}} --replicates=1000000000000",
    f"judge {LABELS} --against={{segments}} --seed=-1",
    f"score {LABELS} --scores={{none}}",
    f"score {LABELS} --scores={{binary}}",
    f"score {LABELS} --scores={{npz_of_texts}}",
    f"score {LABELS} --scores={{npz_of_objects}}",
    f"score {LABELS} --scores={{numbers}}",
    f"score {LABELS} --scores={{npz_of_texts}} --num_replicates=0",
    f"score {LABELS} --scores={{npz_of_texts}} --num_replicates=1000000000000",
    "datasets --dataset=esc50 --input_dir={folder} --output_dir={new}",
    "datasets --dataset=esc50 --input_dir={folder} --output_dir={new} --test_fold=9",
    "datasets --dataset=fsd50k --input_dir={none} --output_dir={new}",
    "datasets --dataset=x --input_dir={folder} --output_dir={new}",
    "miniature --output_dir={new} --num_clips=0",
    "miniature --output_dir={new} --seed=-1",
    "miniature --output_dir={new} --general_only=nan",
    "miniature --output_dir={new} --parent_left_out=2",
    "miniature --output_dir={new} --num_workers=0",
    "miniature --output_dir={folder}",
    "miniature --output_dir=",
    "metadata --output_dir={new} --retries=-1",
    "metadata --output_dir={new} --timeout_s=nan",
    "metadata --output_dir={new} --timeout_s=inf",
    "metadata --output_dir={new} --from_dir={folder}",
    "metadata --output_dir={new} --ontology_url=ftp://x",
    "metadata --output_dir={new} --ontology_url=http://[x",
    "report --workdir={none}",
    "report --workdir={folder}",
    "report --workdir=",
    "demo --checkpoint={folder} --port=0",
    "demo --checkpoint={folder} --port=99999",
    "demo --checkpoint={folder} --port=x",
    "demo --checkpoint={none}",
    "nearest --checkpoint={folder} --embeddings={none} --audio={none} --number=0",
    "export --checkpoint={none} --output_dir={new}",
    "embed --checkpoint={none} --audio={folder} --output={new}",
    "verify --data_dir={none}",
    "report --workdirs={folder}",
]


@pytest.fixture
def places(tmp_path):
    """Files and folders by name; `none` and `new` do not exist."""
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
    made["numbers"] = tmp_path / "numbers.parquet"
    pq.write_table(pa.table({"clip_id": [1, 2], "scores": ["a", "b"]}), made["numbers"])
    texts, objects = np.array(["a", "b"]), np.array([{}, None])
    for name, scores in (("npz_of_texts", texts), ("npz_of_objects", objects)):
        made[name] = tmp_path / f"{name}.npz"
        np.savez(made[name], clip_id=texts, scores=scores)
    return made


def listing(folder):
    return sorted(
        os.path.join(at, name) for at, *names in os.walk(folder) for name in itertools.chain(*names)
    )


@pytest.mark.parametrize("row", ROWS)
def test_one_line_and_nothing_left(row, places, tmp_path, capsys, monkeypatch):
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
