"""Facts that a decoder finds out about a recording, besides its samples."""

import dataclasses


@dataclasses.dataclass
class Facts:
    """Facts about one recording. They are complete when the last block is decoded.

    Attributes:
      partial: a part of the recording is missing or damaged, within the seconds that were asked
        for: the file ends before its header says, or the decoder had to leave something out.
      length_s: seconds of the whole recording as its header says or the decoder estimates; 0 if
        unknown.
      has_exact_length: whether `length_s` is known, not estimated.
      cancelled: the channels cancel each other in their mean; see `mix.Mixer`.
      decoder: the library that decoded it, "libsndfile" or "FFmpeg"; "" if there are no samples.
    """

    partial: bool = False
    length_s: float = 0.0
    has_exact_length: bool = False
    cancelled: bool = False
    decoder: str = ""
