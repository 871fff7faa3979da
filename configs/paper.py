r"""The paper's whole grid: Tables I, III and IV.

Paper: section IV. For each of four roots there is a base training with each labeling (Table III).
On the target side there are, with each target labeling, `features` from each base (first half of
Table IV), `scratch`, and `finetune` from each base (second half): 12 + 36 + 12 + 36 runs.

    python -m relabel_jax.main --config=configs/paper.py --workdir=W --config.data_dir=DATA

The whole excerpt (102,578 clips) needs 156 million clip passes, which takes a GPU. It has not been
run yet.

`paper.py:small` is the same grid for the miniature, with an eighth of the filters and few epochs:

    python -m relabel_jax.main --config=configs/paper.py:small --workdir=W \
        --config.data_dir=DATA --config.truth=MINI/truth.csv

It shows that everything works. Its differences are within chance (about 20 test clips a root).
"""

from relabel_jax.errors import InputError
from relabel_jax.experiments.cells import grid_config
from relabel_jax.labels.labelings import PAPER_LABELINGS

ROOTS = ("Human sounds", "Sounds of things", "Source-ambiguous sounds", "Natural sounds")


def get_config(size: str = "paper"):
    if size not in ("paper", "small"):
        raise InputError(f"--config=configs/paper.py:{size}: expected :small or nothing")
    config = grid_config(roots=ROOTS, target_labelings=PAPER_LABELINGS)
    if size == "small":
        config.num_epochs = 5
        config.model.features = (8, 8, 12, 12, 16, 16, 24, 24, 32)
    return config
