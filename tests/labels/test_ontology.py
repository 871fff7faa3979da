"""The ontology as a library, and what is refused."""

import json

import numpy as np
import pytest

from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology


def node(mid, name, *children, **fields):
    return {"id": mid, "name": name, "child_ids": list(children), **fields}


A, B, C = node("/m/a", "A", "/m/b"), node("/m/b", "B", "/m/c"), node("/m/c", "C")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([A, B, node("/m/c", "C", "/m/a")], "child_ids form a cycle through /m/a, /m/b, /m/c"),
        ([node("/m/a", "A", "/m/a")], "form a cycle through /m/a"),
        ([A, B], "/m/b (B) has the child '/m/c', which is not in the file"),
        ([A, B, C, node("/m/b", "Other")], "the id '/m/b' stands 2 times"),
        ([A, B, C, node("/m/d", "C")], "the name 'C' stands 2 times"),
        ([A, {"id": "/m/b", "name": "B"}], "class number 1 has no field 'child_ids'"),
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


def test_audioset(audioset_dir):
    ontology = Ontology.from_json(audioset_dir / "ontology.json")
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
