"""The program of a worker process, which `data_prep.workers` starts.

It receives shards through a pipe, writes them, and sends their outcomes or the failure. It stops
when its parent is gone.
"""

import ctypes
import mmap
import multiprocessing.connection
import os
import pathlib
import signal
import traceback

from data_prep.plan import Plan
from data_prep.shards import write_shard
from relabel_jax.errors import InputError

NO_CLIP = -1


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
    """Does the tasks that arrive until the parent is gone.

    Args:
      data_dir: the data set's folder, which has a plan.
      parent: the process id of the parent.
      connection_number: the open end of the pipe.
      position_number: the file with the position in the shard of the clip that is read now.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    connection = multiprocessing.connection.Connection(int(connection_number))
    position = shared_position(int(position_number))

    def on_clip(number: int) -> None:
        position.value = number
        if os.getppid() != int(parent):
            raise EOFError

    try:
        plan = Plan.open(pathlib.Path(data_dir))
        # libmpg123 writes a line to stderr for every oddity of an MP3, into the progress bar.
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        while True:
            shard, fatal = connection.recv()
            connection.send(write_shard(plan, shard, on_clip=on_clip, fatal=fatal))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone
    except InputError as error:
        failure: Exception = error
    except Exception:
        failure = RuntimeError(f"in a worker: {traceback.format_exc()}")
    try:
        connection.send(failure)
    except OSError:
        return
