"""Loads a trained network from the workdir of a finished training or from an exported folder."""

import pathlib
from collections.abc import Sequence

import numpy as np

from relabel_jax.data.integrity import check_ontology
from relabel_jax.data.layout import ONTOLOGY_NAME
from relabel_jax.errors import InputError
from relabel_jax.files import reading
from relabel_jax.inference import exported
from relabel_jax.inference.pretrained import (
    TRAINED_FACTS,
    Pretrained,
    build_network,
)
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import classes_digest, side_columns
from relabel_jax.models.variables import num_outputs, select_outputs
from relabel_jax.runs.classes import SoundClass, sound_classes
from relabel_jax.runs.schema import PUBLISHED, RunResult
from relabel_jax.runs.trained import read_trained_variables
from relabel_jax.runs.workdir import Workdir


def load_pretrained(
    path: str | pathlib.Path, ontology: str | pathlib.Path | None = None
) -> Pretrained:
    """Loads the best epoch of a finished training, or an exported folder.

    Args:
      path: the workdir of the training, or the exported folder.
      ontology: an `ontology.json` that names the classes. By default the workdir or the exported
        folder has the names. A workdir of version 0.1 has none. Its classes are named by the data
        set of the training, if it is still there, or by AudioSet's ontology, if its classes are
        those of the training.

    Raises:
      InputError: the folder is neither, is not finished, is damaged, or has another network.
    """
    path = pathlib.Path(path)
    with reading(path):
        if path.is_file():
            raise InputError(f"{path}: is a file; give its folder")
        is_exported = (path / exported.WEIGHTS_NAME).exists()
        has_no_weights = not Workdir(path).is_finished and (path / exported.CLASSES_NAME).exists()
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
    trained = {field: getattr(result, field) for field in TRAINED_FACTS}
    mids = workdir.read_scored_mids()
    outputs = _find_classes(workdir, result, mids, ontology_path)
    if outputs is None:
        # Without the ontology only the checkpoint tells the number of classes.
        network = build_network(result.model, 0, str(workdir.result_path))
        variables = read_trained_variables(workdir, result, network, where)
        network = network.clone(num_classes=num_outputs(network, variables))
        return Pretrained(network, variables, None, trained)
    network = build_network(result.model, len(outputs), str(workdir.result_path))
    variables = read_trained_variables(workdir, result, network, where)
    # Classes outside the label set were masked for every clip, so their outputs mean nothing.
    position = {output.mid: i for i, output in enumerate(outputs)}
    numbers = [position[mid] for mid in mids]
    variables = select_outputs(network, variables, np.array(numbers))
    classes = tuple(outputs[number] for number in numbers)
    return Pretrained(network.clone(num_classes=len(mids)), variables, classes, trained)


def _find_classes(
    workdir: Workdir,
    result: RunResult,
    mids: Sequence[str],
    ontology_path: str | pathlib.Path | None,
) -> tuple[SoundClass, ...] | None:
    """The classes of the outputs that were trained, in their order; None if they are not known.

    Args:
      workdir: the run folder.
      result: its result.
      mids: the label set of the training.
      ontology_path: see `load_pretrained`.

    Raises:
      InputError: the run folder or the ontology has other classes than the training had.
    """
    has_classes = ontology_path is None or result.method == PUBLISHED
    if has_classes and workdir.classes_path.exists():
        outputs = workdir.read_classes()
        if missing := set(mids) - {output.mid for output in outputs}:
            raise InputError(
                f"{workdir.classes_path}: has no class {min(missing)}, which was trained here; "
                "give the data set's ontology.json as --ontology"
            )
        return outputs
    found = _find_ontology(result, mids, ontology_path, str(workdir.path))
    return None if found is None else sound_classes(*found)


def _find_ontology(
    result: RunResult, mids: Sequence[str], ontology_path: str | pathlib.Path | None, where: str
) -> tuple[Ontology, np.ndarray] | None:
    """The ontology of a training and the class numbers of its side; None if it is not found.

    Args:
      result: the result of the training.
      mids: the label set of the training.
      ontology_path: see `load_pretrained`.
      where: the name of the training in error messages.

    Raises:
      InputError: the ontology has other classes than the training had.
    """
    data_dir = pathlib.Path(result.config["data_dir"])
    if ontology_path is None and (data_dir / ONTOLOGY_NAME).is_file():
        check_ontology(data_dir)
        ontology_path = data_dir / ONTOLOGY_NAME
    if ontology_path is None:
        ontology = Ontology.audioset()
        if result.root_mid not in ontology.index:
            return None
        columns = side_columns(ontology, ontology.index[result.root_mid], result.side)
        is_same = classes_digest(ontology, columns) == result.classes
        return (ontology, columns) if is_same else None
    ontology = Ontology.from_json(ontology_path)
    if result.root_mid not in ontology.index:
        raise InputError(f"{ontology_path}: has no class {result.root_mid}, the root of {where}")
    columns = side_columns(ontology, ontology.index[result.root_mid], result.side)
    missing = set(mids) - {ontology.mids[column] for column in columns}
    if missing:
        raise InputError(
            f"{ontology_path}: has no class {min(missing)} on the {result.side} side, but {where} "
            "was trained on it; give the ontology.json of its data set"
        )
    if classes_digest(ontology, columns) != result.classes:
        raise InputError(
            f"{ontology_path}: has other classes on the {result.side} side than {where} was "
            "trained with, or in another order; give the ontology.json of its data set"
        )
    return ontology, columns
