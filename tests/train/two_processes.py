"""What two processes train, a device each: ADDRESS PROCESS FOLDER."""

import pathlib
import sys

import jax
from absl import logging
from tiny_training import population, training

from relabel_jax.runs import processes
from relabel_jax.train.loop import train

MODES = ((1, "map"), (3, "map"), (4, "vmap"))

if __name__ == "__main__":
    address, process, folder = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    processes.connect(address, 2, process)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    logging.set_verbosity(logging.ERROR)  # Orbax's chatter
    for size, members_by in MODES:
        members = population(folder / f"{size}_{members_by}", "abcd"[:size])
        train(training(members, members_by=members_by))
