"""A trained network with the names of its classes, from a workdir or from an exported folder.

An exported folder (`relabel_jax.export`, formats `safetensors` and `huggingface`) has

- `config.json`: the network's sizes and the facts of its training;
- `classes.json`: the classes in the order of the scores, each with `mid`, `display_name` and
  `paths`, the ways down to it from a root of the ontology;
- `model.safetensors`: `params` and `batch_stats`, names joined by dots. It holds numbers alone:
  nothing is unpickled, and names, dtypes and shapes are compared before anything is read.
"""

import dataclasses
import pathlib
import zipfile
from typing import Any

import flax
import jax
import numpy as np
import safetensors

from relabel_jax.data.data_set import ONTOLOGY_NAME
from relabel_jax.errors import InputError
from relabel_jax.experiments.base import (
    ARCHITECTURE,
    classes_digest,
    load_variables,
    read_result,
    variables_like,
)
from relabel_jax.files import read_json, reading
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import side_columns
from relabel_jax.models.waveform_cnn import TAPS, AudioNetwork
from relabel_jax.ops.convolution import default_formulation
from relabel_jax.ops.normalization import NORM_ORDERS

CONFIG_NAME = "config.json"
CLASSES_NAME = "classes.json"
WEIGHTS_NAME = "model.safetensors"
FORMAT = "relabel_jax"
FORMAT_VERSION = 1
_MAX_UNITS = 1 << 16  # of one layer: a damaged config must not ask for terabytes
_FACTS = (
    *("root", "root_mid", "side", "labeling", "method", "seed", "best_epoch"),
    *("num_clips", "num_labels", "test"),
)


