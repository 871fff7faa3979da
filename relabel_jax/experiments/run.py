"""Runs base trainings and transfers, from the config to `result.json`, alone or together."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from relabel_jax.experiments.base import Base
from relabel_jax.experiments.experiment import Experiment
from relabel_jax.experiments.plan import RunPlan, make_plan
from relabel_jax.experiments.recipe import of_training
from relabel_jax.labels.views import SPLITS, classes_digest
from relabel_jax.models import variables as network_variables
from relabel_jax.models.backbone import Network
from relabel_jax.models.heads import EmbeddingClassifier
from relabel_jax.models.variables import Variables
from relabel_jax.runs import processes
from relabel_jax.runs.classes import sound_classes
from relabel_jax.runs.schema import RunResult, Scores
from relabel_jax.train.calls import steps_per_call
from relabel_jax.train.loop import train
from relabel_jax.train.predict import predict
from relabel_jax.train.training import Inputs, Member, Trained, Training


def run(config: ConfigDict, workdir: pathlib.Path) -> RunResult:
    """Trains and tests a network as a config says.

    A run that was interrupted continues. For a finished run only the result is read.

    Args:
      config: the config of one run; see `relabel_jax.experiments.config.paper_config`.
      workdir: the folder of this run alone; it is created if it does not exist.

    Raises:
      InputError: a value of the config, the data set, the base or the workdir does not fit.
      Interrupted: a SIGTERM stopped the program, after its work was saved.
    """
    return run_population([config], [workdir])[0]


def member_workdirs(configs: Sequence[ConfigDict], workdir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the run folders: `workdir` for one run, else `workdir/LABELING_seedSEED` for each."""
    if len(configs) == 1:
        return [workdir]
    return [workdir / f"{config.labeling}_seed{config.seed}" for config in configs]


def run_population(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[pathlib.Path],
    on_clips: Callable[[int], None] = lambda number: None,
) -> list[RunResult]:
    """Trains and tests several runs that differ in labeling and seed, as one program.

    Each run writes the same files as it would alone, and can continue alone or in another
    population. For finished runs only the results are read.

    Args:
      configs: the config of each run.
      workdirs: the run folder of each run.
      on_clips: see `Training`.

    Raises:
      InputError, Interrupted: see `run`.
    """
    experiment = processes.together(lambda: Experiment.open(configs, workdirs))
    processes.check_same(experiment.shared_facts())
    with contextlib.ExitStack() as stack:
        plan = make_plan(experiment, stack)
        if not plan.unfinished:
            return plan.finished
        training = _training(experiment, plan, on_clips)
        trained = train(training)
        results = _test(experiment, plan, training, trained)
    return plan.with_results(results)


