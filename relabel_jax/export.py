r"""Writes a trained network in formats that other frameworks read.

The common case:

  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT --format=safetensors,onnx

Formats (--format takes one or several, with commas):

  safetensors  model.safetensors, which Embedder.load reads too, and example_pytorch.py, which runs
               it in PyTorch, if the network has such a program
  huggingface  the same and a model card (README.md): a folder to push to Hugging Face
  stablehlo    model.stablehlo for jax.export.deserialize, on CPU, CUDA and TPU
  onnx         model.onnx for onnxruntime and others; needs the extra `onnx`

All formats are the same function, for batches of any size. It takes float32[batch, samples], mono,
in -1 to 1, and returns (embeddings float32[batch, size], scores float32[batch, classes]). Every
export has three more files: config.json has the network, the sample rate, the number of samples and
facts of the training; classes.json has mid, display_name and ontology paths of each score.
sha256.json has the digests of all files. If the export fails, nothing is left in OUT; if it is
killed, the same command starts it again.
"""

import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.inference.export import FORMATS, export
from relabel_jax.inference.exported import WEIGHTS_NAME
from relabel_jax.inference.loading import load_pretrained

_EPILOG = """\
examples:
  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT \\
      --format=huggingface,stablehlo --license=cc-by-4.0
  python -m relabel_jax.embed --checkpoint=OUT --audio=RECORDINGS --output=embeddings.parquet"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.export", __doc__, epilog=_EPILOG)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=cli.path,
        help="workdir of a finished training, or exported folder",
    )
    parser.add_argument(
        "--output_dir", required=True, type=cli.path, help="a new or empty folder to write to"
    )
    parser.add_argument(
        "--format",
        default="safetensors",
        help=f"some of {', '.join(FORMATS)}, separated by commas (default: safetensors)",
    )
    parser.add_argument(
        "--ontology",
        type=cli.path,
        help="ontology.json; needed only if a workdir's data set has moved",
    )
    parser.add_argument(
        "--license",
        default="other",
        help="licence of the weights for the model card, such as cc-by-4.0 (default: other)",
    )
    flags = parser.parse_args(arguments)

    def command() -> None:
        names = export(
            load_pretrained(flags.checkpoint, flags.ontology),
            flags.output_dir,
            flags.format.split(","),
            license_name=flags.license,
        )
        print(f"{flags.output_dir}: {', '.join(names)}")
        if WEIGHTS_NAME in names:
            print(f"next: {cli.embed_command(flags.output_dir)}")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
