"""The content of the files of a run folder."""

import dataclasses
import pathlib
import typing
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.files import read_json
from relabel_jax.metrics import Evaluation, evaluate
from relabel_jax.runs.old_configs import flat, upgraded

FORMAT_VERSION = 2
"""Version of the JSON files. Files of version 1, which have no such field, can be read too."""

PUBLISHED = "published"
"""The method and the labeling of weights that were imported. Their result has no root."""

MAY_CHANGE = (
    "data_dir",
    "base",
    "labeling_files",
    "teacher",
    "num_epochs",
    "steps_per_call",
    "resident",
    "members_by",
)
"""Config fields that may change when a run continues. The data, the base, the label files and the
teacher may move, but not change. The number of epochs may grow. The other fields change speed and
memory, not results."""


@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
    """The config, data set and base of a run or a grid, as `config.json` or `grid.json` has them.

    Attributes:
      config: all fields, as JSON has them.
      data_set: fingerprint of the data set.
      base: digest of the weights of the base; "" for a run without a base, None if not known.
      label_files: the digest of the labels in each label file, by the name of the labeling.
      teacher: digest of the scores of the teacher; "" without a teacher.
    """

    config: dict[str, Any]
    data_set: str
    base: str | None = ""
    label_files: dict[str, str] = dataclasses.field(default_factory=dict)
    teacher: str = ""

    @classmethod
    def read(cls, path: pathlib.Path) -> "Identity":
        """Reads `config.json` or `grid.json`.

        Raises:
          InputError: the file is damaged, or was written by a newer version.
        """
        content = read_versioned(path, "give another --workdir")
        try:
            config = upgraded(content["config"])
            int(config["num_epochs"])
            label_files = dict(content.get("label_files", {}))
            base, teacher = content.get("base", ""), content.get("teacher", "")
            return cls(config, content["data_set"], base, label_files, teacher)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{path}: is damaged or of an older version ({error!r}); give another --workdir"
            ) from error

    def check_same(
        self, now: "Identity", may_change: Collection[str], workdir: pathlib.Path, data_dir: Any
    ) -> None:
        """Checks that a run or a grid that continues has the same config, data set and labels.

        Args:
          now: the identity with which the run or grid continues.
          may_change: fields of the config that may differ.
          workdir, data_dir: the folders that messages name.

        Raises:
          InputError: the config, the data set or the content of a label file differs.
        """
        before = flat(self.config)
        for field, value in flat(now.config).items():
            if field.partition(".")[0] not in may_change and before.get(field) != value:
                raise InputError(
                    f"{workdir}: was begun with config.{field} {before.get(field)!r}, not "
                    f"{value!r}; continue with the same config or give another --workdir"
                )
        if self.data_set != now.data_set:
            raise InputError(
                f"{workdir}: was begun on another data set than {data_dir}; continue with that one "
                "or give another --workdir"
            )
        for name, digest in now.label_files.items():
            if self.label_files.get(name) != digest:
                raise InputError(
                    f"{workdir}: was begun with other labels {name!r} than config.labeling_files="
                    f"{now.config['labeling_files']} has now; give the file of that time or "
                    "another --workdir"
                )
        if self.teacher != now.teacher:
            raise InputError(
                f"{workdir}: was begun with other scores of the teacher than config.teacher="
                f"{now.config['teacher']} has now; give the file of that time or another --workdir"
            )

    def as_json(self) -> dict[str, Any]:
        """The value that `config.json` holds."""
        content = dataclasses.asdict(self)
        if not self.teacher:
            del content["teacher"]
        if not self.label_files:  # as in the run folders of version 0.1
            del content["label_files"]
        return {"format_version": FORMAT_VERSION, **content}


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The content of `result.json`.

    Attributes:
      test: `mAP`, `mean_auc` and `d_prime` on the test clips; None where undefined.
      best_epoch: the epoch that was tested, which has the best validation mAP; 1 is the first.
      root, root_mid: display name and mid of the target root; "" for imported weights.
      side: `base` or `target`.
      labeling: the labels of training and test.
      method: `base`, `features`, `finetune`, `scratch`, or `PUBLISHED` for imported weights.
      precision: arithmetic of the network; None in results of older versions.
      backend: JAX's backend; None in results of older versions.
      base_labeling: labeling of the base; "" without a base.
      seed: seed of the weights and of the order of the clips.
      num_clips: clips by split.
      num_labels: classes of the label set.
      classes: digest of the classes of the side, in the order of the outputs.
      data_set: fingerprint of the data set.
      config: all fields, as JSON has them.
    """

    test: dict[str, float | None]
    best_epoch: int
    root: str
    root_mid: str
    side: str
    labeling: str
    method: str
    precision: str | None
    backend: str | None
    base_labeling: str
    seed: int
    num_clips: dict[str, int]
    num_labels: int
    classes: str
    data_set: str
    config: dict[str, Any]

    @classmethod
    def read(cls, path: pathlib.Path) -> "RunResult":
        """Reads `result.json`.

        Raises:
          InputError: the file is damaged, or was written by a newer version.
        """
        content = read_versioned(
            path, "delete it and run the same command again, which tests again"
        )
        for field, kind in _TYPES.items():
            if not isinstance(content.get(field), kind):
                raise InputError(
                    f"{path}: has no field {field!r} of type {kind.__name__}: it was written by an "
                    "older version or is damaged; delete it and run the same command again, which "
                    "tests again"
                )
        facts: dict[str, Any] = {
            name: content.get(name, default) for name, default in _OPTIONAL.items()
        }
        facts |= {name: content[name] for name in _TYPES}
        try:
            facts["config"] = upgraded(facts["config"])
            facts["config"]["model"]["name"], facts["config"]["num_epochs"]
            facts["config"]["data_dir"]
            metrics = [facts["test"][name] for name in ("mAP", "mean_auc", "d_prime")]
            sizes = [facts["num_clips"]["test"], facts["num_labels"], facts["best_epoch"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: has no field {error}: it is damaged; delete it and run the same command "
                "again, which tests again"
            ) from error
        bad = [value for value in metrics if value is not None and not _is_finite(value)]
        bad += [value for value in sizes if type(value) is not int or not 0 <= value < 1 << 63]
        if bad:
            raise InputError(
                f"{path}: has {str(bad[0])[:20]!r} in place of a number: it is damaged; delete it "
                "and run the same command again, which tests again"
            )
        return cls(**facts)

    @property
    def model(self) -> dict[str, Any]:
        """The network: its `name` in the registry, and its options."""
        return self.config["model"]

    def as_json(self) -> dict[str, Any]:
        """The value that `result.json` holds."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    @property
    def summary(self) -> str:
        """The result in one line."""
        names = (("mAP", "mAP"), ("mean AUC", "mean_auc"), ("d-prime", "d_prime"))
        metrics = ", ".join(
            f"{name} {'undefined' if self.test[field] is None else format(self.test[field], '.4f')}"
            for name, field in names
        )
        return (
            f"{self.root}, {self.side} side, {self.method}, {self.labeling}: "
            f"test {metrics} ({self.num_clips['test']} clips, {self.num_labels} labels, "
            f"best epoch {self.best_epoch} of {self.config['num_epochs']})"
        )


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e308


