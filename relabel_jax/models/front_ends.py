"""Log-mel spectrograms as published networks compute them, inside the program.

- `panns_log_mel`: Kong et al., "PANNs: large-scale pretrained audio neural networks for audio
  pattern recognition" (2020), https://github.com/qiuqiangkong/audioset_tagging_cnn.
- `efficientat_log_mel`: Schmid et al., "Efficient large-scale audio tagging via
  transformer-to-CNN knowledge distillation" (2023), https://github.com/fschmid56/EfficientAT.
- `ast_filter_bank`: Gong et al., "AST: audio spectrogram transformer" (2021),
  https://github.com/YuanGongND/ast.

The waveforms are int16[batch, samples], or a float array in int16's scale. All arithmetic is
float32, also on devices that round the factors of matrix products by default.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError

FORMULATIONS = ("auto", "fft", "matmul")
"""How the discrete Fourier transform is computed.

`matmul` is a product with a matrix of cosines and sines. `auto` is `matmul` on a TPU, whose matrix
units are far faster than its FFT, and `fft` elsewhere.
"""


def fastest_formulation(platform: str) -> str:
    """The formulation that `auto` stands for on a platform, such as "tpu"."""
    return "matmul" if platform == "tpu" else "fft"


def uses_cpu_forms(formulation: str) -> bool:
    """Whether a network computes convolutions, products and attention in the forms for a CPU."""
    return formulation == "auto" and jax.default_backend() == "cpu"


class PannsSizes(NamedTuple):
    """The sizes of PANNs' front end at one sample rate.

    Attributes:
      fft_size: samples of a frame.
      hop: samples from one frame to the next.
      highest_hz: end of the highest band.
    """

    fft_size: int
    hop: int
    highest_hz: float


PANNS_SIZES = {
    8_000: PannsSizes(256, 80, 4_000),
    16_000: PannsSizes(512, 160, 8_000),
    32_000: PannsSizes(1024, 320, 14_000),
}
"""By sample rate in Hz: the rates at which PANNs are published."""
PANNS_LOWEST_HZ = 50
PANNS_BANDS = 64

EFFICIENTAT_RATE_HZ = 32_000
EFFICIENTAT_BANDS = 128

AST_RATE_HZ = 16_000
AST_BANDS = 128
AST_MEAN = -4.2677393
AST_STD = 4.5689974


def check_options(formulation: str, waveform_format: WaveformFormat, least_samples: int) -> None:
    """Checks the options of a network that all front ends share.

    Args:
      formulation: how the front end is computed.
      waveform_format: sample rate and length of the waveforms.
      least_samples: the samples that the network needs.

    Raises:
      InputError: the formulation is unknown, or the waveforms are too short.
    """
    if formulation not in FORMULATIONS:
        raise InputError(
            f"config.model.formulation: {formulation!r} is none of {', '.join(FORMULATIONS)}"
        )
    if waveform_format.num_samples < least_samples:
        raise InputError(
            f"config.model.duration_s: {waveform_format.duration_s:.12g} s are too short, the "
            f"network needs {least_samples / waveform_format.sample_rate_hz:.12g} s"
        )


def panns_log_mel(
    waveforms: jax.Array, sample_rate_hz: int, formulation: str = "auto"
) -> jax.Array:
    """PANNs' spectrogram in decibels.

    Args:
      waveforms: see the module.
      sample_rate_hz: a key of `PANNS_SIZES`.
      formulation: one of `FORMULATIONS`.

    Returns:
      float32[batch, frames, PANNS_BANDS], one frame a hop: frame i is centred at sample i * hop.
    """
    fft_size, hop, highest_hz = PANNS_SIZES[sample_rate_hz]
    waveforms = _reflected(_full_scale(waveforms), fft_size // 2)
    frames = whole_frames(waveforms, fft_size, hop) * hann(fft_size, periodic=True)
    filters = slaney_filters(sample_rate_hz, fft_size, PANNS_BANDS, PANNS_LOWEST_HZ, highest_hz)
    mel = mel_power(frames, fft_size, filters, formulation)
    return 10 * jnp.log10(jnp.maximum(mel, 1e-10))


def efficientat_log_mel(waveforms: jax.Array, formulation: str = "auto") -> jax.Array:
    """EfficientAT's spectrogram of waveforms at 32 kHz, about -1 to 1.5.

    The authors vary the ends of the highest and lowest band in training. This function always has
    the ends of their evaluation, 0 Hz and 15 kHz.

    Args:
      waveforms: see the module.
      formulation: one of `FORMULATIONS`.

    Returns:
      float32[batch, frames, EFFICIENTAT_BANDS], one frame every 320 samples.
    """
    window, fft_size, hop = 800, 1024, 320
    waveforms = _full_scale(waveforms)
    waveforms = waveforms[:, 1:] - 0.97 * waveforms[:, :-1]
    # The authors' frames have 1024 samples. The window keeps the middle 800.
    outside = (fft_size - window) // 2
    waveforms = _reflected(waveforms, fft_size // 2)[:, outside:-outside]
    frames = whole_frames(waveforms, window, hop) * hann(window, periodic=False)
    filters = kaldi_filters(EFFICIENTAT_RATE_HZ, fft_size, EFFICIENTAT_BANDS, 0, 15_000)
    return (jnp.log(mel_power(frames, fft_size, filters, formulation) + 1e-5) + 4.5) / 5


def ast_filter_bank(waveforms: jax.Array, num_frames: int, formulation: str = "auto") -> jax.Array:
    """AST's spectrogram of waveforms at 16 kHz, of mean 0 and standard deviation 0.5 in AudioSet.

    It is Kaldi's `fbank` with a Hann window and without dither.

    Args:
      waveforms: see the module; at least 400 samples.
      num_frames: spectrograms with fewer frames are padded at the end, longer ones are cut.
      formulation: one of `FORMULATIONS`.

    Returns:
      float32[batch, num_frames, AST_BANDS], one frame every 160 samples.
    """
    window, fft_size, hop = 400, 512, 160
    waveforms = _full_scale(waveforms)
    frames = whole_frames(waveforms - waveforms.mean(axis=1, keepdims=True), window, hop)
    frames = frames[:, :num_frames]
    frames -= frames.mean(axis=2, keepdims=True)
    before = jnp.concatenate([frames[..., :1], frames[..., :-1]], axis=2)
    frames = (frames - 0.97 * before) * hann(window, periodic=False)
    filters = kaldi_filters(AST_RATE_HZ, fft_size, AST_BANDS, 20, 8_000)
    mel = mel_power(frames, fft_size, filters, formulation)
    levels = jnp.log(jnp.maximum(mel, np.finfo(np.float32).eps))
    missing = num_frames - levels.shape[1]
    return (jnp.pad(levels, ((0, 0), (0, missing), (0, 0))) - AST_MEAN) / (2 * AST_STD)


@functools.cache
def slaney_filters(
    sample_rate_hz: int, fft_size: int, num_bands: int, lowest_hz: float, highest_hz: float
) -> np.ndarray:
    """Triangles on Slaney's mel scale, each of area 1 over frequency in Hz: librosa's default.

    The scale is linear below 1 kHz and logarithmic above.

    Returns:
      float32[fft_size // 2 + 1, num_bands].
    """
    hz_per_mel, corner_hz, log_step = 200 / 3, 1_000, math.log(6.4) / 27
    corner_mel = corner_hz / hz_per_mel

    def to_mel(hz):
        return (
            hz / hz_per_mel if hz < corner_hz else corner_mel + math.log(hz / corner_hz) / log_step
        )

    mels = np.linspace(to_mel(lowest_hz), to_mel(highest_hz), num_bands + 2)
    corners_hz = np.where(
        mels < corner_mel,
        hz_per_mel * mels,
        corner_hz * np.exp(log_step * np.maximum(mels - corner_mel, 0)),
    )
    bins_hz = np.arange(fft_size // 2 + 1) * (sample_rate_hz / fft_size)
    areas_hz = (corners_hz[2:] - corners_hz[:-2]) / 2
    return (_triangles(bins_hz, corners_hz) / areas_hz).astype(np.float32)


@functools.cache
def kaldi_filters(
    sample_rate_hz: int, fft_size: int, num_bands: int, lowest_hz: float, highest_hz: float
) -> np.ndarray:
    """Triangles of height 1 over HTK's mel scale, as in Kaldi. The bin at half the rate is unused.

    Returns:
      float32[fft_size // 2 + 1, num_bands].
    """

    def to_mel(hz):
        return 1127 * np.log1p(np.asarray(hz) / 700)

    corners = np.linspace(to_mel(lowest_hz), to_mel(highest_hz), num_bands + 2)
    filters = _triangles(
        to_mel(np.arange(fft_size // 2 + 1) * (sample_rate_hz / fft_size)), corners
    )
    filters[-1] = 0
    return filters.astype(np.float32)


def _triangles(positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Triangles of height 1, each from a corner over the next to the one after it.

    Returns:
      float64[positions, corners - 2].
    """
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (positions[:, None] - low) / (middle - low)
    falling = (high - positions[:, None]) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))


