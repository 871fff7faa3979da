r"""The paper's whole grid: Tables I, III and IV.

Paper: section IV. Four roots; of each a base training under each labeling; `features` and
`finetune` from each base, and `scratch`, with each target labeling: 12 + 36 + 36 + 12 runs.

    python -m relabel_jax.main --config=configs/paper.py --workdir=W --config.data_dir=DATA

For the whole excerpt (102,578 clips) these are 156 million clip passes: for a GPU. It has not been
run on it yet.

`paper.py:small` is the same grid with an eighth of the filters and few epochs, for the miniature:

    python -m relabel_jax.main --config=configs/paper.py:small --workdir=W \
        --config.data_dir=DATA --config.truth=MINI/truth.csv

It shows that everything works; its differences are within chance (about 20 test clips a root).
"""

from relabel_jax.errors import InputError
from relabel_jax.experiments.cells import grid_config
from relabel_jax.labels.labelings import LABELINGS

ROOTS = ("Human sounds", "Sounds of things", "Source-ambiguous sounds", "Natural sounds")


def get_config(size: str = "paper"):
    if size not in ("paper", "small"):
        raise InputError(f"--config=configs/paper.py:{size}: expected :small or nothing")
    config = grid_config(roots=ROOTS, target_labelings=LABELINGS)
    if size == "small":
        config.num_epochs = 5
        config.model.features = (8, 8, 12, 12, 16, 16, 24, 24, 32)
    return config
