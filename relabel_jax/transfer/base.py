"""A trained base network, loaded for transfer to the side of the ontology it has not seen."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from relabel_jax.config import audio_network
from relabel_jax.errors import InputError
from relabel_jax.files import read_json
from relabel_jax.model.network import AudioNetwork
from relabel_jax.ontology import Ontology
from relabel_jax.records import WAVEFORM_SAMPLES
from relabel_jax.train.checkpoint import Checkpoints
from relabel_jax.views import side_columns

_ARCHITECTURE = ("filters", "dense_units", "norm_order")


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """The best epoch of a base training.

    Attributes:
      network: its network, over the base side's classes.
      variables: `params` and `batch_stats`, on the host.
      labeling: the labels that it was trained on.
    """

    network: AudioNetwork
    variables: dict[str, Any]
    labeling: str


def load_base(config: ConfigDict, ontology: Ontology, root: int) -> Base:
    """Loads `config.base`, the workdir of a finished base training.

    Args:
      config: of the transfer that is to come; its network must be the base's.
      ontology: of the data set.
      root: class number of the target root.

    Raises:
      InputError: there is no finished base training, it is damaged, it has another network, or it
        is of another root: it would have seen the target's classes.
    """
    if not config.base:
        raise InputError(
            f"config.base is empty; method {config.method!r} needs the --workdir of a base training"
        )
    workdir = pathlib.Path(config.base)
    where = f"config.base={workdir}"
    if not (workdir / "result.json").is_file():
        state = "is not finished (no result.json)" if workdir.is_dir() else "does not exist"
        raise InputError(f"{where}: {state}; train it first, with a configs/base_*.py")
    result = read_json(workdir / "result.json")
    try:
        facts = [result[field] for field in ("side", "root_mid", "root", "best_epoch", "labeling")]
        trained = [result["config"][field] for field in _ARCHITECTURE]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{workdir / 'result.json'}: has no field {error}; train the base again"
        ) from error
    side, root_mid, root_name, best_epoch, labeling = facts
    if side != "base":
        raise InputError(f"{where}: is a training of the {side} side; expected a base training")
    if root_mid != ontology.mids[root]:
        raise InputError(
            f"{where}: was trained for the root {root_name!r}, so it has seen classes of "
            f"{ontology.display_names[root]!r}; give a base of that root"
        )
    for field, value in zip(_ARCHITECTURE, trained, strict=True):
        wanted = config[field] if isinstance(config[field], str) else list(config[field])
        if value != wanted:
            raise InputError(
                f"{where}: has config.{field} {value}, this config has {wanted}; give both the same"
            )

    with Checkpoints(workdir, read_only=True) as checkpoints:
        state = checkpoints.restore_arrays(best_epoch)
    num_classes = len(side_columns(ontology, root, "base"))
    network = audio_network(config, num_classes)
    variables = {field: state[field] for field in ("params", "batch_stats")}
    expected = jax.eval_shape(
        lambda key, inputs: network.init(key, inputs, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, WAVEFORM_SAMPLES), np.int16),
    )
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, expected):
        raise InputError(
            f"{where}: its checkpoint does not fit the network of its config over "
            f"{num_classes} classes; it was trained with another ontology or is damaged"
        )
    return Base(network, variables, labeling)
