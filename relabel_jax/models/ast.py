"""AST, the audio spectrogram transformer: a ViT on patches of a log-mel spectrogram.

Gong et al., "AST: audio spectrogram transformer" (2021), section 2.1; code:
https://github.com/YuanGongND/ast. The patches have 16 bands and 16 frames, and start 10 bands and
10 frames after one another. The transformer is DeiT's (Touvron et al., 2021, Table 1), with a class
token and a distillation token, whose mean is the embedding:

               width  heads  layers  parameters for 527 classes
    ast_tiny   192    3      12      5,723,663
    ast_small  384    6      12      22,063,631
    ast_base   768    12     12      86,594,063

The position embeddings count, the arrays of the front end do not. The authors' program counts 1.5 M
more for the base: its network still has DeiT's two heads for ImageNet, which it does not use.
"""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.front_ends import (
    AST_BANDS,
    AST_MEAN,
    AST_RATE_HZ,
    AST_STD,
    ast_filter_bank,
    check_options,
    uses_cpu_forms,
)
from relabel_jax.models.spec_augment import (
    STREAM,
    check_masks,
    random_streams,
    spec_augment,
)
from relabel_jax.ops.attention import attention
from relabel_jax.ops.product import dot_general, product

PATCH_SIZE = 16
PATCH_STRIDE = 10
MLP_RATIO = 4
# DeiT's start: nearly all weights come from a normal distribution.
_normal = nn.initializers.normal(0.02)
# PyTorch's default for the layers that AST adds, uniform in +-1 / sqrt(inputs).
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)


def _dense(features: int, on_cpu: bool, name: str) -> nn.Dense:
    """A dense layer of the transformer."""
    form = dot_general if on_cpu else None
    return nn.Dense(features, kernel_init=_normal, dot_general=form, name=name)


