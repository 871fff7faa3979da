"""Layers: convolution or dense, then ELU and batch normalization, as one function each.

A layer takes `Hidden` values and returns `Hidden` values:

    hidden = Hidden(waveforms)
    hidden = conv_elu_norm(hidden, weights, norm, stride=3, formulation=formulation, train=train)
    hidden = dense_elu_norm(hidden.flatten(), weights, norm, train=train)
    logits = dense(hidden, weights)

Callers need not know how a layer is computed: the next layer may apply a normalization
(`normalization.py`) or compute a convolution in its loop (`convolution_elu.py`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from relabel_jax.ops import convolution_elu
from relabel_jax.ops.convolution import convolution
from relabel_jax.ops.deferred import Deferred
from relabel_jax.ops.elu_moments import activate, add_bias, elu_and_moments, elu_of_bias
from relabel_jax.ops.formulation import Formulation
from relabel_jax.ops.grouped_time import Grouped
from relabel_jax.ops.normalization import Normalization


class Weights(NamedTuple):
    """The weights of a layer.

    Attributes:
      kernel: float32[kernel_size, channels, features] of a convolution, float32[channels, features]
        of a dense layer.
      bias: float32[features].
    """

    kernel: jax.Array
    bias: jax.Array


class KernelAndBias(nn.Module):
    """The parameters of a layer.

    The initial kernel is Glorot uniform, the default of Keras. (Flax's default is LeCun normal.)

    Attributes:
      features: channels of the layer's outputs.
      kernel_size: rows that the kernel of a convolution spans; None for a dense layer.
    """

    features: int
    kernel_size: int | None = None

    @nn.compact
    def __call__(self, channels: int) -> Weights:
        """The weights for inputs with this number of channels."""
        window = () if self.kernel_size is None else (self.kernel_size,)
        shape = (*window, channels, self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        return Weights(kernel, self.param("bias", nn.initializers.zeros_init(), shape[-1:]))


class Hidden(NamedTuple):
    """The values between two layers: `values * scale + shift`, channel by channel.

    Attributes:
      values: float[batch, ..., channels].
      scale, shift: float32[channels], a normalization for the next layer to apply; None if there
        is none.
    """

    values: jax.Array | Deferred | Grouped
    scale: jax.Array | None = None
    shift: jax.Array | None = None

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.values.shape[-1]

    def flatten(self) -> "Hidden":
        """[batch, 1, channels] -> [batch, channels]."""
        values = convolution_elu.computed(self.values)
        return self._replace(values=values.reshape(values.shape[0], -1))

    def fold_into(self, weights: Weights) -> Weights:
        """The weights that give the same outputs for `values` without scale and shift."""
        if self.scale is None or self.shift is None:
            return weights
        kernel, bias = weights
        by_channel = (1,) * (kernel.ndim - 2) + (-1, 1)
        # Sums instead of matrix products, which accelerators would round.
        shifted = jnp.sum(kernel * self.shift.reshape(by_channel), range(kernel.ndim - 1))
        return Weights(kernel * self.scale.reshape(by_channel), bias + shifted)


def conv_elu_norm(
    inputs: Hidden,
    weights: Weights,
    norm: Normalization,
    *,
    stride: int,
    formulation: Formulation,
    train: bool,
    buffers: Any = None,
) -> Hidden:
    """A VALID convolution over time, ELU and batch normalization.

    Args:
      inputs: [batch, time, channels].
      weights: of the convolution.
      norm: the order of ELU and normalization, and the normalization's variables.
      stride: the step in time.
      formulation: how the convolution is computed.
      train: normalize by the batch's statistics and update the running ones.
      buffers: from `conv_buffers` or from the step before, for training.

    Returns:
      [batch, time_out, features], in the dtype of the inputs.
    """
    kernel, bias = inputs.fold_into(weights)
    kernel = kernel.astype(inputs.values.dtype)
    if norm.folds and not train:
        values = convolution_elu.activations(inputs.values, kernel, bias, stride, formulation)
        return Hidden(values, *norm.scale_and_shift(elu_of_bias(bias)))
    if norm.folds:
        activated, *moments = convolution_elu.activations_and_moments(
            inputs.values, kernel, bias, stride, formulation, norm.axis_name, buffers
        )
        return Hidden(activated, *norm.scale_and_shift(elu_of_bias(bias), moments))
    x = convolution_elu.computed(inputs.values)
    outputs = convolution(x, kernel, stride, formulation)
    return Hidden(norm.activate_and_normalize(outputs, bias, train))


def conv_buffers(
    input_shape: Sequence[int],
    kernel_shape: Sequence[int],
    dtype: jax.typing.DTypeLike,
    stride: int,
    formulation: Formulation,
) -> Any:
    """Buffers for `conv_elu_norm` in training (`buffers.py`), or None if it does not need any.

    Args:
      input_shape: (batch, time, channels_in).
      kernel_shape: (kernel_size, channels_in, features).
      dtype: of the inputs.
      stride, formulation: see `conv_elu_norm`.
    """
    inputs = jax.ShapeDtypeStruct(input_shape, dtype)
    kernel = jax.ShapeDtypeStruct(kernel_shape, dtype)
    return convolution_elu.make_buffers(inputs, kernel, stride, formulation)


def dense(inputs: Hidden, weights: Weights) -> jax.Array:
    """A dense layer, in float32: [batch, channels] -> float32[batch, features]."""
    return add_bias(*_matmul(inputs, weights))


def dense_elu_norm(inputs: Hidden, weights: Weights, norm: Normalization, *, train: bool) -> Hidden:
    """A dense layer, ELU and batch normalization, in float32: [batch, features].

    Args:
      inputs: [batch, channels].
      weights: of the dense layer.
      norm, train: see `conv_elu_norm`.
    """
    outputs, bias = _matmul(inputs, weights)
    return elu_norm(outputs, bias, norm, train=train)


def elu_norm(outputs: jax.Array, bias: jax.Array, norm: Normalization, *, train: bool) -> Hidden:
    """ELU and batch normalization of `outputs + bias`.

    Args:
      outputs: float[..., channels].
      bias: float32[channels].
      norm, train: see `conv_elu_norm`.
    """
    if not norm.folds:
        return Hidden(norm.activate_and_normalize(outputs, bias, train))
    if not train:
        return Hidden(activate(outputs, bias), *norm.scale_and_shift(elu_of_bias(bias)))
    values, *moments = elu_and_moments(outputs, bias, norm.axis_name)
    return Hidden(values, *norm.scale_and_shift(elu_of_bias(bias), moments))


def _matmul(inputs: Hidden, weights: Weights) -> tuple[jax.Array, jax.Array]:
    """The product with the kernel, and the bias, which is not added yet."""
    kernel, bias = inputs.fold_into(weights)
    values = convolution_elu.computed(inputs.values).astype(kernel.dtype)
    return jnp.matmul(values, kernel, precision="highest"), bias
