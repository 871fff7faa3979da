"""Ontologies for tests: any, and one with a class below two roots."""

import json
from collections.abc import Collection

from relabel_jax.labels.ontology import Ontology


def make_ontology(children: dict[str, list[str]], abstract: Collection[str] = ()) -> Ontology:
    nodes = [
        {
            "id": f"/m/{name}",
            "name": name,
            "child_ids": [f"/m/{child}" for child in below_it],
            "restrictions": ["abstract"] if name in abstract else [],
        }
        for name, below_it in children.items()
    ]
    return Ontology.from_text(json.dumps(nodes))


CHOIR = make_ontology(
    {
        "Human sounds": ["Singing"],
        "Singing": ["Choir", "Rapping"],
        "Choir": [],
        "Rapping": [],
        "Music": ["Choir", "Opera"],
        "Opera": [],
        "Rain": [],
    }
)