def _product_of_patches(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **_: Any
) -> jax.Array:
    """The convolution of one channel, [batch, bands, frames, 1], as a product of patches.

    On a CPU inside a loop, XLA takes 25 times as long for the gradient of the convolution's kernel.
    """
    size, stride = kernel.shape[0], strides[0]
    bands, frames = (
        stride * np.arange((total - size) // stride + 1)[:, None] + np.arange(size)
        for total in x.shape[1:3]
    )
    patches = x[..., 0][:, bands][..., frames]  # [batch, rows, bands, columns, frames]
    patches = patches.swapaxes(2, 3).reshape(*patches.shape[:2], len(frames), size * size)
    return product(patches, kernel.reshape(size * size, -1))


class Attention(nn.Module):
    """Self-attention of several heads.

    Attributes:
      num_heads: they share the channels evenly.
      on_cpu: whether it has the form for a CPU.
    """

    num_heads: int
    on_cpu: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32[batch, tokens, width] -> the same shape."""
        _, tokens, width = x.shape
        shape = (-1, tokens, 3, self.num_heads, width // self.num_heads)
        projected = _dense(3 * width, self.on_cpu, "qkv")(x).reshape(shape)
        queries, keys, values = (projected[:, :, part] for part in range(3))
        queries *= queries.shape[-1] ** -0.5
        if self.on_cpu:
            found = attention(queries, keys, values)
        else:
            logits = jnp.einsum("bqhc,bkhc->bhqk", queries, keys)
            found = jnp.einsum("bhqk,bkhc->bqhc", nn.softmax(logits), values)
        return _dense(width, self.on_cpu, "proj")(found.reshape(-1, tokens, width))


class Layer(nn.Module):
    """Self-attention, then a dense layer of `MLP_RATIO` times the width, each added to its input.

    Attributes:
      num_heads: see `Attention`.
      on_cpu: see `Attention`.
    """

    num_heads: int
    on_cpu: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """float32[batch, tokens, width] -> the same shape."""
        width = x.shape[-1]
        x += Attention(self.num_heads, self.on_cpu, name="attn")(_norm(name="norm1")(x))
        hidden = _dense(MLP_RATIO * width, self.on_cpu, "fc1")(_norm(name="norm2")(x))
        return x + _dense(width, self.on_cpu, "fc2")(nn.gelu(hidden, approximate=False))


class AST(nn.Module):
    """The part that all sizes share. A subclass implements `backbone.Backbone`.

    The waveforms have 16 kHz.

    Attributes:
      num_classes: outputs, one sigmoid each.
      width: channels of a token. It is the size of an embedding.
      num_heads: heads of each self-attention.
      num_layers: layers of the transformer.
      duration_s: length of the input waveforms.
      num_frames: frames of the spectrogram, 100 a second. A shorter one is padded, a longer one is
        cut.
      spec_augment: the masks of `spec_augment` in training, such as (1, 192, 1, 48); () for none.
      formulation: how the front end is computed, one of `front_ends.FORMULATIONS`.
    """

    num_classes: int
    width: int = 768
    num_heads: int = 12
    num_layers: int = 12
    duration_s: float = 10.0
    num_frames: int = 1024
    spec_augment: Sequence[int] = ()
    formulation: str = "auto"

    pytorch_example: ClassVar[str] = "ast_pytorch.txt"

    def __post_init__(self):
        for option in ("width", "num_heads", "num_layers"):
            if getattr(self, option) < 1:
                raise InputError(
                    f"config.model.{option}: expected a positive number, got "
                    f"{getattr(self, option)}"
                )
        if self.width % self.num_heads:
            raise InputError(
                f"config.model.num_heads: {self.num_heads} heads cannot share {self.width} "
                "channels evenly"
            )
        if self.num_frames < PATCH_SIZE:
            raise InputError(
                f"config.model.num_frames: expected {PATCH_SIZE} or more, got {self.num_frames}"
            )
        check_options(self.formulation, self.waveform_format, 400)
        check_masks(self.spec_augment)
        super().__post_init__()

    @property
    def waveform_format(self) -> WaveformFormat:
        """Sample rate and length of the input waveforms."""
        return WaveformFormat(AST_RATE_HZ, self.duration_s)

    @property
    def random_streams(self) -> tuple[str, ...]:
        """The random streams that training needs."""
        return random_streams(self.spec_augment)

    @property
    def embedding_size(self) -> int:
        """The number of values in an embedding."""
        return self.width

    def for_export(self) -> "AST":
        """The network without an FFT, which ONNX's runtimes do not all have."""
        return self.clone(formulation="matmul")

    def setup(self):
        on_cpu = uses_cpu_forms(self.formulation)
        self.patches = nn.Conv(
            self.width,
            (PATCH_SIZE, PATCH_SIZE),
            PATCH_STRIDE,
            padding="VALID",
            kernel_init=_uniform,
            conv_general_dilated=_product_of_patches if on_cpu else None,
        )
        bands, frames = (
            1 + (size - PATCH_SIZE) // PATCH_STRIDE for size in (AST_BANDS, self.num_frames)
        )
        self.class_token = self.param("class_token", _normal, (1, 1, self.width))
        self.distillation_token = self.param("distillation_token", _normal, (1, 1, self.width))
        self.positions = self.param("positions", _normal, (1, 2 + bands * frames, self.width))
        self.layers = [Layer(self.num_heads, on_cpu) for _ in range(self.num_layers)]
        self.norm = _norm()
        self.head_norm = nn.LayerNorm(epsilon=1e-5)
        self.output = nn.Dense(self.num_classes, kernel_init=_uniform)

    def published_name(self, *path: str) -> str:
        """The name of a module or parameter in the authors' state dict (`published.py`)."""
        first, *rest = path
        if first.startswith("layers_"):
            is_dense = rest[0] in ("fc1", "fc2")
            return ".".join(["v.blocks", first[7:], *["mlp"] * is_dense, *rest])
        return {
            "patches": "v.patch_embed.proj",
            "class_token": "v.cls_token",
            "distillation_token": "v.dist_token",
            "positions": "v.pos_embed",
            "norm": "v.norm",
            "head_norm": "mlp_head.0",
            "output": "mlp_head.1",
        }[first]

    def __call__(self, waveforms: jax.Array, train: bool) -> Outputs:
        """The outputs for int16[batch, samples], or a float array in int16's scale."""
        return self.head(self.embed(waveforms, train), train)

    def embed(self, waveforms: jax.Array, train: bool = False) -> jax.Array:
        """The mean of the two tokens' outputs, float32[batch, embedding_size]."""
        spectrogram = ast_filter_bank(waveforms, self.num_frames, self.formulation)
        if train and self.spec_augment:  # the authors mask with 0 before the normalization
            spectrogram = spec_augment(
                spectrogram,
                self.make_rng(STREAM),
                self.spec_augment,
                fill=-AST_MEAN / (2 * AST_STD),
            )
        patches = self.patches(spectrogram.swapaxes(1, 2)[..., None])
        patches = patches.reshape(-1, patches.shape[1] * patches.shape[2], self.width)
        tokens = (
            jnp.broadcast_to(token, (waveforms.shape[0], 1, self.width))
            for token in (self.class_token, self.distillation_token)
        )
        x = jnp.concatenate([*tokens, patches], axis=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.norm(x[:, :2]).mean(axis=1)

    def head(self, embeddings: jax.Array, train: bool = False) -> Outputs:
        """The outputs for embeddings, float32[..., embedding_size]."""
        return Outputs.of_logits(self.output(self.head_norm(embeddings)))


_DESCRIPTION = (
    '"AST: audio spectrogram transformer" (Gong et al.), {}: a ViT on patches of a log-mel '
    "spectrogram."
)


class ASTTiny(AST):
    """AST with DeiT's tiny transformer."""

    width: int = 192
    num_heads: int = 3
    description: ClassVar[str] = _DESCRIPTION.format("tiny")


class ASTSmall(AST):
    """AST with DeiT's small transformer."""

    width: int = 384
    num_heads: int = 6
    description: ClassVar[str] = _DESCRIPTION.format("small")


class ASTBase(AST):
    """AST with DeiT's base transformer."""

    description: ClassVar[str] = _DESCRIPTION.format("base")
