"""Flips single bits of a run folder and an export, and counts what passes unnoticed.

  python tests/campaigns/flips.py --flips=240 --seed=0

It makes the folder of a finished run of a tiny network, and its export. For each flip it copies
both, flips one random bit of one random file, and does what commands do with the folders:

- `use`: loads the network of the run, as `embed`, `demo`, `export` and transfers do;
- `report`: reads the result, the curve and the scores;
- `resume`: looks for the state from which training continues, and restores it;
- `export`: loads the exported network.

Each flip has one of these outcomes, the worst of the four readings:

- `same`: everything that is read is what it was before the flip;
- `fell back`: training continues from an earlier state of this run, and the log says so;
- `refused`: one line (InputError);
- `crashed`: another error;
- `silent`: something else was read, without a word.

The command exits with 1 if a flip was silent or crashed. 240 flips take about two minutes.
"""

import argparse
import collections
import json
import logging
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from relabel_jax.errors import InputError
from relabel_jax.inference.export import export
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import classes_digest, side_columns
from relabel_jax.models import registry
from relabel_jax.models.variables import random_variables, waveform_batch
from relabel_jax.report.results import FinishedRun
from relabel_jax.runs.classes import sound_classes
from relabel_jax.runs.schema import MAY_CHANGE, Identity, RunResult, Scores
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.runs.workdir import Workdir
from relabel_jax.train.step import Recipe, TrainState, init_state

OUTCOMES = ("same", "fell back", "refused", "crashed", "silent")
STEPS_PER_EPOCH = 10
_RECIPE = Recipe(0.001, 0.987, STEPS_PER_EPOCH)
_MODEL = {"name": "waveform_cnn", "features": [4] * 9, "dense_units": [8, 8]}
_MAPS = (0.2, 0.6, 0.4)  # the second epoch is the best one
_ROOT = "/m/0dgw9r"


def main(arguments: list[str] | None = None) -> int:
    """Runs the campaign; returns 1 if a flip was silent or crashed."""
    parser = argparse.ArgumentParser(description="Flips bits of a run folder and an export.")
    parser.add_argument("--flips", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        counts: collections.Counter[str] = collections.Counter()
        for name, bit, outcome, detail in campaign(pathlib.Path(folder), flags.flips, flags.seed):
            counts[outcome] += 1
            if outcome in ("crashed", "silent"):
                print(f"{outcome}: bit {bit} of {name}: {detail}")
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES))
    return int(counts["crashed"] + counts["silent"] > 0)


def campaign(
    folder: pathlib.Path, num_flips: int, seed: int
) -> Iterator[tuple[str, int, str, str]]:
    """Flips bits; yields the file, the bit, the outcome and what was read or said.

    Args:
      folder: an empty folder to work in.
      num_flips: the number of flips. Each file gets as many of them as any other.
      seed: the seed of the bits.
    """
    logging.getLogger("relabel_jax").propagate = False
    make(folder / "whole")
    files = sorted(path for path in (folder / "whole").rglob("*") if path.is_file())
    files = [path for path in files if path.stat().st_size]
    shutil.copytree(folder / "whole", folder / "copy")
    expected = {name: read(folder / "copy") for name, read in READINGS.items()}
    shutil.rmtree(folder / "copy")
    rng = random.Random(seed)
    for number in range(num_flips):
        path = files[number % len(files)].relative_to(folder / "whole")
        bit = rng.randrange(8 * (folder / "whole" / path).stat().st_size)
        outcomes = []
        for name, read in READINGS.items():
            shutil.copytree(folder / "whole", folder / "copy")
            flip(folder / "copy" / path, bit)
            outcomes.append(outcome_of(read, folder / "copy", expected[name]))
            shutil.rmtree(folder / "copy")
        outcome, detail = max(outcomes, key=lambda each: OUTCOMES.index(each[0]))
        yield str(path), bit, outcome, detail


def flip(path: pathlib.Path, bit: int) -> None:
    """Flips a bit of a file."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def outcome_of(
    read: Callable[[pathlib.Path], Any], folder: pathlib.Path, expected: Any
) -> tuple[str, str]:
    """Reads a changed folder; returns the outcome, and what was read or said.

    Args:
      read: the reading; what it returns can be compared.
      folder: the folder.
      expected: what it returns without the change.
    """
    log = _Log()
    logger = logging.getLogger("relabel_jax")
    logger.addHandler(log)
    try:
        found = read(folder)
    except InputError as error:
        return ("crashed" if "\n" in str(error) else "refused"), str(error)
    except Exception as error:  # what a command would answer with a traceback
        return "crashed", repr(error)
    finally:
        logger.removeHandler(log)
    if found == expected:
        return "same", ""
    if log.lines and found in _EARLIER:
        return "fell back", log.lines[0]
    return "silent", f"read {found!r}"


class _Log(logging.Handler):
    """Collects warnings."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _use(folder: pathlib.Path) -> Any:
    return _network(folder / "run")


