"""The form in which a data set stores waveforms, and in which a network takes them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class WaveformFormat:
    """Mono waveforms of one sample rate and one length, int16. The defaults are the paper's.

    Attributes:
      sample_rate_hz: samples a second.
      duration_s: seconds of a waveform. Shorter recordings are zero-padded, longer ones are cut.
    """

    sample_rate_hz: int = 8_000
    duration_s: float = 10.0

    @property
    def num_samples(self) -> int:
        """Samples of a waveform."""
        return round(self.sample_rate_hz * self.duration_s)

    def __str__(self) -> str:
        return f"{self.duration_s:g} s at {self.sample_rate_hz} Hz"


PAPER_FORMAT = WaveformFormat()
"""10 s at 8 kHz (paper, section IV)."""
