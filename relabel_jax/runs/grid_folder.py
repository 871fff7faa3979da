"""The folder of a grid of runs: `grid.json`, `ontology.json`, `report/`, and the runs below it.

`grid.json` has a digest of itself and one of `ontology.json`. Grids of older versions have neither.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from relabel_jax import digests
from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.runs.old_configs import upgraded
from relabel_jax.runs.schema import FORMAT_VERSION, read_versioned
from relabel_jax.runs.workdir import Workdir

_DIGEST, _ONTOLOGY = "digest", "ontology"
_BEGIN_AGAIN = "delete grid.json and run the grid again, which keeps its finished runs"


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
          InputError: the file or `ontology.json` is damaged or of another grid, or a newer version
            wrote the file.
        """
        if not self.is_grid:
            return {}
        description = read_versioned(self.grid_path, _BEGIN_AGAIN)
        recorded = description.pop(_DIGEST, None)
        if recorded not in (None, digests.of_json(description)):
            raise InputError(f"{self.grid_path}: is damaged or was changed; {_BEGIN_AGAIN}")
        if _ONTOLOGY in description and self.ontology_path.exists():
            expected = description[_ONTOLOGY]
            digests.check_file(self.ontology_path, expected, _BEGIN_AGAIN, self.grid_path.name)
        try:
            return description | {"config": upgraded(description["config"])}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.grid_path}: is not what a grid writes there; {_BEGIN_AGAIN}"
            ) from error

    def write_description(self, description: Mapping[str, Any]) -> None:
        """Writes `grid.json`, with the digest of the `ontology.json` beside it."""
        content = {"format_version": FORMAT_VERSION, **description}
        if self.ontology_path.exists():
            content[_ONTOLOGY] = digests.of_file(self.ontology_path)
        write_json(self.grid_path, content | {_DIGEST: digests.of_json(content)})

    def finished_runs(self) -> list[Workdir]:
        """Lists the finished runs below the folder by path; for a grid, its own runs only."""
        name = Workdir(self.path).result_path.name
        # The runs of a grid are two folders down.
        pattern = f"*/*/{name}" if self.is_grid else f"**/{name}"
        return [Workdir(path.parent) for path in sorted(self.path.glob(pattern))]