def _export(folder: pathlib.Path) -> Any:
    return _network(folder / "export")


def _network(path: pathlib.Path) -> Any:
    found = load_pretrained(path)
    return found.network, found.classes, json.dumps(found.trained), _content(found.variables)


def _report(folder: pathlib.Path) -> Any:
    run = FinishedRun.read(Workdir(folder / "run"))
    return run.result.as_json(), run.curve, _content(run.read_scores()._asdict())


def _resume(folder: pathlib.Path) -> Any:
    workdir = Workdir(folder / "run")
    begun = workdir.begun_with()
    assert begun is not None
    begun.check_same(_identity(), MAY_CHANGE, workdir.path, "D")
    with TrainingFolder(workdir, STEPS_PER_EPOCH) as training:
        epochs, steps = training.progress()
        state = training.restore(epochs, steps, _state(0))
        best = training.restore_best(_state(0))
    return epochs, steps, _content(state), _content(best)


READINGS: dict[str, Callable[[pathlib.Path], Any]] = {
    "use": _use,
    "report": _report,
    "resume": _resume,
    "export": _export,
}
_EARLIER: list[Any] = []  # what `_resume` returns if training continues after the second epoch


def _content(tree: Any) -> list[tuple[str, str, bytes]]:
    """The arrays of a tree, in a form that can be compared."""
    leaves = [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in
              jax.tree_util.tree_leaves_with_path(tree)]  # fmt: skip
    return [(name, leaf.dtype.str, leaf.tobytes()) for name, leaf in leaves]


def _identity() -> Identity:
    return Identity({"num_epochs": 3, "data_dir": "D", "seed": 0, "model": _MODEL}, "d")


def _columns() -> np.ndarray:
    ontology = Ontology.audioset()
    return side_columns(ontology, ontology.index[_ROOT], "target")


def _state(epoch: int) -> TrainState:
    """A state after an epoch; the weights are random and differ from epoch to epoch."""
    network = registry.build(_MODEL, len(_columns()))
    variables = random_variables(network, waveform_batch(network), epoch)
    state = jax.device_get(init_state(variables, _RECIPE))
    return state.replace(step=np.array(epoch * STEPS_PER_EPOCH, np.int32))


def make(folder: pathlib.Path) -> None:
    """Makes the folder of a finished run, `run`, and its export, `export`."""
    ontology, columns = Ontology.audioset(), _columns()
    workdir = Workdir(folder / "run")
    workdir.path.mkdir(parents=True)
    outputs = sound_classes(ontology, columns)
    workdir.write_classes(outputs)
    workdir.begin(_identity())
    with TrainingFolder(workdir, STEPS_PER_EPOCH) as training:
        for epoch, validation_map in enumerate(_MAPS, start=1):
            line = {"epoch": epoch, "step": epoch * STEPS_PER_EPOCH, "train_loss": 0.25}
            line |= {"validation_mAP": validation_map, "clips_per_s": 20.0, "seconds": 1.5}
            training.finish_epoch(line, _state(epoch))
    mids = np.array([each.mid for each in outputs[:3]])
    labels = np.eye(3, dtype=bool)
    values = np.random.default_rng(0).random((3, 3), np.float32)
    scores = Scores(np.array(["a", "b", "c"]), mids, values, labels, labels & False)
    workdir.write_scores(scores)
    test = scores.evaluate()
    workdir.write_result(
        RunResult(
            test={
                "mAP": test.mean_average_precision,
                "mean_auc": test.mean_auc,
                "d_prime": None,
            },
            best_epoch=2,
            root="Human sounds",
            root_mid=_ROOT,
            side="target",
            labeling="ol",
            method="scratch",
            precision="f32",
            backend="cpu",
            base_labeling="",
            seed=0,
            num_clips={"train": 80, "validation": 9, "test": 3},
            num_labels=3,
            classes=classes_digest(ontology, columns),
            data_set="d",
            config=_identity().config,
        )
    )
    export(load_pretrained(workdir.path), folder / "export", ["safetensors"])
    best = _content(_state(2))
    _EARLIER[:] = [(2, 2 * STEPS_PER_EPOCH, best, best)]


if __name__ == "__main__":
    sys.exit(main())
