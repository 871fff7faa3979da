import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from jax import lax

from relabel_jax.ops import blocked, cpu_devices, direct, im2col, toom_cook
from relabel_jax.ops.convolution import (
    FORMULATIONS,
    Buffers,
    Deferred,
    activated_convolution,
    activations,
    buffers,
    convolution,
    default_formulation,
    whole,
)
from relabel_jax.ops.elementwise import elu

# Table II.
TAPS = (17, 16, 15, 14, 13, 12, 9, 9, 9)
STRIDES = (3,) * 8 + (1,)
FILTERS = (64, 64, 96, 96, 128, 128, 192, 192, 256)
LENGTHS = (80000, 26662, 8883, 2957, 982, 324, 105, 33, 9, 1)

WORST_ERROR = 2e-5  # Of the largest value; real layers at batch 2 reach 4e-6.

FIXTURES_ARE_FINE = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
ANY_SHAPE = hypothesis.given(
    batch=st.integers(1, 5),
    time=st.integers(1, 120),
    channels_in=st.integers(1, 4),
    channels_out=st.integers(1, 4),
    taps=st.integers(1, 20),
    stride=st.integers(1, 5),
)


@pytest.fixture
def blocks_everywhere(monkeypatch):
    """Blocks, and parts of a clip, from the smallest shapes they can take; tiny ones."""
    for module in (direct, toom_cook, im2col):
        monkeypatch.setattr(module, "_LONG", 10)
    monkeypatch.setattr(direct, "_PART", 7)
    monkeypatch.setattr(toom_cook, "_WIDE", 1)
    monkeypatch.setattr(blocked, "_block_bytes", lambda: 4096)


@pytest.fixture
def shifted_everywhere(blocks_everywhere, monkeypatch):
    """Taps side by side instead of Toom-Cook, so in all dtypes and not in bfloat16 alone."""
    monkeypatch.setattr(toom_cook, "pay", im2col.pay)
    monkeypatch.setattr(toom_cook, "ToomCook", im2col.Shifted)
    monkeypatch.setattr(im2col, "_WIDE", 20)


def brute_force(x, w, dy, stride):
    """The definition and its gradients in float64: (y, dx, dw)."""
    x, w, dy = (np.asarray(array, np.float64) for array in (x, w, dy))
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    for tap in range(w.shape[0]):
        seen = np.s_[:, tap : tap + (dy.shape[1] - 1) * stride + 1 : stride]
        if dy.shape[1]:
            y += x[seen] @ w[tap]
            dx[seen] += dy @ w[tap].T
            dw[tap] = np.einsum("btc,btf->cf", x[seen], dy)
    return y, dx, dw


