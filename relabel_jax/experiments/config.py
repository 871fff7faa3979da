"""The config of one run: the paper's recipe, with a comment on every field."""

import itertools
import json
import math
from typing import Any

from ml_collections import ConfigDict, config_dict

from relabel_jax.errors import InputError
from relabel_jax.experiments import recipe
from relabel_jax.experiments.labelings import check_labelings
from relabel_jax.models import registry
from relabel_jax.ops.normalization import NORM_ORDERS
from relabel_jax.train.losses import LOSSES
from relabel_jax.train.optimizers import OPTIMIZERS
from relabel_jax.train.population import MEMBERS_BY
from relabel_jax.train.resident import MODES

METHODS = ("base", "features", "finetune", "scratch")
TUNED = ("features", "finetune")
"""The methods that start from a base."""
_SEEDS = 2**32  # JAX's keys use the lower 32 bits of a seed
_MAX_BATCH_SIZE = 1 << 16  # 40 GB of the paper's waveforms
_MAX_COUNT = 1 << 31
_MAX_UNITS = 1 << 20


def paper_config(root: str, method: str) -> ConfigDict:
    """Returns the paper's recipe (section IV) for one target root.

    Args:
      root: display name or mid of the target root, any class of the ontology.
      method: `base` trains on the classes outside the root. The others train on the classes under
        the root: `features` trains a small classifier on the embeddings of the frozen base,
        `finetune` trains the base with a new output layer, and `scratch` trains the same network
        from random weights.
    """
    config = ConfigDict()
    config.root = root
    config.method = method
    config.labeling = (
        "ol"  # a name in LABELINGS or labeling_files: the labels to train on and score
    )
    config.data_dir = ""  # --output_dir of data_prep.build
    config.labelings = ""  # such as ol,pel,pe_cml: trained together, in place of `labeling`
    config.labeling_files = ""  # custom labelings: NAME=FILE,NAME=FILE
    config.seeds = ()  # such as 0,1,2: trained together, in place of `seed`
    config.base = ""  # --workdir of the base training, for features and finetune
    config.seed = 0  # seed of the weights, of the order of the clips, of dropout and masks

    config.num_epochs = 100
    config.batch_size = 24
    config.loss = "mse"  # masked mean squared error of scores; bce: cross-entropy of logits
    config.optimizer = "adam"  # a name in train/optimizers.py
    config.learning_rate = 0.001
    config.learning_rate_decay = 0.987  # the factor after each epoch
    recipe.add_fields(config)

    config.model = model_config(registry.DEFAULT)  # the network and its options
    config.classifier = ConfigDict()  # the classifier on embeddings of the method features
    config.classifier.hidden_units = 256
    config.classifier.norm_order = "elu_bn"  # or bn_elu
    # These change speed and memory, not results:
    config.steps_per_call = config_dict.placeholder(int)  # steps in one program; None: by device
    config.resident = "auto"  # whether waveforms stay on the device: always, never, or if they fit
    config.members_by = "auto"  # members of a device one after another (map, auto), at once (vmap)
    return config


def model_config(name: str) -> ConfigDict:
    """Returns `config.model` of a network: its name, and its options with their defaults.

    Args:
      name: see `registry.network_class`.

    Raises:
      InputError: there is no such network.
    """
    return ConfigDict({"name": name, **registry.default_options(name)})


def members(config: ConfigDict) -> list[ConfigDict]:
    """Returns the configs of the runs of a population; [config] if the config is of one run.

    There is a config for each combination of `labelings` and `seeds`. It is the config that a
    single run with that labeling and seed would have.

    Raises:
      InputError: a seed is not a whole number.
    """
    for seed in config.seeds:
        if type(seed) is not int:
            raise InputError(f"config.seeds: expected whole numbers, such as 0,1,2, got {seed!r}")
    labelings = config.labelings.split(",") if config.labelings else [config.labeling]
    configs = []
    for labeling, seed in itertools.product(labelings, config.seeds or [config.seed]):
        member = config.copy_and_resolve_references()
        member.update(labelings="", seeds=(), labeling=labeling.strip(), seed=seed)
        configs.append(member)
    return configs


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns the config as it is read from JSON, with lists in place of tuples."""
    return json.loads(config.to_json())


def check(config: ConfigDict) -> None:
    """Checks the values of a config. Networks check their own options when they are built.

    Raises:
      InputError: a value is wrong; the message names the field and what was expected.
    """
    check_labelings(config, "labeling", [config.labeling])
    for field, choices in (
        ("method", METHODS),
        ("loss", tuple(LOSSES)),
        ("optimizer", tuple(OPTIMIZERS)),
        ("resident", MODES),
        ("members_by", ("auto", *MEMBERS_BY)),
    ):
        if config[field] not in choices:
            raise InputError(f"config.{field}: {config[field]!r} is none of {', '.join(choices)}")
    for field, limit in (
        ("batch_size", _MAX_BATCH_SIZE),
        ("num_epochs", _MAX_COUNT),
        ("steps_per_call", _MAX_COUNT),
        ("learning_rate", math.inf),
        ("learning_rate_decay", math.inf),
    ):
        if config[field] is None:  # only steps_per_call may be
            continue
        if not 0 < config[field] < math.inf:
            raise InputError(f"config.{field}: expected a positive number, got {config[field]}")
        if config[field] > limit:
            raise InputError(f"config.{field}: expected at most {limit:,}, got {config[field]}")
    recipe.check_recipe(config)
    if config.classifier.norm_order not in NORM_ORDERS:
        raise InputError(
            f"config.classifier.norm_order: {config.classifier.norm_order!r} is none of "
            f"{', '.join(NORM_ORDERS)}"
        )
    if not 1 <= config.classifier.hidden_units <= _MAX_UNITS:
        raise InputError(
            f"config.classifier.hidden_units: expected at least 1, at most {_MAX_UNITS:,}, got "
            f"{config.classifier.hidden_units}"
        )
    if not config.data_dir:
        raise InputError("config.data_dir is empty; set it to the --output_dir of data_prep.build")
    if not 0 <= config.seed < _SEEDS:
        raise InputError(f"config.seed: expected 0 or more and below 2**32, got {config.seed}")
