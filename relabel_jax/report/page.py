"""The report as a web page."""

import pathlib
from collections.abc import Mapping
from typing import Any

from relabel_jax.labels.labelings import title
from relabel_jax.labels.ontology import Ontology
from relabel_jax.report.transfers import SIGNIFICANT_P
from relabel_jax.report.web_page import fill_page

_PAGE = pathlib.Path(__file__).with_name("page.html")


def page(report: Mapping[str, Any], ontology: Ontology) -> str:
    """Returns the HTML of a report.

    Args:
      report: the result of `tables.report`, with `paper` and `provenance` added.
      ontology: the ontology of the report's classes.

    Raises:
      InputError: plotly is not installed.
    """
    data = {
        **report,
        "names": dict(zip(ontology.mids, ontology.display_names, strict=True)),
        "titles": {labeling: title(labeling) for labeling in report["labelings"]},
        "tree": _tree(report, ontology),
        "significant_p": SIGNIFICANT_P,
    }
    return fill_page(_PAGE, data, "report")


def _tree(report: Mapping[str, Any], ontology: Ontology) -> list[dict[str, str]]:
    """Returns a node for every path from a root to a class of the report.

    A class with several parents has several nodes.
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
