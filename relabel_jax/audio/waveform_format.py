"""The sample rate and length of the waveforms that a data set stores and a network takes."""

import dataclasses

MIN_SAMPLE_RATE_HZ = 1_000
"""The lowest sample rate of a recording or a waveform, in Hz.

A damaged header may say 1 Hz. At that rate, 1 MB would become 8 GB at 8 kHz and take days.
"""

_MARGIN_S = 1  # the filter of the resampler uses at most the next 160 ms


@dataclasses.dataclass(frozen=True)
class WaveformFormat:
    """Mono int16 waveforms of one sample rate and one length. The defaults are the paper's.

    Attributes:
      sample_rate_hz: samples per second.
      duration_s: length of a waveform in seconds. Shorter recordings are zero-padded at the end,
        longer ones are cut.
    """

    sample_rate_hz: int = 8_000
    duration_s: float = 10.0

    @property
    def num_samples(self) -> int:
        """Number of samples of a waveform."""
        return round(self.sample_rate_hz * self.duration_s)

    @property
    def read_s(self) -> float:
        """Seconds to decode at the beginning of a recording to make a waveform.

        The filter of the resampler needs samples after the end of the waveform.
        """
        return self.duration_s + _MARGIN_S

    def __str__(self) -> str:
        return f"{self.duration_s:.12g} s at {self.sample_rate_hz} Hz"


PAPER_FORMAT = WaveformFormat()
"""10 s at 8 kHz (paper, section IV)."""
