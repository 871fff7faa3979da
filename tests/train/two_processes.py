"""What two processes train, a device each: ADDRESS PROCESS FOLDER MODE...

A mode is the number of members and `members_by`, such as 4_vmap.
"""

import pathlib
import sys

import jax
from absl import logging
from tiny_training import population, training

from relabel_jax.runs import processes
from relabel_jax.train.loop import train

if __name__ == "__main__":
    address, process, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    processes.connect(address, 2, process)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    logging.set_verbosity(logging.ERROR)  # Orbax's chatter
    for mode in sys.argv[4:]:
        size, members_by = mode.split("_")
        members = population(folder / mode, "abcd"[: int(size)])
        train(training(members, members_by=members_by))
