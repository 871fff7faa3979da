"""Recognises a published network by the names and shapes of the tensors in its state dict.

- `panns`: CNN6, CNN10 and CNN14 of https://github.com/qiuqiangkong/audioset_tagging_cnn.
- `efficientat`: MobileNetV3 of any width of https://github.com/fschmid56/EfficientAT.
- `ast`: AST of https://github.com/YuanGongND/ast.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from relabel_jax.errors import InputError, some
from relabel_jax.models import registry
from relabel_jax.models.front_ends import (
    AST_BANDS,
    AST_RATE_HZ,
    EFFICIENTAT_RATE_HZ,
    PANNS_BANDS,
    PANNS_LOWEST_HZ,
    PANNS_SIZES,
    slaney_filters,
)
from relabel_jax.models.mobilenet import BLOCKS

Tensors = Mapping[str, np.ndarray]

_MEL_FILTERS = "logmel_extractor.melW"
_PANNS_CONSTANTS = (
    _MEL_FILTERS,
    "spectrogram_extractor.stft.conv_real.weight",
    "spectrogram_extractor.stft.conv_imag.weight",
)
_AST_UNUSED = ("v.head.weight", "v.head.bias", "v.head_dist.weight", "v.head_dist.bias")
_AST_HEAD_SIZE = 64
_AST_PATCHES = 12, 101  # of AudioSet's spectrograms: along frequency, along time


class Recognised(NamedTuple):
    """A network and its tensors.

    Attributes:
      model: `config.model`, with all options of the network.
      tensors: those that `published.from_state_dict` takes, under the authors' names.
      outputs: the names of the output layer's weight and bias.
    """

    model: dict[str, Any]
    tensors: dict[str, np.ndarray]
    outputs: tuple[str, str]

    @property
    def num_classes(self) -> int:
        """The number of classes of the output layer."""
        return len(self.tensors[self.outputs[1]])


def recognise(
    form: str, tensors: Tensors, *, sample_rate_hz: int | None = None, duration_s: float = 10.0
) -> Recognised:
    """Recognises a network.

    Args:
      form: one of `FORMS`.
      tensors: the state dict, under the authors' names.
      sample_rate_hz: the rate of the network; None if its tensors or its front end tell it.
      duration_s: length of the waveforms that the network is to take.

    Raises:
      InputError: the tensors are of another network, or the front end cannot have the rate.
    """
    find, outputs = _FORMS[form]
    name, options, unused = find(tensors, sample_rate_hz)
    kept = {key: array for key, array in tensors.items() if key not in unused}
    layer = (f"{outputs}.weight", f"{outputs}.bias")
    for key in layer:
        if key not in kept:
            raise InputError(f"the state dict lacks {key}, the output layer of {name}")
        if kept[key].ndim != 2 - (key == layer[1]):
            raise InputError(f"{key}: has the shape {kept[key].shape}, expected an output layer")
    model = {"name": name, **registry.default_options(name), **options, "duration_s": duration_s}
    return Recognised(model, kept, layer)


_Found = tuple[str, dict[str, Any], tuple[str, ...]]
"""The network's name, its options, and the tensors that it does not have."""


def _panns(tensors: Tensors, sample_rate_hz: int | None) -> _Found:
    _check_rate(sample_rate_hz, tuple(PANNS_SIZES), "PANNs' front end")
    features: list[int] = []
    kernel_size = 0
    while (key := f"conv_block{len(features) + 1}.conv1.weight") in tensors:
        kernel = tensors[key].shape
        if len(kernel) != 4:
            break
        features.append(kernel[0])
        kernel_size = kernel[-1]
    names = {(5, 4): "cnn6", (3, 4): "cnn10", (3, 6): "cnn14"}
    name = names.get((kernel_size, len(features)))
    if name is None:
        raise _unknown("PANNs' CNN6, CNN10 and CNN14", "conv_block1.conv1.weight", tensors)
    filters = tensors.get(_MEL_FILTERS)
    if filters is None:
        if sample_rate_hz is None:
            rates = ", ".join(map(str, PANNS_SIZES))
            raise InputError(
                f"has no {_MEL_FILTERS}, which tells the sample rate; give --sample_rate_hz, one "
                f"of {rates}"
            )
        rate_hz = sample_rate_hz
    else:
        rate_hz = _rate_of_filters(filters)
        if sample_rate_hz not in (None, rate_hz):
            raise InputError(
                f"--sample_rate_hz={sample_rate_hz}: the network is of {rate_hz} Hz, as its "
                f"{_MEL_FILTERS} tells"
            )
    return name, {"features": features, "sample_rate_hz": rate_hz}, _PANNS_CONSTANTS


