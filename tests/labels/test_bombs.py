"""Small files that would become huge are refused with one line."""

import gzip
import json
import time

import pytest

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.text_files import opened, read_text


def ladder(number):
    """Classes in pairs, each with both classes of the pair above as parents."""
    nodes = []
    for step in range(number):
        below = [f"a{step + 1}", f"b{step + 1}"] if step + 1 < number else []
        nodes += [{"id": f"{x}{step}", "name": f"{x} {step}", "child_ids": below} for x in "ab"]
    return json.dumps(nodes)


def test_an_ontology_with_too_many_paths():
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^ontology: the paths .* alone has over 10\^12"):
        Ontology.from_text(ladder(200))
    assert time.monotonic() - began < 5


def test_an_ontology_with_many_paths():
    ontology = Ontology.from_text(ladder(8))
    paths = ontology.paths(ontology.find("a7"))
    assert len(set(paths)) == len(paths) == 2**7
    assert paths[0] == tuple(range(0, 16, 2))


def test_a_deep_ontology():
    nodes = [{"id": f"m{i}", "name": f"n{i}", "child_ids": [f"m{i + 1}"]} for i in range(1500)]
    nodes[-1]["child_ids"] = []
    assert Ontology.from_text(json.dumps(nodes)).paths(1499) == [tuple(range(1500))]


@pytest.mark.parametrize("read", [read_text, lambda path: read_segments([path], Ontology.read())])
def test_gzip_that_grows_a_thousandfold(read, tmp_path):
    path = tmp_path / "segments.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"# YTID, start_seconds, end_seconds, positive_labels\n")
        row = b'AAAAAAAAAAA, 0.000, 10.000, "/m/09x0r"\n'
        for _ in range(100):
            file.write(row * 25_000)
    assert path.stat().st_size < 1 << 19
    with pytest.raises(InputError, match="more than 67,108,864 bytes, over 200 times its size"):
        read(path)


def test_gzip_of_a_usual_size(tmp_path):
    path = tmp_path / "x.gz"
    text = "".join(f"line {i}\n" for i in range(300_000))
    path.write_bytes(gzip.compress(text.encode()))
    assert read_text(path) == text
    with opened(path) as file:
        assert file.readline() == b"line 0\n"
        assert file.read(8) == b"line 1\nl"
        assert sum(1 for _ in file) == 299_998
