"""Reads the tensors of a file that other people's training wrote. Nothing else is unpickled."""

import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from relabel_jax.errors import InputError, install_command
from relabel_jax.files import reading

_INSIDE = ("model", "state_dict")
"""Where a checkpoint of a training has the state dict."""
_PREFIX = "module."  # of torch.nn.DataParallel


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict, or a checkpoint that has one under `model` or `state_dict`.

    Args:
      path: a `.safetensors`, or a file of `torch.save`, which needs PyTorch.

    Returns:
      The tensors in float32, without the prefix of `torch.nn.DataParallel`.

    Raises:
      InputError: the file cannot be read, has more than tensors, numbers and texts, or has a NaN.
    """
    with reading(path):
        open(path, "rb").close()  # raises the true error; safetensors always says "no such file"
    if path.suffix == ".safetensors":
        try:
            found: Any = safetensors.numpy.load_file(path)
        except Exception as error:  # a damaged file, or a dtype that NumPy does not have
            raise InputError(f"{path}: cannot read the tensors: {error}") from error
        tensors = {name: np.asarray(array, np.float32) for name, array in found.items()}
    else:
        tensors = _of_pytorch(path)
    if not tensors:
        raise InputError(f"{path}: has no tensors")
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path}: {name}: has a NaN or an infinity")
    if all(name.startswith(_PREFIX) for name in tensors):
        return {name.removeprefix(_PREFIX): array for name, array in tensors.items()}
    return tensors


def _of_pytorch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InputError(f"{path}: needs PyTorch: {install_command('torch')}") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that then cannot be read
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and PyTorch raise errors of many kinds
        raise InputError(f"{path}: {_reason(str(error))}") from error
    for key in _INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: has a {type(found).__name__}, expected a state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: {name!r} is of the type {type(value).__name__}, expected a tensor: it is "
                f"neither a state dict nor a checkpoint with one under {' or '.join(_INSIDE)}"
            )
    return {name: value.detach().float().numpy() for name, value in found.items()}


def _reason(message: str) -> str:
    """The reason why PyTorch refuses a file, in one line."""
    unsafe = re.search(r"GLOBAL ([\w.]+)", message)
    if unsafe is None:
        cause = message.rpartition("WeightsUnpickler error:")[2].strip()
        return f"cannot read the tensors: {cause.partition(chr(10))[0]}"
    return (
        f"has more than tensors, which is not unpickled ({unsafe[1]}); if you trust it, save its "
        "state dict alone with torch.save"
    )
