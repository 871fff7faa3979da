"""The embedder: parity with the training's own forward, windows, rates, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.signal
import soundfile

import relabel_jax
from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.resample import resample
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.data.data_set import open_data_set
from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.loading import load_pretrained
from relabel_jax.runs.workdir import Workdir

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small(small_base):
    return Embedder.load(small_base, batch_size=8)


def sound(duration_s, rate_hz=8_000, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, round(duration_s * rate_hz)).astype(np.float32)


def test_parity_on_real_recordings(paper_network, recordings):
    embedder = Embedder(paper_network)
    waveforms = np.stack([read_waveform(str(path), PAPER_FORMAT)[0] for path in recordings])
    network, variables = paper_network.network, paper_network.variables
    expected, scores = jax.jit(
        lambda batch: (
            network.apply(variables, batch, method="embed"),
            network.apply(variables, batch, train=False).scores,
        )
    )(waveforms)
    assert np.std(expected, axis=0).mean() > 0.1  # or the tolerance would say nothing
    found = embedder.embed(waveforms, 8_000)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    np.testing.assert_allclose(embedder.scores(waveforms, 8_000), scores, atol=1e-5, rtol=0)
    # From samples as another library reads them, at their own rates.
    for i in range(0, len(recordings), 10):
        samples, rate_hz = soundfile.read(recordings[i], dtype="float32")
        samples = samples[: 10 * rate_hz]
        np.testing.assert_allclose(embedder.embed([samples], rate_hz)[0], found[i], atol=1e-2)


@pytest.mark.parametrize("norm_order", ["elu_bn", "bn_elu"])
def test_scores_are_those_of_the_network(small_base, norm_order):
    pretrained = load_pretrained(small_base)
    network = pretrained.network.clone(norm_order=norm_order)
    embedder = Embedder(dataclasses.replace(pretrained, network=network))
    waveforms = (np.stack([sound(10, seed=i) for i in range(5)]) * 32_768).astype(np.int16)
    np.testing.assert_allclose(
        embedder.scores(waveforms, 8_000),
        network.apply(pretrained.variables, waveforms, train=False).scores,
        atol=1e-6,
        rtol=0,
    )


def test_the_scores_of_a_training_come_out_again(small, small_base, miniature_data):
    data_set = open_data_set(miniature_data)
    workdir = Workdir(small_base)
    test = workdir.read_scores(workdir.read_result().test["mAP"])
    rows = [data_set.clip_ids.tolist().index(clip_id) for clip_id in test.clip_id]
    scores = small.scores(data_set.read_waveforms(np.array(rows)), 8_000)
    np.testing.assert_allclose(scores, test.scores, atol=1e-6)
    assert [each.mid for each in small.classes] == test.mids.tolist()
    for each in small.classes:
        number = data_set.ontology.index[each.mid]
        assert each.display_name == data_set.ontology.display_names[number]
        assert {way[-1] for way in each.paths} == {each.display_name}
        roots = {data_set.ontology.display_names[i] for i in data_set.ontology.roots}
        assert {way[0] for way in each.paths} <= roots
    assert small.trained["labeling"] == "pe_cml"


def test_a_thousand_short_clips_compile_once(small):
    compiled = []
    small.embed([sound(0.5)], 8_000)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "compile" in event else None
    )
    rng = np.random.default_rng(0)
    clips = (sound(length) for length in rng.uniform(0.01, 0.3, 1_000))
    assert small.embed(clips, 8_000).shape == (1_000, 8)
    assert small.embed([sound(35)] * 3, 8_000).shape == (3, 8)
    assert small.scores([sound(12, 16_000)], 16_000).shape == (1, len(small.classes))
    assert small.embed_timestamps(sound(3), 8_000)[0].shape == (1, 6, 8)
    assert not compiled
    jax.jit(lambda x: x + 1)(np.ones(3))
    assert compiled  # so the listener does hear


def test_the_mean_over_windows_is_weighted_by_their_seconds(small):
    samples = sound(23)
    parts = [samples[:80_000], samples[80_000:160_000], samples[160_000:]]
    each = np.concatenate([small.embed([part], 8_000) for part in parts])
    expected = np.average(each, axis=0, weights=[10, 10, 3])
    np.testing.assert_allclose(small.embed([samples], 8_000)[0], expected, atol=1e-5)
    # With a hop of 5 s the windows start at 0, 5, 10 and 15; the last one has 8 s.
    each = np.concatenate([small.embed([samples[40_000 * i :][:80_000]], 8_000) for i in range(4)])
    expected = np.average(each, axis=0, weights=[10, 10, 10, 8])
    np.testing.assert_allclose(small.embed([samples], 8_000, hop_s=5)[0], expected, atol=1e-5)


def test_forms_of_input(small):
    mono = sound(2, 16_000)
    stereo = np.stack([mono, -0.5 * mono], axis=1)
    expected = small.embed([0.25 * mono], 16_000)
    for clips in ([stereo], stereo[None], [stereo.astype(np.float64)], (stereo for _ in range(1))):
        np.testing.assert_allclose(small.embed(clips, 16_000), expected, atol=1e-4)
    int16 = np.round(mono * 32_768).astype(np.int16)
    expected = small.embed(mono, 16_000)
    np.testing.assert_allclose(small.embed([int16], 16_000), expected, atol=1e-2)
    np.testing.assert_array_equal(
        small.embed([int16], 16_000), small.embed([int16.astype(np.int32) << 16], 16_000)
    )
    assert small.embed([], 16_000).shape == (0, 8)
    # Clips are not seen by one another, nor by how they are batched.
    clips = [sound(0.5 + i, seed=i) for i in range(12)]
    together = small.embed(clips, 8_000)
    for clip, row in zip(clips, together, strict=True):
        np.testing.assert_allclose(small.embed([clip], 8_000)[0], row, atol=1e-5)


def test_timestamps(small):
    samples = sound(2.2, 16_000)
    embeddings, centers_ms = small.embed_timestamps([samples] * 2, 16_000, hop_s=0.5, window_s=1)
    np.testing.assert_array_equal(centers_ms, [0, 500, 1000, 1500, 2000])
    assert embeddings.shape == (2, 5, 8)
    # Rounding depends on the place in the batch.
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)
    waveform = np.pad(resample(samples, 16_000, 8_000), 4_000)
    for frame, center in enumerate(range(0, 17_600, 4_000)):
        expected = small.embed([waveform[center : center + 8_000]], 8_000)[0]
        np.testing.assert_allclose(embeddings[0, frame], expected, atol=1e-5)


def test_rates_agree_where_the_content_is_below_4_khz(paper_network, recordings):
    embedder = Embedder(paper_network)
    for path in recordings[:4]:
        original = read_waveform(str(path), PAPER_FORMAT)[0] / 32_768
        low_pass = scipy.signal.firwin(1_001, 3_400, fs=8_000)
        original = 0.9 * scipy.signal.fftconvolve(original, low_pass, mode="same")
        expected = embedder.embed([original], 8_000)[0]
        for rate_hz, up, down in ((16_000, 2, 1), (44_100, 441, 80), (48_000, 6, 1)):
            other = scipy.signal.resample_poly(original, up, down, window=("kaiser", 14.0))
            found = embedder.embed([other], rate_hz)[0]
            cosine = found @ expected / np.linalg.norm(found) / np.linalg.norm(expected)
            assert cosine > 0.99, (path, rate_hz)


GOOD = np.zeros(8_000, np.float32)
BAD = GOOD.copy()
BAD[7] = np.nan


@pytest.mark.parametrize(
    ("clips", "rate_hz", "message"),
    [
        ([GOOD, np.zeros(0, np.float32)], 8_000, r"clip 1: has no samples"),
        ([GOOD[:79]], 8_000, r"clip 0: 79 samples at 8000 Hz; expected at least 0.01 s"),
        ([BAD], 8_000, r"clip 0: 1 samples are NaN or inf"),
        ([BAD], 16_000, r"clip 0: 1 samples are NaN or inf"),
        ([np.full(800, np.inf)], 8_000, r"clip 0: 800 samples are NaN or inf"),
        ([GOOD.reshape(10, 80, 10)], 8_000, r"clip 0: has shape \(10, 80, 10\); expected \[time\]"),
        ([GOOD.reshape(2, 4_000)], 8_000, r"shape \(2, 4000\); .*transpose"),
        (np.zeros((2, 2, 2, 2)), 8_000, r"clips: expected \[time\], .* \(2, 2, 2, 2\)"),
        (np.zeros((8_000, 2), np.float32), 8_000, r"2 samples at 8000 Hz.*given as \[samples\]"),
        ([0.5, 0.5], 8_000, r"clip 0: has shape \(\)"),
        ([GOOD.astype(complex)], 8_000, r"clip 0: has dtype complex128; expected float, int16"),
        ([GOOD.astype(np.uint8)], 8_000, r"clip 0: has dtype uint8"),
        ([np.array(["a"] * 800)], 8_000, r"clip 0: has dtype <U1"),
        ([GOOD + 20_000], 8_000, r"clip 0: its largest sample is 20000; float samples have"),
        ([GOOD], 0, r"rate_hz: expected a sample rate above 0 Hz, got 0"),
        ([GOOD], -8_000, r"rate_hz: .* got -8000"),
        ([GOOD], float("nan"), r"rate_hz: .* got nan"),
        ([GOOD], "8000", r"rate_hz: .* got '8000'"),
    ],
)
def test_refused(small, clips, rate_hz, message):
    for method in (small.embed, small.scores, small.embed_timestamps):
        with pytest.raises(InputError, match=message) as caught:
            method(clips, rate_hz)
        assert "\n" not in str(caught.value)


def test_refused_windows(small):
    for hop_s in (0, -1, 10.1, float("nan"), "1"):
        with pytest.raises(InputError, match=r"hop_s: expected more than 0 and at most 10 s"):
            small.embed([GOOD], 8_000, hop_s=hop_s)
    with pytest.raises(InputError, match=r"window_s: expected"):
        small.embed_timestamps([GOOD], 8_000, window_s=11)
    with pytest.raises(InputError, match=r"clip 1: has 0.5 s, the first has 1 s"):
        small.embed_timestamps([GOOD, GOOD[:4_000]], 8_000)
    with pytest.raises(InputError, match="batch_size 0"):
        Embedder(None, batch_size=0)


def test_importing_the_package_is_light():
    assert relabel_jax.Embedder is Embedder
    with pytest.raises(AttributeError, match="no attribute 'Embeder'"):
        _ = relabel_jax.Embeder
