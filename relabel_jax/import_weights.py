r"""Makes a run folder of published weights, to embed, score, fine-tune and export.

The common case:

  python -m relabel_jax.import_weights --format=panns --weights=Cnn14_16k_mAP=0.438.pth \
      --output_dir=W

Whose weights (--format takes one):

  panns        CNN6, CNN10 and CNN14 of Kong et al.; the file tells the sample rate
  efficientat  the mn networks of Schmid et al., with the usual front end and head; 32 kHz
  ast          AST of Gong et al., with strides of 10; 16 kHz

The network and its sizes follow from the names and shapes of the tensors. The outputs are the 527
classes of AudioSet in the order of class_labels_indices.csv, unless --classes gives another list.

A .safetensors needs no PyTorch. Every other file is read with torch.load(weights_only=True), which
needs the extra `torch`: a file with more than tensors, numbers and texts is refused.
"""

import sys
from collections.abc import Sequence

from relabel_jax import cli
from relabel_jax.inference.importing import import_weights
from relabel_jax.models.recognition import FORMS

_EPILOG = """\
examples:
  python -m relabel_jax.import_weights --format=ast --weights=audioset_10_10_0.4593.pth \\
      --output_dir=W/ast --data_dir=DATA
  python -m relabel_jax.score --scores=W/ast --segments=META/eval_segments.csv
  python -m relabel_jax.main --config=target_human --workdir=W/tuned --config.base=W/ast \\
      --config.model.name=ast_base --config.data_dir=DATA"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.import_weights", __doc__, epilog=_EPILOG)
    parser.add_argument("--format", required=True, choices=FORMS, help="whose weights the file has")
    parser.add_argument(
        "--weights", required=True, type=cli.path, help="a .pth, .pt or .safetensors"
    )
    parser.add_argument(
        "--output_dir", required=True, type=cli.path, help="a new or empty folder to write to"
    )
    parser.add_argument(
        "--sample_rate_hz", type=int, help="the network's rate, if the file does not tell it"
    )
    parser.add_argument(
        "--duration_s",
        type=float,
        default=10.0,
        help="length of the waveforms that the network is to take (default: 10)",
    )
    parser.add_argument(
        "--classes",
        type=cli.path,
        metavar="CSV",
        help="a class_labels_indices.csv with the classes of the outputs (default: AudioSet's)",
    )
    parser.add_argument(
        "--ontology", type=cli.path, help="ontology.json with these classes (default: AudioSet's)"
    )
    parser.add_argument(
        "--data_dir",
        type=cli.path,
        help="a data set with these classes, whose test clips are scored",
    )
    flags = parser.parse_args(arguments)

    def command() -> None:
        result = import_weights(
            flags.weights,
            flags.output_dir,
            flags.format,
            sample_rate_hz=flags.sample_rate_hz,
            duration_s=flags.duration_s,
            classes=flags.classes,
            ontology=flags.ontology,
            data_dir=flags.data_dir,
        )
        print(f"{flags.output_dir}: {result.model['name']}, {result.num_labels} classes")
        if result.num_clips["test"]:
            print(
                f"mAP {result.test['mAP']:.4f}" if result.test["mAP"] else "mAP undefined", end=""
            )
            print(f" on {result.num_clips['test']} test clips")
        print(f"next: {cli.embed_command(flags.output_dir)}")

    return cli.run(command)


if __name__ == "__main__":
    sys.exit(main())
