"""The published front ends in NumPy's float64, written after the papers and PyTorch's formulas.

Each frame is transformed by itself; nothing is shared with the package.
"""

import numpy as np


def short_time_power(x, fft_size, hop, window):
    """`torch.stft` with `center=True`: float64[samples] -> power, float64[bins, frames]."""
    window = np.pad(window, (fft_size - len(window)) // 2)
    x = np.pad(x, fft_size // 2, mode="reflect")
    starts = range(0, len(x) - fft_size + 1, hop)
    return np.stack([np.abs(np.fft.rfft(x[i : i + fft_size] * window)) ** 2 for i in starts], 1)


def hann(size, periodic):
    n = np.arange(size)
    return 0.5 - 0.5 * np.cos(2 * np.pi * n / (size if periodic else size - 1))


def slaney_matrix(rate, fft_size, bands, low_hz, high_hz):
    """`librosa.filters.mel`: float64[bands, bins]."""

    def to_mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    def to_hz(mel):
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    ends = [to_hz(mel) for mel in np.linspace(to_mel(low_hz), to_mel(high_hz), bands + 2)]
    matrix = np.zeros((bands, fft_size // 2 + 1))
    for band, (left, centre, right) in enumerate(zip(ends, ends[1:], ends[2:], strict=False)):
        for k in range(fft_size // 2 + 1):
            hz = k * rate / fft_size
            height = min((hz - left) / (centre - left), (right - hz) / (right - centre))
            matrix[band, k] = max(0, height) * 2 / (right - left)
    return matrix


def kaldi_matrix(rate, fft_size, bands, low_hz, high_hz):
    """`torchaudio.compliance.kaldi.get_mel_banks` and a column of zeros: float64[bands, bins]."""

    def to_mel(hz):
        return 1127 * np.log(1 + hz / 700)

    step = (to_mel(high_hz) - to_mel(low_hz)) / (bands + 1)
    matrix = np.zeros((bands, fft_size // 2 + 1))
    for band in range(bands):
        left = to_mel(low_hz) + band * step
        for k in range(fft_size // 2):
            mel = to_mel(k * rate / fft_size)
            matrix[band, k] = max(0, min((mel - left) / step, (left + 2 * step - mel) / step))
    return matrix


def panns(x, rate):
    """float64[samples] in -1 to 1 -> float64[frames, 64]."""
    fft_size, high_hz = {8000: (256, 4000), 16000: (512, 8000), 32000: (1024, 14000)}[rate]
    power = short_time_power(x, fft_size, rate // 100, hann(fft_size, True))
    return (
        10 * np.log10(np.maximum(slaney_matrix(rate, fft_size, 64, 50, high_hz) @ power, 1e-10)).T
    )


def efficientat(x):
    """float64[samples] in -1 to 1 -> float64[frames, 128]."""
    power = short_time_power(x[1:] - 0.97 * x[:-1], 1024, 320, hann(800, False))
    return (np.log(kaldi_matrix(32_000, 1024, 128, 0, 15_000) @ power + 1e-5).T + 4.5) / 5


def ast(x, num_frames):
    """float64[samples] in -1 to 1 -> float64[num_frames, 128]."""
    x = x - x.mean()
    levels = np.zeros((num_frames, 128))
    matrix = kaldi_matrix(16_000, 512, 128, 20, 8_000)
    for i in range(min(num_frames, 1 + (len(x) - 400) // 160)):
        frame = x[160 * i : 160 * i + 400]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * hann(400, False), 512)) ** 2
        levels[i] = np.log(np.maximum(matrix @ power, 2.0**-23))
    return (levels - -4.2677393) / (4.5689974 * 2)
