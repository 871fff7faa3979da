r"""Finds the recordings of an embedded folder that are nearest to a recording.

  python -m relabel_jax.embed --checkpoint=W/base --audio=RECORDINGS --output=embeddings.parquet
  python -m relabel_jax.nearest --checkpoint=W/base --embeddings=embeddings.parquet \
      --audio=query.wav

It prints a line for each recording, the nearest first: the similarity, the start of the nearest
window in seconds, and the path. The similarity is the largest cosine between the embedding of a
window of the query and the embedding of a window of the recording: 1 is the same direction. The
query itself is left out if it lies in the folder.
"""

import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.nearest import Clips


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.nearest", __doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=cli.path,
        help="workdir of a finished training, or exported folder",
    )
    parser.add_argument(
        "--embeddings",
        required=True,
        type=cli.path,
        help="the file that embed wrote with the same checkpoint",
    )
    parser.add_argument(
        "--audio", required=True, type=cli.path, help="the recording to search with"
    )
    parser.add_argument(
        "--number", type=int, default=10, help="recordings to print, at most (default: 10)"
    )
    flags = parser.parse_args(arguments)

    def command() -> None:
        if flags.number < 1:
            raise InputError(f"--number={flags.number}: expected a number of at least 1")
        embedder = Embedder.load(flags.checkpoint)
        clips = Clips.read(flags.embeddings, embedder)
        print("similarity  start_s  path")
        for path, start_s, similarity in clips.nearest_to(flags.audio, embedder, flags.number):
            print(f"{similarity:10.4f}  {start_s:7g}  {path}")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
