"""The rows of `test_bad_inputs.py`: command lines, and the content of the files that they name."""

import json

import numpy as np
import pyarrow as pa

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
RESULT = {
    "format_version": 2,
    "test": {"mAP": 0.5, "mean_auc": 0.5, "d_prime": None},
    "best_epoch": 1,
    **dict.fromkeys(("root", "root_mid", "labeling", "base_labeling", "classes", "data_set"), "x"),
    "side": "base",
    "method": "base",
    "seed": 0,
    "num_clips": {"train": 1, "validation": 1, "test": 1},
    "num_labels": 1,
    "config": {"model": {"name": "waveform_cnn"}, "num_epochs": 1, "data_dir": "D"},
}
RESULTS = {
    "damaged": "{",
    "list": "[]",
    "newer": json.dumps(RESULT | {"format_version": 99}),
    "text_version": json.dumps(RESULT | {"format_version": "2"}),
    "text_metric": json.dumps(RESULT | {"test": RESULT["test"] | {"mAP": "0.5"}}),
    "long_metric": json.dumps(RESULT | {"test": RESULT["test"] | {"mAP": 10**400}}),
    "nan_metric": json.dumps(RESULT | {"test": RESULT["test"] | {"mAP": float("nan")}}),
    "no_metric": json.dumps(RESULT | {"test": {}}),
    "huge_epoch": json.dumps(RESULT | {"best_epoch": 10**300}),
    "no_sizes": json.dumps(RESULT | {"num_clips": {}}),
    "text_model": json.dumps(RESULT | {"config": RESULT["config"] | {"model": "x"}}),
    "no_config": json.dumps(RESULT | {"config": {}}),
    "controls": json.dumps(RESULT | {"best_epoch": "\x1b[2J"}),
    "no_curve": json.dumps(RESULT),
}
"""The content of `result.json` in a run folder that has no other file."""
IDS, SCORES = np.array(["clip1", "clip2"]), np.array([[0.1], [0.2]])
ARRAYS = {
    "texts": {"clip_id": IDS, "scores": IDS},
    "objects": {"clip_id": IDS, "scores": np.array([{}, None])},
    "no_ids": {"scores": SCORES},
    "no_scores": {"clip_id": IDS},
    "number_ids": {"clip_id": SCORES, "scores": SCORES},
    "scalar_ids": {"clip_id": np.array("clip1"), "scores": SCORES},
    "bytes_ids": {"clip_id": np.array([b"\xff", b"\xfe"]), "scores": SCORES, "mids": ["/m/a"]},
    "twice": {"clip_id": IDS[[0, 0]], "scores": SCORES, "mids": ["/m/a"]},
    "one_axis": {"clip_id": IDS, "scores": SCORES[:, 0]},
    "three_axes": {"clip_id": IDS, "scores": SCORES[None]},
    "fewer_rows": {"clip_id": IDS, "scores": SCORES[:1], "mids": ["/m/a"]},
    "more_mids": {"clip_id": IDS, "scores": SCORES, "mids": ["/m/a", "/m/b"]},
    "unknown_mids": {"clip_id": IDS, "scores": SCORES, "mids": ["\x1b[2J"]},
    "no_mids": {"clip_id": IDS, "scores": SCORES},
    "nan": {"clip_id": IDS, "scores": SCORES * np.nan, "mids": ["/m/a"]},
    "complex": {"clip_id": IDS, "scores": SCORES * 1j, "mids": ["/m/a"]},
    "times": {"clip_id": IDS, "scores": SCORES.astype("M8[s]"), "mids": ["/m/a"]},
    "records": {"clip_id": IDS, "scores": np.zeros((2, 1), [("a", int)]), "mids": ["/m/a"]},
}
"""The arrays of an npz of scores."""
TABLES = {
    "numbers": {"clip_id": [1, 2], "scores": ["a", "b"]},
    "empty": {},
    "no_rows": {"clip_id": pa.array([], pa.string()), "scores": pa.array([], pa.list_(pa.int8()))},
    "nulls": {"clip_id": [None, "a"], "scores": [[0.1], [0.2]]},
    "struct_ids": {"clip_id": [{"a": 1}, {"a": 2}], "scores": [[0.1], [0.2]]},
    "list_ids": {"clip_id": [["a"], ["b"]], "scores": [[0.1], [0.2]]},
    "ragged": {"clip_id": ["a", "b"], "scores": [[0.1], [0.2, 0.3]], "mids": [["/m/a"]] * 2},
    "null_scores": {"clip_id": ["a", "b"], "scores": [None, [0.2]], "mids": [["/m/a"]] * 2},
    "text_scores": {"clip_id": ["a", "b"], "scores": [["x"], ["y"]], "mids": [["/m/a"]] * 2},
    "deep_scores": {"clip_id": ["a", "b"], "scores": [[[1]], [[2]]], "mids": [["/m/a"]] * 2},
    "number_mids": {"clip_id": ["a", "b"], "scores": [[0.1], [0.2]], "mids": [[1], [1]]},
    "null_mids": {"clip_id": ["a", "b"], "scores": [[0.1], [0.2]], "mids": [[None], [None]]},
    "columns": {"clip_id": ["a", "b"], "/m/a": [{"x": 1}, {"x": 2}]},
    "embeddings": {"path": ["a"], "start_s": [0.0], "embedding": [[0.5]]},
}
"""The columns of a Parquet file of scores, labels or recordings."""
LABEL_TABLES = {
    "no_rows": {
        "clip_id": pa.array([], pa.string()),
        "positive": pa.array([], pa.list_(pa.int8())),
    },
    "texts": {"clip_id": ["clip1"], "positive": ["/m/a"]},
    "numbers": {"clip_id": ["clip1"], "positive": [[1]]},
    "structs": {"clip_id": ["clip1"], "positive": [[{"a": 1}]]},
    "lists": {"clip_id": ["clip1"], "positive": [[["/m/a"]]]},
    "nulls": {"clip_id": ["clip1"], "positive": [None]},
    "null_mids": {"clip_id": ["clip1"], "positive": [[None]]},
    "null_ids": {"clip_id": [None], "positive": [["/m/a"]]},
    "list_ids": {"clip_id": [["clip1"]], "positive": [["/m/a"]]},
    "struct_ids": {"clip_id": [{"a": 1}], "positive": [["/m/a"]]},
    "twice": {"clip_id": ["clip1", "clip1"], "positive": [["/m/a"]] * 2},
    "controls": {"clip_id": ["clip1"], "positive": [["\x1b[2J"]]},
    "both": {"clip_id": ["clip1"], "positive": [["/m/a"]], "masked": [["/m/a"]]},
    "masked_texts": {"clip_id": ["clip1"], "positive": [["/m/a"]], "masked": [1]},
    "bytes": {"clip_id": [b"\xff"], "positive": [[b"\xff"]]},
    "other_clips": {"clip_id": ["clip2"], "positive": [["/m/a"]]},
}
"""The columns of a Parquet file of labels."""
REFERENCES = {
    "strong_header": "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n",
    "strong_no_label": "segment_id\tstart_time_seconds\nclip1_0\t0\n",
    "strong_ragged": "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nclip1_0\t0\n",
    "strong_present": "segment_id\tlabel\tpresent\nclip1_0\t/m/a\tMAYBE\n",
    "strong_mid": "segment_id\tstart\tend\tlabel\nclip1_0\t0\t1\t/m/\x1b[2J\n",
    "fsd50k": "fname,labels,mids\n",
    "fsd50k_no_mids": "fname,labels\n1,A\n",
    "ratings_list": '{"clip1": []}',
    "ratings_number": '{"clip1": {"/m/a": [7]}}',
    "ratings_nan": '{"clip1": {"/m/a": [NaN]}}',
    "ratings_long": '{"clip1": {"/m/a": [1' + "0" * 5_000 + "]}}",
    "ratings_deep": '{"clip1": ' + "[" * 100_000,
    "ratings_list_vote": '{"clip1": {"/m/a": [[]]}}',
    "ast_number": '{"data": [1]}',
    "ast_object": '{"data": {"wav": 1}}',
    "ast_labels": '{"data": [{"wav": "clip1.wav", "labels": 3}]}',
    "ast_wav": '{"data": [{"wav": 3, "labels": "/m/a"}]}',
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
    *(f"judge {LABELS} --against={{{name}}}" for name in REFERENCES),
    *(f"judge {LABELS} --against={{labels_{name}}}" for name in LABEL_TABLES),
    *(
        f"relabel {LABELS} --output={{new}} --labelings=ol,x --labeling_files=x={{{name}}}"
        for name in (*REFERENCES, *(f"labels_{name}" for name in LABEL_TABLES))
        if name != "ratings_list"
    ),
    f"judge {LABELS} --against=",
    f"judge {LABELS} --against={{segments}} --output_dir=",
    f"judge {LABELS} --against={{segments}} --replicates=0",
    f"judge {LABELS} --against={{segments}} --replicates=1000000000000",
    f"judge {LABELS} --against={{segments}} --seed=-1",
    f"score {LABELS} --scores={{none}}",
    f"score {LABELS} --scores={{binary}}",
    *(f"score {LABELS} --scores={{npz_of_{name}}}" for name in ARRAYS),
    *(f"score {LABELS} --scores={{table_{name}}}" for name in TABLES),
    *(f"score {LABELS} --scores={{run_{name}}}" for name in RESULTS),
    f"score {LABELS} --scores={{short_npz}}",
    f"score {LABELS} --scores={{no_zip}}",
    f"score {LABELS} --scores={{empty_h5}}",
    f"score {LABELS} --scores={{group_h5}}",
    f"score {LABELS} --scores={{binary_h5}}",
    f"score {LABELS} --scores={{huge_h5}}",
    f"score {LABELS} --scores={{huge_npz}}",
    f"score {LABELS} --scores=",
    f"score {LABELS} --scores={{npz_of_no_mids}},",
    f"score {LABELS} --scores={{npz_of_no_mids}} --classes={{binary}}",
    f"score {LABELS} --scores={{npz_of_no_mids}} --classes=",
    f"score {LABELS} --scores={{npz_of_no_mids}} --output_dir=",
    f"score {LABELS} --scores={{npz_of_texts}} --num_replicates=0",
    f"score {LABELS} --scores={{npz_of_texts}} --num_replicates=1000000000000",
    "datasets --dataset=esc50 --input_dir={folder} --output_dir={new}",
    "datasets --dataset=esc50 --input_dir={folder} --output_dir={new} --test_fold=9",
    "datasets --dataset=fsd50k --input_dir={none} --output_dir={new}",
    "datasets --dataset=x --input_dir={folder} --output_dir={new}",
    "scenes --recordings={none} --labels={none} --num_clips=5 --output_dir={new}",
    "scenes --recordings={folder} --labels={segments} --num_clips=5 --output_dir={new}",
    "scenes --recordings={folder} --labels={binary} --num_clips=5 --output_dir={new}",
    "scenes --recordings={folder} --labels={segments} --num_clips=0 --output_dir={new}",
    "scenes --recordings={folder} --labels={segments} --num_clips=1,2 --output_dir={new}",
    "scenes --recordings={folder} --labels={segments} --num_clips=5 --snr_db=x --output_dir={new}",
    "miniature --output_dir={new} --num_clips=0",
    "miniature --output_dir={new} --seed=-1",
    "miniature --output_dir={new} --general_only=nan",
    "miniature --output_dir={new} --parent_left_out=2",
    "miniature --output_dir={new} --num_workers=0",
    "miniature --output_dir={new} --ontology=audioset --general_only=0",
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
    *(f"report --workdir={{run_{name}}}" for name in RESULTS),
    "report --workdir={grid_list}",
    "report --workdir={grid_controls}",
    "report --workdir={folder} --paper=",
    "demo --checkpoint={folder} --port=0",
    "demo --checkpoint={folder} --port=99999",
    "demo --checkpoint={folder} --port=x",
    "demo --checkpoint={none}",
    "nearest --checkpoint={folder} --embeddings={none} --audio={none} --number=0",
    "export --checkpoint={none} --output_dir={new}",
    "export --checkpoint= --output_dir={new}",
    "export --checkpoint={none} --output_dir=",
    "export --checkpoint={none} --output_dir={new} --format=x",
    "export --checkpoint={none} --output_dir={new} --ontology=",
    *(f"export --checkpoint={{run_{name}}} --output_dir={{new}}" for name in RESULTS),
    *(
        f"nearest --checkpoint={{run_{name}}} --embeddings={{none}} --audio={{none}}"
        for name in RESULTS
    ),
    "embed --checkpoint={none} --audio={folder} --output={new}",
    "embed --checkpoint={none} --audio={folder} --output=",
    "embed --checkpoint= --audio={folder} --output={new}",
    "nearest --checkpoint={none} --embeddings= --audio={none}",
    "nearest --checkpoint={none} --embeddings={none} --audio=",
    "verify --data_dir={none}",
    "verify --data_dir=",
    f"build {LABELS} --audio={{folder}} --output_dir=",
    f"build {LABELS} --audio= --output_dir={{new}}",
    "report --workdirs={folder}",
]
