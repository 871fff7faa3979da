r"""Embeds recordings by a trained network: a folder of any size in, a Parquet file out.

  python -m relabel_jax.embed --checkpoint=W/base --audio=RECORDINGS --output=embeddings.parquet
  python -m relabel_jax.embed --checkpoint=W/base --audio=a.wav,b.flac --hop_s=1 --scores=5 \
      --output=embeddings.parquet

The output has a row for each window. A window has the length that the network takes, 10 s for the
paper's network:

  path       as found below --audio
  start_s    where the window starts in the recording; the last one is zero-padded
  embedding  list<float32>, 128 values for the paper's network
  mids, display_names, scores    with --scores: the classes that score highest, best first

Recordings that cannot be read are listed in OUTPUT.rejects.csv (path, reason, detail), and the
output has no row of them. Stopped in whatever way, the same command goes on: what is done lies in
OUTPUT.parts until the output is complete.
"""

import sys
from collections.abc import Sequence

from absl import logging as absl_logging

from relabel_jax import cli
from relabel_jax.inference.folder import embed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.embed", __doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="workdir of a finished training, or exported folder"
    )
    parser.add_argument(
        "--audio", required=True, help="folders and recordings, with commas; any format and rate"
    )
    parser.add_argument("--output", required=True, help="the Parquet file")
    parser.add_argument(
        "--hop_s", type=float, help="seconds from window to window (the length of a window)"
    )
    parser.add_argument(
        "--scores",
        type=int,
        nargs="?",
        const=5,
        default=0,
        help="write the classes that score highest: 5, or this number of them",
    )
    parser.add_argument("--ontology", help="ontology.json, if a workdir's data set has moved")
    parser.add_argument("--num_workers", type=int, help="threads that decode (one a core)")
    flags = parser.parse_args(arguments)
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs every file

    def command() -> None:
        summary = embed(
            flags.checkpoint,
            flags.audio,
            flags.output,
            hop_s=flags.hop_s,
            num_scores=flags.scores,
            ontology=flags.ontology,
            num_workers=flags.num_workers,
        )
        print(
            f"{flags.output}: {summary['windows']} windows of "
            f"{summary['recordings'] - summary['rejects']} recordings; {summary['rejects']} "
            f"rejected" + (f", see {flags.output}.rejects.csv" if summary["rejects"] else "")
        )

    return cli.run(command, stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
