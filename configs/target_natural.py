r"""Transfer to the classes under the root Natural sounds, from a base not trained on them.

Paper: section IV. The results are columns of Table IV: `features` in its first half, `finetune` and
`scratch` in its second. Table I counts 3,168 target clips (3%) in the paper's excerpt.
Label set on all of AudioSet: 18 classes under `ol`.

    python -m relabel_jax.main --config=configs/target_natural.py --workdir=W/target \
        --config.data_dir=DATA --config.method=finetune --config.base=W/base

`features` trains a small classifier on the embeddings of the frozen base, `finetune` trains the
whole network from the weights of the base, and `scratch` trains the same network from random
weights, without a base. Compare only runs with the same `config.labeling`, which are scored on the
same labels.
"""

from relabel_jax.experiments.config import paper_config


def get_config():
    return paper_config(root="Natural sounds", method="finetune")
