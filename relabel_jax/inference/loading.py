"""Loads a trained network from the workdir of a finished training or from an exported folder."""

import pathlib
from collections.abc import Sequence

import numpy as np

from relabel_jax.data.data_set import ONTOLOGY_NAME
from relabel_jax.errors import InputError
from relabel_jax.files import reading
from relabel_jax.inference import exported
from relabel_jax.inference.pretrained import (
    TRAINED_FACTS,
    Pretrained,
    SoundClass,
    build_network,
)
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import classes_digest, side_columns
from relabel_jax.models.variables import num_outputs, select_outputs
from relabel_jax.runs.schema import RunResult
from relabel_jax.runs.trained import read_trained_variables
from relabel_jax.runs.workdir import Workdir


def load_pretrained(
    path: str | pathlib.Path, ontology: str | pathlib.Path | None = None
) -> Pretrained:
    """Loads the best epoch of a finished training, or an exported folder.

    Args:
      path: the workdir of the training, or the exported folder.
      ontology: `ontology.json`, which names the classes of a workdir. By default that of the data
        set of the training, if it is still there, or AudioSet's own, if its classes are those of
        the training. An exported folder has the names itself.

    Raises:
      InputError: the folder is neither, is not finished, is damaged, or has another network.
    """
    path = pathlib.Path(path)
    with reading(path):
        if path.is_file():
            raise InputError(f"{path}: is a file; give its folder")
        is_exported = (path / exported.WEIGHTS_NAME).exists()
        has_no_weights = (
            not Workdir(path).is_finished and (path / exported.CLASSES_NAME).exists()
        )
    if is_exported:
        return exported.read(path)
    if has_no_weights:
        raise InputError(
            f"{path}: has no {exported.WEIGHTS_NAME}; export it again with --format=safetensors"
        )
    return _load_workdir(Workdir(path), ontology)


def _load_workdir(workdir: Workdir, ontology_path: str | pathlib.Path | None) -> Pretrained:
    where = str(workdir.path)
    result = workdir.read_result()
    if result.method == "features":
        raise InputError(
            f"{where}: is a classifier on another network's embeddings; give the base training "
            f"that it was made with ({result.config.get('base')})"
        )
    mids = workdir.read_scored_mids()
    ontology = _find_ontology(result, ontology_path)
    columns = None if ontology is None else _check_classes(ontology, result, mids, where)
    network = build_network(
        result.model, 0 if columns is None else len(columns), str(workdir.result_path)
    )
    variables = read_trained_variables(workdir, result, network, where)
    trained = {field: getattr(result, field) for field in TRAINED_FACTS}
    if ontology is None or columns is None:
        # Without the ontology only the checkpoint tells the number of classes.
        network = network.clone(num_classes=num_outputs(network, variables))
        return Pretrained(network, variables, None, trained)
    # Classes outside the label set were masked for every clip, so their outputs mean nothing.
    position = {ontology.mids[column]: i for i, column in enumerate(columns)}
    variables = select_outputs(network, variables, np.array([position[mid] for mid in mids]))
    return Pretrained(
        network.clone(num_classes=len(mids)),
        variables,
        tuple(_sound_class(ontology, mid) for mid in mids),
        trained,
    )


def _find_ontology(
    result: RunResult, ontology_path: str | pathlib.Path | None
) -> tuple[Ontology, str] | None:
    if ontology_path is not None:
        return Ontology.from_json(ontology_path)
