"""Writes and reads the files of an exported folder.

- `config.json`: the network, its sizes and the facts of its training.
- `classes.json`: the classes in the order of the scores. Each has `mid`, `display_name` and
  `paths`: all paths from a root of the ontology down to the class.
- `model.safetensors`: the variables of the network. Their names are the paths, joined by dots. The
  file has only numbers and is not unpickled. Names, dtypes and shapes are checked before it is
  read.
- `sha256.json`: digests of all files of the export. It is compared with the three files above when
  they are read. Folders of older versions have no such file.
- `.unfinished`: there while the export is written.

In `config.json`, `model` is the `config.model` of the training. If it names a network by its
module, the module is imported. Folders of older versions have no `model`: their network is
`waveform_cnn`.
"""

import pathlib
from typing import Any

import flax
import numpy as np
import safetensors
import safetensors.numpy

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, read_json, reading, write_json
from relabel_jax.inference.pretrained import (
    TRAINED_FACTS,
    Pretrained,
    SoundClass,
    build_network,
    describe_network,
)
from relabel_jax.models.backbone import Backbone, export_facts
from relabel_jax.models.variables import Variables, shapes
from relabel_jax.version import __version__

CONFIG_NAME = "config.json"
CLASSES_NAME = "classes.json"
WEIGHTS_NAME = "model.safetensors"
UNFINISHED_NAME = ".unfinished"
FORMAT = "relabel_jax"
FORMAT_VERSION = 1
_EXPORT_AGAIN = "export it again"


def write_config(folder: pathlib.Path, pretrained: Pretrained) -> None:
    """Writes `config.json`."""
    network = pretrained.network
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "relabel_jax_version": __version__,
        "model": describe_network(network),
        **_sizes(network),
        "trained": pretrained.trained,
    }
    write_json(folder / CONFIG_NAME, content)


def write_classes(folder: pathlib.Path, classes: tuple[SoundClass, ...]) -> None:
    """Writes `classes.json`."""
    write_json(
        folder / CLASSES_NAME,
        [
            {"mid": each.mid, "display_name": each.display_name, "paths": each.paths}
            for each in classes
        ],
    )


def write_weights(folder: pathlib.Path, variables: Variables) -> None:
    """Writes `model.safetensors`."""
    flat = flax.traverse_util.flatten_dict(variables, sep=".")
    content = {name: np.ascontiguousarray(array, np.float32) for name, array in flat.items()}
    with complete_file(folder / WEIGHTS_NAME) as temporary:
        temporary.write_bytes(safetensors.numpy.save(content))


def write_digests(folder: pathlib.Path) -> None:
    """Writes `sha256.json` with the digests of all files in the folder."""
    names = {path.name for path in folder.iterdir()} - {UNFINISHED_NAME, digests.LIST_NAME}
    digests.write_list(folder, {name: digests.of_file(folder / name) for name in sorted(names)})


def read(folder: pathlib.Path) -> Pretrained:
    """Reads the network of an exported folder.

    Raises:
      InputError: a file is missing, is damaged, or belongs to another network or a newer version;
        or the export was not finished.
    """
    if (folder / UNFINISHED_NAME).exists():
        raise InputError(f"{folder}: is an unfinished export; export it again")
    path = folder / CONFIG_NAME
    config = read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(
            f"{path}: is of another network: expected 'format': '{FORMAT}', as relabel_jax.export "
            "writes it"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: has format_version {config.get('format_version')!r}, this version of "
            f"relabel_jax reads {FORMAT_VERSION}; install the version that wrote it "
            f"({config.get('relabel_jax_version')})"
        )
    trained = config.get("trained")
    if not isinstance(trained, dict):
        trained = {}
    for field in TRAINED_FACTS:
        if field not in trained:
            raise InputError(
                f"{path}: trained, the facts of the training, has no {field}; export it again"
            )
    classes = _read_classes(folder / CLASSES_NAME)
    network = build_network(_model(config), len(classes), str(path))
    for field, size in _sizes(network).items():
        if field in config and config[field] != size:
            raise InputError(
                f"{path}: {field} is {config[field]!r}, expected {size!r} for its model and "
                f"{CLASSES_NAME}; export it again"
            )
    variables = _read_weights(folder / WEIGHTS_NAME, network)
    recorded = digests.read_list(folder, _EXPORT_AGAIN)
    if recorded is not None:
        for name in (CONFIG_NAME, CLASSES_NAME, WEIGHTS_NAME):
            digests.check_file(folder / name, recorded.get(name), _EXPORT_AGAIN)
    return Pretrained(network, variables, classes, trained)


def _sizes(network: Backbone) -> dict[str, Any]:
    """Returns the sizes that a program in another framework needs."""
    return {
        "sample_rate_hz": network.waveform_format.sample_rate_hz,
        "num_samples": network.waveform_format.num_samples,
        **export_facts(network),
        "num_classes": network.num_classes,
    }


def _model(config: dict[str, Any]) -> Any:
    """Returns the `model` of a config, also if an older version wrote it."""
    if "model" in config:
        return config["model"]
    return {
        "name": "waveform_cnn",
        "features": config.get("filters"),
        "dense_units": config.get("dense_units"),
        "norm_order": config.get("norm_order"),
    }


def _read_classes(path: pathlib.Path) -> tuple[SoundClass, ...]:
    try:
        classes = tuple(
            SoundClass(
                str(each["mid"]),
                str(each["display_name"]),
                tuple(tuple(map(str, way)) for way in each["paths"]),
            )
            for each in read_json(path)
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected a list of objects with mid, display_name and paths ({error!r}); "
            "export it again"
        ) from error
    if not classes:
        raise InputError(f"{path}: has no classes; export it again")
    return classes


def _read_weights(path: pathlib.Path, network: Backbone) -> Variables:
    """Reads the variables, if names, dtypes and shapes in the header are those of the network.

    Raises:
      InputError: the file is damaged or belongs to another network.
    """
    expected = flax.traverse_util.flatten_dict(shapes(network), sep=".")
    with reading(path):
        open(path, "rb").close()  # raises the true error; safetensors always says "no such file"
    try:
        # Opening compares the sizes in the header with the size of the file.
        with safetensors.safe_open(path, framework="numpy") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name in sorted({*expected, *found}):
                has = wanted = "no such tensor"
                if name in found:
                    has = f"{found[name].get_dtype()}{list(found[name].get_shape())}"
                if name in expected:
                    wanted = f"F32{list(expected[name].shape)}"
                if has != wanted:
                    raise InputError(
                        f"{path}: {name}: has {has}, expected {wanted}; it is of another network "
                        f"than {CONFIG_NAME} and {CLASSES_NAME} say: export it again"
                    )
            flat = {name: file.get_tensor(name) for name in found}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged: {error}; export it again") from error
    for name, array in flat.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {name}: has a NaN or an infinity; export it again")
    return flax.traverse_util.unflatten_dict(flat, sep=".")
