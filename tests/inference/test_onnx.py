"""The conversion to ONNX: onnxruntime computes what JAX computes, for batches of any size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError
from relabel_jax.inference.export import export
from relabel_jax.inference.onnx_graph import to_onnx
from relabel_jax.inference.onnx_rules import RULES
from relabel_jax.inference.pretrained import Pretrained, SoundClass
from relabel_jax.models import registry
from relabel_jax.models.backbone import Outputs
from relabel_jax.models.variables import shapes, waveform_batch

SMALL = {"name": "waveform_cnn", "features": (8,) * 9, "dense_units": (16, 8)}
CLASSES = tuple(SoundClass(f"/m/{i}", f"Sound {i}", ((f"Sound {i}",),)) for i in range(5))


def check(function, *shape, dtype=np.float32):
    """Compares a function of one array [batch, *shape] in onnxruntime and in JAX."""
    size = jax.export.symbolic_shape("batch")
    inputs = {"x": jax.ShapeDtypeStruct((*size, *shape), dtype)}
    model = to_onnx(lambda x: [function(x)], inputs, ["y"], RULES, "test").SerializeToString()
    session = onnxruntime.InferenceSession(model)
    for batch in (1, 3):
        x = np.random.default_rng(batch).normal(size=(batch, *shape))
        x = (3 * x).astype(dtype)
        expected = function(x)
        (found,) = session.run(["y"], {"x": x})
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


KERNEL = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)


def conv(x, kernel=KERNEL, padding=((0, 0),), axes=("NWC", "WIO", "NWC"), strides=(2,), **options):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=axes, **options
    )


@pytest.mark.parametrize(
    "function",
    [
        nn.elu,
        nn.gelu,
        lambda x: nn.gelu(x, approximate=False),
        nn.softmax,
        nn.softplus,
        nn.standardize,
        lambda x: jnp.clip(x, -1, 1) + jnp.sign(x) * jnp.floor(x) + jnp.ceil(x),
        lambda x: jnp.where((x > 0) & (x != 2) | ~(x <= 1), x, jnp.tanh(x)),
        lambda x: jnp.log1p(x**2) - jnp.exp(-x) + jnp.abs(x) ** 1.5 + jax.lax.rsqrt(1 + x * x),
        lambda x: jnp.sin(x) * jnp.cos(x) + jnp.sqrt(jnp.square(x)),
        lambda x: x.astype(jnp.int32) + 1,
        lambda x: jnp.concatenate([x, x[:, 1:4:2], jnp.pad(x, ((0, 0), (1, 2)))], axis=1),
        lambda x: x.reshape(-1, 3, 2).transpose(2, 0, 1),
        lambda x: x[:, None] @ jnp.ones((6, 2)) + jnp.arange(2.0)[None, None],
        lambda x: jnp.einsum("bi,bj->bij", x, x),
        lambda x: x.max(axis=1) - x.min(axis=1) + x[:, :2].prod(axis=1) + x.mean(axis=1),
        lambda x: jnp.ones((x.shape[0], 2)) * 3,
        lambda x: jnp.broadcast_to(x[:, :, None], (x.shape[0], 6, 2)).sum(axis=(1, 2)),
        lambda x: jnp.broadcast_to(jnp.arange(4.0), (x.shape[0], 4)).reshape(-1, 2, 2),
    ],
)
def test_functions_of_rows(function):
    check(function, 6)


@pytest.mark.parametrize(
    "function",
    [
        conv,
        lambda x: conv(x, padding=((2, 1),), rhs_dilation=(2,)),
        lambda x: conv(x, KERNEL[:, :1], feature_group_count=2),
        lambda x: conv(x, KERNEL.T, axes=("NWC", "OIW", "NCW")),
        lambda x: conv(x.transpose(1, 2, 0), axes=("WCN", "WIO", "CNW")),
        lambda x: nn.avg_pool(x, (3,), (2,), ((1, 1),)),
        lambda x: nn.max_pool(x, (3,), (2,), ((1, 1),)),
        lambda x: x[:, 3] + x[:, 2:5].sum(axis=1) * x[..., 1:].mean(axis=1) + x[:, [4, 1]][:, 0],
        lambda x: x[:, jnp.array([[1, 2, 8], [0, 0, 3]])],
        lambda x: nn.max_pool(x[..., None, :], (2, 1), (2, 1)),
    ],
)
def test_convolutions_and_pooling(function):
    check(function, 9, 2)


def test_integers():
    check(lambda x: jnp.maximum(x, 1) * 2 - x, 4, dtype=np.int32)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: jnp.cumsum(x, axis=1), "JAX's primitive cumsum, which this export cannot"),
        (lambda x: x * x.shape[0], "JAX's primitive dim_as_value, which"),
        (lambda x: x[:, jnp.argmax(x[0, :, 0])], "primitive"),
        (lambda x: conv(x, lhs_dilation=(2,)), "conv_general_dilated with dilated inputs"),
        (
            lambda x: jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 2, 2), (1, 1, 1), "VALID"),
            "reduce_window_max with fewer than two axes that are not pooled",
        ),
    ],
)
def test_what_cannot_be_converted(function, message):
    with pytest.raises(InputError, match=message):
        check(function, 9, 2)


def random_variables(network):
    """Variables in the order of magnitude of trained ones."""
    rng = np.random.default_rng(0)

    def draw(path, like):
        values = rng.normal(size=like.shape) / np.sqrt(np.prod(like.shape[:-1]))
        if path[-1].key in ("var", "scale"):
            values = 1 + 0.2 * np.abs(values)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(network))


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [
        {"name": "logmel_cnn"},
        SMALL,
        SMALL | {"fold_norm": False},
    ],
    ids=["logmel_cnn", "waveform_cnn", "waveform_cnn without folding"],
)
def test_the_built_in_networks(model, tmp_path):
    """The exported file against the network as the training evaluates it."""
    network = registry.build(model, len(CLASSES))
    variables = random_variables(network)
    names = export(Pretrained(network, variables, CLASSES, {}), tmp_path / "out", ["onnx"])
    assert names == ["classes.json", "config.json", "model.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    num_samples = network.waveform_format.num_samples
    waveforms = np.random.default_rng(1).integers(-(1 << 14), 1 << 14, (2, num_samples), np.int16)
    embeddings, (scores, _) = jax.jit(
        lambda batch: (
            network.apply(variables, batch, method="embed"),
            network.apply(variables, batch, train=False),
        )
    )(waveforms)
    assert np.std(embeddings) > 0.1  # or the tolerance would say nothing
    for batch in (1, 2):
        inputs = {"waveforms": waveforms[:batch] / np.float32(1 << 15)}
        found = session.run(["embeddings", "scores"], inputs)
        np.testing.assert_allclose(found[0], embeddings[:batch], atol=1e-5, rtol=0)
        np.testing.assert_allclose(found[1], scores[:batch], atol=1e-5, rtol=0)


class Sorting(nn.Module):
    """A network with a primitive that the ONNX export does not know."""

    num_classes: int
    embedding_size = 3
    waveform_format = WaveformFormat(8_000, 0.01)

    def setup(self):
        self.dense = nn.Dense(self.num_classes)

    def __call__(self, waveforms, train):
        return self.head(self.embed(waveforms))

    def embed(self, waveforms, train=False):
        return jnp.sort(waveforms.astype(jnp.float32), axis=1)[:, :3]

    def head(self, embeddings, train=False):
        return Outputs.of_logits(self.dense(embeddings))


class FixedBatch(Sorting):
    """A network that cannot be traced for batches of any size."""

    def embed(self, waveforms, train=False):
        return waveforms.astype(jnp.float32)[:, :3] * len(waveforms)


@pytest.mark.parametrize(
    ("network", "file_format", "message"),
    [
        (Sorting(5), "onnx", "JAX's primitive sort, which this export cannot convert"),
        (FixedBatch(5), "onnx", "cannot convert the network for batches of any size"),
        (FixedBatch(5), "stablehlo", "cannot convert the network for batches of any size"),
    ],
)
def test_a_failed_export_leaves_nothing(tmp_path, network, file_format, message):
    variables = jax.device_get(
        network.init(jax.random.key(0), np.zeros(waveform_batch(network).shape), False)
    )
    pretrained = Pretrained(network, variables, CLASSES, {})
    for folder in (tmp_path / "new", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        with pytest.raises(InputError, match=message) as caught:
            export(pretrained, folder, ["safetensors", file_format])
        assert "\n" not in str(caught.value)
        assert [*folder.glob("*")] == []
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "empty").exists()
