"""A convolution that the next layer computes."""

import functools

import flax
import jax
import jax.numpy as jnp

from relabel_jax.ops import direct, space_to_depth
from relabel_jax.ops.elementwise import elu
from relabel_jax.ops.elu_moments import activate
from relabel_jax.ops.formulation import Formulation


@flax.struct.dataclass
class Deferred:
    """The activations of a convolution, ELU(y + bias) - ELU(bias), which are not computed yet.

    Attributes:
      inputs, kernel, stride, formulation: see `convolution.convolution`.
      bias: float32[channels_out].
    """

    inputs: jax.Array
    kernel: jax.Array
    bias: jax.Array
    stride: int = flax.struct.field(pytree_node=False)
    formulation: Formulation = flax.struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, time_out, channels_out)."""
        batch, time, _ = self.inputs.shape
        kernel_size, _, channels_out = self.kernel.shape
        return batch, space_to_depth.time_out(time, kernel_size, self.stride), channels_out

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the activations, which is that of the inputs."""
        return self.inputs.dtype

    def rows(self, clip, row, clips: int, rows: int) -> jax.Array:
        """Computes some rows of some clips: a `space_to_depth.RowReader`."""
        length = (rows - 1) * self.stride + len(self.kernel)
        read = space_to_depth.row_reader(self.inputs)
        outputs = direct.convolve(
            read(clip, row * self.stride, clips, length), self.kernel, self.stride
        )
        values = activate(
            outputs, self.bias, functools.partial(elu, cores_share=self.formulation.cores_share)
        )
        # Without the barrier an operation that uses a row several times computes it several times.
        return jax.lax.optimization_barrier(values)
