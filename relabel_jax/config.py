"""The config of one run: the paper's recipe, with a comment on every field."""

from ml_collections import ConfigDict

from relabel_jax.model.convolution import default_formulation
from relabel_jax.model.network import DENSE_UNITS, FILTERS, AudioNetwork, default_precision

METHODS = ("base", "features", "finetune", "scratch")


def paper_config(root: str, method: str) -> ConfigDict:
    """The paper's recipe (section IV) for one target root.

    Args:
      root: display name or mid of the target root, any class of the ontology.
      method: `base` trains the base side of the root. The others train its target side:
        `features` a small classifier on the frozen base's embeddings, `finetune` the base with a
        new output layer, `scratch` the same network from random weights.
    """
    config = ConfigDict()
    config.root = root
    config.method = method
    config.labeling = "ol"  # ol, pel or pe_cml: the labels that are trained on and scored
    config.data_dir = ""  # --output_dir of data_prep.build
    config.base = ""  # --workdir of the base training, for features and finetune
    config.seed = 0  # of the weights and of the clips' order

    config.num_epochs = 100
    config.batch_size = 24
    config.learning_rate = 0.001
    config.learning_rate_decay = 0.987  # after each epoch

    config.filters = FILTERS  # of the nine convolutions
    config.dense_units = DENSE_UNITS  # the last is the size of the embedding
    config.norm_order = "elu_bn"  # or bn_elu
    config.formulation = "auto"  # how convolutions are computed: by backend, or a name
    config.fold_norm = True  # elu_bn: normalization is left to the next layer's weights
    config.precision = "auto"  # f32, tf32 or bf16; auto is f32 on a CPU, tf32 elsewhere
    config.steps_per_call = 8  # steps in one program on the device; changes speed, not results
    return config


def audio_network(config: ConfigDict, num_classes: int) -> AudioNetwork:
    """The network that a config describes."""
    formulation, precision = config.formulation, config.precision
    return AudioNetwork(
        num_classes=num_classes,
        formulation=default_formulation() if formulation == "auto" else formulation,
        filters=tuple(config.filters),
        dense_units=tuple(config.dense_units),
        norm_order=config.norm_order,
        precision=default_precision() if precision == "auto" else precision,
        fold_norm=config.fold_norm,
    )
