r"""Base training for the root Sounds of things: all that AudioSet has outside of it.

Paper: section IV; three of the twelve base trainings behind Tables III and IV (one a labeling).
Label set on all of AudioSet: 351 classes under `ol` (527 less the 176 under the root).

    python -m relabel_jax.main --config=configs/base_things.py --workdir=W/base \
        --config.data_dir=DATA --config.labeling=pe_cml

Its score is of use only beside those of other labelings on the same labels; what it is for is the
transfer, configs/target_things.py. It has not been run on the paper's excerpt yet; the
README says what was run.
"""

from relabel_jax.experiments.config import paper_config


def get_config():
    return paper_config(root="Sounds of things", method="base")
