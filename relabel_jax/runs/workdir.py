"""The run folder: the names of its files, and how they are read and written.

A run (one training and its test) writes into its `--workdir`:

- `config.json`: the config, the data set and the base (`Identity`);
- `outputs.json`: the classes of the network's outputs, with their names (`classes.py`). Folders of
  version 0.1 have no such file;
- `metrics.jsonl`: a line for each epoch;
- `checkpoints/`, `interrupted/`: see `checkpoints.py`;
- `damaged/`: checkpoints that could not be restored when the run continued;
- `test_scores.npz`: the scores on the test clips (`Scores`);
- `sha256.json`: digests of the files above and of the tested state (`digests.py`). Folders of older
  versions have no such file;
- `result.json`: the result (`RunResult`). It is written last: a folder that has it is finished;
- `events.out.tfevents.*`: the numbers of `metrics.jsonl` for TensorBoard.

No other module knows these names. `schema.py` defines the content of the files, and
`grid_folder.py` the folder of a grid. This module does not need JAX.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.files import complete_file, json_text, only_process, read_json, reading, write_json
from relabel_jax.runs.classes import SoundClass, read_classes, write_classes
from relabel_jax.runs.schema import MAY_CHANGE, Identity, RunResult, Scores

TEST_AGAIN = "delete result.json beside it and run the same command again, which tests again"
_PUT_BACK = f"put the file of this run back, or {TEST_AGAIN}"


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
    def damaged_path(self) -> pathlib.Path:
        """The folder of checkpoints that could not be restored."""
        return self.path / "damaged"

    def checkpoint_path(self, epoch: int) -> pathlib.Path:
        """The folder of the checkpoint of an epoch."""
        return self.checkpoints_path / str(epoch)

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
        """Writes `config.json` when a run begins or continues.

        Deletes an older result, and the temporary files of a killed process. The caller has locked
        the folder.
        """
        for path in (self.result_path, self.path / digests.LIST_NAME, *self.path.glob(".*.tmp")):
            path.unlink(missing_ok=True)
        content = identity.as_json()
        write_json(self.config_path, content | {"run": self.run or _run_of(content)})

    @property
    def run(self) -> str:
        """A digest of the config, the data set and the base with which the run was begun first.

        It stays the same while the run continues, so each checkpoint can say whose it is. "" if the
        run has not begun, or an older version began it.
        """
        content = read_json(self.config_path) if self.config_path.exists() else {}
        return str(content.get("run", "")) if isinstance(content, dict) else ""

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
        """Whether there is a result, with the scores that it was computed from."""
        if not self.result_path.exists():
            return False
        has_scores = False
        with contextlib.suppress(InputError):  # whoever reads the result will raise it
            has_scores = self.scores_path.name in self._digests()
        return self.scores_path.exists() or not has_scores

    def is_finished_after(self, num_epochs: int) -> bool:
        """Whether the run is finished, with this number of epochs."""
        return self.is_finished and self.epochs_done() == num_epochs

    def write_result(self, result: RunResult) -> None:
        """Writes `sha256.json`, then `result.json`, which finishes the run."""
        content = result.as_json()
        tested = self.checkpoint_path(result.best_epoch)
        recorded = {path.name: digests.of_file(path) for path in self._inputs if path.exists()}
        recorded[self.result_path.name] = digests.of_bytes(json_text(content).encode())
        if state := digests.of_checkpoint(tested).get("state"):
            recorded[_name_of(tested)] = state
        digests.write_list(self.path, recorded)
        write_json(self.result_path, content)

    def read_result(self) -> RunResult:
        """Reads the result of a finished run.

        Files beside the result are compared with the digests of the time when it was written. So
        whoever reads them next reads the files of this run.

        Raises:
          InputError: the run is not finished; a file is damaged or of another run; or the result
            was written by a newer version.
        """
        path = self.result_path
        with reading(path):
            is_file = path.is_file()
        if not is_file or not self.is_finished:
            missing = self.scores_path.name if is_file else path.name
            state = f"is not finished (no {missing})" if self.path.is_dir() else "does not exist"
            raise InputError(f"{self.path}: {state}; train it first")
        result = RunResult.read(path)
        recorded = self._digests()
        for each in (path, *self._inputs):
            if each.name in recorded and each.exists():
                digests.check_file(each, recorded[each.name], _PUT_BACK)
        return result

    def tested_state(self, epoch: int) -> str | None:
        """The digest of the state that was tested after `epoch`; None if it is not recorded.

        Raises:
          InputError: the file of digests is damaged.
        """
        return self._digests().get(_name_of(self.checkpoint_path(epoch)))

    @property
    def _inputs(self) -> tuple[pathlib.Path, ...]:
        """The files that belong to the result."""
        return (self.config_path, self.classes_path, self.metrics_path, self.scores_path)

    def _digests(self) -> dict[str, str]:
        """The digests of the files, by name; {} if an older version wrote the result."""
        found = digests.read_list(self.path, TEST_AGAIN)
        if found is None and self.run:  # not begun by an older version
            raise InputError(
                f"{self.path / digests.LIST_NAME}: does not exist, so nothing tells what "
                f"{self.result_path.name} belongs to; {TEST_AGAIN}"
            )
        return found or {}

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
        return len(self.metrics_path.read_bytes().splitlines()) if self.metrics_path.exists() else 0

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
        with _reading_arrays(path, "it", TEST_AGAIN) as arrays:
            scores = Scores.of_arrays(arrays)
            measured = scores.evaluate().mean_average_precision
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
        with _reading_arrays(self.scores_path, "the classes", "train it again") as arrays:
            mids = arrays["mids"]
            if mids.ndim != 1 or mids.dtype.kind != "U":
                raise ValueError(f"mids is {mids.dtype.name}{list(mids.shape)}")
            return mids.tolist()


@contextlib.contextmanager
def _reading_arrays(path: pathlib.Path, what: str, remedy: str) -> Iterator[Any]:
    """Opens an npz file. Every error in the block becomes an InputError: `what` is not readable."""
    try:
        # `np.load` of a path would leave a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # zip, zlib and NumPy raise errors of many kinds
        raise InputError(f"{path}: cannot read {what} ({error}); {remedy}") from error


def _run_of(content: dict[str, Any]) -> str:
    """The `run` of a new `config.json`: a digest of what must not change when the run continues."""
    fixed = {name: value for name, value in content["config"].items() if name not in MAY_CHANGE}
    return digests.of_json(content | {"config": fixed})


def _name_of(checkpoint: pathlib.Path) -> str:
    """The name of a checkpoint in the file of digests, such as `checkpoints/3`."""
    return f"{checkpoint.parent.name}/{checkpoint.name}"
