"""The form in which a data set stores waveforms, and in which a network takes them."""

import dataclasses

MIN_SAMPLE_RATE_HZ = 1_000
"""The lowest sample rate of a recording or a waveform, in Hz.

A damaged header may say 1 Hz. Resampling 1 MB of that to 8 kHz would give 8 GB and take days.
"""

_MARGIN_S = 1  # the resampler's low-pass looks at most 160 ms ahead


@dataclasses.dataclass(frozen=True)
class WaveformFormat:
    """Mono int16 waveforms of one sample rate and one length. The defaults are the paper's.

    Attributes:
      sample_rate_hz: samples a second.
      duration_s: length of a waveform in seconds. Shorter recordings are zero-padded at the end,
        longer ones are cut.
    """

    sample_rate_hz: int = 8_000
    duration_s: float = 10.0

    @property
    def num_samples(self) -> int:
        """Samples of a waveform."""
        return round(self.sample_rate_hz * self.duration_s)

    @property
    def read_s(self) -> float:
        """Seconds of a recording that have to be decoded to make a waveform of it.

        The resampler's low-pass needs samples beyond the end of the waveform.
        """
        return self.duration_s + _MARGIN_S

    def __str__(self) -> str:
        return f"{self.duration_s:.12g} s at {self.sample_rate_hz} Hz"


PAPER_FORMAT = WaveformFormat()
"""10 s at 8 kHz (paper, section IV)."""
