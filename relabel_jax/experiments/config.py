"""The config of one run: the paper's recipe, with a comment on every field."""

import itertools

from ml_collections import ConfigDict

from relabel_jax.models.waveform_cnn import DENSE_UNITS, FILTERS, AudioNetwork, default_precision
from relabel_jax.ops.convolution import default_formulation

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
    config.labelings = ""  # such as ol,pel,pe_cml: these are trained together, not `labeling`
    config.seeds = ()  # such as 0,1,2: these are trained together, not `seed`
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
    # Change speed and memory, not results:
    config.steps_per_call = 8  # steps in one program on the device
    config.resident = "auto"  # waveforms stay on the device: always, never, or where they fit
    config.members_by = "auto"  # members one after another (map), at once (vmap), or by backend
    return config


def members(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the lone runs that a population is made of; [config] if it is none.

    `labelings` x `seeds`, each the config of a run that is begun alone with that labeling and seed.
    """
    labelings = config.labelings.split(",") if config.labelings else [config.labeling]
    configs = []
    for labeling, seed in itertools.product(labelings, config.seeds or [config.seed]):
        member = config.copy_and_resolve_references()
        member.update(labelings="", seeds=(), labeling=labeling.strip(), seed=seed)
        configs.append(member)
    return configs


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
