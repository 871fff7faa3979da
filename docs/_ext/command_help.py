"""The directive `command-help`, which shows what `relabel-jax VERB --help` prints.

It runs the command's own parser, so the page cannot differ from the command.
"""

import contextlib
import io
import os
import sys

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from relabel_jax import cli


def help_text(verb: str) -> str:
    """The output of `relabel-jax VERB --help` on a terminal of 88 columns."""
    output = io.StringIO()
    before = sys.argv, os.environ.get("COLUMNS")
    sys.argv, os.environ["COLUMNS"] = [cli.SCRIPT], "88"
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            cli.main([verb, "--help"])
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before[1]
    return output.getvalue()


class CommandHelp(SphinxDirective):
    """`command-help`, with the verb as its argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (verb,) = self.arguments
        if verb not in cli.VERBS:
            raise self.error(f"{verb!r} is not a verb of {cli.SCRIPT}")
        text = help_text(verb)
        block = nodes.literal_block(text, text, language="text")
        self.set_source_info(block)
        return [block]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": False}
