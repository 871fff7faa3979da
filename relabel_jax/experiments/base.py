"""A trained base network, loaded for transfer to the side of the ontology it has not seen."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from relabel_jax.data.schema import WAVEFORM_SAMPLES
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import audio_network
from relabel_jax.files import read_json, reading
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import side_columns
from relabel_jax.models.waveform_cnn import AudioNetwork
from relabel_jax.runs import processes
from relabel_jax.runs.checkpoints import Checkpoints

ARCHITECTURE = ("filters", "dense_units", "norm_order")
_FACTS = ("side", "root_mid", "root", "best_epoch", "labeling", "classes")


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """The best epoch of a base training.

    Attributes:
      network: its network, over the base side's classes.
      variables: `params` and `batch_stats`, on the host.
      labeling: the labels that it was trained on.
      fingerprint: a digest of `variables`.
    """

    network: AudioNetwork
    variables: dict[str, Any]
    labeling: str
    fingerprint: str


def load_base(config: ConfigDict, ontology: Ontology, root: int) -> Base:
    """Loads `config.base`, the workdir of a finished base training; process 0 reads it for all.

    Args:
      config: of the transfer that is to come; its network must be the base's.
      ontology: of the data set.
      root: class number of the target root.

    Raises:
      InputError: there is no finished base training, it is damaged, it has another network, or it
        is of another root: it would have seen the target's classes.
    """
    workdir = pathlib.Path(config.base)
    where = f"config.base={workdir}"
    network = audio_network(config, len(side_columns(ontology, root, "base")))
    result = processes.from_primary(lambda: _read_base(config, ontology, root, workdir, where))
    variables = processes.arrays_from_primary(
        lambda: load_variables(workdir, result, network, where),
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables_like(network)),
    )
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return Base(network, variables, result["labeling"], digest.hexdigest())


def _read_base(
    config: ConfigDict, ontology: Ontology, root: int, workdir: pathlib.Path, where: str
) -> dict[str, Any]:
    """`read_result`, of a base training that the config's transfer can start from."""
    if not config.base:
        raise InputError(
            f"config.base is empty; method {config.method!r} needs the --workdir of a base training"
        )
    result = read_result(workdir, where)
    if result["side"] != "base":
        raise InputError(
            f"{where}: is a training of the {result['side']} side; expected a base training"
        )
    if result["root_mid"] != ontology.mids[root]:
        raise InputError(
            f"{where}: was trained for the root {result['root']!r}, so it has seen classes of "
            f"{ontology.display_names[root]!r}; give a base of that root"
        )
    for field in ARCHITECTURE:
        wanted = config[field] if isinstance(config[field], str) else list(config[field])
        if result["config"][field] != wanted:
            raise InputError(
                f"{where}: has config.{field} {result['config'][field]}, this config has {wanted}; "
                "give both the same"
            )
    return result


def read_result(workdir: pathlib.Path, where: str) -> dict[str, Any]:
    """`result.json` of a finished training.

    Args:
      workdir: its workdir.
      where: what error messages call it.

    Raises:
      InputError: it is not finished, or the file is damaged.
    """
    path = workdir / "result.json"
    with reading(path):
        finished = path.is_file()
    if not finished:
        state = "is not finished (no result.json)" if workdir.is_dir() else "does not exist"
        raise InputError(f"{where}: {state}; train it first, with a configs/base_*.py")
    result = read_json(path)
    try:
        for field in _FACTS:
            result[field]
        for field in ARCHITECTURE:
            result["config"][field]
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: has no field {error}; train the base again") from error
    return result


def load_variables(
    workdir: pathlib.Path, result: dict[str, Any], network: AudioNetwork, where: str
) -> dict[str, Any]:
    """`params` and `batch_stats` of the best epoch of a finished training, on the host.

    Args:
      workdir, result, where: as of `read_result`.
      network: what they must fit, but for the number of classes if that is 0.

    Raises:
      InputError: the checkpoint is damaged or of another network.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        state = checkpoints.restore_arrays(result["best_epoch"])
    variables = {field: state[field] for field in ("params", "batch_stats")}
    if not network.num_classes:
        network = network.clone(num_classes=len(variables["params"]["output"]["bias"]))
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, variables_like(network)):
        raise InputError(
            f"{where}: its checkpoint does not fit the network of its config over "
            f"{network.num_classes} classes; it was trained with another ontology or is damaged"
        )
    return variables


def classes_digest(ontology: Ontology, columns: np.ndarray) -> str:
    """Of the classes that a network's outputs are for, in their order; `columns` are a side's."""
    return hashlib.sha256("\n".join(ontology.mids[i] for i in columns).encode()).hexdigest()


def variables_like(network: AudioNetwork) -> dict[str, Any]:
    """The shapes and dtypes of a network's `params` and `batch_stats`."""
    return jax.eval_shape(
        lambda key, inputs: network.init(key, inputs, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, WAVEFORM_SAMPLES), np.int16),
    )
