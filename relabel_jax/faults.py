"""Faults of the system: a disk that fails, a mount that is lost, too little memory.

The recording that is read at that moment is not at fault. So it is read again after a short wait,
and if the fault lasts, the command ends. The recording is not rejected.
"""

import errno
import mmap
import os
import stat
import time
from collections.abc import Callable
from typing import TypeVar

from relabel_jax.errors import InputError, Rejected

_NAMES = (
    # the disk
    *("EIO", "ENOSPC", "EDQUOT", "EREMOTEIO", "ENODEV", "ENXIO", "ENOMEDIUM", "EUCLEAN"),
    # the network, the server of a network folder, and its tickets
    *("ESTALE", "ETIMEDOUT", "ENOTCONN", "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ESHUTDOWN"),
    *("EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOLINK", "ECOMM"),
    *("EKEYEXPIRED", "EKEYREVOKED", "ENOKEY", "EPROTO", "EREMCHG"),
    # limits of the machine
    *("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "ENOLCK", "EAGAIN", "EBUSY"),
)
_NUMBERS = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
ARRAY_RECORD_BYTES = 1 << 31
"""The address space that ArrayRecord needs to read: ten threads reserve 1.5 GB.

It may hang if one of them cannot start.
"""

_WAITS_S = (0.1, 0.4, 1.6)  # in total much less than the time that a clip may take
_DECODER_BYTES = 1 << 26  # more than a decoder needs
_T = TypeVar("_T")


def system_fault(error: BaseException) -> OSError | MemoryError | None:
    """Returns the fault of the system that an error is or was caused by, None if there is none.

    A file that is gone, or that may not be read, is a fault of the recording.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return cause
        if isinstance(cause, OSError) and cause.errno in _NUMBERS:
            return cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def named_fault(message: str) -> str:
    """Returns the fault of the system that a message names, "" if it names none.

    ArrayRecord and Arrow raise errors that have the system's text but not its number.
    """
    texts = (os.strerror(number) for number in _NUMBERS)
    return next((text for text in texts if text in message), "")


def refuse_system_fault(error: BaseException, name: str) -> None:
    """Raises an error that names the file if a fault of the system caused `error`.

    Raises:
      InputError: the file cannot be read at present.
      MemoryError: memory is short.
    """
    if fault := system_fault(error):
        if isinstance(fault, MemoryError):
            raise MemoryError(f"while {name} was read") from error
        raise InputError(
            f"{name}: cannot be read: {fault.strerror}; this is a fault of the system, so the "
            "recording is not rejected; if no other file has it, move this file away"
        ) from error


def read_patiently(read: Callable[[], _T], name: str) -> _T:
    """Reads a recording, and reads it again after a while if a fault of the system stopped that.

    Args:
      read: returns what the recording holds.
      name: the name of the file for the message.

    Raises:
      InputError: the fault lasts.
      MemoryError: memory is short.
      Rejected: `read` raises it for another reason.
    """
    waits_s = iter(_WAITS_S)
    while True:
        try:
            return read()
        except (Rejected, OSError, MemoryError) as error:
            is_passing = isinstance(system_fault(error), OSError)  # memory does not come back soon
            wait_s = next(waits_s, None) if is_passing else None
            if wait_s is None:
                refuse_system_fault(error, name)
                raise
        time.sleep(wait_s)


def is_file(path: str) -> bool:
    """Whether a path names a file.

    Raises:
      InputError: a fault of the system hides it. `os.path.isfile` would deny that it exists.
    """
    try:
        return stat.S_ISREG(read_patiently(lambda: os.stat(path), path).st_mode)
    except (OSError, ValueError):
        return False


def check_memory(num_bytes: int = _DECODER_BYTES) -> None:
    """Raises MemoryError if the process may not have so much further address space.

    Libraries say that they have no memory too if a damaged file claims an enormous size. And some
    of them hang if they cannot start a thread.
    """
    try:
        # Nobody can write there, so the system sets no memory apart.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        mmap.mmap(-1, num_bytes, flags=flags, prot=mmap.PROT_READ).close()
    except OSError as error:
        raise MemoryError from error
