"""The configuration of Sphinx. `make docs` writes the pages to build/docs."""

import pathlib
import sys

_DOCS = pathlib.Path(__file__).parent
sys.path[:0] = [str(_DOCS.parent), str(_DOCS / "_ext")]

from relabel_jax.version import __version__  # noqa: E402

project = "relabel_jax"
author = "The relabel_jax authors"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_help",
    "docstrings",
]
exclude_patterns = ["_static", "_ext", "examples"]
default_role = "literal"  # `name` in a docstring is code

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3  # so that [text](page.md#heading) is checked

autodoc_default_options = {"members": True, "member-order": "bysource"}
add_module_names = False
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
# Only some users have these packages; the adapters for them are documented without them.
autodoc_mock_imports = ["apache_beam", "mteb", "perch_hoplite", "torch"]
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# The build reads nothing from the network, so types of other projects have no page to link to.
_OTHERS = (
    "argparse|collections|contextlib|dataclasses|flax|functools|jax|jaxlib|logging|ml_collections|"
    "mteb|nn|np|numpy|optax|orbax|os|pa|pathlib|perch_hoplite|pyarrow|scipy|sparse|"
    "tensorflow_datasets|torch|typing"
)
# Sphinx cuts the type of a field with a default factory in the middle: `list[tuple[int`.
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})\b.*"), ("py:class", r"list\[.*")]

html_theme = "furo"
html_title = "relabel_jax"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_js_files = ["wide.js"]
html_show_sphinx = False