def arrays(batch, time, channels_in, channels_out, taps, stride, dtype=np.float32):
    rng = np.random.default_rng([batch, time, channels_in, channels_out, taps, stride])
    time_out = max(0, (time - taps) // stride + 1)
    return (
        rng.normal(size=(batch, time, channels_in)).astype(dtype),
        rng.normal(size=(taps, channels_in, channels_out)).astype(dtype),
        rng.normal(size=(batch, time_out, channels_out)).astype(dtype),
    )


def value_and_gradients(x, w, dy, stride, formulation):
    def compute(x, w, dy):
        y, pull = jax.vjp(lambda x, w: convolution(x, w, stride, formulation), x, w)
        return y, *pull(dy)

    return jax.jit(compute)(x, w, dy)


def worst_error(got, expected):
    """The largest error of all arrays, each in units of its largest value."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        if b.size:
            error = np.abs(np.asarray(a, np.float64) - b).max()
            worst = max(worst, error / max(np.abs(b).max(), 1e-30))
    return worst


def check(formulation, batch, time, channels_in, channels_out, taps, stride):
    x, w, dy = arrays(batch, time, channels_in, channels_out, taps, stride)
    got = value_and_gradients(x, w, dy, stride, formulation)
    assert worst_error(got, brute_force(x, w, dy, stride)) < WORST_ERROR


@pytest.mark.parametrize("taps", range(2, 8))
def test_the_bilinear_identity_is_exact(taps):
    outputs = 9 - taps
    a, g, bt = toom_cook.matrices(outputs, taps)
    for i in range(outputs):
        for j in range(taps):
            for k in range(8):
                total = sum(a[p][i] * g[p][j] * bt[p][k] for p in range(8))
                assert total == (k == i + j)


def test_fewer_points_are_exact_and_more_are_refused():
    a, g, bt = toom_cook.matrices(2, 2)
    for i, j, k in np.ndindex(2, 2, 3):
        assert sum(a[p][i] * g[p][j] * bt[p][k] for p in range(3)) == (k == i + j)
    with pytest.raises(ValueError, match=r"F\(4, 6\)"):
        toom_cook.matrices(4, 6)


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize("layer", range(9))
def test_layers_of_table_2_at_reduced_size(formulation, layer, blocks_everywhere):
    # The length keeps the remainder of the real one: in four layers the zero-padded taps stick out.
    taps, stride = TAPS[layer], STRIDES[layer]
    time = min(LENGTHS[layer], taps + 41 * stride + (LENGTHS[layer] - taps) % stride)
    check(formulation, 3, time, 1 if layer == 0 else 6, 7, taps, stride)


@pytest.mark.parametrize("layer", [1, 2, 3, 4, 5])
def test_real_layers_with_toom_cook(layer):
    shape = (2, LENGTHS[layer], FILTERS[layer - 1])
    kernel_shape = (TAPS[layer], FILTERS[layer - 1], FILTERS[layer])
    assert toom_cook.pay(shape, kernel_shape, 3)
    check("toom_cook", *shape, FILTERS[layer], TAPS[layer], 3)


@pytest.mark.parametrize("layer", [0, 6, 7, 8])
def test_real_layers_in_direct_form(layer):
    channels_in = FILTERS[layer - 1] if layer else 1
    shape, kernel_shape = (2, LENGTHS[layer], channels_in), (TAPS[layer], channels_in, 8)
    assert not toom_cook.pay(shape, kernel_shape, STRIDES[layer])
    check("toom_cook", *shape, 8, TAPS[layer], STRIDES[layer])


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(
    ("time", "taps", "stride"),
    [(4, 5, 3), (5, 5, 3), (1, 1, 1), (50, 2, 5), (47, 1, 3), (44, 7, 1), (0, 3, 2)],
)
def test_edges(formulation, time, taps, stride, blocks_everywhere):
    check(formulation, 2, time, 3, 2, taps, stride)


@pytest.mark.parametrize("formulation", ["direct", "toom_cook"])
@hypothesis.settings(FIXTURES_ARE_FINE, max_examples=4)
@ANY_SHAPE
def test_any_shape(
    formulation, batch, time, channels_in, channels_out, taps, stride, blocks_everywhere
):
    check(formulation, batch, time, channels_in, channels_out, taps, stride)


@pytest.mark.parametrize("formulation", ["direct", "toom_cook"])
def test_float64_agrees_with_lax_autodiff_to_rounding(formulation, blocks_everywhere):
    with jax.enable_x64(True):
        x, w, dy = arrays(3, 139, 5, 4, 16, 3, np.float64)
        expected = value_and_gradients(x, w, dy, 3, "lax")
        got = value_and_gradients(x, w, dy, 3, formulation)
        assert all(array.dtype == np.float64 for array in got)
        assert worst_error(got, [np.asarray(array) for array in expected]) < 1e-13


@pytest.mark.parametrize("formulation", ["direct", "toom_cook"])
def test_a_population_in_scan_map_and_loops(formulation, blocks_everywhere):
    x, w, dy = arrays(4, 139, 5, 4, 16, 3)
    members = jnp.stack([w, 0.5 * w])

    def step(formulation, w, x):
        gradient = jax.grad(lambda w: jnp.vdot(convolution(x, w, 3, formulation), dy[:2]))(w)
        return w - 1e-3 * gradient

    @functools.partial(jax.jit, static_argnums=0)
    def train(formulation, members, x):
        one = functools.partial(step, formulation)
        vmapped, _ = lax.scan(
            lambda ws, x: (jax.vmap(one, (0, None))(ws, x), None), members, x.reshape(2, 2, 139, 5)
        )
        mapped = lax.fori_loop(0, 2, lambda _, ws: lax.map(lambda w: one(w, x[:2]), ws), members)
        return vmapped, mapped

    got, expected = train(formulation, members, x), train("lax", members, x)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_bfloat16(formulation, blocks_everywhere):
    arrays_ = [jnp.asarray(array, jnp.bfloat16) for array in arrays(3, 139, 5, 4, 16, 3)]
    got = value_and_gradients(*arrays_, 3, formulation)
    assert all(array.dtype == jnp.bfloat16 for array in got)
    assert worst_error(got, brute_force(*arrays_, 3)) < 2e-2


@pytest.mark.parametrize(
    ("shape", "filters", "in_tiles", "least"),
    # Of waveforms it is one convolution outside the loop, whose result nobody has to copy.
    [((4, 400, 1), 4, False, 1), ((4, 400, 4), 4, False, 2), ((3, 400, 64), 32, True, 2)],
)
def test_an_unused_input_gradient_is_not_computed(shape, filters, in_tiles, least, monkeypatch):
    """XLA drops it, from the loop that the two gradients share where there is one."""
    monkeypatch.setattr(direct, "_LONG", 10)
    monkeypatch.setattr(blocked, "_block_bytes", lambda: 4096)
    x, w, dy = arrays(*shape, filters, 16, 3)
    assert toom_cook.pay(x.shape, w.shape, 3) == in_tiles

    def operations(argnums):
        def loss(x, w):
            return jnp.vdot(convolution(x, w, 3, "toom_cook"), dy)

        text = jax.jit(jax.grad(loss, argnums)).lower(x, w).compile().as_text()
        return sum(
            text.count(f" {name}(") for name in ("dot", "convolution", "dynamic-update-slice")
        )

    assert operations((0, 1)) >= operations(1) + least


def activated_and_gradients(x, w, bias, dz, stride, formulation):
    """Batch-normalized ELU of the convolution, and its gradients."""

    def normalized(x, w, bias):
        e, *moments = activated_convolution(x, w, bias, stride, formulation)
        mean, mean_square = (moment.reshape(1, 1, -1) for moment in moments)
        return (e - mean) / jnp.sqrt(mean_square - mean**2 + 1e-3)

    def compute(x, w, bias, dz):
        z, pull = jax.vjp(normalized, x, w, bias)
        return z, *pull(dz)

    return jax.jit(compute)(x, w, bias, dz)


@pytest.mark.parametrize("formulation", ["direct", "toom_cook"])
@pytest.mark.parametrize(
    ("batch", "taps"), [(1, 16), *((6, taps) for taps in (2, 9, 12, 13, 14, 15, 16, 17))]
)
def test_activation_in_the_loops_agrees_with_the_whole(formulation, taps, batch, blocks_everywhere):
    """Every form of taps: whole rows of the grid, padded ones, and a tail of its own."""
    with jax.enable_x64(True):
        x, w, dz = arrays(batch, 151, 4, 5, taps, 3, np.float64)
        bias = np.random.default_rng(0).normal(size=5)
        expected = activated_and_gradients(x, w, bias, dz, 3, "lax")
        got = activated_and_gradients(x, w, bias, dz, 3, formulation)
        assert worst_error(got, [np.asarray(array) for array in expected]) < 1e-11


def test_elu(each_core_a_device):
    smallest = 16 * np.finfo(np.float32).smallest_normal  # below this x / 16 may become 0
    negative = np.concatenate([-np.geomspace(smallest, 100, 200_001), np.linspace(-20, 0, 200_001)])
    x = np.concatenate([negative, -negative, [-np.inf, np.inf]]).astype(np.float32)
    expected = np.where(x > 0, x, np.expm1(x.astype(np.float64)))
    got = jax.jit(elu)(x)
    assert got.dtype == np.float32
    error = np.abs(got - expected)[np.isfinite(x)]
    assert np.all(error <= 4 * np.spacing(np.abs(expected[np.isfinite(x)]).astype(np.float32)))
    assert got[-2] == -1
    assert got[-1] == np.inf
    assert np.isnan(elu(jnp.float32(np.nan)))


def with_and_without_buffers(*arguments):
    """What `activated_convolution` and its gradients give with buffers of NaN, and with none."""
    given = buffers(*arguments[:2], 3, "toom_cook")

    def compute(x, w, dz, arrays):
        def activated(x, w, bias, arrays):
            return activated_convolution(x, w, bias, 3, "toom_cook", buffers=arrays)

        result, pull = jax.vjp(activated, x, w, jnp.zeros(5), arrays)
        *gradients, following = pull((dz, jnp.ones(5), jnp.ones(5)))
        return (result, gradients), following

    unread = jax.tree.map(lambda array: array * jnp.nan, given)
    got, following = jax.jit(compute)(*arguments, unread)
    (result, *_), (by_inputs, *_) = got
    handed_on = Buffers(result, None if given.by_inputs is None else by_inputs)
    jax.tree.map(np.testing.assert_array_equal, following, handed_on)
    return got, jax.jit(compute)(*arguments, None)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("channels_in", "cores_share"), [(1, True), (4, False)])
def test_buffers_are_written_never_read_and_handed_on(
    dtype, channels_in, cores_share, blocks_everywhere, monkeypatch
):
    monkeypatch.setattr(cpu_devices, "cores_share", lambda: cores_share)
    *inputs, dz = (jnp.asarray(a, dtype) for a in arrays(3, 151, channels_in, 5, 16, 3))
    assert (buffers(*inputs, 3, "toom_cook").by_inputs is None) == (channels_in == 1)
    assert buffers(*inputs, 3, "lax") is None
    jax.tree.map(np.testing.assert_array_equal, *with_and_without_buffers(*inputs, dz))


def test_a_layer_in_parts_agrees_with_the_whole(blocks_everywhere, each_core_a_device, monkeypatch):
    monkeypatch.setattr(toom_cook, "_WIDE", 32)  # not in tiles
    got, expected = with_and_without_buffers(*arrays(3, 151, 1, 5, 16, 3))
    expected = [np.asarray(array, np.float64) for array in jax.tree.leaves(expected)]
    assert worst_error(jax.tree.leaves(got), expected) < 1e-5


@pytest.mark.parametrize(("channels_in", "cores_share"), [(1, False), (4, False), (4, True)])
def test_buffers_are_not_copied(channels_in, cores_share, blocks_everywhere, monkeypatch):
    monkeypatch.setattr(cpu_devices, "cores_share", lambda: cores_share)
    if channels_in == 1:
        monkeypatch.setattr(toom_cook, "_WIDE", 32)  # in parts, not in tiles
    x, w, _ = arrays(8, 4000, channels_in, 5, 16, 3)
    given = buffers(x, w, 3, "toom_cook")

    def forward(values, x, w):
        return activated_convolution(
            x, w, jnp.zeros(5), 3, "toom_cook", buffers=given._replace(values=values)
        )

    program = jax.jit(forward, donate_argnums=0).lower(given.values, x, w).compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes == given.values.nbytes
    assert memory.temp_size_in_bytes < given.values.nbytes / 2


def two_layers_by_definition(x, k1, b1, k2, b2, dz):
    """The activations, ELU(y + b) - ELU(b), of two layers of stride 3, and the gradients, for which
    ELU(b) is a constant, by `brute_force`."""

    def layer(x, kernel, bias, dz):
        y, _, _ = brute_force(x, kernel, np.zeros(dz.shape), 3)
        z = y + bias
        dy = dz * np.where(z > 0, 1, np.exp(z))
        _, dx, dw = brute_force(x, kernel, dy, 3)
        e, of_bias = (np.where(of > 0, of, np.expm1(of)) for of in (z, bias))
        return e - of_bias, (dx, dw, dy.sum((0, 1)))

    e1, _ = layer(x, k1, b1, np.zeros((len(x), (x.shape[1] - len(k1)) // 3 + 1, k1.shape[2])))
    e2, (de1, *by_second) = layer(e1, k2, b2, dz)
    _, by_first = layer(x, k1, b1, de1)
    return e2, *by_first, *by_second


@pytest.mark.parametrize("formulation", FORMULATIONS)
@pytest.mark.parametrize(("batch", "time"), [(1, 479), (6, 160)])
def test_rows_computed_when_the_next_layer_takes_them(formulation, batch, time, blocks_everywhere):
    """One clip in several blocks, and several clips in a block."""
    rng = np.random.default_rng(0)
    k1, b1, k2, b2 = (rng.normal(size=size) for size in ((17, 1, 4), 4, (16, 4, 5), 5))
    x = rng.normal(size=(batch, time, 1))
    dz = rng.normal(size=(batch, ((time - 17) // 3 + 1 - 16) // 3 + 1, 5))

    def two_layers(x, k1, b1, k2, b2):
        first = activations(x, k1, b1, 3, formulation)
        assert isinstance(first, Deferred)
        return whole(activations(first, k2, b2, 3, formulation))

    def compute(dz, *arguments):
        e, pull = jax.vjp(two_layers, *arguments)
        return e, *pull(dz)

    with jax.enable_x64(True):
        expected = two_layers_by_definition(x, k1, b1, k2, b2, dz)
        assert worst_error(jax.jit(compute)(dz, x, k1, b1, k2, b2), expected) < 1e-11


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_deferred_activations_know_their_shape_and_may_be_empty(formulation):
    """No row, and one: where the next layer has none."""
    for time in (16, 19):
        kernel = jnp.ones((17, 1, 4))
        first = activations(jnp.ones((2, time, 1)), kernel, jnp.zeros(4), 3, formulation)
        assert first.shape == whole(first).shape == (2, time // 19, 4)
        assert first.dtype == whole(first).dtype
        second = activations(first, jnp.ones((16, 4, 5)), jnp.zeros(5), 3, formulation)
        assert whole(second).shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("channels_in", "taps"), [(1, 12), (1, 17), (4, 4), (4, 16), (9, 12), (9, 17)]
)
def test_taps_side_by_side_agree_with_the_whole(taps, channels_in, shifted_everywhere):
    """Seven, two and one row of the grid together."""
    with jax.enable_x64(True):
        x, w, dz = arrays(2, 151, channels_in, 5, taps, 3, np.float64)
        form = im2col.Shifted.of(jnp.asarray(w), 3)
        assert (form.tile, form.narrow) == {1: (7, True), 4: (2, False), 9: (1, False)}[channels_in]
        bias = np.random.default_rng(0).normal(size=5)
        expected = activated_and_gradients(x, w, bias, dz, 3, "lax")
        got = activated_and_gradients(x, w, bias, dz, 3, "toom_cook")
        assert worst_error(got, [np.asarray(array) for array in expected]) < 1e-11


@hypothesis.settings(FIXTURES_ARE_FINE, max_examples=6)
@ANY_SHAPE
def test_taps_side_by_side_in_any_shape(
    batch, time, channels_in, channels_out, taps, stride, shifted_everywhere
):
    check("toom_cook", batch, time, channels_in, channels_out, taps, stride)


def test_bfloat16_has_taps_side_by_side_where_clips_are_long():
    """Layers 1 to 6, so that a CPU's units for it are used (`im2col.py`)."""
    for layer in range(9):
        channels_in = FILTERS[layer - 1] if layer else 1
        kernel_shape = (TAPS[layer], channels_in, FILTERS[layer])
        pays = im2col.pay((24, LENGTHS[layer], channels_in), kernel_shape, STRIDES[layer])
        assert pays == (layer < 6)


def test_taps_that_fill_no_row_of_the_grid_are_padded_or_left_to_a_tail():
    def tail(taps):
        return len(toom_cook.ToomCook.of(jnp.zeros((taps, 2, 1)), 3).tail) // 2

    assert [tail(taps) for taps in (12, 13, 14, 15, 16)] == [0, 0, 0, 0, 1]


def test_default_formulation_follows_the_backend(monkeypatch):
    assert default_formulation() == "toom_cook"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert default_formulation() == "lax"


@pytest.mark.parametrize(
    ("x", "w", "stride", "formulation", "message"),
    [
        ((1, 9, 2), (3, 2, 1), 1, "fft", "'fft' is none of lax, direct, toom_cook"),
        ((1, 9, 2), (3, 1, 1), 1, "lax", "are not"),
        ((9, 2), (3, 2, 1), 1, "lax", "are not"),
        ((1, 9, 2), (3, 2, 1), 0, "direct", "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(x, w, stride, formulation, message):
    with pytest.raises(ValueError, match=message):
        convolution(jnp.zeros(x), jnp.zeros(w), stride, formulation)


def test_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        convolution(jnp.zeros((1, 9, 2), jnp.bfloat16), jnp.zeros((3, 2, 1)), 1, "lax")
