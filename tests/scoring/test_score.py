"""What the command prints and writes: fingerprints, what was left out, and differences."""

import hashlib
import json
import subprocess

import numpy as np
import pytest
from score_inputs import (
    CLIP_IDS,
    ONTOLOGY,
    labels,
    measured,
    run,
    scores,
    write_inputs,
    write_scores,
)

from relabel_jax.labels.labelings import relabel_set
from relabel_jax.metrics import evaluate
from relabel_jax.report.statistics import bootstrap_map, compare, holm


def test_fingerprints_are_those_of_sorted_names(tmp_path, capsys):
    """As coreutils would compute them from a list of names in any order."""
    path = write_scores(tmp_path / "a.npz", scores())
    (of_file,) = measured(tmp_path, capsys, path)["files"]
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in CLIP_IDS[::-1]))
    command = "LC_ALL=C sort ids.txt | sha256sum"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    assert of_file["clips_sha256"] == done.stdout.decode().split()[0]
    of_mids = hashlib.sha256("".join(f"{mid}\n" for mid in sorted(ONTOLOGY.mids)).encode())
    assert of_file["classes_sha256"] == of_mids.hexdigest()


def test_the_fingerprint_of_labels_is_theirs_alone(tmp_path, capsys):
    """It changes with a label, not with the scores or the order of the rows."""
    path = write_scores(tmp_path / "a.npz", scores())

    def fingerprint():
        (of_file,) = measured(tmp_path, capsys, path, labelings="ol")["files"]
        return of_file["labelings"]["ol"]["labels_sha256"]

    before = fingerprint()
    write_scores(path, scores(seed=1)[::-1], clip_id=np.array(CLIP_IDS[::-1]))
    rows = (tmp_path / "segments.csv").read_text().splitlines(keepends=True)
    (tmp_path / "segments.csv").write_text("".join(sorted(rows)))
    assert fingerprint() == before
    without = sorted(row for row in rows if "/m/dog" in row)[0]
    changed = without.replace("/m/dog", "/m/bark")
    (tmp_path / "segments.csv").write_text("".join(rows).replace(without, changed))
    assert fingerprint() != before


def test_what_was_left_out_is_told(tmp_path, capsys):
    clip_ids = np.array(["other-1", *CLIP_IDS[:57], "other-2"])
    path = write_scores(
        tmp_path / "a.npz",
        scores()[:59, :5],
        clip_id=clip_ids,
        mids=np.array(["Dog", "bark", "/m/cow", "/m/thing", "Robot"]),
    )
    flags = {"labelings": "ol,pel", "output_dir": tmp_path / "OUT"}
    status, printed, error = run(tmp_path, capsys, path, **flags)
    assert (status, error) == (0, f"written scores.json and classes.csv in {tmp_path / 'OUT'}\n")
    lines = printed.splitlines()
    assert lines[0] == str(path)
    assert lines[1].startswith("  clips     57  fingerprint ")
    assert lines[2].startswith("  classes   4  fingerprint ")
    assert lines[2].endswith("order: the names in the file")
    assert lines[3:7] == [
        "  left out  ids without a segment: 2 of 59 (3.4%): other-1, other-2",
        "  left out  segments without scores: 3 of 60 (5.0%): "
        "clip-00059_, clip-00058_, clip-00057_",
        "  left out  classes without scores: 2 of 6 (33.3%): Animal, Bell",
        "  left out  classes that the ontology lacks: 1 of 5 (20.0%): Robot",
    ]
    assert lines[8].split()[:4] == ["labels", "mAP", "AUC", "d'"]
    assert [line.split()[0] for line in lines[9:]] == ["ol", "pel"]
    (of_file,) = json.loads((tmp_path / "OUT" / "scores.json").read_text())["files"]
    assert of_file["left_out"]["ids_without_a_segment"] == {
        "number": 2,
        "of": 59,
        "first": ["other-1", "other-2"],
    }


def test_a_labeling_from_a_file(tmp_path, capsys):
    """Clips without labels are left out of that labeling alone."""
    values = scores()
    path = write_scores(tmp_path / "a.npz", values)
    mine = [{"wav": f"x/Y{clip_id}.wav", "labels": "/m/dog"} for clip_id in CLIP_IDS[:40]]
    mine[0]["labels"] = "/m/cow"
    mine[1]["masked"] = "/m/cow"
    (tmp_path / "mine.json").write_text(json.dumps({"data": mine}))
    flags = {"labelings": "ol,mine", "labeling_files": f"mine={tmp_path / 'mine.json'}"}
    (of_file,) = measured(tmp_path, capsys, path, **flags)["files"]
    assert of_file["labelings"]["ol"]["clips"] == of_file["clips"] == 60
    got = of_file["labelings"]["mine"]
    dog, cow = ONTOLOGY.find("Dog"), ONTOLOGY.find("Cow, cattle")
    positive, masked = np.zeros((2, 40, 6), bool)
    positive[1:, dog] = positive[0, cow] = masked[1, cow] = True
    expected = evaluate(values[:40], positive, masked)
    assert got["mAP"] == pytest.approx(expected.mean_average_precision, abs=1e-12)
    assert (got["clips"], got["known"], got["classes_with_positive"]) == (40, 40 * 6 - 1, 2)
    assert got["clips_sha256"] != of_file["labelings"]["ol"]["clips_sha256"]
    _, printed, _ = run(tmp_path, capsys, path, **flags)
    assert "left out  clips without labels in mine: 20 of 60 (33.3%): clip-00040_" in printed


