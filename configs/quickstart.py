"""A small grid on the miniature AudioSet: the config of `make quickstart`.

It trains a base with the original labels and one with PE-CML, and a classifier on the features of
each. It has one root, an eighth of the paper's filters and few epochs. It shows that everything
works and how it fits together. With so few test clips and one seed, the difference between the two
is within chance.

    python -m relabel_jax.main --config=configs/quickstart.py --workdir=W --config.data_dir=DATA
"""

from relabel_jax.experiments.cells import grid_config


def get_config():
    config = grid_config(
        roots=("Human sounds",), target_labelings=("ol",), base_labelings=("ol", "pe_cml")
    )
    config.only = "features"
    config.num_epochs = 5
    config.model.features = (8, 8, 12, 12, 16, 16, 24, 24, 32)
    return config
