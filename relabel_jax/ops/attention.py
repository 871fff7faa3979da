"""Self-attention in blocks that stay in a CPU's cache.

The products and the softmax of all tokens with all tokens are far larger than a cache, and XLA
writes each of them to memory. Here a block of them is computed for one clip and one head at a time.
The backward pass computes them again, so a training step keeps none of them. This is the method of
Dao et al., "FlashAttention: fast and memory-efficient exact attention with IO-awareness" (2022).
"""

from typing import Any

import jax
import jax.numpy as jnp

BLOCK_SIZE = 160
"""The most rows of a block. With AST's 1,214 tokens a block takes 0.7 MiB."""


def attention(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """softmax(queries keys^T) values, for each clip and head.

    Args:
      queries: float32[batch, tokens, heads, channels], already divided by sqrt(channels).
      keys: of the same shape.
      values: of the same shape.

    Returns:
      float32[batch, tokens, heads, channels].
    """
    batch, tokens, heads, channels = queries.shape

    def by_head(x):
        return x.swapaxes(1, 2).reshape(batch * heads, tokens, channels)

    found = jax.lax.map(
        lambda parts: _one_head(*parts), tuple(map(by_head, (queries, keys, values)))
    )
    return found.reshape(batch, heads, tokens, channels).swapaxes(1, 2)


@jax.custom_vjp
def _one_head(queries: jax.Array, keys: jax.Array, values: jax.Array) -> jax.Array:
    """The outputs of one clip and head; all arrays are float32[tokens, channels]."""
    return _forward(queries, keys, values)[0]


def _forward(queries, keys, values):
    def block(queries):
        logits = queries @ keys.T
        largest = logits.max(axis=1, keepdims=True)
        weights = jnp.exp(logits - largest)
        total = weights.sum(axis=1, keepdims=True)
        return weights @ values / total, largest[:, 0] + jnp.log(total[:, 0])

    outputs, normalizers = _joined(jax.lax.map(block, _blocks(queries)), len(queries))
    return outputs, (queries, keys, values, outputs, normalizers)


def _backward(saved, gradient):
    """In blocks of keys.

    The softmax is computed as [keys, queries], and the gradient of the queries as [channels,
    queries]. Otherwise some products would have a large transposed left factor, and take about
    twice as long.
    """
    queries, keys, values, outputs, normalizers = saved
    # By the softmax's rule, d_logits = softmax * (d_softmax - sum(softmax * d_softmax)). This sum
    # over the keys is that of outputs * gradient over the channels.
    sums = (outputs * gradient).sum(axis=1)

    def block(d_queries, of_block):
        keys, values = of_block
        # A softmax is at most 1. Without the bound, rows of zeros at the end could become infinite.
        softmax = jnp.exp(jnp.minimum(keys @ queries.T - normalizers[None], 0))
        d_logits = softmax * (values @ gradient.T - sums[None])
        return d_queries + keys.T @ d_logits, (d_logits @ queries, softmax @ gradient)

    d_queries, others = jax.lax.scan(
        block, jnp.zeros_like(queries.T), (_blocks(keys), _blocks(values))
    )
    return d_queries.T, *_joined(others, len(keys))


_one_head.defvjp(_forward, _backward)


def _blocks(x: jax.Array) -> jax.Array:
    """float32[rows, columns] -> float32[blocks, rows of a block, columns]; the last has zeros."""
    num_blocks = -(-len(x) // BLOCK_SIZE)
    size = -(-len(x) // num_blocks)
    padded = jnp.pad(x, ((0, num_blocks * size - len(x)), (0, 0)))
    return padded.reshape(num_blocks, size, x.shape[1])


def _joined(arrays: Any, num_rows: int) -> Any:
    """The arrays of all blocks, without the rows of zeros at the end."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_rows], arrays)
