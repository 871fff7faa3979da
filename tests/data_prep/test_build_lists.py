"""Builds from other lists than AudioSet's: JSON of AST, AudioSet-Strong, class numbers, splits."""

import json

import pyarrow.parquet as pq
from building import MIDS, command, contents, make_inputs, rejects

from data_prep.audit import main as audit
from data_prep.build import main
from data_prep.excerpt import main as excerpt
from data_prep.relabel import main as relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments


def test_json_of_ast_gives_segments_and_paths(tmp_path):
    arguments = make_inputs(tmp_path, 6) | {"num_workers": 1}
    ontology = Ontology.from_json(arguments["ontology"])
    labels = read_segments(arguments["segments"], ontology).labels.to_pylist()
    files = sorted((tmp_path / "audio").iterdir())
    data = [
        {"wav": str(file), "labels": ",".join(MIDS[number] for number in numbers)}
        for file, numbers in zip(files, labels, strict=True)
    ]
    path = tmp_path / "audio" / "train.json"
    path.write_text(json.dumps({"data": data}))
    arguments |= {"segments": [path], "paths": path}
    assert main(command(arguments, tmp_path / "set")[3:]) == 0
    index = pq.read_table(tmp_path / "set" / "clips.parquet")
    assert dict(zip(*index.select(["clip_id", "ol"]).to_pydict().values(), strict=True)) == dict(
        zip([file.stem for file in files], labels, strict=True)
    )
    assert set(index["end_s"].to_pylist()) == {10.0}


def test_class_numbers_and_names_of_splits(tmp_path):
    arguments = make_inputs(tmp_path, 6) | {"num_workers": 1}
    text = arguments["segments"][0].read_text()
    splits = ["Train", "training", " val", "valid", "dev", "TEST"]
    clips = [line.partition(",")[0] for line in text.splitlines()[3:]]
    lines = [f"{clip};{split}" for clip, split in zip(clips, splits, strict=True)]
    (tmp_path / "splits.csv").write_text("\n".join(["clip_id;split", *lines]))
    arguments |= {"splits": tmp_path / "splits.csv"}
    assert main(command(arguments, tmp_path / "mids")[3:]) == 0
    index = pq.read_table(tmp_path / "mids" / "clips.parquet").to_pylist()
    assert {row["clip_id"]: row["split"] for row in index} == dict(
        zip(clips, ["train"] * 2 + ["validation"] * 3 + ["test"], strict=True)
    )
    rows = [f"{number},{mid},{mid}" for number, mid in enumerate(reversed(MIDS))]
    (tmp_path / "indices.csv").write_text("\n".join(["index,mid,display_name", *rows]))
    for number, mid in enumerate(reversed(MIDS)):
        text = text.replace(mid, str(number))
    (tmp_path / "segments.csv").write_text(text)
    arguments |= {"class_indices": tmp_path / "indices.csv"}
    assert main(command(arguments, tmp_path / "numbers")[3:]) == 0
    assert contents(tmp_path / "mids") == contents(tmp_path / "numbers")


def test_every_command_takes_audioset_strong(tmp_path, capfd):
    arguments = make_inputs(tmp_path, 1) | {"num_workers": 1}
    strong = tmp_path / "strong.tsv"
    strong.write_text(
        "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
        "-clip000_0\t0.1\t0.5\t/m/dog\n-clip000_0\t1\t2\t/m/cat\n"
    )
    (tmp_path / "audio" / "-clip000.flac").rename(tmp_path / "audio" / "-clip000_0.flac")
    arguments["segments"] = [strong]
    assert main(command(arguments, tmp_path / "set")[3:]) == 0
    assert rejects(tmp_path / "set") == {}
    inputs = [f"--ontology={arguments['ontology']}", f"--segments={strong}"]
    assert relabel([*inputs, f"--output={tmp_path / 'x.parquet'}"]) == 0
    assert audit([*inputs, f"--output_dir={tmp_path / 'audit'}"]) == 0
    assert excerpt([*inputs, f"--output={tmp_path / 'x.csv'}", "--min_per_label=1"]) == 0
    assert '\n-clip000_0, 0.000, 10.000, "/m/dog,/m/cat"\n' in (tmp_path / "x.csv").read_text()
    strong.write_text(strong.read_text() + "-clip000_0\t2\t3\t/m/new\n")
    capfd.readouterr()
    assert main(command(arguments, tmp_path / "new")[3:]) == 1
    assert "(/m/new); use the ontology" in capfd.readouterr().err
    assert main(command(arguments, tmp_path / "new", unknown="drop")[3:]) == 0
    assert "dropped 1 labels of 1 mids" in capfd.readouterr().err
    assert contents(tmp_path / "set") == contents(tmp_path / "new")
