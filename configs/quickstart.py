"""A small grid on the miniature AudioSet: the config of `make quickstart`.

It has one root, an eighth of the paper's filters and few epochs. It shows that everything works and
how it fits together. The differences in its table are within chance (6 to 60 clips a split, one
seed), so they prove nothing about the labelings.

    python -m relabel_jax.main --config=configs/quickstart.py --workdir=W --config.data_dir=DATA
"""

from relabel_jax.experiments.cells import grid_config


def get_config():
    config = grid_config(roots=("Human sounds",), target_labelings=("ol",))
    config.num_epochs = 5
    config.model.features = (8, 8, 12, 12, 16, 16, 24, 24, 32)
    return config
