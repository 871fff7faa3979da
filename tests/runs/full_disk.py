"""A training whose disk gets full, as a program of its own. See `test_full_disk.py`.

python full_disk.py FOLDER MAX_BYTES NUM_EPOCHS   no file may grow above MAX_BYTES
"""

import pathlib
import resource
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "train"))
import tiny_training as tiny
from absl import logging

from relabel_jax import cli
from relabel_jax.train.loop import train


def command() -> None:
    folder, max_bytes, num_epochs = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if not num_epochs:
        threading.Thread(target=time.sleep, args=(100,)).start()  # a thread of a library that hangs
        raise cli.InputError("a disk failed")
    logging.set_verbosity(logging.FATAL)  # as the command does
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    train(tiny.training([tiny.member(folder, 0, 0)], num_epochs=num_epochs))


if __name__ == "__main__":
    __file__ = cli.SCRIPT  # as the script of the project, which runs one command and nothing else
    sys.exit(cli.run(command))
