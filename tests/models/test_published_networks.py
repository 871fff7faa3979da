"""PANNs, EfficientAT and AST against PyTorch implementations with the same weights."""

import front_end_references
import jax
import numpy as np
import pytest
from networks import flatten

from relabel_jax.errors import InputError
from relabel_jax.models import front_ends, published, registry
from relabel_jax.models.mobilenet import MobileNetV3
from relabel_jax.models.variables import shapes, waveform_batch
from relabel_jax.train.losses import masked_binary_cross_entropy

pytestmark = [pytest.mark.slow, pytest.mark.extra]

CLASSES = 7
BATCH = 4
# The smallest network of each family as it is published, the others narrower or shorter.
NETWORKS = {
    "cnn6": {"duration_s": 1.0},
    "cnn10": {"features": (8, 16, 16, 24), "sample_rate_hz": 16_000, "duration_s": 0.6},
    "cnn14": {"features": (4, 8, 8, 12, 16, 24), "sample_rate_hz": 32_000, "duration_s": 0.7},
    "mn04": {"duration_s": 0.64},
    "mn10": {"width": 0.3, "duration_s": 0.5, "formulation": "matmul"},
    "ast_tiny": {"duration_s": 1.0, "num_frames": 128},
    "ast_small": {
        "width": 32,
        "num_heads": 4,
        "num_layers": 2,
        "duration_s": 0.7,
        "num_frames": 46,
    },
    "ast_base": {"width": 24, "num_heads": 2, "num_layers": 1, "duration_s": 0.3, "num_frames": 26},
}


def build(name, options, num_classes):
    """The network without dropout, the reference, and two front ends for it.

    The first front end is float64's, for one waveform. The second one is the package's.
    """
    import torch_references as references

    dropouts = {"block_dropout", "dropout"} & registry.default_options(name).keys()
    network = registry.build({"name": name, **options, **dict.fromkeys(dropouts, 0)}, num_classes)
    if name.startswith("cnn"):
        reference = references.Cnn(name, network.features, num_classes)
        options, functions = (network.sample_rate_hz,), ("panns", "panns_log_mel")
    elif name.startswith("mn"):
        reference = references.MobileNet(network.width, num_classes)
        options, functions = (), ("efficientat", "efficientat_log_mel")
    else:
        sizes = network.width, network.num_heads, network.num_layers, network.num_frames
        reference = references.Ast(*sizes, num_classes)
        options, functions = (network.num_frames,), ("ast", "ast_filter_bank")
    exact = getattr(front_end_references, functions[0])
    rounded = getattr(front_ends, functions[1])
    return network, reference, lambda x: exact(x, *options), lambda x: rounded(x, *options)


def random_variables(network, waveforms):
    """Random variables whose running statistics are near those of the waveforms."""
    rng = np.random.default_rng(7)

    def fill(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if path[-1].key == "kernel" else 0.2
        if isinstance(network, MobileNetV3) and path[1].key == "output":
            scale *= 3  # so that the scores of the clips differ
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(fill, shapes(network))
    if "batch_stats" not in variables:
        return variables
    keep = momentum(network)
    _, after = jax.jit(lambda x: network.apply(variables, x, True, mutable=["batch_stats"]))(
        waveforms
    )
    near = jax.tree_util.tree_map_with_path(
        lambda path, new, old: (
            (new - keep * old) / (1 - keep) * (1.3 if path[-1].key == "var" else 0.9)
        ),
        *(after["batch_stats"], variables["batch_stats"]),
    )
    return variables | {"batch_stats": near}


def momentum(network):
    """The share of the running statistics that a step keeps."""
    return 0.99 if isinstance(network, MobileNetV3) else 0.9


def random_batch(network, seed=3):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(BATCH, *waveform_batch(network).shape[1:]))
    noise[::2] = np.cumsum(noise[::2], axis=1) / 30
    noise *= np.geomspace(300, 9000, BATCH)[:, None]
    labels = rng.random((BATCH, CLASSES)) < 0.4
    masked = rng.random((BATCH, CLASSES)) < 0.3
    masked[:, 2] = True
    return np.clip(noise, -32768, 32767).astype(np.int16), labels, masked


def loss_and_scores(network, variables, waveforms, labels, masked):
    def loss(params):
        outputs, new = network.apply(
            variables | {"params": params}, waveforms, train=True, mutable=["batch_stats"]
        )
        return masked_binary_cross_entropy(outputs, labels, masked), (outputs.scores, new)

    gradients, (scores, new) = jax.grad(loss, has_aux=True)(variables["params"])
    return scores, new, gradients


