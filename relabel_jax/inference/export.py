"""Writes trained networks for other frameworks; the command `relabel_jax.export` calls `export`."""

import contextlib
import importlib.util
import inspect
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from relabel_jax import digests
from relabel_jax.errors import InputError, install_command
from relabel_jax.files import complete_file, reading
from relabel_jax.inference import exported
from relabel_jax.inference.model_card import model_card
from relabel_jax.inference.pretrained import Pretrained
from relabel_jax.models.backbone import exportable

FORMATS = ("safetensors", "huggingface", "stablehlo", "onnx")
STABLEHLO_NAME = "model.stablehlo"
ONNX_NAME = "model.onnx"
EXAMPLE_NAME = "example_pytorch.py"
CARD_NAME = "README.md"
_FILE_NAMES = (
    exported.CONFIG_NAME,
    exported.CLASSES_NAME,
    exported.WEIGHTS_NAME,
    EXAMPLE_NAME,
    STABLEHLO_NAME,
    ONNX_NAME,
    CARD_NAME,
    digests.LIST_NAME,
)
_PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    pretrained: Pretrained,
    output_dir: str | pathlib.Path,
    formats: Sequence[str],
    *,
    license_name: str = "other",
) -> list[str]:
    """Writes a network in some formats; returns the names of the files, `sha256.json` aside.

    If it fails, it leaves no files. If it is killed, the next export into the folder starts again.

    Args:
      pretrained: the network, as `load_pretrained` returns it.
      output_dir: a new or empty folder, or one with an unfinished export.
      formats: some of `FORMATS`.
      license_name: licence of the weights, by its name in Hugging Face's model cards.

    Raises:
      InputError: a format is unknown, its library is not installed or it cannot express the
        network; the folder is not empty; or the names of the classes are not known.
    """
    for each in formats:
        if each not in FORMATS:
            raise InputError(f"--format={each}: is none of {', '.join(FORMATS)}")
    output_dir = pathlib.Path(output_dir)
    leftovers = _leftovers(output_dir)
    to_onnx = _load_onnx() if "onnx" in formats else None
    if pretrained.classes is None:
        raise InputError(
            "--checkpoint: the names of its classes are not known, because its data set has moved; "
            "give the data set's ontology.json as --ontology"
        )
    with _all_or_nothing(output_dir, leftovers):
        exported.write_classes(output_dir, pretrained.classes)
        example = None
        if {"safetensors", "huggingface"} & set(formats):
            exported.write_weights(output_dir, pretrained.variables)
            example = _pytorch_example(pretrained)
            if example is not None:
                _write(output_dir / EXAMPLE_NAME, example)
        if "stablehlo" in formats:
            with _converting("stablehlo"):
                program = stablehlo(pretrained)
            _write(output_dir / STABLEHLO_NAME, program)
        if to_onnx is not None:
            with _converting("onnx"):
                model = to_onnx(pretrained)
            _write(output_dir / ONNX_NAME, model)
        if "huggingface" in formats:
            card = model_card(
                pretrained,
                license_name=license_name,
                title=output_dir.resolve().name,
                example_name=EXAMPLE_NAME if example is not None else None,
            )
            _write(output_dir / CARD_NAME, card.encode())
        exported.write_config(output_dir, pretrained)
        exported.write_digests(output_dir)
    names = {path.name for path in output_dir.iterdir()} - {digests.LIST_NAME}
    return sorted(names)


