"""The classes of a network's outputs, with the names that people read."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

from relabel_jax.errors import InputError
from relabel_jax.files import write_json
from relabel_jax.labels.ontology import Ontology
from relabel_jax.runs.schema import FORMAT_VERSION, read_versioned


@dataclasses.dataclass(frozen=True)
class SoundClass:
    """One output of a network.

    Attributes:
      mid: such as `/m/09x0r`.
      display_name: such as `Speech`.
      paths: all paths from a root of the ontology down to this class, as display names.
    """

    mid: str
    display_name: str
    paths: tuple[tuple[str, ...], ...]


def sound_classes(ontology: Ontology, numbers: Iterable[int]) -> tuple[SoundClass, ...]:
    """The classes of an ontology that have these class numbers, in their order."""
    names = ontology.display_names
    return tuple(
        SoundClass(
            ontology.mids[number],
            names[number],
            tuple(tuple(names[i] for i in path) for path in ontology.paths(number)),
        )
        for number in numbers
    )


def write_classes(path: pathlib.Path, classes: Sequence[SoundClass]) -> None:
    """Writes classes to a JSON file, which `read_classes` reads."""
    content = [dataclasses.asdict(each) for each in classes]
    write_json(path, {"format_version": FORMAT_VERSION, "classes": content})


def read_classes(path: pathlib.Path) -> tuple[SoundClass, ...]:
    """Reads the classes that `write_classes` wrote.

    Raises:
      InputError: the file is damaged, or was written by a newer version.
    """
    remedy = "give the data set's ontology.json as --ontology"
    content = read_versioned(path, remedy)
    try:
        return tuple(
            SoundClass(
                str(each["mid"]),
                str(each["display_name"]),
                tuple(tuple(map(str, names)) for names in each["paths"]),
            )
            for each in content["classes"]
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error!r}); {remedy}") from error
