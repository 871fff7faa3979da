r"""The published networks with the recipes of their authors, under any labeling.

    python -m relabel_jax.main --config=configs/published.py:cnn14 --workdir=W \
        --config.data_dir=DATA --config.labeling=pe_cml

The networks are cnn6, cnn10, cnn14 (the default), mn04, mn10, ast_tiny, ast_small and ast_base. The
data set must have the rate of the network: 32 kHz for PANNs and EfficientAT, 16 kHz for AST. A run
trains on the classes outside config.root, as the paper's bases do.

The numbers are those of the authors' code for all of AudioSet:

- PANNs, `pytorch/main.py` of https://github.com/qiuqiangkong/audioset_tagging_cnn: AMSGrad at
  0.001, 1,000,000 steps of 32 mixtures, mixup with alpha 1, balanced sampling, two masks of less
  than 64 frames and two of less than 8 bands.
- EfficientAT, `ex_audioset.py` of https://github.com/fschmid56/EfficientAT: Adam at 0.0008, 200
  epochs of 100,000 clips in batches of 120, warm-up over 8 epochs, linear decay to 1% over the 95
  epochs after epoch 80. Mixup has alpha 0.3, and sampling is balanced. If config.teacher names the
  scores of a teacher, the loss to them has the weight 0.9.
- AST, `egs/audioset/run.sh` and `src/traintest.py` of https://github.com/YuanGongND/ast: Adam at
  0.00001 with beta1 0.95 and weight decay 5e-7, 5 epochs in batches of 12, warm-up over 1,000
  steps, half the rate after each epoch from the second on. Half of the clips are mixed with alpha
  10. Sampling is balanced. A mask has less than 192 frames, and one has less than 48 bands.

In these points the runs differ from the authors':

- All recipes sample by AST's formula. PANNs take the classes in turn. EfficientAT adds 100 to the
  counts and draws without replacement.
- The waveforms are mixed, as in AST. PANNs and EfficientAT mix spectrograms. A clip has its partner
  in the batch, while PANNs draw two clips for a mixture and AST draws the partner uniformly.
- EfficientAT's warm-up is not linear, and its highest and lowest band are varied.
- Adam has the epsilon 1e-7, not 1e-8.
- AST and EfficientAT start from weights for ImageNet, these runs from random weights.

None of these configs has been run on AudioSet.
"""

from relabel_jax.errors import InputError
from relabel_jax.experiments.config import model_config, paper_config

NETWORKS = ("cnn6", "cnn10", "cnn14", "mn04", "mn10", "ast_tiny", "ast_small", "ast_base")


def get_config(network: str = "cnn14"):
    if network not in NETWORKS:
        raise InputError(
            f"--config=configs/published.py:{network}: expected one of {', '.join(NETWORKS)}"
        )
    config = paper_config(root="Human sounds", method="base")
    config.model = model_config(network)
    config.loss = "bce"
    config.sampling = "balanced"
    if network.startswith("cnn"):
        config.model.sample_rate_hz = 32_000
        config.model.spec_augment = (2, 64, 2, 8)
        config.update(optimizer="amsgrad", learning_rate=0.001, learning_rate_decay=1.0)
        config.update(num_epochs=320, epoch_clips=100_000, batch_size=32)
        config.mixup.alpha = 1.0
    elif network.startswith("mn"):
        config.update(optimizer="adam", learning_rate=0.0008, teacher_weight=0.9)
        config.update(num_epochs=200, epoch_clips=100_000, batch_size=120)
        config.schedule.update(decay="linear", warmup_epochs=8.0)
        config.schedule.update(hold_epochs=80, decay_epochs=95, final=0.01)
        config.mixup.alpha = 0.3
    else:
        config.model.spec_augment = (1, 192, 1, 48)
        config.update(optimizer="adam", learning_rate=1e-5, beta1=0.95, weight_decay=5e-7)
        config.update(num_epochs=5, batch_size=12, learning_rate_decay=0.5)
        config.schedule.update(warmup_steps=1_000, hold_epochs=1)
        config.mixup.update(alpha=10.0, share=0.5)
    return config
