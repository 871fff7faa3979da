r"""Transfer to the root Natural sounds: its classes, from a base that has not seen them.

Paper: section IV; Tables III and IV, what concerns Natural sounds.
Label set on all of AudioSet: 18 classes under `ol`.

    python -m relabel_jax.main --config=configs/target_natural.py --workdir=W/target \
        --config.data_dir=DATA --config.method=finetune --config.base=W/base

`features` trains a small classifier on the frozen base's embeddings, `finetune` all of the network
from the base's weights, `scratch` the same network from random ones (it needs no base). Compare
runs with the same `config.labeling`: it is also what they are scored on.
"""

from relabel_jax.experiments.config import paper_config


def get_config():
    return paper_config(root="Natural sounds", method="finetune")
