"""Masked labels in PyTorch: its own data loader, its own loss, a second device."""

import multiprocessing

import numpy as np
import pytest

from data_prep.relabel import relabel_files
from relabel_jax.errors import InputError
from relabel_jax.labels.labelings import relabel_set
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.torch import (
    LabelTable,
    collate_fn,
    masked_bce_with_logits,
    targets_and_known,
)

pytestmark = pytest.mark.extra

torch = pytest.importorskip("torch", reason="needs torch: pip install torch")


@pytest.fixture(scope="module")
def table(segments_sample, tmp_path_factory) -> LabelTable:
    path = tmp_path_factory.mktemp("table") / "labels.npz"
    relabel_files(segments=[segments_sample], output=path, format="torch")
    return LabelTable(path, Ontology.audioset().mids[400:][::-1])


@pytest.fixture(scope="module")
def clip_ids(segments_sample) -> list[str]:
    segments = read_segments([segments_sample], Ontology.audioset())
    return segments.clip_ids.to_pylist()


class Clips(torch.utils.data.Dataset):
    """Silence with the clips' ids, as tuples or dicts."""

    def __init__(self, clip_ids, as_dict=False):
        self.clip_ids, self.as_dict = clip_ids, as_dict

    def __len__(self):
        return len(self.clip_ids)

    def __getitem__(self, index):
        waveform, name = torch.zeros(4), f"Y{self.clip_ids[index]}.wav"
        return {"x": waveform, "name": name} if self.as_dict else (waveform, name)


def test_a_batch_against_the_set_form(table, clip_ids, segments_sample):
    """The ids as the default collation makes them, with PANNs' names."""
    ontology = Ontology.audioset()
    segments = read_segments([segments_sample], ontology)
    labels = dict(zip(clip_ids, segments.labels.to_pylist(), strict=True))
    loader = torch.utils.data.DataLoader(Clips(clip_ids), batch_size=64, shuffle=True)
    num_clips = 0
    for _, names in loader:
        assert isinstance(names, tuple | list)
        targets, known = targets_and_known(table, names)
        assert targets.dtype == known.dtype == torch.float32
        for name, target, is_known in zip(names, targets, known, strict=True):
            numbers = labels[name[1:-4]]
            positive, masked = relabel_set({ontology.mids[i] for i in numbers}, ontology, "pe_cml")
            assert target.tolist() == [mid in positive for mid in table.mids]
            assert is_known.tolist() == [mid not in masked for mid in table.mids]
            num_clips += 1
    assert num_clips == len(clip_ids)


def test_devices_and_dtypes(table, clip_ids):
    for dtype in (torch.bool, torch.float16, torch.float64):
        pair = targets_and_known(table, clip_ids[:3], device="meta", dtype=dtype)
        for tensor in pair:
            assert (tensor.device.type, tensor.dtype) == ("meta", dtype)
            assert tensor.shape == (3, 232)
    logits = torch.zeros(3, 232, device="meta", requires_grad=True)
    loss = masked_bce_with_logits(logits, *targets_and_known(table, clip_ids[:3], device="meta"))
    loss.backward()
    assert (loss.device.type, loss.shape, logits.grad.device.type) == ("meta", (), "meta")


@pytest.mark.parametrize(
    "context",
    [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("as_dict", [False, True])
def test_collating_in_workers(table, clip_ids, context, as_dict):
    if context is not None and context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {context} on this system")
    loader = torch.utils.data.DataLoader(
        Clips(clip_ids[:40], as_dict),
        batch_size=16,
        num_workers=0 if context is None else 2,
        multiprocessing_context=context,
        collate_fn=collate_fn(table, "name" if as_dict else -1),
    )
    batches = list(loader)
    if as_dict:
        assert list(batches[0]) == ["x", "name", "targets", "known"]
        batches = [tuple(batch.values()) for batch in batches]
    assert [len(waveforms) for waveforms, *_ in batches] == [16, 16, 8]
    for number, each in enumerate(table.lookup(clip_ids[:40])):
        got = torch.cat([batch[2 + number] for batch in batches])
        assert got.dtype == torch.bool
        np.testing.assert_array_equal(got.numpy(), each)


def test_an_absent_clip(table, clip_ids):
    with pytest.raises(InputError, match="'absent'"):
        targets_and_known(table, [clip_ids[0], "absent"])


def random_batch(dtype=torch.float64, shape=(7, 11), seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    targets = torch.rand(shape, generator=generator) < 0.3
    known = torch.rand(shape, generator=generator) < 0.6
    return logits.requires_grad_(), targets, known


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_loss_is_pytorchs_where_all_is_known(dtype):
    logits, targets, known = random_batch(dtype)
    loss = masked_bce_with_logits(logits, targets, torch.ones_like(known))
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets.to(dtype))
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    assert loss.dtype == dtype
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_the_loss_against_the_known_entries_alone():
    logits, targets, known = random_batch()
    with torch.no_grad():
        logits[0, ~known[0]] = torch.tensor(float("nan"), dtype=logits.dtype)
        logits[1, ~known[1]] = torch.tensor(float("inf"), dtype=logits.dtype)
    loss = masked_bce_with_logits(logits, targets, known.float())
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[known], targets[known].double()
    )
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient[known], expected_gradient[known])
    assert (gradient[~known] == 0).all()


def test_the_loss_where_nothing_is_known():
    logits, targets, known = random_batch()
    loss = masked_bce_with_logits(logits, targets, torch.zeros_like(known))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert (gradient == 0).all()


def test_a_large_batch_in_half_precision():
    """More entries than float16 can count, and a larger sum."""
    logits, targets, known = random_batch(torch.float16, (400, 527))
    loss = masked_bce_with_logits(logits, targets, known)
    expected = masked_bce_with_logits(logits.double(), targets, known)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-3, atol=0)


def test_numerical_gradients():
    logits, targets, known = random_batch(shape=(3, 4))
    assert torch.autograd.gradcheck(lambda x: masked_bce_with_logits(x, targets, known), logits)


def test_shapes_that_differ():
    logits, targets, known = random_batch()
    with pytest.raises(ValueError, match=r"expected one shape, got logits \(7, 11\)"):
        masked_bce_with_logits(logits, targets, known[:1])
