"""Web pages of one HTML file, which loads nothing else.

The head of a template has `<!--HEAD-->`. web_page_head.html takes its place: the style and the
JavaScript that the pages share, plotly, and the page's data as `data`.
"""

import importlib.util
import json
import pathlib
from typing import Any

from relabel_jax.errors import InputError, install_command

_HEAD = pathlib.Path(__file__).with_name("web_page_head.html")


def require_plotly(extra: str) -> None:
    """Raises InputError if plotly is not installed; names the extra that brings it."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(f"the {extra} needs plotly: {install_command(extra)}")


def fill_page(template: pathlib.Path, data: Any, extra: str) -> str:
    """The HTML of a page.

    Args:
      template: the page's HTML with `<!--HEAD-->`.
      data: a value for JSON, without NaN.
      extra: the extra of this package that installs plotly for this page.

    Raises:
      InputError: plotly is not installed.
    """
    require_plotly(extra)
    import plotly.offline  # here, because it takes half a second

    # A name with "</script>" would end the script.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        template.read_text(encoding="utf-8")
        .replace("<!--HEAD-->", _HEAD.read_text(encoding="utf-8").rstrip())
        .replace("/*PLOTLY*/", plotly.offline.get_plotlyjs())
        .replace("/*DATA*/", embedded)
    )