def _training(experiment: Experiment, plan: RunPlan, on_clips: Callable[[int], None]) -> Training:
    """Makes the training of the unfinished runs."""
    config = experiment.config
    seeds = [experiment.configs[m].seed for m in plan.unfinished]
    network, starts, inputs, clip = _start(experiment, plan.base, seeds)
    members = [
        Member(experiment.workdirs[m], start, experiment.view(m), experiment.configs[m].seed)
        for m, start in zip(plan.unfinished, starts, strict=True)
    ]
    base = plan.base.fingerprint if plan.base else ""

    def begin() -> None:
        outputs = sound_classes(experiment.ontology, experiment.view(0).columns)
        for m in plan.unfinished:
            experiment.workdirs[m].write_classes(outputs)
            experiment.workdirs[m].begin(experiment.identity(m, base))

    return Training(
        members=members,
        network=network,
        inputs=inputs,
        batch_size=config.batch_size,
        num_epochs=config.num_epochs,
        learning_rate=config.learning_rate,
        learning_rate_decay=config.learning_rate_decay,
        steps_per_call=_steps_per_call(
            experiment,
            network,
            starts[0],
            clip,
            -(-len(members) // jax.device_count()),
        ),
        resident=config.resident,
        members_by=config.members_by,
        loss=config.loss,
        optimizer=config.optimizer,
        teacher=experiment.teacher.scores if experiment.teacher else None,
        on_start=lambda: processes.on_primary(begin),
        on_clips=on_clips,
        **of_training(config),
    )


def _steps_per_call(
    experiment: Experiment,
    network: Network,
    variables: Variables,
    clip: jax.ShapeDtypeStruct,
    members_a_device: int = 1,
) -> int:
    """The steps in one program: no more than an epoch has, because a program has room for all.

    Args:
      network, variables, members_a_device: see `calls.steps_per_call`.
      clip: shape and dtype of a batch of one clip.
    """
    config = experiment.config
    batch = jax.ShapeDtypeStruct((config.batch_size, *clip.shape[1:]), clip.dtype)
    number = config.steps_per_call or steps_per_call(network, variables, batch, members_a_device)
    num_clips = config.epoch_clips or len(experiment.view(0).rows["train"])
    num_steps = num_clips // config.batch_size
    return min(number, max(1, num_steps))


def _start(
    experiment: Experiment, base: Base | None, seeds: Sequence[int]
) -> tuple[Network, list[Variables], Inputs, jax.ShapeDtypeStruct]:
    """Returns what the method trains: network, first variables by seed, inputs, a clip's shape."""
    view = experiment.view(0)

    @processes.alone
    def read_waveforms(split: str, clips: np.ndarray) -> np.ndarray:
        return experiment.data_set.read_waveforms(view.rows[split][clips])

    if experiment.config.method == "features":
        assert base is not None
        return _classifier_start(experiment, base, read_waveforms, seeds)
    network = experiment.network
    batch = network_variables.waveform_batch(network)
    starts = [network_variables.random_variables(network, batch, seed) for seed in seeds]
    if base is not None:
        starts = [
            network_variables.replace_outputs(network, base.variables, start) for start in starts
        ]
    return network, starts, read_waveforms, batch


def _classifier_start(
    experiment: Experiment, base: Base, read_waveforms: Inputs, seeds: Sequence[int]
) -> tuple[Network, list[Variables], Inputs, jax.ShapeDtypeStruct]:
    """Does the same for the method `features`: a classifier on the embeddings of all clips."""
    config, view = experiment.config, experiment.view(0)
    embeddings = {
        split: predict(
            base.network,
            [base.variables],
            functools.partial(read_waveforms, split),
            len(view.rows[split]),
            # `Training` refuses a batch of more clips than there are. This must not hold them.
            batch_size=min(config.batch_size, max(1, len(view.rows["train"]))),
            batches_per_call=_steps_per_call(
                experiment,
                base.network,
                base.variables,
                network_variables.waveform_batch(base.network),
            ),
            method="embed",
        )[0]
        for split in SPLITS
    }
    classifier = EmbeddingClassifier(
        experiment.num_classes,
        hidden_units=config.classifier.hidden_units,
        norm_order=config.classifier.norm_order,
    )
    batch = jax.ShapeDtypeStruct((1, base.network.embedding_size), np.float32)
    starts = [network_variables.random_variables(classifier, batch, seed) for seed in seeds]
    return classifier, starts, lambda split, clips: embeddings[split][clips], batch


def _test(
    experiment: Experiment, plan: RunPlan, training: Training, trained: Sequence[Trained]
) -> list[RunResult]:
    """Scores the test clips with the best epoch of each run, and writes scores and results."""
    config = experiment.config
    all_scores = predict(
        training.network,
        [best.variables for best in trained],
        training.read("test"),
        len(experiment.view(0).rows["test"]),
        batch_size=config.batch_size,
        batches_per_call=training.steps_per_call,
        members_by=config.members_by,
        population=len(experiment.configs),
    )

    def write() -> list[dict[str, Any]]:
        return [
            dataclasses.asdict(_write_result(experiment, plan, m, best.best_epoch, scores))
            for m, best, scores in zip(plan.unfinished, trained, all_scores, strict=True)
        ]

    return [RunResult(**result) for result in processes.from_primary(write)]


def _write_result(
    experiment: Experiment, plan: RunPlan, m: int, best_epoch: int, all_scores: np.ndarray
) -> RunResult:
    """Writes the scores and the result of run `m`, and returns the result.

    Args:
      experiment, plan: see `_test`.
      m: the number of the run.
      best_epoch: the epoch that was tested; 1 is the first.
      all_scores: float32[test clips, side classes].
    """
    view, identity = experiment.view(m), experiment.identity(m)
    in_set = view.label_set
    ontology, config = experiment.ontology, experiment.configs[m]
    scores = Scores(
        clip_id=experiment.data_set.clip_ids[view.rows["test"]],
        mids=np.array(ontology.mids)[view.columns[in_set]],
        scores=all_scores[:, in_set],
        labels=view.labels["test"][:, in_set],
        masked=view.masked["test"][:, in_set],
    )
    workdir = experiment.workdirs[m]
    workdir.write_scores(scores)
    result = RunResult(
        test=scores.evaluate().means(),
        best_epoch=best_epoch,
        root=ontology.display_names[experiment.root],
        root_mid=ontology.mids[experiment.root],
        side=experiment.side,
        labeling=config.labeling,
        method=config.method,
        precision=getattr(experiment.network, "precision", None),
        backend=jax.default_backend(),
        base_labeling=plan.base.labeling if plan.base else "",
        seed=config.seed,
        num_clips={split: len(view.rows[split]) for split in SPLITS},
        num_labels=int(in_set.sum()),
        classes=classes_digest(ontology, view.columns),
        data_set=identity.data_set,
        config=identity.config,
    )
    workdir.write_result(result)
    return result