def network_function(pretrained: Pretrained) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the network as a function of waveforms alone, with the weights as constants.

    Returns:
      A function of float32[batch, samples] in -1 to 1. It returns `(embeddings, scores)`,
      float32[batch, embedding_size] and float32[batch, classes].
    """
    network = exportable(pretrained.network)

    def run(waveforms):
        # Networks take waveforms in the range of int16. The product is exact: a power of 2.
        embeddings = network.apply(pretrained.variables, waveforms * 32768, method="embed")
        outputs = network.apply(pretrained.variables, embeddings, method="head")
        return embeddings, outputs.scores

    return run


def stablehlo(pretrained: Pretrained) -> bytes:
    """Returns a serialized `jax.export.Exported` for batches of any size, for CPU, CUDA and TPU."""
    program = jax.export.export(jax.jit(network_function(pretrained)), platforms=_PLATFORMS)
    return bytes(program(_any_batch(pretrained)).serialize())


def _any_batch(pretrained: Pretrained) -> jax.ShapeDtypeStruct:
    """Returns shape and dtype of the input of `network_function`. The batch size is a symbol."""
    num_samples = pretrained.network.waveform_format.num_samples
    shape = jax.export.symbolic_shape(f"batch, {num_samples}")
    return jax.ShapeDtypeStruct(shape, np.float32)


def _load_onnx() -> Callable[[Pretrained], bytes]:
    """Imports what ONNX needs and returns the function `pretrained -> serialized ONNX model`.

    Raises:
      InputError: the package `onnx` is not installed.
    """
    if importlib.util.find_spec("onnx") is None:
        raise InputError(f"--format=onnx: needs the package onnx: {install_command('onnx')}")
    from relabel_jax.inference.onnx_graph import to_onnx
    from relabel_jax.inference.onnx_rules import RULES

    def convert(pretrained: Pretrained) -> bytes:
        return to_onnx(
            network_function(pretrained),
            {"waveforms": _any_batch(pretrained)},
            ("embeddings", "scores"),
            RULES,
            name=exported.FORMAT,
        ).SerializeToString()

    return convert


def _leftovers(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of an export into this folder that was killed.

    Raises:
      InputError: the folder has other files.
    """
    with reading(folder):
        if not folder.exists():
            return []
        found = list(folder.iterdir()) if folder.is_dir() else [folder]
    # Without the marker, even a file of the right name may be the user's own.
    is_unfinished = folder / exported.UNFINISHED_NAME in found
    if found and not (is_unfinished and all(map(_is_of_export, found))):
        raise InputError(f"{folder}: exists already; give an empty or a new --output_dir")
    return found


def _is_of_export(path: pathlib.Path) -> bool:
    """Whether an export writes a file of this name, or `complete_file` on behalf of it."""
    names = (*_FILE_NAMES, exported.UNFINISHED_NAME)
    return path.name in names or any(path.match(f".{name}.*.tmp") for name in _FILE_NAMES)


@contextlib.contextmanager
def _all_or_nothing(folder: pathlib.Path, leftovers: Sequence[pathlib.Path]) -> Iterator[None]:
    """Marks the export as unfinished in the block; on an error, deletes its files.

    The folder is deleted too if it was not there before.

    Args:
      folder: the folder of the export.
      leftovers: files of an export that was killed, which are deleted first.
    """
    existed = folder.exists()
    marker = folder / exported.UNFINISHED_NAME
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            marker.touch()
            for path in leftovers:
                if path != marker:
                    path.unlink()
        except OSError as error:
            raise InputError(f"{folder}: cannot write: {error.strerror}") from error
        yield
        marker.unlink()
    except BaseException:
        for name in (*_FILE_NAMES, marker.name):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _converting(to_format: str) -> Iterator[None]:
    """Turns whatever a network raises while JAX traces it into an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause = f"{error}\n".splitlines()[0]
        raise InputError(
            f"--format={to_format}: cannot convert the network for batches of any size: "
            f"{type(error).__name__}: {cause}"
        ) from error


def _pytorch_example(pretrained: Pretrained) -> bytes | None:
    """Returns the program that runs the export in PyTorch, or None if the network has none."""
    network = pretrained.network
    if not hasattr(network, "pytorch_example"):
        return None
    path = pathlib.Path(inspect.getfile(type(network))).with_name(network.pytorch_example)
    with reading(path):
        return path.read_bytes()


def _write(path: pathlib.Path, content: bytes) -> None:
    with complete_file(path) as temporary:
        temporary.write_bytes(content)