def _rate_of_filters(filters: np.ndarray) -> int:
    """The sample rate of PANNs' front end that has these filters."""
    for rate_hz, (fft_size, _, highest_hz) in PANNS_SIZES.items():
        expected = slaney_filters(rate_hz, fft_size, PANNS_BANDS, PANNS_LOWEST_HZ, highest_hz)
        is_close = filters.shape == expected.shape and np.allclose(
            filters, expected, rtol=0, atol=1e-3 * expected.max()
        )
        if is_close:
            return rate_hz
    rates = ", ".join(map(str, PANNS_SIZES))
    raise InputError(
        f"{_MEL_FILTERS}: has the shape {filters.shape}, and is of none of the front ends for "
        f"{rates} Hz with {PANNS_BANDS} bands"
    )


def _efficientat(tensors: Tensors, sample_rate_hz: int | None) -> _Found:
    _check_rate(sample_rate_hz, (EFFICIENTAT_RATE_HZ,), "EfficientAT's front end")
    key = f"features.{len(BLOCKS) + 1}.0.weight"
    if key not in tensors or tensors[key].ndim != 4:
        raise _unknown("EfficientAT's mn networks", key, tensors)
    width = tensors[key].shape[1] / BLOCKS[-1].features
    return "mn04" if width == 0.4 else "mn10", {"width": width}, ()


def _ast(tensors: Tensors, sample_rate_hz: int | None) -> _Found:
    _check_rate(sample_rate_hz, (AST_RATE_HZ,), "AST's front end")
    positions = tensors["v.pos_embed"].shape if "v.pos_embed" in tensors else ()
    if len(positions) != 3 or not positions[2] or positions[2] % _AST_HEAD_SIZE:
        raise _unknown("AST's sizes", "v.pos_embed", tensors)
    width = positions[2]
    num_layers = 0
    while f"v.blocks.{num_layers}.norm1.weight" in tensors:
        num_layers += 1
    along_frequency, usual = _AST_PATCHES
    along_time, rest = divmod(positions[1] - 2, along_frequency)
    if rest or along_time < 1:
        raise InputError(
            f"v.pos_embed: has {positions[1]} positions, expected 2 and {along_frequency} for each "
            f"step in time: patches that start 10 of {AST_BANDS} bands after one another"
        )
    options = {"width": width, "num_heads": width // _AST_HEAD_SIZE, "num_layers": num_layers}
    if along_time != usual:  # further frames would begin no other patch
        options["num_frames"] = 16 + 10 * (along_time - 1)
    name = {192: "ast_tiny", 384: "ast_small"}.get(width, "ast_base")
    return name, options, _AST_UNUSED


def _check_rate(sample_rate_hz: int | None, possible: tuple[int, ...], what: str) -> None:
    if sample_rate_hz not in (None, *possible):
        rates = ", ".join(map(str, possible))
        raise InputError(f"--sample_rate_hz={sample_rate_hz}: {what} is for {rates} Hz")


def _unknown(what: str, key: str, tensors: Tensors) -> InputError:
    return InputError(
        f"has the weights of another network: {what} have {key}, found {some(sorted(tensors))}"
    )


_FORMS = {
    "panns": (_panns, "fc_audioset"),
    "efficientat": (_efficientat, "classifier.5"),
    "ast": (_ast, "mlp_head.1"),
}
FORMS = tuple(_FORMS)
"""The authors whose state dicts are recognised."""
