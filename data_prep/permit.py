"""Only the build at work writes shards. The processes of a killed build write nothing more.

A worker may outlive its build: it imports while the build is killed, or a cluster runs it. The lock
of the folder is free then, and another build may begin. So each build has a permit, a random text
in `DATA/.build/permit`. Its tasks carry the permit, and a worker gives a shard its name only while
the permit is valid. The next build replaces it. Builds that do a part of the shards each share one
permit, because they have one plan.
"""

import contextlib
import pathlib
import secrets
from collections.abc import Iterator

from relabel_jax.errors import InputError
from relabel_jax.files import only_process

_NAME = "permit"


def renew(folder: pathlib.Path, *, is_part: bool) -> None:
    """Makes the permit of a build, which ends that of the build before it.

    If a worker of that build is giving a shard its name, this waits for the worker.

    Args:
      folder: the working folder of the data set, which this build has locked.
      is_part: whether other builds may do other parts at the same time; then a permit stays.
    """
    path = folder / _NAME
    with only_process(path, folder, "", wait=True):
        if not (is_part and path.read_text()):
            path.write_text(secrets.token_hex(16))


def current(folder: pathlib.Path) -> str:
    """Returns the permit of the build that has locked the working folder."""
    return (folder / _NAME).read_text()


@contextlib.contextmanager
def needed(folder: pathlib.Path, permit: str) -> Iterator[None]:
    """Keeps a permit valid within the block.

    Raises:
      InputError: it is not valid any more.
    """
    path = folder / _NAME
    if not path.exists():
        raise InputError(f"{folder}: was deleted while a worker used it")
    with only_process(path, folder, "", shared=True, wait=True):
        if path.read_text() != permit:
            raise InputError(f"{folder}: another build is at work there now")
        yield