_OPTIONAL = {"precision": None, "backend": None}
_TYPES: dict[str, type] = {
    field.name: typing.get_origin(field.type) or typing.cast(type, field.type)
    for field in dataclasses.fields(RunResult)
    if field.name not in _OPTIONAL
}


class Scores(NamedTuple):
    """The content of `test_scores.npz`.

    Attributes:
      clip_id: str[clips].
      mids: str[classes], the mids of the classes of the label set.
      scores: float32[clips, classes].
      labels, masked: bool[clips, classes].
    """

    clip_id: np.ndarray
    mids: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masked: np.ndarray

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Scores":
        """Takes the arrays of a file.

        Raises:
          ValueError: an array is missing, or has another dtype or shape.
        """
        if missing := [name for name in cls._fields if name not in arrays]:
            raise ValueError(f"has no {missing[0]}")
        scores = cls(*(arrays[name] for name in cls._fields))
        sizes = {"clips": scores.clip_id.size, "classes": scores.mids.size}
        for name, (kind, axes) in _SCORES.items():
            array = getattr(scores, name)
            if array.dtype.kind != kind or array.shape != tuple(sizes[axis] for axis in axes):
                raise ValueError(f"{name} is {array.dtype.name}{list(array.shape)}")
        return scores

    def evaluate(self) -> Evaluation:
        """The metrics of these scores."""
        return evaluate(self.scores, self.labels, self.masked)


_SCORES = {
    "clip_id": ("U", ("clips",)),
    "mids": ("U", ("classes",)),
    "scores": ("f", ("clips", "classes")),
    "labels": ("b", ("clips", "classes")),
    "masked": ("b", ("clips", "classes")),
}
"""By array of `test_scores.npz`: the kind of its dtype, and its axes."""


def read_versioned(path: pathlib.Path, remedy: str) -> dict[str, Any]:
    """Reads a JSON file whose object has a `format_version`.

    Args:
      path: the file.
      remedy: the advice if the file is damaged.

    Raises:
      InputError: the file is damaged, or was written by a newer version.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        what = "is damaged or of an older version (expected an object)"
        raise InputError(f"{path}: {what}; {remedy}")
    version = content.get("format_version", 1)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{path}: was written by a newer version of relabel_jax (format_version {version!r}, "
            f"this version reads up to {FORMAT_VERSION}); install the newer version"
        )
    return content
