"""A trained base network, for transfer to the classes that it was not trained on."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import plain
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import side_columns
from relabel_jax.models import registry
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.variables import Variables
from relabel_jax.runs.schema import PUBLISHED, RunResult
from relabel_jax.runs.trained import read_trained_variables
from relabel_jax.runs.workdir import Workdir

# Options that change how a network is computed or trained, not what a trained network computes.
_SAME_FUNCTION = ("formulation", "fold_norm", "precision", "spec_augment")


@dataclasses.dataclass(frozen=True, eq=False)
class Base:
    """The best epoch of a base training.

    Attributes:
      network: the network, over the classes of the base side, or over those of published weights.
      variables: the variables of the network, on the host.
      labeling: the labels that the network was trained on.
    """

    network: Backbone
    variables: Variables
    labeling: str

    @property
    def fingerprint(self) -> str:
        """A digest of the variables."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            name = jax.tree_util.keystr(path).encode()
            digest.update(name + np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()


def base_network(config: ConfigDict, num_classes: int) -> Backbone:
    """Builds the network of a base from the config of a transfer from it."""
    return registry.build(plain(config.model), num_classes)


def read_base(config: ConfigDict, ontology: Ontology, root: int) -> Base:
    """Reads `config.base`, the workdir of a finished base training or of imported weights.

    Args:
      config: the config of the transfer, whose network must be the network of the base.
      ontology: the ontology of the data set.
      root: the class number of the target root.

    Raises:
      InputError: there is no finished base training, it is damaged, it has another network, or it
        has another root and so was trained on classes of the target.
    """
    workdir = pathlib.Path(config.base)
    where = f"config.base={workdir}"
    if not config.base:
        raise InputError(
            f"config.base is empty; method {config.method!r} needs the --workdir of a base training"
        )
    result = _finished(Workdir(workdir), where)
    if result.side != "base":
        raise InputError(
            f"{where}: is a training of the {result.side} side; expected a base training"
        )
    is_published = result.method == PUBLISHED  # whoever chooses such a base knows its classes
    if not is_published and result.root_mid != ontology.mids[root]:
        raise InputError(
            f"{where}: was trained for the root {result.root!r}, so it has seen classes of "
            f"{ontology.display_names[root]!r}; give a base of that root"
        )
    _check_same_network(result.model, plain(config.model), where)
    num_base_classes = len(side_columns(ontology, root, "base"))
    network = base_network(config, result.num_labels if is_published else num_base_classes)
    variables = read_trained_variables(Workdir(workdir), result, network, where)
    return Base(network, variables, result.labeling)


def _finished(workdir: Workdir, where: str) -> RunResult:
    try:
        return workdir.read_result()
    except InputError as error:
        if workdir.is_finished:
            raise
        state = str(error).removeprefix(f"{workdir.path}: ")
        raise InputError(f"{where}: {state}, with a configs/base_*.py") from error


def _check_same_network(has: dict[str, Any], wanted: dict[str, Any], where: str) -> None:
    for option in wanted:
        if option not in _SAME_FUNCTION and has.get(option) != wanted[option]:
            raise InputError(
                f"{where}: has config.model.{option} {has.get(option)}, this config has "
                f"{wanted[option]}; give both the same"
            )
