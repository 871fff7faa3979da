"""The runs of the label study, and an estimate of their time."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from label_study_inputs import at_severity, mask_by_teacher, write_label_file
from label_study_losses import max_constraint
from label_study_plan import NO_BASE, RECIPES, TEACHER, Design, Stage, Transfers
from ml_collections import ConfigDict
from scipy import sparse

from relabel_jax.data.data_set import open_data_set
from relabel_jax.experiments.base import read_base
from relabel_jax.experiments.config import model_config, paper_config
from relabel_jax.experiments.run import run_population
from relabel_jax.labels.label_files import read_label_file
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import SPLITS, side_columns
from relabel_jax.models import registry
from relabel_jax.models import variables as network_variables
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.predict import predict
from relabel_jax.train.step import Recipe, init_state, train_step

LABELS = "labels.parquet"
TEACHER_LABELS = "teacher.parquet"
TEACHER_PERCENTILE = 99
_TIMED_STEPS = 5
_CLASSIFIER_EPOCH_S = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study and its folder.

    Attributes:
      folder: all of its files.
      design: its design.
      root: the target root.
      model: `config.model` of all runs: the name of the network, and options.
      batch_size: of all runs.
    """

    folder: pathlib.Path
    design: Design
    root: str
    model: dict[str, Any]
    batch_size: int

    def data_dir(self, side: str, num_clips: int) -> pathlib.Path:
        """The data set of a side with so many training clips."""
        return self.folder / "data" / f"{side}_{num_clips}"

    def run_config(self, method: str, labeling: str, seed: int = 0, **fields: Any) -> ConfigDict:
        """The config of a run; `fields` are others, such as `mixup.rule`."""
        config = paper_config(self.root, method)
        config.model = model_config(self.model["name"])
        config.model.update(self.model)
        file = self.folder / (TEACHER_LABELS if labeling.startswith(TEACHER) else LABELS)
        config.update(labeling=labeling, seed=seed, labeling_files=f"{labeling}={file}")
        config.update_from_flattened_dict({"batch_size": self.batch_size, **fields})
        return config

    def base_path(self, stage: Stage, labeling: str, seed: int) -> pathlib.Path:
        """The run folder of a base."""
        return self.folder / stage.base_folder() / f"{labeling}_seed{seed}"

    def transfer_path(
        self, stage: Stage, transfers: Transfers, base: str, seed: int, labeling: str
    ) -> pathlib.Path:
        """The run folder of a transfer; `labeling` is that of the target side."""
        folder = self.folder / stage.transfer_folder(transfers)
        return folder / f"{base}_seed{seed}" / labeling

    def is_finished(self, stage: Stage) -> bool:
        """Whether all transfers of a stage are finished. Its bases may be trained further then."""
        return all(
            Workdir(self.transfer_path(stage, transfers, base, seed, labeling)).is_finished
            for transfers in stage.transfers
            for base in transfers.bases or (NO_BASE,)
            for seed in range(stage.num_seeds)
            for labeling in transfers.labelings
        )

    def run(self, stage: Stage) -> None:
        """Trains the bases and the transfers of a stage, except those that are finished."""
        if self.is_finished(stage):
            return
        if any(labeling.startswith(TEACHER) for labeling in stage.labelings):
            self._write_teacher(stage)
        if stage.recipe == "max_constraint":
            ontology = Ontology.from_json(self.folder / "ontology.json")
            columns = side_columns(ontology, ontology.find(self.root), "base")
            LOSSES["max_constraint"] = max_constraint(ontology, columns)  # `config.loss` names it
        of_bases = {
            self.base_path(stage, labeling, seed): self.run_config(
                "base",
                labeling,
                seed,
                data_dir=str(self.data_dir("base", stage.clips)),
                num_epochs=stage.epochs,
                **RECIPES[stage.recipe],
            )
            for labeling in stage.labelings
            for seed in range(stage.num_seeds)
        }
        _run(of_bases)
        for transfers in stage.transfers:
            self._run_transfers(stage, transfers)

    def _run_transfers(self, stage: Stage, transfers: Transfers) -> None:
        """Runs transfers from one base after another. Those from a base are trained together."""
        for base in transfers.bases or (NO_BASE,):
            for seed in range(stage.num_seeds):
                of_base = {
                    self.transfer_path(stage, transfers, base, seed, labeling): self.run_config(
                        transfers.method,
                        labeling,
                        seed,
                        data_dir=str(self.data_dir("target", transfers.target_clips)),
                        base=str(self.base_path(stage, base, seed)) if transfers.bases else "",
                        num_epochs=self.design.target_epochs,
                        **RECIPES[stage.target_recipe],
                    )
                    for labeling in transfers.labelings
                }
                if not all(Workdir(path).is_finished for path in of_base):
                    _run(of_base)

    def _write_teacher(self, stage: Stage) -> None:
        """Writes the labels of `ol` with the masks of a teacher: the base of `ol` and seed 0."""
        path = self.folder / TEACHER_LABELS
        if path.exists():
            return
        severity = self.design.severities[0]
        ol, name = at_severity("ol", severity), at_severity(TEACHER, severity)
        data_set = open_data_set(self.data_dir("base", stage.clips))
        root = data_set.ontology.find(self.root)
        config = self.run_config("features", ol, base=str(self.base_path(stage, ol, 0)))
        base = read_base(config, data_set.ontology, root)
        rows = np.flatnonzero(data_set.clip_splits == SPLITS.index("train"))
        scores = predict(
            base.network,
            [base.variables],
            lambda clips: data_set.read_waveforms(rows[clips]),
            len(rows),
            batch_size=self.batch_size,
            batches_per_call=8,
        )[0]
        clip_ids = data_set.clip_ids.tolist()
        positive, _ = read_label_file(self.folder / LABELS, data_set.ontology, ol).labels(clip_ids)
        masked = np.zeros(positive.shape, bool)
        at = np.ix_(rows, side_columns(data_set.ontology, root, "base"))
        masked[at] = mask_by_teacher(scores, positive.toarray()[at], TEACHER_PERCENTILE)
        columns = {name: positive, f"{name}_masked": sparse.csr_array(masked)}
        write_label_file(path, clip_ids, columns, data_set.ontology)


