"""The digests of a data set's files: whether they are those that the build wrote.

`sha256.json` holds the digests of all files of the data set, and the size and the number of records
of each shard. The build writes it right before the index. Whoever opens a data set compares the
small files and the sizes of the shards with it, which takes milliseconds. `data_prep.verify`
compares the digests of the shards too. Data sets of older versions do not have the file.
"""

import dataclasses
import itertools
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping

from relabel_jax import digests
from relabel_jax.data.layout import (
    FEATURES_NAME,
    INDEX_NAME,
    INFO_NAME,
    ONTOLOGY_NAME,
    REJECTS_NAME,
)
from relabel_jax.errors import InputError

_LOG = logging.getLogger(__name__)

OPENED = (ONTOLOGY_NAME, INDEX_NAME, FEATURES_NAME, INFO_NAME)
"""The files that are compared when a data set is opened."""

SMALL_FILES = (*OPENED, REJECTS_NAME)
"""The files beside the shards that have a digest."""


@dataclasses.dataclass(frozen=True)
class ShardFacts:
    """The size of a shard, its number of records, and its digest, as the build wrote it."""

    num_bytes: int
    num_records: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The content of `sha256.json`.

    Attributes:
      small: digests of `SMALL_FILES`, by name.
      shards: size, number of records and digest of each shard, by name, in the data set's order.
    """

    small: dict[str, str]
    shards: dict[str, ShardFacts]


def write(data_dir: pathlib.Path, index: pathlib.Path, shards: Mapping[str, ShardFacts]) -> None:
    """Writes `sha256.json` of a data set whose files are all there, except the index.

    Args:
      data_dir: the data set's folder.
      index: the index under its temporary name.
      shards: size, number of records and digest of each shard, by name, in the data set's order.
    """
    places = {name: data_dir / name for name in SMALL_FILES} | {INDEX_NAME: index}
    small = {name: digests.of_file(place) for name, place in places.items()}
    facts = {
        name: {"num_bytes": each.num_bytes, "num_records": each.num_records}
        for name, each in shards.items()
    }
    digests.write_list(
        data_dir, small | {name: each.sha256 for name, each in shards.items()}, {"shards": facts}
    )


def read(data_dir: pathlib.Path) -> Recorded | None:
    """Reads `sha256.json`; None if there is none, which a warning in the log says.

    Raises:
      InputError: the file is damaged.
    """
    content = digests.read_content(data_dir, _remedy(data_dir))
    if content is None:
        _LOG.warning(
            "%s: has no %s, as data sets of older versions; not every change of its files is "
            "noticed",
            data_dir,
            digests.LIST_NAME,
        )
        return None
    small = dict(content["sha256"])
    try:
        shards = {
            name: ShardFacts(each["num_bytes"], each["num_records"], small.pop(name))
            for name, each in content["shards"].items()
        }
    except (KeyError, TypeError, AttributeError):
        shards = {}
    if not shards or small.keys() != set(SMALL_FILES):
        raise InputError(
            f"{data_dir / digests.LIST_NAME}: is damaged: expected the digests of "
            f"{', '.join(SMALL_FILES)} and of the shards; {_remedy(data_dir)}"
        )
    return Recorded(small, shards)


def check(data_dir: pathlib.Path) -> None:
    """Checks the files that describe the shards and the sizes of the shards.

    Raises:
      InputError: a file is not the one that the build wrote.
    """
    if recorded := read(data_dir):
        files = changed_files(data_dir, recorded, OPENED)
        for name, what in itertools.chain(files, changed_sizes(data_dir, recorded)):
            raise InputError(f"{data_dir / name}: {what}; {_remedy(data_dir)}")


def check_ontology(data_dir: pathlib.Path) -> None:
    """Checks the ontology of a data set, if it has `sha256.json`.

    Raises:
      InputError: it is not the one that the build wrote.
    """
    if (data_dir / digests.LIST_NAME).exists() and (recorded := read(data_dir)):
        for name, what in changed_files(data_dir, recorded, [ONTOLOGY_NAME]):
            raise InputError(f"{data_dir / name}: {what}; {_remedy(data_dir)}")


def changed_files(
    data_dir: pathlib.Path, recorded: Recorded, names: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yields each of these files that is not the one that the build wrote, and what is wrong.

    Args:
      data_dir: the data set's folder.
      recorded: the content of `sha256.json`.
      names: some of `SMALL_FILES`.
    """
    for name in names:
        try:
            if digests.of_file(data_dir / name) != recorded.small[name]:
                yield name, digests.CHANGED
        except InputError as error:
            yield name, str(error).removeprefix(f"{data_dir / name}: ")


def changed_sizes(data_dir: pathlib.Path, recorded: Recorded) -> Iterator[tuple[str, str]]:
    """Yields each shard that is missing or has another size, and what is wrong."""
    for name, shard in recorded.shards.items():
        try:
            num_bytes = (data_dir / name).stat().st_size
        except OSError as error:
            yield name, f"cannot read it: {error.strerror or error}"
            continue
        if num_bytes != shard.num_bytes:
            what = (
                f"is damaged or was exchanged: it has {num_bytes:,} bytes, but "
                f"{digests.LIST_NAME} says {shard.num_bytes:,}"
            )
            yield name, what


def _remedy(data_dir: pathlib.Path) -> str:
    return f"data_prep.verify --data_dir={data_dir} names all such files, and --repair mends them"