def _full_scale(waveforms: jax.Array) -> jax.Array:
    """float32 in -1 to 1."""
    return waveforms.astype(jnp.float32) / 32768


def _reflected(waveforms: jax.Array, margin: int) -> jax.Array:
    """Waveforms with `margin` reflected samples added to each end, without the end's sample."""
    end = waveforms.shape[1] - 1
    positions = 1 + np.arange(margin)
    return jnp.concatenate(
        [waveforms[:, positions[::-1]], waveforms, waveforms[:, end - positions]], axis=1
    )


def whole_frames(waveforms: jax.Array, size: int, hop: int) -> jax.Array:
    """All whole frames: float32[batch, samples] -> float32[batch, frames, size].

    A frame is a row of blocks of `hop` samples. This takes a few copies of the waveforms, and a
    gather of all samples would take much longer.
    """
    num_frames = 1 + (waveforms.shape[1] - size) // hop
    blocks_per_frame = -(-size // hop)
    num_blocks = num_frames + blocks_per_frame - 1
    waveforms = waveforms[:, : num_blocks * hop]
    missing = num_blocks * hop - waveforms.shape[1]
    blocks = jnp.pad(waveforms, ((0, 0), (0, missing))).reshape(-1, num_blocks, hop)
    parts = [blocks[:, i : i + num_frames] for i in range(blocks_per_frame)]
    return jnp.concatenate(parts, axis=2)[..., :size]


@functools.cache
def hann(size: int, *, periodic: bool) -> np.ndarray:
    """float32[1, 1, size]; a periodic window is one sample short of symmetric."""
    return np.hanning(size + periodic)[None, None, :size].astype(np.float32)


def mel_power(frames: jax.Array, fft_size: int, filters: np.ndarray, formulation: str) -> jax.Array:
    """The power in each band.

    Args:
      frames: float32[batch, frames, size]; zeros are added to each frame up to `fft_size`.
      fft_size: length of the discrete Fourier transform.
      filters: float32[fft_size // 2 + 1, bands].
      formulation: one of `FORMULATIONS`.

    Returns:
      float32[batch, frames, bands].
    """
    if formulation == "auto":
        formulation = fastest_formulation(jax.default_backend())
    if formulation == "fft":
        spectrum = jnp.fft.rfft(frames, fft_size)
        power = spectrum.real**2 + spectrum.imag**2
    else:
        squares = _product(frames, _waves(frames.shape[-1], fft_size)) ** 2
        power = squares[..., : len(filters)] + squares[..., len(filters) :]
    return _product(power, filters)


def _product(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def _waves(size: int, fft_size: int) -> np.ndarray:
    """The cosines and sines of all bins, float32[size, 2 * (fft_size // 2 + 1)]."""
    steps = np.outer(np.arange(size), np.arange(fft_size // 2 + 1)) % fft_size
    angles = 2 * math.pi / fft_size * steps
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
