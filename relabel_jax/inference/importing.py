"""Makes a run folder of published weights; the command `relabel_jax.import_weights` calls it.

The folder has the files of a finished base training (`runs/workdir.py`), but no curve. Its result
has no root: the network was trained on all classes. Its epoch is 0.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from relabel_jax import digests
from relabel_jax.data.data_set import DataSet, check_format, open_data_set
from relabel_jax.errors import InputError, some
from relabel_jax.files import reading
from relabel_jax.inference.pretrained import build_network
from relabel_jax.inference.weight_files import read_tensors
from relabel_jax.labels.class_indices import audioset_mids, read_class_indices
from relabel_jax.labels.labelings import relabel
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS, classes_digest
from relabel_jax.models.backbone import Backbone
from relabel_jax.models.published import from_state_dict
from relabel_jax.models.recognition import FORMS, recognise
from relabel_jax.models.variables import Variables, select_outputs, waveform_batch
from relabel_jax.runs.checkpoints import Checkpoints
from relabel_jax.runs.classes import sound_classes
from relabel_jax.runs.schema import PUBLISHED, Identity, RunResult, Scores
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.calls import steps_per_call
from relabel_jax.train.predict import predict

_BATCH_SIZE = 16
_EPOCH = 0


def import_weights(
    weights: str | pathlib.Path,
    output_dir: str | pathlib.Path,
    form: str,
    *,
    sample_rate_hz: int | None = None,
    duration_s: float = 10.0,
    classes: str | pathlib.Path | None = None,
    ontology: str | pathlib.Path | None = None,
    data_dir: str | pathlib.Path | None = None,
) -> RunResult:
    """Writes a run folder with published weights.

    Args:
      weights: the authors' file, or a `.safetensors` with their names.
      output_dir: a new or empty folder.
      form: whose file it is, one of `recognition.FORMS`.
      sample_rate_hz: the rate of the network, if the tensors do not tell it.
      duration_s: length of the waveforms that the network is to take.
      classes: a `class_labels_indices.csv` with the order of the outputs; None for AudioSet's.
      ontology: an `ontology.json` that has these classes; None for AudioSet's.
      data_dir: a data set whose test clips are scored, with its ontology; None for no scores.

    Returns:
      The result. Without a data set its metrics are undefined.

    Raises:
      InputError: the weights are not those of a network of `form`, or do not fit the classes, the
        rate or the data set; or the folder exists or cannot be written.
    """
    weights, output_dir = pathlib.Path(weights), pathlib.Path(output_dir)
    if form not in FORMS:
        raise InputError(f"--format={form}: is none of {', '.join(FORMS)}")
    if ontology is not None and data_dir is not None:
        raise InputError("--ontology: the data set of --data_dir has its own; give one of the two")
    _refuse_existing(output_dir)
    data_set = None if data_dir is None else open_data_set(data_dir)
    the_ontology = data_set.ontology if data_set else Ontology.read(ontology)
    tensors = read_tensors(weights)
    try:
        found = recognise(form, tensors, sample_rate_hz=sample_rate_hz, duration_s=duration_s)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    numbers = _class_numbers(weights, found.num_classes, classes, the_ontology)
    model = {
        name: list(each) if isinstance(each, tuple) else each for name, each in found.model.items()
    }
    network = build_network(model, found.num_classes, str(weights))
    try:
        variables = from_state_dict(network, found.tensors)
    except InputError as error:
        raise InputError(f"{weights}: {error}") from error
    variables = select_outputs(network, variables, np.argsort(numbers))
    columns = np.sort(numbers)
    if data_set is None:
        scores = _no_scores(the_ontology, columns)
    else:
        check_format(data_set, network.waveform_format, f"the network {model['name']}")
        scores = _test_scores(network, variables, data_set, columns)
    config = {
        "data_dir": str(data_dir or ""),
        "base": "",
        "num_epochs": _EPOCH,
        "model": model,
        "imported": {"format": form, "file": weights.name, "sha256": digests.of_file(weights)},
    }
    result = _result(network, scores, config, the_ontology, columns, data_set)
    with _new_folder(output_dir) as folder:
        _write(Workdir(folder), result, variables, scores, the_ontology, columns)
    return result


def _class_numbers(
    weights: pathlib.Path,
    num_classes: int,
    classes: str | pathlib.Path | None,
    ontology: Ontology,
) -> np.ndarray:
    """int64[classes]: the class number of each output.

    Raises:
      InputError: the list has another number of classes, a class twice, or one that the ontology
        does not have.
    """
    if classes is None:
        mids, order = audioset_mids(), "AudioSet's class_labels_indices.csv"
    else:
        mids, order = read_class_indices(classes), str(classes)
    if len(mids) != num_classes:
        raise InputError(
            f"{weights}: has {num_classes} classes, but {order} has {len(mids)}; list its "
            "classes in --classes=class_labels_indices.csv"
        )
    if len(set(mids)) < len(mids):
        twice = sorted({mid for mid in mids if mids.count(mid) > 1})
        raise InputError(f"{order}: has {some(twice)} more than once; expected each class once")
    if missing := [mid for mid in mids if mid not in ontology.index]:
        raise InputError(
            f"{weights}: its class {missing[0]} ({len(missing)} in all) is not in the ontology; "
            "give the ontology of its classes, or their list as --classes"
        )
    return np.array([ontology.index[mid] for mid in mids])


def _no_scores(ontology: Ontology, columns: np.ndarray) -> Scores:
    nothing = np.zeros((0, len(columns)), bool)
    ids = np.zeros(0, "U1")
    return Scores(ids, _mids(ontology, columns), nothing.astype(np.float32), nothing, nothing)


def _test_scores(
    network: Backbone, variables: Variables, data_set: DataSet, columns: np.ndarray
) -> Scores:
    """Scores the test clips of a data set. The labels are the raters' labels."""
    rows = np.flatnonzero(data_set.clip_splits == SPLITS.index("test"))
    if not len(rows):
        raise InputError(f"{data_set.path}: has no test clip; build it with other --splits")
    scores = predict(
        network.clone(num_classes=len(columns)),
        [variables],
        lambda clips: data_set.read_waveforms(rows[clips]),
        len(rows),
        batch_size=_BATCH_SIZE,
        batches_per_call=min(
            steps_per_call(network, variables, _batch(network)), -(-len(rows) // _BATCH_SIZE)
        ),
    )[0]
    labels, masked = relabel(
        data_set.labels[np.ix_(rows, columns)], data_set.ontology, "ol", columns
    )
    ids = data_set.clip_ids[rows]
    return Scores(ids, _mids(data_set.ontology, columns), scores, labels, masked)


def _batch(network: Backbone) -> jax.ShapeDtypeStruct:
    clip = waveform_batch(network)
    return jax.ShapeDtypeStruct((_BATCH_SIZE, *clip.shape[1:]), clip.dtype)


def _mids(ontology: Ontology, columns: np.ndarray) -> np.ndarray:
    return np.array(ontology.mids)[columns]


def _result(
    network: Backbone,
    scores: Scores,
    config: dict[str, Any],
    ontology: Ontology,
    columns: np.ndarray,
    data_set: DataSet | None,
) -> RunResult:
    return RunResult(
        test=scores.evaluate().means(),  # undefined without clips
        best_epoch=_EPOCH,
        root="",
        root_mid="",
        side="base",
        labeling=PUBLISHED,
        method=PUBLISHED,
        precision=getattr(network, "precision", None),
        backend=jax.default_backend(),
        base_labeling="",
        seed=0,
        num_clips={"train": 0, "validation": 0, "test": len(scores.clip_id)},
        num_labels=len(columns),
        classes=classes_digest(ontology, columns),
        data_set=data_set.fingerprint if data_set else "",
        config=config,
    )


def _write(
    workdir: Workdir,
    result: RunResult,
    variables: Variables,
    scores: Scores,
    ontology: Ontology,
    columns: np.ndarray,
) -> None:
    workdir.write_classes(sound_classes(ontology, columns))
    workdir.begin(Identity(result.config, result.data_set))
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(_EPOCH, {**variables, "step": np.int32(0)}, validation_map=0.0)
        checkpoints.wait()
    workdir.write_scores(scores)
    workdir.write_result(result)


def _refuse_existing(folder: pathlib.Path) -> None:
    with reading(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists already; give an empty or a new --output_dir")


@contextlib.contextmanager
def _new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary folder beside `folder`, which replaces it when the block ends.

    On an error the temporary folder is deleted. If the process is killed, the next import into
    `folder` deletes it.
    """
    folder = folder.absolute()
    temporary = folder.with_name(f".{folder.name}.unfinished")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot write: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
