"""The program of a worker process, which `data_prep.workers` starts.

It receives shards through a pipe, writes them, and sends their outcomes or the failure. It ends
within a second when its parent is gone, whatever its decoder does. Until then its build's permit
decides whether it may write (permit.py).
"""

import ctypes
import mmap
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import time
import traceback

from data_prep.plan import Plan
from data_prep.shards import write_shard
from relabel_jax.errors import InputError

NO_CLIP = -1
_LOOK_EVERY_S = 1.0


def shared_position(file_number: int) -> ctypes.c_int64:
    """A number that processes share through a file.

    A message through the pipe would take a tenth of the time of a clip.

    Args:
      file_number: an open file; it gets the size of the number.
    """
    size = ctypes.sizeof(ctypes.c_int64)
    os.truncate(file_number, size)
    return ctypes.c_int64.from_buffer(mmap.mmap(file_number, size))


def main(data_dir: str, parent: str, connection_number: str, position_number: str) -> None:
    """Does the tasks that arrive until the parent is gone, which ends this process.

    Args:
      data_dir: the data set's folder, which has a plan.
      parent: the process id of the parent.
      connection_number: the open end of the pipe.
      position_number: the file with the position in the shard of the clip that is read now.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    connection = multiprocessing.connection.Connection(int(connection_number))
    position = shared_position(int(position_number))

    def on_clip(number: int) -> None:
        position.value = number

    try:
        plan = Plan.open(pathlib.Path(data_dir))
        # libmpg123 writes a line to stderr for every oddity of an MP3, into the progress bar.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        while True:
            shard, fatal, permit = connection.recv()
            outcome = write_shard(plan, shard, on_clip=on_clip, fatal=fatal, permit=permit)
            connection.send(outcome)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except InputError as error:
        failure: Exception = error
    except MemoryError as error:
        failure = InputError(
            f"a worker has no memory {error}; use a smaller --num_workers; the same command "
            "continues from here"
        )
    except OSError as error:  # such as too many open files
        failure = InputError(f"a worker failed: {error}; mend this and run the same command again")
    except Exception:
        failure = RuntimeError(f"in a worker: {traceback.format_exc()}")
    try:
        connection.send(failure)
    except OSError:
        return


def _end_with(parent: int) -> None:
    """Ends this process when its parent is gone."""
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_S)
    os._exit(1)
