"""The runs of a grid, the bases that they start from, and the runs that are trained together."""

import hashlib
import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import METHODS, TUNED, paper_config
from relabel_jax.experiments.labelings import check_labelings
from relabel_jax.labels.labelings import PAPER_LABELINGS

# Fields that a grid has and a run has not.
_OF_GRID = ("roots", "base_labelings", "target_labelings", "num_seeds", "only", "truth")
_MAX_SEEDS = 1000
_UNSAFE = re.compile(r"[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # in the name of a folder
_MAX_NAME_BYTES = 255  # of most file systems
# Names that are no folder, or that another file in the workdir of a grid has.
_RESERVED = ("", ".", "..", ".lock", "grid.json", "ontology.json")


class Cell(NamedTuple):
    """A run of a grid. It has the same seed as its base; `base_labeling` is "" without a base.

    The config may give a root by mid. Once the ontology is known, `root` is a display name.
    """

    root: str
    method: str
    base_labeling: str
    seed: int
    labeling: str

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the run, relative to the workdir of the grid."""
        from_base = f"from_{self.base_labeling}" if self.base_labeling else ""
        parts = (self.method, from_base, self.labeling, f"seed{self.seed}")
        return pathlib.Path(folder_name(self.root), "_".join(filter(None, parts)))

    @property
    def base(self) -> "Cell | None":
        """The base training that the run starts from; None if there is none."""
        if not self.base_labeling:
            return None
        return Cell(self.root, "base", "", self.seed, self.base_labeling)


def folder_name(root: str) -> str:
    """Returns the name of the folder of a root: one part of a path, whatever the name holds.

    A name that is not a safe part of a path gets a digest. So `A/B` and `A_B` have two folders.

    >>> folder_name("Human sounds")
    'human_sounds'
    >>> folder_name("/tmp/Speech")
    '_tmp_speech_e45c0d0e'
    """
    name = root.lower().replace(" ", "_")
    safe = _UNSAFE.sub("_", name)
    if safe == name and name not in _RESERVED and len(name.encode()) <= _MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(root.encode(errors="surrogatepass")).hexdigest()[:8]
    start = safe.encode()[: _MAX_NAME_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{start}_{digest}"


def check_folders(roots: Sequence[str]) -> None:
    """Raises InputError if two roots of a grid would share a folder."""
    names: dict[str, str] = {}
    for root in roots:
        other = names.setdefault(folder_name(root), root)
        if other != root:
            raise InputError(
                f"config.roots: {other!r} and {root!r} would both write to the folder "
                f"{folder_name(root)}; give each its own --workdir"
            )


def grid_config(
    roots: tuple[str, ...],
    target_labelings: tuple[str, ...],
    base_labelings: tuple[str, ...] = PAPER_LABELINGS,
) -> ConfigDict:
    """Returns the paper's recipe for a grid.

    For each root the grid has a base training with each base labeling. On the target side it has,
    with each target labeling, `features` and `finetune` from each base, and `scratch`.

    Args:
      roots: display names or mids of the target roots.
      target_labelings: the labelings of the target side.
      base_labelings: the labelings of the bases.
    """
    config = paper_config(root="", method="")
    for field in ("root", "method", "labeling", "labelings", "seeds", "base"):
        del config[field]
    config.roots = roots
    config.base_labelings = base_labelings
    config.target_labelings = target_labelings
    config.num_seeds = 1  # the grid is repeated with config.seed, config.seed + 1, and so on
    config.only = ""  # such as human,finetune: only these roots and methods, with their bases
    config.truth = ""  # a CSV of true labels, as the miniature's truth.csv, to score on too
    return config


def run_config(config: ConfigDict, cell: Cell, workdir: pathlib.Path) -> ConfigDict:
    """Returns the config of one run of a grid whose workdir is `workdir`."""
    of_run = ConfigDict({k: v for k, v in config.to_dict().items() if k not in _OF_GRID})
    of_run.update(root=cell.root, method=cell.method, labeling=cell.labeling, seed=cell.seed)
    of_run.base = str(workdir / cell.base.folder) if cell.base else ""
    return of_run


def all_cells(config: ConfigDict) -> list[Cell]:
    """Lists the runs of a grid in the order in which they are run.

    Raises:
      InputError: there are no roots or too few or many seeds, a labeling is unknown or is there
        twice, or `only` names no root and no method of the grid.
    """
    if not config.roots:
        raise InputError("config.roots: expected at least one target root")
    for root in config.roots:
        if not isinstance(root, str):
            raise InputError(f"config.roots: expected display names or mids, got {root!r}")
    if not 1 <= config.num_seeds <= _MAX_SEEDS:
        raise InputError(
            f"config.num_seeds: expected 1 or more, up to {_MAX_SEEDS}, got {config.num_seeds}"
        )
    seeds = range(config.seed, config.seed + config.num_seeds)
    for field in ("base_labelings", "target_labelings"):
        check_labelings(config, field, config[field])
    cells = []
    for root in config.roots:
        transfers = [
            (method, base, seed)
            for base, seed in itertools.product(config.base_labelings, seeds)
            for method in TUNED
        ]
        transfers += [("scratch", "", seed) for seed in seeds]
        cells += [
            Cell(root, "base", "", *rest)
            for rest in itertools.product(seeds, config.base_labelings)
        ]
        cells += [
            Cell(root, *transfer, labeling)
            for transfer in transfers
            for labeling in config.target_labelings
        ]
    return _only(cells, config)


def _only(cells: Sequence[Cell], config: ConfigDict) -> list[Cell]:
    """Returns the cells that `config.only` names, and the bases that they need."""
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
    wanted |= {cell.base for cell in wanted if cell.base}
    return [cell for cell in cells if cell in wanted]


def populations(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups cells that are trained together: those with the same root, method and base."""

    def key(cell: Cell) -> tuple:
        return (*cell[:3], cell.seed if cell.base_labeling else None)

    return [list(group) for _, group in itertools.groupby(cells, key)]
