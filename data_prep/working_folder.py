"""The folder `DATA/.build`, which holds the plan of a build.

One build may use it, or several that do a part of the shards each.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator

from data_prep import permit
from relabel_jax.data.layout import INDEX_NAME
from relabel_jax.errors import InputError
from relabel_jax.files import only_process

WORKING_FOLDER = ".build"
METADATA_FOLDER = f"{WORKING_FOLDER}/metadata"


@contextlib.contextmanager
def working_folder(data_dir: pathlib.Path, part: str = "") -> Iterator[None]:
    """Locks a data set's folder for this process, and deletes temporary files of killed builds.

    Args:
      data_dir: the data set's folder; it is created if it does not exist.
      part: the part of the shards that this process does, such as `2/4`; "" for all of them.
        Other parts may be at work in the folder, so their temporary files stay.

    Raises:
      InputError: the data set was built by another program, another build is at work in the folder,
        or the block raised an OSError: no permission, no space.
    """
    folder = data_dir / WORKING_FOLDER
    if os.path.exists(data_dir / INDEX_NAME) and not os.path.exists(folder):
        raise InputError(
            f"{data_dir}: holds a data set that this command did not build; choose another "
            "--output_dir"
        )
    busy = "another build is at work there; wait for it or choose another --output_dir"
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_process(folder / "lock", data_dir, busy, shared=bool(part)))
        if part:
            busy = f"part {part} is at work there already"
            name = f"part-{part.replace('/', '-of-')}.lock"
            stack.enter_context(only_process(folder / name, data_dir, busy))
        try:
            if not part:
                _delete_temporary(data_dir)
            permit.renew(folder, is_part=bool(part))
            yield
        except OSError as error:
            raise InputError(
                f"{error.filename or data_dir}: {error.strerror or error}; mend this and run the "
                "same command again"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # the next build deletes it
                if not part:
                    _delete_temporary(data_dir)


@contextlib.contextmanager
def one_part_at_a_time(data_dir: pathlib.Path) -> Iterator[None]:
    """Lets only one part at a time make the plan or write the files beside the shards."""
    with only_process(data_dir / WORKING_FOLDER / "turn.lock", data_dir, "", wait=True):
        yield


def delete_temporary_of(data_dir: pathlib.Path, names: Iterable[str]) -> None:
    """Deletes the unfinished files of these names, below the data set's folder."""
    for name in names:
        path = data_dir / name
        for left_behind in path.parent.glob(f".{path.name}.*.tmp"):
            left_behind.unlink(missing_ok=True)


def _delete_temporary(data_dir: pathlib.Path) -> None:
    """Deletes the unfinished files of processes that were killed."""
    shutil.rmtree(data_dir / METADATA_FOLDER, ignore_errors=True)
    for folder in (data_dir, data_dir / WORKING_FOLDER):
        for left_behind in folder.glob(".*.tmp"):
            left_behind.unlink(missing_ok=True)  # a worker of a killed build may just end
