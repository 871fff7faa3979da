"""Reads configs of older versions.

In version 0.1 there was one network, and its fields were beside the fields of the training. The
bases of a grid had the paper's labelings. Later versions added fields whose value was fixed before.
"""

from collections.abc import Mapping
from typing import Any

from relabel_jax.labels.labelings import PAPER_LABELINGS

MOVED = {
    "filters": "model.features",
    "dense_units": "model.dense_units",
    "norm_order": "model.norm_order",
    "formulation": "model.formulation",
    "fold_norm": "model.fold_norm",
    "precision": "model.precision",
}
"""The new name of a field, by its old name."""

_FORMERLY_FIXED = {
    "loss": "mse",
    "optimizer": "adam",
    "weight_decay": None,
    "beta1": None,
    "ema_decay": 0.0,
    "sampling": "shuffled",
    "epoch_clips": 0,
    "teacher": "",
    "teacher_weight": 0.9,
    "schedule": {
        "decay": "exponential",
        "warmup_steps": 0,
        "warmup_epochs": 0.0,
        "hold_epochs": 0,
        "decay_epochs": 0,
        "final": 0.0,
    },
    "mixup": {"alpha": 0.0, "share": 1.0, "rule": "strict"},
}
_WITH_MASKS = ("cnn6", "cnn10", "cnn14", "mn04", "mn10", "ast_tiny", "ast_small", "ast_base")
_NEW_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"spec_augment": []} for name in _WITH_MASKS},
    "logmel_cnn": {"formulation": "auto"},
}
"""By network: options that configs of it lacked, with the values that they have now."""


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config, as JSON has it, with the fields of today's configs.

    Raises:
      KeyError: an old config has not all fields of the network.
    """
    if "roots" in config:  # the config of a grid
        config = {"base_labelings": list(PAPER_LABELINGS), **config}
    if "imported" in config:  # weights that were not trained here have no recipe
        return dict(config)
    if "model" in config:
        model = config["model"]
        model = _NEW_OPTIONS.get(model["name"], {}) | model
        return _FORMERLY_FIXED | dict(config) | {"model": model}
    kept = {name: value for name, value in config.items() if name not in MOVED}
    model = {"name": "waveform_cnn"}
    model |= {new.partition(".")[2]: config[old] for old, new in MOVED.items()}
    classifier = {"hidden_units": 256, "norm_order": config["norm_order"]}
    return _FORMERLY_FIXED | kept | {"model": model, "classifier": classifier}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested fields by dotted names: `{"model.name": "waveform_cnn", "seed": 0, ...}`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            fields |= {f"{name}.{inner}": deeper for inner, deeper in flat(value).items()}
        else:
            fields[name] = value
    return fields
