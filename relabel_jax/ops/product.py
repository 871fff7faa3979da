"""A matrix product whose gradients are matrix products without copies.

JAX computes the gradient of the second factor as a transposed product. For that, XLA makes a
transposed copy of the outputs' gradient on a CPU. The copy is large if the first factor has many
rows.
"""

from typing import Any

import jax
import jax.numpy as jnp


def dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """`product` for `nn.Dense(dot_general=...)`."""
    return product(x, kernel)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies the last axis by a matrix.

    Args:
      x: float32[..., inputs].
      kernel: float32[inputs, outputs].

    Returns:
      float32[..., outputs].
    """
    return _matmul(_rows(x), kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _forward(x, kernel):
    return product(x, kernel), (x, kernel)


def _backward(residuals, gradient):
    x, kernel = residuals
    rows = _rows(gradient)
    return _matmul(rows, kernel.T).reshape(x.shape), _matmul(_rows(x).T, rows)


product.defvjp(_forward, _backward)


def _rows(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _matmul(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
