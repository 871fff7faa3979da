"""Makes web pages of one HTML file that loads nothing else.

A template has `<!--HEAD-->` in its head. `fill_page` replaces it by web_page_head.html, which has
the style and the JavaScript that all pages share, plotly, and the page's data as `data`. It
replaces `/*INCLUDE name*/` by the file of that name beside the template.
"""

import importlib.util
import json
import pathlib
import re
from typing import Any

from relabel_jax.errors import InputError, install_command

_HEAD = pathlib.Path(__file__).with_name("web_page_head.html")


def require_plotly(extra: str) -> None:
    """Raises InputError if plotly is not installed; it names the extra to install."""
    if importlib.util.find_spec("plotly") is None:
        raise InputError(f"the {extra} needs plotly: {install_command(extra)}")


def fill_page(template: pathlib.Path, data: Any, extra: str) -> str:
    """Returns the HTML of a page.

    Args:
      template: the file with the page's HTML and `<!--HEAD-->`.
      data: a value for JSON, without NaN.
      extra: the extra of this package that installs plotly for this page.

    Raises:
      InputError: plotly is not installed.
    """
    require_plotly(extra)
    import plotly.offline  # takes half a second

    # A name with "</script>" in it would end the script.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")

    def included(match: re.Match[str]) -> str:
        return template.with_name(match[1]).read_text(encoding="utf-8").rstrip()

    return (
        re.sub(r"/\*INCLUDE (\S+)\*/", included, template.read_text(encoding="utf-8"))
        .replace("<!--HEAD-->", _HEAD.read_text(encoding="utf-8").rstrip())
        .replace("/*PLOTLY*/", plotly.offline.get_plotlyjs())
        .replace("/*DATA*/", embedded)
    )