def _run(configs: dict[pathlib.Path, ConfigDict]) -> None:
    """Runs the configs by run folder as one population, all of whose configs name all files."""
    files = ",".join(dict.fromkeys(config.labeling_files for config in configs.values()))
    for config in configs.values():
        config.labeling_files = files
    run_population(list(configs.values()), list(configs))


def estimated_seconds(study: Study, stages: Sequence[Stage]) -> float:
    """Estimates the time of the stages that are not finished, from a few timed steps.

    It counts a clip that is only tested as a third of one that is trained on. It leaves out
    compilation, the data sets and the report.
    """
    design = study.design
    trained: dict[tuple, int] = {}
    clips = 0.0
    classifier_epochs = 0
    for stage in stages:
        epochs = 0
        for labeling in stage.labelings:
            base = (stage.clips, stage.recipe, labeling)
            epochs += stage.epochs - trained.get(base, 0)
            trained[base] = stage.epochs
        if study.is_finished(stage):
            continue
        clips += stage.num_seeds * epochs * (stage.clips + design.validation_clips / 3)
        for each in stage.transfers:
            members = stage.num_seeds * max(1, len(each.bases))
            tested = design.validation_clips + design.test_clips
            if each.method == "features":
                clips += members * (each.target_clips + tested) / 3
                classifier_epochs += members * len(each.labelings) * design.target_epochs
            else:
                members *= len(each.labelings)
                a_run = design.target_epochs * (each.target_clips + design.validation_clips / 3)
                clips += members * (a_run + design.test_clips / 3)
    return clips / clips_per_second(study) + classifier_epochs * _CLASSIFIER_EPOCH_S


def clips_per_second(study: Study) -> float:
    """Times training steps of one base on random clips."""
    config = study.run_config("base", "ol_x100")
    num_classes = 500
    network = registry.build(config.model.to_dict(), num_classes)
    batch = network_variables.waveform_batch(network)
    recipe = Recipe(0.001, 1.0, 100)
    state = init_state(network_variables.random_variables(network, batch, 0), recipe)
    shape = (config.batch_size, *batch.shape[1:])
    waveforms = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    labels = np.zeros((config.batch_size, num_classes), bool)
    step = jax.jit(train_step, static_argnums=(0, 1))
    seconds = []
    for _ in range(1 + _TIMED_STEPS):
        began = time.monotonic()
        state = jax.block_until_ready(step(network, recipe, state, waveforms, labels, labels)[0])
        seconds.append(time.monotonic() - began)
    return config.batch_size / float(np.median(seconds[1:]))