def test_differences_on_the_shared_clips_and_classes(tmp_path, capsys):
    first, second = scores(0), scores(2)
    one = write_scores(tmp_path / "a.npz", first[:50])
    other = write_scores(
        tmp_path / "b.npz",
        second[10:, 1:] * 4 - 2,  # logits
        clip_id=np.array(CLIP_IDS[10:]),
        mids=np.array(ONTOLOGY.mids[1:]),
    )
    flags = {"num_replicates": 300, "labelings": "pel,pe_cml"}
    differences = measured(tmp_path, capsys, one, other, **flags)["differences"]
    assert (differences["clips"], differences["classes"]) == (40, 5)
    shared = write_scores(
        tmp_path / "c.npz",
        first[10:50, 1:],
        clip_id=np.array(CLIP_IDS[10:50]),
        mids=np.array(ONTOLOGY.mids[1:]),
    )
    (of_shared,) = measured(tmp_path, capsys, shared, **flags)["files"]
    assert differences["clips_sha256"] == of_shared["clips_sha256"]
    p_values = []
    for row, labeling in zip(differences["rows"], ("pel", "pe_cml"), strict=True):
        sets = [relabel_set(clip, ONTOLOGY, labeling) for clip in labels()[10:50]]
        positive, masked = (
            np.array([[mid in of_clip[i] for mid in ONTOLOGY.mids[1:]] for of_clip in sets])
            for i in (0, 1)
        )
        pair = [each[10:50, 1:] for each in (first, second)]
        means = [evaluate(each, positive, masked).mean_average_precision for each in pair]
        replicates = [bootstrap_map(each, positive, masked, num_replicates=300) for each in pair]
        expected = compare(means[1] - means[0], replicates[1] - replicates[0])
        got = [row[field] for field in ("difference", "low", "high", "p")]
        assert got == pytest.approx(list(expected), abs=1e-9)
        assert (row["labeling"], row["path"], row["against"]) == (labeling, str(other), str(one))
        assert (row["mAP"], row["mAP_against"]) == pytest.approx(means[::-1], abs=1e-12)
        p_values.append(expected.p)
    assert [row["p_holm"] for row in differences["rows"]] == pytest.approx(holm(p_values))
    status, printed, _ = run(tmp_path, capsys, one, other, **flags)
    assert status == 0
    assert f"  {other} - {one}" in printed


def test_files_without_common_clips_or_classes(tmp_path, capsys):
    one = write_scores(tmp_path / "a.npz", scores()[:30])
    ids, mids = np.array(CLIP_IDS), np.array(ONTOLOGY.mids)
    apart = write_scores(tmp_path / "b.npz", scores()[30:], clip_id=ids[30:])
    status, _, error = run(tmp_path, capsys, one, apart)
    assert (status, error.count("\n")) == (1, 1)
    assert f"{one}, {apart}: no common clips" in error
    first = write_scores(tmp_path / "c.npz", scores()[:, :2], mids=mids[:2])
    second = write_scores(tmp_path / "d.npz", scores()[:, 2:], mids=mids[2:])
    status, _, error = run(tmp_path, capsys, first, second)
    assert f"{first}, {second}: no common classes" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"labelings": "ol,pl"}, "labelings: 'pl' is none of ol, pel, pe_cml, hlp, entailed"),
        ({"labelings": "ol,ol"}, "labelings: 'ol' occurs twice"),
        ({"labeling_files": "pel=a.json"}, "the name 'pel' is taken"),
        ({"num_replicates": 0}, "num_replicates: expected 1 or more, got 0"),
        ({"classes": "absent.csv"}, "absent.csv: cannot read it as a CSV"),
    ],
)
def test_bad_flags(tmp_path, capsys, flags, message):
    path = write_scores(tmp_path / "a.npz", scores())
    status, _, error = run(tmp_path, capsys, path, **flags)
    assert (status, error.count("\n")) == (1, 1)
    assert message in error


def test_existing_results_stay(tmp_path, capsys):
    write_inputs(tmp_path)
    path = write_scores(tmp_path / "a.npz", scores())
    (tmp_path / "OUT").mkdir()
    (tmp_path / "OUT" / "classes.csv").write_text("mine")
    flags = {"output_dir": tmp_path / "OUT"}
    status, _, error = run(tmp_path, capsys, path, **flags)
    assert (status, error.count("\n")) == (1, 1)
    assert "classes.csv: exists already; give --overwrite" in error
    assert (tmp_path / "OUT" / "classes.csv").read_text() == "mine"
    status, _, _ = run(tmp_path, capsys, path, overwrite=True, **flags)
    assert status == 0
    assert sorted(each.name for each in (tmp_path / "OUT").iterdir()) == [
        "classes.csv",
        "scores.json",
    ]