@pytest.mark.parametrize("name", NETWORKS)
def test_agrees_with_pytorch(name):
    torch = pytest.importorskip("torch")
    network, reference, exact, rounded = build(name, NETWORKS[name], CLASSES)
    waveforms = random_batch(network)[0]
    variables = random_variables(network, waveforms)
    state = {
        key: torch.from_numpy(array.copy())
        for key, array in published.to_state_dict(network, variables).items()
    }
    result = reference.load_state_dict(state, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
    reference = reference.double()  # so that the errors are those of JAX alone
    features = torch.from_numpy(np.stack([exact(each / 32768) for each in waveforms]))

    reference.eval()
    with torch.no_grad():
        expected = reference.embed(features).numpy(), torch.sigmoid(reference(features)).numpy()
    embeddings = jax.jit(lambda x: network.apply(variables, x, method="embed"))(waveforms)
    scores = jax.jit(lambda x: network.apply(variables, x, train=False).scores)(waveforms)
    assert scores.dtype == embeddings.dtype == np.float32
    assert embeddings.shape == (BATCH, network.embedding_size)
    assert np.ptp(expected[1], axis=0).min() > 1e-3  # the clips differ
    np.testing.assert_allclose(embeddings, expected[0], rtol=0, atol=1e-4 * np.ptp(expected[0]))
    np.testing.assert_allclose(scores, expected[1], rtol=0, atol=1e-4)
    head = network.apply(variables, expected[0].astype(np.float32), method="head")
    np.testing.assert_allclose(head.scores, expected[1], rtol=0, atol=1e-4)

    # Rounding may put an activation on the other side of its kink. In a small batch some gradients
    # then differ by percents. This is rare, so one of three batches has no such activation.
    reference.train()
    step = jax.jit(lambda *batch: loss_and_scores(network, variables, *batch))
    for seed in (3, 4, 5):
        reference.load_state_dict(state, strict=False)
        errors = gradient_errors(
            network, reference, state, rounded, random_batch(network, seed), step
        )
        if max(errors.values()) < 1e-3:
            return
    raise AssertionError(errors)


def gradient_errors(network, reference, state, log_mel, batch, step):
    """Compares scores and statistics of a step; returns the relative error of each gradient."""
    torch = pytest.importorskip("torch")
    values_per_channel = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, key=key: values_per_channel.update(
                {f"{key}.running_var": args[0].numel() // args[0].shape[1]}
            )
        )
        for key, module in reference.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    waveforms, labels, masked = batch
    # The spectrograms of the network itself: rounding errors in them would move more activations.
    logits = reference(torch.from_numpy(np.array(log_mel(waveforms), np.float64)))
    for hook in hooks:
        hook.remove()
    kept = torch.from_numpy(~masked)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.from_numpy(labels).double(), reduction="none"
    )
    reference.zero_grad()
    (losses[kept].sum() / kept.sum()).backward()
    scores, new, gradients = step(waveforms, labels, masked)
    np.testing.assert_allclose(scores, torch.sigmoid(logits.detach()), rtol=0, atol=1e-4)

    got = published.to_state_dict(network, {"params": gradients, **new})
    parameters = dict(reference.named_parameters())
    assert got.keys() == parameters.keys() | {
        key for key in reference.state_dict() if key.endswith(("running_mean", "running_var"))
    }
    largest = max(parameter.grad.abs().max() for parameter in parameters.values()).item()
    errors = {}
    for key, array in got.items():
        if key in parameters:
            want = parameters[key].grad.numpy()
            # A bias before a normalization changes nothing, nor do those of attention's keys: their
            # gradients are 0.
            errors[key] = np.abs(array - want).max() / max(np.abs(want).max(), 1e-3 * largest)
            continue
        want = reference.state_dict()[key].numpy()
        if key.endswith("running_var"):  # PyTorch keeps the unbiased variance, Flax the biased one
            n, old = values_per_channel[key], momentum(network) * state[key].numpy()
            want = old + (want - old) * (n - 1) / n
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-5, err_msg=key)
    return errors


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parameters_are_those_of_the_reference(name):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        network, reference, *_ = build(name, {}, 527)
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in reference.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    variables = jax.tree.map(
        lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(network)
    )
    got = {key: each.shape for key, each in published.to_state_dict(network, variables).items()}
    assert got == expected
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == sum(
        parameter.numel() for parameter in reference.parameters()
    )


def test_a_state_dict_and_back():
    network = registry.build({"name": "mn04", "duration_s": 0.1, "dropout": 0}, 3)
    variables = random_variables(network, random_batch(network)[0])
    tensors = published.to_state_dict(network, variables)
    again = published.from_state_dict(
        network, tensors | {"features.0.1.num_batches_tracked": np.array(7)}
    )
    for path, array in flatten(again).items():
        np.testing.assert_array_equal(array, flatten(variables)[path])
    without = {key: array for key, array in tensors.items() if key != "classifier.5.bias"}
    more = {"classifier.6.bias": np.zeros(3)}
    other = {"classifier.5.bias": np.zeros(4)}
    for wrong, message in (
        (without, "lacks classifier.5.bias$"),
        (tensors | more, "has, and the network does not, classifier.6.bias$"),
        (tensors | other, r"classifier.5.bias: has the shape \(4,\) .* expected \(3,\)$"),
    ):
        with pytest.raises(InputError, match=message):
            published.from_state_dict(network, wrong)
