r"""Base training for the root Sounds of things: on the classes outside this root.

Paper: section IV. Tables III and IV need twelve base trainings, three of them with this root (one
for each labeling).
Label set on all of AudioSet: 351 classes under `ol` (527 less the 176 under the root).

    python -m relabel_jax.main --config=configs/base_things.py --workdir=W/base \
        --config.data_dir=DATA --config.labeling=pe_cml

Its purpose is the transfer, configs/target_things.py. Compare its own score only with scores of
other labelings on the same labels. It has not been run on the paper's excerpt yet.
"""

from relabel_jax.experiments.config import paper_config


def get_config():
    return paper_config(root="Sounds of things", method="base")
