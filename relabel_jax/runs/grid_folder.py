"""The folder of a grid of runs: `grid.json`, `ontology.json`, `report/`, and the runs below it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.runs.old_configs import upgraded
from relabel_jax.runs.schema import FORMAT_VERSION, read_versioned
from relabel_jax.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class GridFolder:
    """The folder of a grid of runs, or any folder with run folders below it.

    Attributes:
      path: the folder, which need not exist yet.
    """

    path: pathlib.Path

    @property
    def grid_path(self) -> pathlib.Path:
        return self.path / "grid.json"

    @property
    def ontology_path(self) -> pathlib.Path:
        return self.path / "ontology.json"

    @property
    def report_path(self) -> pathlib.Path:
        """The folder of the report."""
        return self.path / "report"

    @property
    def is_grid(self) -> bool:
        return self.grid_path.exists()

    def read_description(self) -> dict[str, Any]:
        """Reads `grid.json`, with its config in today's form; {} if the file does not exist.

        Raises:
          InputError: the file is damaged, or was written by a newer version.
        """
        if not self.is_grid:
            return {}
        description = read_versioned(self.grid_path, "run the grid again")
        try:
            return description | {"config": upgraded(description["config"])}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.grid_path}: is not what a grid writes there; run it again"
            ) from error

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Writes `grid.json`."""
        write_json(self.grid_path, {"format_version": FORMAT_VERSION, **description})

    def finished_runs(self) -> list[Workdir]:
        """Lists the finished runs below the folder by path; for a grid, its own runs only."""
        name = Workdir(self.path).result_path.name
        # The runs of a grid are two folders down.
        pattern = f"*/*/{name}" if self.is_grid else f"**/{name}"
        return [Workdir(path.parent) for path in sorted(self.path.glob(pattern))]
