r"""Embeds a folder of recordings by a trained network and writes a Parquet file.

The common case:

  python -m relabel_jax.embed --checkpoint=W/base --audio=RECORDINGS --output=embeddings.parquet \
      --scores

The output has a row for each window. A window has the length that the network takes: 10 s for the
paper's network.

  path       the path of the recording, as found below --audio; bytes that are not UTF-8 are
             written as \xff, and a backslash before x and two digits as \x5c
  start_s    the start of the window in the recording; the last window is zero-padded
  embedding  list<float32>: 128 values for the paper's network
  mids, display_names, scores    with --scores: the classes with the highest scores, best first

A file is a recording if its extension or its first bytes say so; stderr says how many are none.
OUTPUT.rejects.csv lists the recordings that cannot be read (path, reason, detail). The output has
no rows of them. If the command is stopped, the same command continues: OUTPUT.parts keeps what is
done, and the list of the recordings, until the output is complete. Recordings that are new since
then are left out, and those that were replaced are rejected (changed); stderr says so. A fault of
the system, such as a disk that fails or a mount that is gone, rejects no recording: it stops the
command.

If every recording is rejected, the output has no rows, and the exit code is 1.
"""

import shlex
import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.inference.folder import embed

_EPILOG = """\
examples:
  python -m relabel_jax.embed --checkpoint=W/base --audio=a.wav,b.flac --hop_s=1 --scores=3 \\
      --output=embeddings.parquet
  python -m relabel_jax.nearest --checkpoint=W/base --embeddings=embeddings.parquet \\
      --audio=query.wav"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.embed", __doc__, epilog=_EPILOG)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--checkpoint",
        required=True,
        type=cli.path,
        help="workdir of a finished training, or exported folder",
    )
    files.add_argument(
        "--audio",
        required=True,
        help="folders and recordings, separated by commas, wildcards too; any format and sample "
        "rate",
    )
    files.add_argument("--output", required=True, type=cli.path, help="the Parquet file to write")
    files.add_argument(
        "--retry_rejects",
        action="store_true",
        help="embed the recordings that OUTPUT.rejects.csv lists again, and add those that can be "
        "read now at the end of a finished OUTPUT; give the other flags as before",
    )
    files.add_argument(
        "--ontology",
        type=cli.path,
        help="ontology.json; needed only if a workdir's data set has moved",
    )
    rows = parser.add_argument_group("rows")
    rows.add_argument(
        "--hop_s",
        type=float,
        help="seconds from the start of one window to the start of the next (default: the length "
        "of a window)",
    )
    rows.add_argument(
        "--scores",
        type=int,
        nargs="?",
        const=5,
        default=0,
        metavar="NUMBER",
        help="write the classes with the highest scores: 5, or NUMBER (default: none)",
    )
    speed = parser.add_argument_group("speed")
    speed.add_argument(
        "--num_workers", type=int, help="threads that decode (default: one for each core)"
    )
    flags = parser.parse_args(arguments)

    def command() -> None:
        summary = embed(
            flags.checkpoint,
            flags.audio,
            flags.output,
            hop_s=flags.hop_s,
            num_scores=flags.scores,
            ontology=flags.ontology,
            num_workers=flags.num_workers,
            retry_rejects=flags.retry_rejects,
        )
        print(
            f"{flags.output}: {summary['windows']} windows of "
            f"{summary['recordings'] - summary['rejects']} recordings; {summary['rejects']} "
            f"rejected" + (f", see {flags.output}.rejects.csv" if summary["rejects"] else "")
        )
        if not summary["windows"]:
            raise InputError(
                f"none of the {summary['recordings']} recordings could be embedded; "
                f"{flags.output}.rejects.csv says why"
            )
        print(
            f"next: {cli.program('relabel_jax.nearest')} "
            f"--checkpoint={shlex.quote(str(flags.checkpoint))} "
            f"--embeddings={shlex.quote(str(flags.output))} --audio=RECORDING"
        )

    return cli.run(command, stopped=cli.RESUMES)


if __name__ == "__main__":
    sys.exit(main())
