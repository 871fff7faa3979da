"""The folder `DATA/.build`, in which a build keeps its plan, and that only one process may use."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from relabel_jax.data.layout import INDEX_NAME
from relabel_jax.errors import InputError
from relabel_jax.files import only_process

WORKING_FOLDER = ".build"
METADATA_FOLDER = f"{WORKING_FOLDER}/metadata"


@contextlib.contextmanager
def working_folder(data_dir: pathlib.Path) -> Iterator[None]:
    """Holds a data set's folder for this process and deletes what a killed build left there.

    Args:
      data_dir: the data set's folder; it is made where absent.

    Raises:
      InputError: another program built what is there, another build is at work there, or an
        OSError within the block: no permission, no space.
    """
    folder = data_dir / WORKING_FOLDER
    if os.path.exists(data_dir / INDEX_NAME) and not os.path.exists(folder):
        raise InputError(
            f"{data_dir}: holds a data set that this command did not build; choose another "
            "--output_dir"
        )
    busy = "another build is at work there; wait for it or choose another --output_dir"
    with only_process(folder / "lock", data_dir, busy):
        try:
            _delete_temporary(data_dir)
            yield
        except OSError as error:
            raise InputError(
                f"{error.filename or data_dir}: {error.strerror or error}; mend this and run the "
                "same command again"
            ) from error
        finally:
            with contextlib.suppress(OSError):  # the next build deletes it
                _delete_temporary(data_dir)


def _delete_temporary(data_dir: pathlib.Path) -> None:
    """Deletes the unfinished files of processes that were killed."""
    shutil.rmtree(data_dir / METADATA_FOLDER, ignore_errors=True)
    for folder in (data_dir, data_dir / WORKING_FOLDER):
        for left_behind in folder.glob(".*.tmp"):
            left_behind.unlink()
