"""Pages to look at: HTML of one file that needs nothing but itself.

A template has `<!--HEAD-->` in its head. For that it gets web_page_head.html: the style and the
JavaScript that the pages share, plotly, and the page's data as `data`.
"""

import importlib.util
import json
import pathlib
from typing import Any

from relabel_jax.errors import InputError

_HEAD = pathlib.Path(__file__).with_name("web_page_head.html")


def require_plotly(extra: str) -> None:
    """Raises InputError where plotly is not installed; names the extra that brings it."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(f"the {extra} needs plotly: pip install 'relabel-jax[{extra}]'")


def fill_page(template: pathlib.Path, data: Any, extra: str) -> str:
    """The HTML of a page.

    Args:
      template: its HTML with `<!--HEAD-->`.
      data: a value for JSON, without NaN.
      extra: the extra of this package that brings plotly for this page.

    Raises:
      InputError: plotly is not installed.
    """
    require_plotly(extra)
    import plotly.offline  # only here: half a second

    # "<" would end the script early if a name had it.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        template.read_text(encoding="utf-8")
        .replace("<!--HEAD-->", _HEAD.read_text(encoding="utf-8").rstrip())
        .replace("/*PLOTLY*/", plotly.offline.get_plotlyjs())
        .replace("/*DATA*/", embedded)
    )
