"""The config of one run: the paper's recipe, with a comment on every field."""

import itertools
import json
import math
from typing import Any

from ml_collections import ConfigDict

from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.models import registry
from relabel_jax.ops.normalization import NORM_ORDERS
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.optimizers import OPTIMIZERS
from relabel_jax.train.population import MEMBERS_BY
from relabel_jax.train.resident import MODES

METHODS = ("base", "features", "finetune", "scratch")
TUNED = ("features", "finetune")
"""The methods that start from a base."""
_SEEDS = 2**32  # JAX's keys take the lower 32 bits


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
    config.seed = 0  # of the weights, of the clips' order and of dropout

    config.num_epochs = 100
    config.batch_size = 24
    config.loss = "mse"  # or bce: masked mean squared error of scores, cross-entropy of logits
    config.optimizer = "adam"  # of Optax, by name: train/optimizers.py
    config.learning_rate = 0.001
    config.learning_rate_decay = 0.987  # after each epoch

    config.model = model_config(registry.DEFAULT)  # the network, and its options
    config.classifier = ConfigDict()  # of the method features, on the base's embeddings
    config.classifier.hidden_units = 256
    config.classifier.norm_order = "elu_bn"  # or bn_elu
    # Change speed and memory, not results:
    config.steps_per_call = 8  # steps in one program on the device
    config.resident = "auto"  # waveforms stay on the device: always, never, or where they fit
    config.members_by = "auto"  # members one after another (map), at once (vmap), or by backend
    return config


def model_config(name: str) -> ConfigDict:
    """`config.model` of a network: its name, and its options with their defaults.

    Args:
      name: as of `registry.network_class`.

    Raises:
      InputError: there is no such network.
    """
    return ConfigDict({"name": name, **registry.default_options(name)})


def members(config: ConfigDict) -> list[ConfigDict]:
    """The configs of the single runs that a population is made of; [config] if it is none.

    `labelings` x `seeds`, each the config of a run that is begun alone with that labeling and seed.
    """
    labelings = config.labelings.split(",") if config.labelings else [config.labeling]
    configs = []
    for labeling, seed in itertools.product(labelings, config.seeds or [config.seed]):
        member = config.copy_and_resolve_references()
        member.update(labelings="", seeds=(), labeling=labeling.strip(), seed=seed)
        configs.append(member)
    return configs


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back, with lists for tuples."""
    return json.loads(config.to_json())


def check(config: ConfigDict) -> None:
    """Refuses values that no run can have. Networks check their own options when they are built.

    Raises:
      InputError: names the field, its value and what was expected.
    """
    for field, choices in (
        ("labeling", LABELINGS),
        ("method", METHODS),
        ("loss", tuple(LOSSES)),
        ("optimizer", tuple(OPTIMIZERS)),
        ("resident", MODES),
        ("members_by", ("auto", *MEMBERS_BY)),
    ):
        if config[field] not in choices:
            raise InputError(f"config.{field}: {config[field]!r} is none of {', '.join(choices)}")
    for field in (
        "batch_size",
        "num_epochs",
        "steps_per_call",
        "learning_rate",
        "learning_rate_decay",
    ):
        if not 0 < config[field] < math.inf:
            raise InputError(f"config.{field}: expected a positive number, got {config[field]}")
    if config.classifier.norm_order not in NORM_ORDERS:
        raise InputError(
            f"config.classifier.norm_order: {config.classifier.norm_order!r} is none of "
            f"{', '.join(NORM_ORDERS)}"
        )
    if config.classifier.hidden_units < 1:
        raise InputError(
            f"config.classifier.hidden_units: expected at least 1, got "
            f"{config.classifier.hidden_units}"
        )
    if not config.data_dir:
        raise InputError("config.data_dir is empty; set it to the --output_dir of data_prep.build")
    if not 0 <= config.seed < _SEEDS:
        raise InputError(f"config.seed: expected 0 or more and below 2**32, got {config.seed}")
