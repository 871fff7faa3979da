"""The page: one file that needs nothing but itself."""

import importlib.util
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.ontology import Ontology

_PAGE = pathlib.Path(__file__).with_name("page.html")


def require_plotly() -> None:
    """Raises InputError where plotly is not installed."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError("the report needs plotly: pip install 'relabel-jax[report]'")


def page(report: Mapping[str, Any], ontology: Ontology) -> str:
    """The HTML of a report as of `tables.report`, with `paper` and `provenance` in it.

    Raises:
      InputError: plotly is not installed.
    """
    require_plotly()
    import plotly.offline  # only here: half a second

    data = {
        **report,
        "names": dict(zip(ontology.mids, ontology.display_names, strict=True)),
        "tree": _tree(report, ontology),
    }
    # "<" would end the script early if a name had it.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        _PAGE.read_text(encoding="utf-8")
        .replace("/*DATA*/", embedded)
        .replace("/*PLOTLY*/", plotly.offline.get_plotlyjs())
    )


def _tree(report: Mapping[str, Any], ontology: Ontology) -> list[dict[str, str]]:
    """A node for every path from a root to a class of the report; one with several parents has
    several nodes.
    """
    wanted: set[int] = set()
    for group in report["classes"]:
        for mid in group["mids"]:
            number = ontology.index[mid]
            wanted |= {number} | ontology.ancestor_sets[number]
    return [
        {
            "id": "/".join(map(str, path)),
            "parent": "/".join(map(str, path[:-1])),
            "mid": ontology.mids[number],
        }
        for number in sorted(wanted)
        for path in ontology.paths(number)
    ]
