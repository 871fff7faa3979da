"""A grid of runs: base trainings and all transfers from them, and the report of it."""

import importlib.metadata
import itertools
import json
import logging
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from relabel_jax.data.data_set import ONTOLOGY_NAME, DataSet, open_data_set
from relabel_jax.errors import InputError
from relabel_jax.experiments.config import METHODS, paper_config
from relabel_jax.experiments.run import MAY_CHANGE, RESULT_NAME, begun_before, run_population
from relabel_jax.files import complete_file, read_json, write_json
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.views import SPLITS, side_columns
from relabel_jax.report.results import GRID_NAME, check_truth, read_truth
from relabel_jax.report.web_page import require_plotly
from relabel_jax.report.write import write_report
from relabel_jax.runs import processes

_LOG = logging.getLogger(__name__)
# Fields of a grid that no run has.
_OF_GRID = ("roots", "target_labelings", "num_seeds", "only", "truth")
# Where these differ, it is still the same grid. The number of epochs may not grow, as that of a run
# may: another base would come of it, and all transfers would have to begin anew.
_MAY_CHANGE = {*MAY_CHANGE, "num_seeds", "only", "truth"} - {"num_epochs"}
TUNED = ("features", "finetune")  # the methods that start from a base
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "grain", "orbax-checkpoint", "numpy", "scipy")


class Cell(NamedTuple):
    """A run of a grid; `base_labeling` is "" where there is no base. Its seed is its base's too.

    The root is a display name once the ontology is known, whatever the config has.
    """

    root: str
    method: str
    base_labeling: str
    seed: int
    labeling: str

    @property
    def folder(self) -> pathlib.Path:
        """Below the workdir of the grid."""
        from_base = f"from_{self.base_labeling}" if self.base_labeling else ""
        parts = (self.method, from_base, self.labeling, f"seed{self.seed}")
        return pathlib.Path(self.root.lower().replace(" ", "_"), "_".join(filter(None, parts)))


def grid_config(roots: tuple[str, ...], target_labelings: tuple[str, ...]) -> ConfigDict:
    """The paper's recipe for a grid: for each root a base training with each labeling, and on its
    target side `features` and `finetune` from each base, and `scratch`, with each target labeling.
    """
    config = paper_config(root="", method="")
    for field in ("root", "method", "labeling", "labelings", "seeds", "base"):
        del config[field]
    config.roots = roots
    config.target_labelings = target_labelings
    config.num_seeds = 1  # the whole grid with config.seed, config.seed + 1, and so on
    config.only = ""  # such as human,finetune: of these roots and methods, with the bases needed
    config.truth = ""  # a CSV of true labels, the miniature's truth.csv: scored on in the report
    return config


