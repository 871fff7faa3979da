"""The run folder: the names of its files, and how they are read and written.

A run (one training and its test) writes into its `--workdir`:

- `config.json`: the config, the data set and the base (`Identity`);
- `outputs.json`: the classes of the network's outputs, with their names (`classes.py`). Folders of
  version 0.1 have no such file;
- `metrics.jsonl`: a line for each epoch;
- `checkpoints/`, `interrupted/`: see `checkpoints.py`;
- `test_scores.npz`: the scores on the test clips (`Scores`);
- `result.json`: the result (`RunResult`). It is written last: a folder that has it is finished;
- `events.out.tfevents.*`: the numbers of `metrics.jsonl` for TensorBoard.

No other module knows these names. `schema.py` defines the content of the files, and
`grid_folder.py` the folder of a grid. This module does not need JAX.
"""

import contextlib
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, only_process, reading, write_json
from relabel_jax.runs.classes import SoundClass, read_classes, write_classes
from relabel_jax.runs.schema import Identity, RunResult, Scores

TEST_AGAIN = "delete result.json beside it and run the same command again, which tests again"


@dataclasses.dataclass(frozen=True)
class Workdir:
    """The folder of one run.

    Attributes:
      path: the folder, which need not exist yet.
    """

    path: pathlib.Path

    @property
    def config_path(self) -> pathlib.Path:
        return self.path / "config.json"

    @property
    def classes_path(self) -> pathlib.Path:
        return self.path / "outputs.json"

    @property
    def result_path(self) -> pathlib.Path:
        return self.path / "result.json"

    @property
    def metrics_path(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def scores_path(self) -> pathlib.Path:
        return self.path / "test_scores.npz"

    @property
    def checkpoints_path(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def interrupted_path(self) -> pathlib.Path:
        return self.path / "interrupted"

    @property
    def event_paths(self) -> list[pathlib.Path]:
        """TensorBoard's files."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder for this process.

        Raises:
          InputError: another process has locked it, or it cannot be created.
        """
        busy = "another process is training here; wait for it or give another --workdir"
        with only_process(self.path / ".lock", self.path, busy):
            yield

    def begun_with(self) -> Identity | None:
        """Reads `config.json`; None if the run has not begun.

        Raises:
          InputError: the folder has checkpoints but no `config.json`, or `config.json` is damaged.
        """
        if self.config_path.exists():
            return Identity.read(self.config_path)
        if any(self.checkpoints_path.glob("*")):
            raise InputError(
                f"{self.path}: has checkpoints but no config.json to tell of what; give another "
                "--workdir"
            )
        return None

    def begin(self, identity: Identity) -> None:
        """Writes `config.json` when a run begins or continues, and deletes an older result."""
        self.result_path.unlink(missing_ok=True)
        write_json(self.config_path, identity.as_json())

    def write_classes(self, classes: Sequence[SoundClass]) -> None:
        """Writes `outputs.json`: the classes of the outputs, in their order."""
        write_classes(self.classes_path, classes)

    def read_classes(self) -> tuple[SoundClass, ...]:
        """The classes of the outputs, in their order.

        Raises:
          InputError: the file is absent, damaged, or was written by a newer version.
        """
        return read_classes(self.classes_path)

    @property
    def is_begun(self) -> bool:
        return self.config_path.exists() or self.result_path.exists()

    @property
    def is_finished(self) -> bool:
        return self.result_path.exists()

    def is_finished_after(self, num_epochs: int) -> bool:
        """Whether the run is finished, with this number of epochs."""
        return self.is_finished and self.epochs_done() == num_epochs

    def write_result(self, result: RunResult) -> None:
        """Writes `result.json`, which finishes the run."""
        write_json(self.result_path, result.as_json())

    def read_result(self) -> RunResult:
        """Reads the result of a finished run.

        Raises:
          InputError: the run is not finished, or the file is damaged or was written by a newer
            version.
        """
        path = self.result_path
        with reading(path):
            is_finished = path.is_file()
        if not is_finished:
            state = f"is not finished (no {path.name})" if self.path.is_dir() else "does not exist"
            raise InputError(f"{self.path}: {state}; train it first")
        return RunResult.read(path)

    def read_curve(self) -> list[dict[str, Any]]:
        """Reads the lines of `metrics.jsonl`.

        Raises:
          InputError: the file is absent or damaged.
        """
        path = self.metrics_path
        try:
            curve = [json.loads(line) for line in path.read_text().splitlines()]
            for line in curve:
                line["epoch"], line["train_loss"], line["validation_mAP"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot read it ({error!r}); delete the folder, with a base's those of "
                "the runs that start from it too, and run the same command again"
            ) from error
        return curve

    def epochs_done(self) -> int:
        """Returns the number of lines of `metrics.jsonl`; 0 if there is no such file."""
        return len(self.metrics_path.read_text().splitlines()) if self.metrics_path.exists() else 0

    def write_scores(self, scores: Scores) -> None:
        """Writes `test_scores.npz`."""
        with complete_file(self.scores_path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **scores._asdict())

    def read_scores(self, expected_map: float | None) -> Scores:
        """Reads the scores, which may be large.

        Args:
          expected_map: the mAP in `result.json`; None if it is undefined.

        Raises:
          InputError: the file is absent or damaged, or does not belong to the result.
        """
        path = self.scores_path
        try:
            # `np.load` of a path would leave a damaged file open.
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                scores = Scores(*(arrays[name] for name in Scores._fields))
            measured = scores.evaluate().mean_average_precision
        except Exception as error:  # zip, zlib and NumPy raise errors of many kinds
            raise InputError(f"{path}: cannot read it ({error}); {TEST_AGAIN}") from error
        if scores.scores.shape != (len(scores.clip_id), len(scores.mids)):
            raise InputError(f"{path}: its arrays do not fit together; {TEST_AGAIN}")
        expected = np.nan if expected_map is None else expected_map
        if not np.isclose(measured, expected, rtol=0, atol=1e-6, equal_nan=True):
            raise InputError(
                f"{path}: its mAP is {measured:.6f}, but result.json says {expected_map}; "
                f"{TEST_AGAIN}"
            )
        return scores

    def read_scored_mids(self) -> list[str]:
        """Reads the mids of the classes that have scores: the label set.

        Raises:
          InputError: the file is absent or damaged.
        """
        path = self.scores_path
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return [str(mid) for mid in arrays["mids"]]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot read the classes: {error}; train it again") from error
