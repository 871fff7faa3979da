"""The runs of a population and their data set, which are the same in every process."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from relabel_jax.data.data_set import DataSet, check_format, open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments import labelings
from relabel_jax.experiments.config import check, plain
from relabel_jax.experiments.teacher import Teacher, read_teacher
from relabel_jax.labels.label_files import LabelFile
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import View, from_file, make_view
from relabel_jax.models import registry
from relabel_jax.models.backbone import Backbone
from relabel_jax.runs.old_configs import flat
from relabel_jax.runs.schema import Identity
from relabel_jax.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """Runs that differ only in labeling and seed.

    Attributes:
      configs: the config of each run.
      workdirs: the run folder of each run.
      data_set: the data set of all runs.
      root: class number of the target root.
      label_files: the files of the labelings that have one, by labeling.
      views: the view of the side, by labeling.
      teacher: the teacher of all runs, or None.
    """

    configs: Sequence[ConfigDict]
    workdirs: Sequence[Workdir]
    data_set: DataSet
    root: int
    label_files: dict[str, LabelFile]
    views: dict[str, View]
    teacher: Teacher | None = None

    @classmethod
    def open(cls, configs: Sequence[ConfigDict], paths: Sequence[pathlib.Path]) -> "Experiment":
        """Opens the data set and makes the views.

        Args:
          configs: the configs of single runs.
          paths: the paths of their run folders.

        Raises:
          InputError: a value of a config, the data set, a label file, the teacher or the network
            does not fit.
          ValueError: the configs differ in more than labeling and seed.
        """
        config = configs[0]
        for other in configs[1:]:
            different = {field for field in config if config[field] != other[field]}
            if different - {"labeling", "seed"}:
                raise ValueError(
                    f"members of a population differ in {', '.join(sorted(different))}"
                )
        for each in configs:
            check(each)
        if len(set(paths)) < len(configs):
            raise InputError("config.labelings, config.seeds: a labeling or a seed is there twice")
        data_set = open_data_set(config.data_dir)
        root = data_set.ontology.find(config.root)
        names = dict.fromkeys(each.labeling for each in configs)
        label_files = labelings.read_files(config, names, data_set.ontology)
        clip_ids = data_set.clip_ids.tolist()
        own = {name: from_file(file, clip_ids) for name, file in label_files.items()}
        views = {
            labeling: make_view(
                data_set.ontology,
                data_set.labels,
                data_set.clip_splits,
                root=root,
                side="base" if config.method == "base" else "target",
                labeling=own.get(labeling, labeling),
            )
            for labeling in names
        }
        workdirs = [Workdir(path) for path in paths]
        teacher = None
        if config.teacher:
            view = views[config.labeling]
            clip_ids = data_set.clip_ids[view.rows["train"]]
            teacher = read_teacher(config.teacher, clip_ids, view, data_set.ontology)
        experiment = cls(configs, workdirs, data_set, root, label_files, views, teacher)
        check_format(
            data_set, experiment.network.waveform_format, f"the network {config.model.name}"
        )
        return experiment

    @property
    def config(self) -> ConfigDict:
        """The config of the first run. The others differ from it only in labeling and seed."""
        return self.configs[0]

    @property
    def ontology(self) -> Ontology:
        """The ontology of the data set."""
        return self.data_set.ontology

    @property
    def side(self) -> str:
        """`base` or `target`."""
        return "base" if self.config.method == "base" else "target"

    def view(self, m: int) -> View:
        """The view of run `m`."""
        return self.views[self.configs[m].labeling]

    @property
    def num_classes(self) -> int:
        """The number of classes of the side."""
        return len(self.view(0).columns)

    @functools.cached_property
    def network(self) -> Backbone:
        """The network of the config over the classes of the side."""
        return registry.build(plain(self.config.model), self.num_classes)

    def identity(self, m: int, base: str = "") -> Identity:
        """The identity of run `m`; `base` is the fingerprint of its base."""
        config = self.configs[m]
        of_run = {name: file for name, file in self.label_files.items() if name == config.labeling}
        fields, digests = labelings.recorded(plain(config), of_run)
        teacher = self.teacher.digest if self.teacher else ""
        return Identity(fields, self.data_set.fingerprint, base, digests, teacher)

    def shared_facts(self) -> dict[str, Any]:
        """The facts that must be the same in all processes, by their names in messages."""
        facts: dict[str, Any] = {"the data set of fingerprint": self.data_set.fingerprint}
        configs = [flat(plain(config)) for config in self.configs]
        for field in configs[0]:
            # Process 0 alone reads the base. The other files may have another path on each host.
            if field not in ("data_dir", "base", "labeling_files", "teacher"):
                values = [config[field] for config in configs]
                facts[f"config.{field}"] = values[0] if len(values) == 1 else values
        if self.teacher:
            facts["the teacher of digest"] = self.teacher.digest
        return facts | labelings.facts(self.label_files)
