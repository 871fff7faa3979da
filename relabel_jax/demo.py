r"""Opens a local page that shows what a trained network hears: drop a sound, or record one.

  python -m relabel_jax.demo --checkpoint=W/base
  python -m relabel_jax.embed --checkpoint=W/base --audio=RECORDINGS --output=embeddings.parquet
  python -m relabel_jax.demo --checkpoint=W/base --embeddings=embeddings.parquet

The page shows the waveform and the classes with the highest scores, with their paths in the
ontology. With --embeddings it also plays the nearest clips of the embedded folder, without the
sound itself, and offers some of the folder's recordings as examples. A sound longer than a window
of the network (10 s for the paper's) is cut into windows. Its scores are the means over them, as in
`Embedder.scores`, and its similarity to a clip is the largest over them. The page is served only to
this machine (127.0.0.1) and needs no internet. Ctrl-C ends it and deletes the sounds that were
dropped or recorded.

Needs an extra: pip install '.[demo]'.
"""

import contextlib
import os
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Sequence

import numpy as np
from absl import logging as absl_logging

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.inference.demo import make_page
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.nearest import Clips
from relabel_jax.inference.serving import serving


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = cli.parser("relabel_jax.demo", __doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=cli.path,
        help="workdir of a finished training, or exported folder",
    )
    parser.add_argument(
        "--embeddings",
        help="the file that relabel_jax.embed wrote with this checkpoint; its relative paths "
        "start from the current folder",
    )
    parser.add_argument(
        "--ontology", type=cli.path, help="ontology.json, if a workdir's data set has moved"
    )
    parser.add_argument("--port", type=int, help="of the page (the first free one from 7860 on)")
    parser.add_argument(
        "--no_browser", action="store_true", help="print the address, open no browser"
    )
    flags = parser.parse_args(arguments)
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs every file

    def command() -> None:
        if flags.port is not None and not 0 < flags.port < 1 << 16:
            raise InputError(f"--port={flags.port}: expected 1 to 65535")
        with tempfile.TemporaryDirectory(prefix="relabel_jax_demo_") as uploads:
            os.environ["GRADIO_TEMP_DIR"] = uploads
            embedder = Embedder.load(flags.checkpoint, ontology=flags.ontology)
            clips = Clips.read(flags.embeddings, embedder) if flags.embeddings else None
            page = make_page(embedder, clips)
            rate_hz = embedder.sample_rate_hz
            embedder.embed(np.zeros(rate_hz), rate_hz)  # compiles
            with serving(page, flags.port) as address:
                # Each of these signals ends the page and deletes the sounds, as Ctrl-C does. SIGINT
                # is in the list because a page that a script starts in the background ignores it.
                for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(each, signal.default_int_handler)
                with contextlib.suppress(KeyboardInterrupt):
                    print(f"{address}  (Ctrl-C ends it)", flush=True)
                    if not flags.no_browser:
                        webbrowser.open(address)
                    threading.Event().wait()

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
