"""The fields of a config that make up the field's recipe; all are off by default."""

import math
from typing import Any

from ml_collections import ConfigDict, config_dict

from relabel_jax.errors import InputError
from relabel_jax.train.mixup import RULES, Mixup
from relabel_jax.train.optimizers import has_beta1
from relabel_jax.train.schedules import DECAYS, Schedule
from relabel_jax.train.training import SAMPLINGS


def add_fields(config: ConfigDict) -> None:
    """Adds the fields with their defaults, which leave the paper's recipe as it is."""
    config.weight_decay = config_dict.placeholder(float)  # None: the optimizer's default
    config.beta1 = config_dict.placeholder(float)  # of the optimizer's mean of gradients; None too
    config.ema_decay = 0.0  # of averages of the weights, which are validated and saved; 0: none
    config.sampling = "shuffled"  # or balanced: by the labels of the clips
    config.epoch_clips = 0  # clips of an epoch; 0: as many as there are
    config.teacher = ""  # a file of a teacher's scores, or a run folder
    config.teacher_weight = 0.9  # of the loss to the teacher; the loss to the labels has the rest

    config.schedule = ConfigDict()
    config.schedule.decay = "exponential"  # by learning_rate_decay; linear, cosine
    config.schedule.warmup_steps = 0  # the rate rises linearly; in steps or epochs
    config.schedule.warmup_epochs = 0.0
    config.schedule.hold_epochs = 0  # epochs before the decay begins
    config.schedule.decay_epochs = 0  # epochs of a linear or cosine decay
    config.schedule.final = 0.0  # share of the rate after a linear or cosine decay

    config.mixup = ConfigDict()
    config.mixup.alpha = 0.0  # weights from Beta(alpha, alpha); 0: no mixup
    config.mixup.share = 1.0  # of the clips that are mixed
    config.mixup.rule = "strict"  # or known: what masked labels do (train/mixup.py)


def check_recipe(config: ConfigDict) -> None:
    """Checks the values of the fields.

    Raises:
      InputError: a value is wrong; the message names the field and what was expected.
    """
    for field, choices in (
        ("sampling", SAMPLINGS),
        ("schedule.decay", DECAYS),
        ("mixup.rule", RULES),
    ):
        if _value(config, field) not in choices:
            raise InputError(
                f"config.{field}: {_value(config, field)!r} is none of {', '.join(choices)}"
            )
    for field, highest in _LIMITS.items():
        value = _value(config, field)
        if value is not None and not (0 <= value <= highest and math.isfinite(value)):
            most = "" if highest == math.inf else f", at most {highest}"
            raise InputError(f"config.{field}: expected 0 or more{most}, got {value}")
    for field in ("beta1", "ema_decay"):
        if config[field] is not None and config[field] >= 1:
            raise InputError(f"config.{field}: expected a number below 1, got {config[field]}")
    if config.beta1 is not None and not has_beta1(config.optimizer):
        raise InputError(f"config.beta1: {config.optimizer} has no mean of gradients; leave it out")
    schedule = config.schedule
    if schedule.warmup_steps and schedule.warmup_epochs:
        raise InputError("config.schedule: has warmup_steps and warmup_epochs; set one of them")
    if (schedule.decay == "exponential") != (schedule.decay_epochs == 0):
        raise InputError(
            f"config.schedule.decay_epochs: a {schedule.decay} decay needs "
            f"{'none' if schedule.decay_epochs else 'the number of its epochs'}, got "
            f"{schedule.decay_epochs}"
        )
    if config.mixup.alpha and config.batch_size < 2:
        raise InputError(
            f"config.batch_size: mixup needs two clips or more, got {config.batch_size}; set "
            "config.mixup.alpha=0 or a larger batch"
        )


def of_training(config: ConfigDict) -> dict[str, Any]:
    """Returns the arguments of `Training` that follow from the fields, except the teacher."""
    return {
        "sampling": config.sampling,
        "epoch_clips": config.epoch_clips,
        "further": {
            "weight_decay": config.weight_decay,
            "beta1": config.beta1,
            "ema_decay": config.ema_decay,
            "teacher_weight": config.teacher_weight if config.teacher else 0.0,
            "shape": Schedule(**config.schedule),
            "mixup": Mixup(**config.mixup),
        },
    }


_MAX_COUNT = 1 << 31
_LIMITS = {
    "weight_decay": math.inf,
    "beta1": 1,
    "ema_decay": 1,
    "epoch_clips": _MAX_COUNT,
    "teacher_weight": 1,
    "schedule.warmup_steps": _MAX_COUNT,
    "schedule.warmup_epochs": _MAX_COUNT,
    "schedule.hold_epochs": _MAX_COUNT,
    "schedule.decay_epochs": _MAX_COUNT,
    "schedule.final": 1,
    "mixup.alpha": math.inf,
    "mixup.share": 1,
}
"""The highest value of each number; the lowest is 0."""


def _value(config: ConfigDict, field: str) -> Any:
    for name in field.split("."):
        config = config[name]
    return config
