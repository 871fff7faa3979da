r"""Writes a trained network in forms that other frameworks read.

  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT --format=safetensors
  python -m relabel_jax.export --checkpoint=W/base --output_dir=OUT \
      --format=huggingface,stablehlo,onnx --license=cc-by-4.0

Every format has config.json (the network, its sizes, facts of the training) and classes.json (mid,
display_name and ontology paths of each score), and is the same function: float32[batch, samples] in
-1 to 1, mono, to (embeddings float32[batch, 128], scores float32[batch, classes]). config.json has
the sample rate and the number of samples; the paper's network takes 10 s at 8 kHz.

  safetensors  model.safetensors, which Embedder.load reads too, and, if the network has one,
               example_pytorch.py
  huggingface  the same with a model card (README.md): a folder to push
  stablehlo    model.stablehlo, of jax.export; any batch; cpu, cuda and tpu
  onnx         model.onnx; any batch; needs pip install '.[onnx]'
"""

import sys
from collections.abc import Sequence

from absl import logging as absl_logging

from relabel_jax import cli
from relabel_jax.inference.export import FORMATS, export
from relabel_jax.inference.loading import load_pretrained


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.export", __doc__)
    parser.add_argument(
        "--checkpoint", required=True, help="workdir of a finished training, or exported folder"
    )
    parser.add_argument("--output_dir", required=True, help="a new or empty folder")
    parser.add_argument(
        "--format", default="safetensors", help=f"with commas, of {', '.join(FORMATS)}"
    )
    parser.add_argument("--ontology", help="ontology.json, if a workdir's data set has moved")
    parser.add_argument(
        "--license",
        default="other",
        help="licence of the weights, for the model card, such as cc-by-4.0",
    )
    flags = parser.parse_args(arguments)
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs every file

    def command() -> None:
        names = export(
            load_pretrained(flags.checkpoint, flags.ontology),
            flags.output_dir,
            flags.format.split(","),
            license_name=flags.license,
        )
        print(f"{flags.output_dir}: {', '.join(names)}")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