@dataclasses.dataclass(frozen=True)
class SoundClass:
    """One output of the network.

    Attributes:
      mid: such as `/m/09x0r`.
      display_name: such as `Speech`.
      paths: display names from a root of the ontology down to this class, one tuple a way.
    """

    mid: str
    display_name: str
    paths: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained network.

    Attributes:
      network: over the classes that were trained, if these are known.
      variables: `params` and `batch_stats`, float32 NumPy arrays.
      classes: of the scores, in their order; None if the ontology was not found.
      trained: facts of the training: root, side, labeling, method, clips, test metrics.
    """

    network: AudioNetwork
    variables: dict[str, Any]
    classes: tuple[SoundClass, ...] | None
    trained: dict[str, Any]


def load_pretrained(
    path: str | pathlib.Path, ontology: str | pathlib.Path | None = None
) -> Pretrained:
    """Loads the workdir of a finished training (its best epoch), or an exported folder.

    Args:
      path: the folder.
      ontology: `ontology.json`, which names a workdir's classes; by default that of the data set
        that it was trained on, if it is still there. An exported folder has the names itself.

    Raises:
      InputError: it is neither, it is unfinished or damaged, or it has another network.
    """
    path = pathlib.Path(path)
    with reading(path):
        if path.is_file():
            raise InputError(f"{path}: is a file; give its folder")
        is_exported = (path / WEIGHTS_NAME).exists()
        has_no_weights = not (path / "result.json").exists() and (path / CLASSES_NAME).exists()
    if is_exported:
        return _load_exported(path)
    if has_no_weights:
        raise InputError(
            f"{path}: has no {WEIGHTS_NAME}; export it again with --format=safetensors"
        )
    return _load_workdir(path, ontology)


def _load_workdir(path: pathlib.Path, ontology: str | pathlib.Path | None) -> Pretrained:
    where = str(path)
    result = read_result(path, where)
    try:
        trained = {field: result[field] for field in _FACTS}
        data_dir = pathlib.Path(result["config"]["data_dir"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / 'result.json'}: has no field {error}; train it again") from error
    if trained["method"] == "features":
        raise InputError(
            f"{path}: is a classifier on another network's embeddings; give the base training "
            f"that it was made with ({result['config'].get('base')})"
        )
    if ontology is None and (data_dir / ONTOLOGY_NAME).is_file():
        ontology = data_dir / ONTOLOGY_NAME
    sizes = {field: result["config"][field] for field in ARCHITECTURE}
    names = _trained_mids(path)
    if ontology is None:
        # The output layer has every class of the side; how many, only the checkpoint tells.
        network = _network(sizes, 0, path / "result.json")
        variables = load_variables(path, result, network, where)
        num_classes = len(variables["params"]["output"]["bias"])
        return Pretrained(network.clone(num_classes=num_classes), variables, None, trained)
    classes = Ontology.from_json(ontology)
    if trained["root_mid"] not in classes.index:
        raise InputError(f"{ontology}: has no class {trained['root_mid']}, the root of {path}")
    columns = side_columns(classes, classes.index[trained["root_mid"]], trained["side"])
    place = {classes.mids[column]: i for i, column in enumerate(columns)}
    for mid in names:
        if mid not in place:
            raise InputError(
                f"{ontology}: has no class {mid} on the {trained['side']} side, but {path} was "
                "trained on it; give the ontology.json of its data set"
            )
    # Classes outside the label set were masked for every clip: their outputs mean nothing.
    kept = np.array([place[mid] for mid in names])
    if classes_digest(classes, columns) != result["classes"]:
        raise InputError(
            f"{ontology}: has other classes on the {trained['side']} side than {path} was trained "
            "with, or in another order; give the ontology.json of its data set"
        )
    network = _network(sizes, len(columns), path / "result.json")
    variables = load_variables(path, result, network, where)
    output = {name: array[..., kept] for name, array in variables["params"]["output"].items()}
    variables = variables | {"params": variables["params"] | {"output": output}}
    return Pretrained(
        network.clone(num_classes=len(kept)),
        variables,
        tuple(_sound_class(classes, mid) for mid in names),
        trained,
    )


def _trained_mids(path: pathlib.Path) -> list[str]:
    """The label set, which the test scores are of."""
    try:
        # Opened here, for NumPy leaves a damaged file open.
        with (
            open(path / "test_scores.npz", "rb") as file,
            np.load(file, allow_pickle=False) as scores,
        ):
            mids = scores["mids"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path / 'test_scores.npz'}: cannot read the classes: {error}; train it again"
        ) from error
    return [str(mid) for mid in mids]


def _sound_class(ontology: Ontology, mid: str) -> SoundClass:
    number = ontology.index[mid]
    names = ontology.display_names
    paths = tuple(tuple(names[i] for i in path) for path in ontology.paths(number))
    return SoundClass(mid, names[number], paths)


def _load_exported(path: pathlib.Path) -> Pretrained:
    config = read_json(path / CONFIG_NAME)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(
            f"{path / CONFIG_NAME}: is of another network: expected 'format': '{FORMAT}', as "
            "relabel_jax.export writes it"
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path / CONFIG_NAME}: has format_version {config.get('format_version')!r}, this "
            f"version of relabel_jax reads {FORMAT_VERSION}; install the version that wrote it "
            f"({config.get('relabel_jax_version')})"
        )
    trained = config.get("trained")
    if not isinstance(trained, dict):
        trained = {}
    for field in _FACTS:
        if field not in trained:
            raise InputError(
                f"{path / CONFIG_NAME}: trained, the facts of the training, has no {field}; export "
                "it again"
            )
    classes = _read_classes(path / CLASSES_NAME)
    network = _network(config, len(classes), path / CONFIG_NAME)
    return Pretrained(network, _read_weights(path / WEIGHTS_NAME, network), classes, trained)


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


def _network(sizes: dict[str, Any], num_classes: int, where: pathlib.Path) -> AudioNetwork:
    """In float32 throughout, whatever precision it was trained in."""
    for field, lengths in (("filters", {len(TAPS)}), ("dense_units", range(1, 100))):
        values = sizes.get(field)
        if (
            not isinstance(values, list)
            or len(values) not in lengths
            or not all(type(each) is int and 0 < each <= _MAX_UNITS for each in values)
        ):
            raise InputError(f"{where}: {field} is {values!r}, expected a list of layer sizes")
    if sizes.get("norm_order") not in NORM_ORDERS:
        raise InputError(
            f"{where}: norm_order is {sizes.get('norm_order')!r}, expected "
            f"{' or '.join(NORM_ORDERS)}"
        )
    return AudioNetwork(
        num_classes=num_classes,
        formulation=default_formulation(),
        filters=tuple(sizes["filters"]),
        dense_units=tuple(sizes["dense_units"]),
        norm_order=sizes["norm_order"],
    )


def flat_variables(variables: dict[str, Any]) -> dict[str, Any]:
    """Nested variables as `{"params.convolutions_0.kernel": ..., ...}`."""
    return flax.traverse_util.flatten_dict(variables, sep=".")


def _read_weights(path: pathlib.Path, network: AudioNetwork) -> dict[str, Any]:
    """Compares names, dtypes and shapes, which the header tells, then reads.

    Raises:
      InputError: the file is damaged or of another network.
    """
    shapes = jax.tree.map(np.shape, variables_like(network))
    expected = flax.traverse_util.flatten_dict(shapes, sep=".")
    with reading(path):
        open(path, "rb").close()  # of one that may not be read safetensors says that there is none
    try:
        # Opening compares the header's sizes with the size of the file.
        with safetensors.safe_open(path, framework="numpy") as file:
            names = file.keys()
            found = {name: file.get_slice(name) for name in names}
            for name in sorted({*expected, *found}):
                has = (
                    f"{found[name].get_dtype()}{list(found[name].get_shape())}"
                    if name in found
                    else "no such tensor"
                )
                wanted = f"F32{list(expected[name])}" if name in expected else "no such tensor"
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
