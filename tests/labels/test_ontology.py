"""The ontology as a library, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology


def node(mid, name, *children, **fields):
    return {"id": mid, "name": name, "child_ids": list(children), **fields}


A, B, C = node("/m/a", "A", "/m/b"), node("/m/b", "B", "/m/c"), node("/m/c", "C")


@pytest.mark.parametrize("leaf", [{"id": "/m/c", "name": "C"}, C | {"child_ids": None}])
def test_missing_or_null_child_ids_are_no_children(leaf):
    ontology = Ontology.from_text(json.dumps([A, B, leaf]))
    np.testing.assert_array_equal(
        ontology.is_parent, Ontology.from_text(json.dumps([A, B, C])).is_parent
    )
    assert ontology.restricted_to(["/m/b", "/m/c"]).is_parent.tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([A, B, node("/m/c", "C", "/m/a")], "child_ids form a cycle through /m/a, /m/b, /m/c"),
        ([node("/m/a", "A", "/m/a")], "form a cycle through /m/a"),
        ([A, B], "/m/b (B) has the child '/m/c', which is not in the file"),
        ([A, B, C, node("/m/b", "Other")], "the id '/m/b' occurs 2 times"),
        ([A, B, C, node("/m/d", "C")], "the name 'C' occurs 2 times"),
        ([A, {"id": "/m/b", "child_ids": []}], "class number 1 has no field 'name'"),
        (
            [A, B | {"child_ids": "/m/c"}, C],
            "class number 1 has no field 'child_ids' of JSON type list",
        ),
        ([A, B | {"child_ids": [3]}, C], "/m/b (B) has the child 3, which is not in the file"),
        ([], "expected a non-empty JSON list"),
        ({"id": 1}, "expected a non-empty JSON list"),
    ],
)
def test_refused(tmp_path, nodes, message):
    path = tmp_path / "ontology.json"
    path.write_text(json.dumps(nodes))
    with pytest.raises(InputError) as caught:
        Ontology.from_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[{", b"\xff\xfe"])
def test_not_json(tmp_path, content):
    path = tmp_path / "ontology.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"ontology\.json: "):
        Ontology.from_json(path)
    with pytest.raises(InputError, match="cannot read the ontology"):
        Ontology.from_json(tmp_path / "nowhere.json")


def test_find():
    ontology = Ontology.from_text(json.dumps([A, B, C]))
    assert ontology.find("B") == ontology.find("b") == ontology.find("/m/b") == 1
    with pytest.raises(InputError, match="no class 'Bb'"):
        ontology.find("Bb")


def test_the_ontology_of_the_package_is_audiosets(audioset_dir):
    packaged = Ontology.audioset()
    original = Ontology.from_json(audioset_dir / "ontology.json")
    assert packaged.mids == original.mids
    assert packaged.display_names == original.display_names
    for field in ("is_parent", "is_abstract", "is_blacklisted"):
        np.testing.assert_array_equal(getattr(packaged, field), getattr(original, field))
    nodes, original_nodes = json.loads(packaged.text), json.loads(original.text)
    facts = ("id", "name", "child_ids", "restrictions")
    for node, original_node in zip(nodes, original_nodes, strict=True):
        assert list(node) == list(original_node)
        assert [node[fact] for fact in facts] == [original_node[fact] for fact in facts]


def test_the_text_of_the_package_is_an_ontology_file(tmp_path):
    packaged = Ontology.audioset()
    (tmp_path / "ontology.json").write_text(packaged.text)
    written = Ontology.read(tmp_path / "ontology.json")
    assert (written.mids, written.text) == (packaged.mids, packaged.text)
    np.testing.assert_array_equal(written.is_parent, packaged.is_parent)
    assert Ontology.read(None) is Ontology.audioset()


def test_loading_it_loads_no_jax():
    code = "import sys; from relabel_jax.labels.ontology import Ontology; Ontology.audioset(); "
    command = [sys.executable, "-c", code + "sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command).returncode == 0


def test_restricted_to():
    """The order of the mids given; an edge stays if both of its ends do."""
    ontology = Ontology.from_text(json.dumps([A, node("/m/b", "B"), node("/m/d", "D", "/m/b")]))
    part = ontology.restricted_to(["/m/d", "/m/b"])
    assert part.mids == ("/m/d", "/m/b")
    assert part.is_parent.tolist() == [[False, True], [False, False]]
    assert not ontology.restricted_to(["/m/a", "/m/d"]).is_parent.any()
    with pytest.raises(KeyError, match="/m/q"):
        ontology.restricted_to(["/m/q"])


def test_audioset():
    ontology = Ontology.audioset()
    assert len(ontology) == 632
    assert len(ontology.roots) == 7
    assert (ontology.is_parent.sum(axis=0) > 1).sum() == 38
    for number, mid in enumerate(ontology.mids):
        assert ontology.find(mid) == ontology.find(ontology.display_names[number]) == number
        above = set(np.flatnonzero(ontology.ancestors(number)).tolist())
        assert above == ontology.ancestor_sets[number]
        paths = ontology.paths(number)
        assert set().union(*paths) == above | {number}
        assert {path[0] for path in paths} <= set(ontology.roots)
        for path in paths:
            assert path[-1] == number
            assert ontology.is_parent[path[:-1], path[1:]].all()
        assert len(set(paths)) == len(paths)
        assert all(number in ontology.descendant_sets[a] for a in above)