def run_grid(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Runs all cells that are not finished, in this process, and writes the report.

    Cells that differ in labeling alone train as one population; base trainings and those from
    scratch also over the seeds. A cell that fails is reported and the others go on, but for the
    transfers from a base that failed.

    Returns:
      The report, as of `relabel_jax.report.write.write_report`, whose `problems` tell of the cells
      that failed; None in all processes but the first.

    Raises:
      InputError: nothing can be run, or the workdir is another grid's; in all processes but the
        first also where cells failed.
      Interrupted: by a SIGTERM, after saving.
    """
    processes.from_primary(lambda: require_plotly("report"))  # which alone writes it
    processes.check_same(
        {
            f"config.{field}": value
            for field, value in json.loads(config.to_json()).items()
            if field not in ("data_dir", "truth")
        }
    )
    cells, data_set, roots = processes.together(lambda: (_cells(config), *_open(config)))
    config = config.copy_and_resolve_references()
    config.roots = tuple(roots.values())
    cells = [cell._replace(root=roots[cell.root]) for cell in cells]
    processes.from_primary(lambda: _check_truth(config, data_set))
    processes.from_primary(lambda: _begin(config, data_set, workdir))
    problems: dict[str, None] = {}  # an ordered set
    failed: set[Cell] = set()
    with (
        logging_redirect_tqdm([logging.getLogger("relabel_jax")]),
        _Progress(config, data_set, workdir, cells) as progress,
    ):
        for population in _populations(cells):
            population = [cell for cell in population if not failed & set(_bases(cell))]
            for part in (population, *([cell] for cell in population)):
                # All together; where that fails each alone, so that one takes none with it.
                if not part or any(cell in failed or cell in progress.done for cell in part):
                    continue
                progress.begin(part)
                try:
                    run_population(
                        [_config(config, cell, workdir) for cell in part],
                        [workdir / cell.folder for cell in part],
                        progress.on_epoch,
                    )
                    progress.finish(part)
                except (InputError, jax.errors.JaxRuntimeError) as error:
                    # What JAX raises, as of lost connections or memory, it need not raise in all.
                    if jax.process_count() > 1 and not isinstance(error, InputError):
                        raise
                    if len(part) == 1:
                        failed |= set(part)
                        message = str(error).splitlines()[0]
                        _LOG.error("%s failed: %s", part[0].folder, message)
                        problems[message] = None
            failed |= {cell for cell in cells if failed & set(_bases(cell))}
    if not progress.done:
        raise InputError(next(iter(problems)))
    if failed:
        problems[f"{len(failed)} of {len(cells)} runs failed or have no base"] = None

    def finish() -> None:
        description = read_json(workdir / GRID_NAME)
        write_json(workdir / GRID_NAME, description | {"problems": list(problems)})

    processes.from_primary(finish)
    if processes.is_primary():
        return write_report(workdir)
    if problems:
        raise InputError("some runs failed, see process 0")
    return None


def _open(config: ConfigDict) -> tuple[DataSet, dict[str, str]]:
    """The data set, and the display names of the roots."""
    data_set = open_data_set(config.data_dir)
    ontology = data_set.ontology
    return data_set, {root: ontology.display_names[ontology.find(root)] for root in config.roots}


def _check_truth(config: ConfigDict, data_set: DataSet) -> None:
    """Before all runs, not after them in the report."""
    if config.truth:
        try:
            is_test = data_set.clip_splits == SPLITS.index("test")
            check_truth(read_truth(config.truth), data_set.clip_ids[is_test].tolist())
        except InputError as error:
            raise InputError(f"config.truth={config.truth}: {error}") from error


def _cells(config: ConfigDict) -> list[Cell]:
    """In the order in which they are run."""
    seeds = range(config.seed, config.seed + config.num_seeds)
    if not config.roots:
        raise InputError("config.roots: expected at least one target root")
    if config.num_seeds < 1:
        raise InputError(f"config.num_seeds: expected 1 or more, got {config.num_seeds}")
    cells = []
    for root in config.roots:
        transfers = [
            (method, base, seed)
            for base, seed in itertools.product(LABELINGS, seeds)
            for method in TUNED
        ]
        transfers += [("scratch", "", seed) for seed in seeds]
        cells += [Cell(root, "base", "", *rest) for rest in itertools.product(seeds, LABELINGS)]
        cells += [
            Cell(root, *transfer, labeling)
            for transfer in transfers
            for labeling in config.target_labelings
        ]
    words = [word.strip().casefold() for word in config.only.split(",") if word.strip()]
    methods = [word for word in words if word in METHODS]
    of_roots = [word for word in words if word not in METHODS]
    for word in of_roots:
        if not any(word in root.casefold() for root in config.roots):
            raise InputError(
                f"config.only: {word!r} is neither in a root ({', '.join(config.roots)}) nor a "
                f"method ({', '.join(METHODS)})"
            )
    wanted = {
        cell
        for cell in cells
        if (not methods or cell.method in methods)
        and (not of_roots or any(word in cell.root.casefold() for word in of_roots))
    }
    wanted |= {base for cell in wanted for base in _bases(cell)}
    return [cell for cell in cells if cell in wanted]


def _bases(cell: Cell) -> list[Cell]:
    """The base of a cell: none or one."""
    if not cell.base_labeling:
        return []
    return [Cell(cell.root, "base", "", cell.seed, cell.base_labeling)]


def _populations(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Which train together: those of one root, method and base."""

    def key(cell: Cell) -> tuple:
        return (*cell[:3], cell.seed if cell.base_labeling else None)

    return [list(group) for _, group in itertools.groupby(cells, key)]


def _config(config: ConfigDict, cell: Cell, workdir: pathlib.Path) -> ConfigDict:
    """The config of one run."""
    of_run = ConfigDict({k: v for k, v in config.to_dict().items() if k not in _OF_GRID})
    of_run.update(root=cell.root, method=cell.method, labeling=cell.labeling, seed=cell.seed)
    of_run.base = "".join(str(workdir / base.folder) for base in _bases(cell))
    return of_run


def _begin(config: ConfigDict, data_set: DataSet, workdir: pathlib.Path) -> None:
    """Makes the workdir and says there what it is of; refuses that of something else."""
    path = workdir / GRID_NAME
    plain = json.loads(config.to_json())
    if config.truth:  # for reports that are made elsewhere
        plain["truth"] = os.path.abspath(config.truth)
    if path.exists():
        identity = {"config": plain, "data_set": data_set.fingerprint}
        begun_before(path, identity, _MAY_CHANGE, data_set.path)
    elif (workdir / "config.json").exists() or (workdir / RESULT_NAME).exists():
        raise InputError(f"{workdir}: is the workdir of a single run; give another --workdir")
    with complete_file(workdir / ONTOLOGY_NAME) as temporary:
        temporary.write_text(data_set.ontology.text, encoding="utf-8")
    description = {
        "config": plain,
        "data_set": data_set.fingerprint,
        "roots": list(config.roots),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "versions": {"Python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
        "hardware": _hardware(),
        "problems": [],
    }
    write_json(path, description)


def _program() -> list[str]:
    module = sys.modules["__main__"].__spec__
    return ["python", "-m", module.name] if module else [sys.argv[0]]


def _hardware() -> dict[str, str]:
    devices = jax.devices()
    cpu = platform.processor() or platform.machine()
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": str(jax.process_count()),
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "system": platform.platform(),
    }


class _Progress:
    """The progress of a grid: cells done, the current epoch, clips/s, time left."""

    def __init__(
        self, config: ConfigDict, data_set: DataSet, workdir: pathlib.Path, cells: Sequence[Cell]
    ):
        self.done: set[Cell] = set()
        self._workdir = workdir
        self._num_epochs = config.num_epochs
        self._cells = cells
        self._part: Sequence[Cell] = ()
        self._clips = {}
        for root in config.roots:
            target = side_columns(data_set.ontology, data_set.ontology.find(root), "target")
            is_target = data_set.labels[:, target].any(axis=1) & (data_set.clip_splits == 0)
            num_target = int(is_target.sum())
            num_train = int((data_set.clip_splits == 0).sum())
            self._clips[root] = {True: num_train - num_target, False: num_target}
        total = sum(self._left(cell) for cell in cells)
        self._bar = tqdm(total=total, unit=" clips", unit_scale=True, disable=None, smoothing=0.05)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()

    def begin(self, part: Sequence[Cell]) -> None:
        """The cells that train from now on."""
        self._part = [cell for cell in part if self._left(cell)]
        self._epoch = min((self._epochs_done(cell) for cell in self._part), default=0)
        self._show()

    def on_epoch(self) -> None:
        """One more epoch of these."""
        self._epoch += 1
        self._bar.update(sum(self._per_epoch(cell) for cell in self._part))
        self._show()

    def finish(self, part: Sequence[Cell]) -> None:
        """These are done."""
        self.done |= set(part)
        self._part = ()
        self._show()

    def _show(self) -> None:
        text = f"{len(self.done)}/{len(self._cells)} cells"
        if self._part:
            first = self._part[0]
            text += f", {first.folder.parent} {first.method} epoch {self._epoch}/{self._num_epochs}"
        self._bar.set_description(text)

    def _per_epoch(self, cell: Cell) -> float:
        """Training clips that pass the network; the `features` method costs next to nothing."""
        clips = self._clips[cell.root][cell.method == "base"]
        return clips if cell.method != "features" else clips * 0.01

    def _left(self, cell: Cell) -> float:
        return self._per_epoch(cell) * max(0, self._num_epochs - self._epochs_done(cell))

    def _epochs_done(self, cell: Cell) -> int:
        path = self._workdir / cell.folder / "metrics.jsonl"
        return len(path.read_text().splitlines()) if path.exists() else 0
