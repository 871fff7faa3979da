r"""Base training for the root Sounds of things: on the classes outside this root.

Paper: section IV. The test mAP of this base is a row of Table III: 0.469 with `ol`, 0.595 with
`pel`, 0.646 with `pe_cml`. Each is a score on the base's own labels, so the three cannot be
compared with each other.
Label set on all of AudioSet: 351 classes under `ol` (527 less the 176 under the root).

    python -m relabel_jax.main --config=configs/base_things.py --workdir=W/base \
        --config.data_dir=DATA --config.labeling=pe_cml

Its purpose is the transfer, configs/target_things.py. It has not been run on the paper's
excerpt yet.
"""

from relabel_jax.experiments.config import paper_config


def get_config():
    return paper_config(root="Sounds of things", method="base")
