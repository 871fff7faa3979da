"""Reads the header that encoders write into the first frame of an MP3."""

import re
import struct
from typing import IO

from relabel_jax.audio import signatures

# After the frame's own header and side information come the name and the flags; the flag 1 says
# that the number of frames follows. LAME writes "Info" if the bit rate is constant.
_HEADER = re.compile(rb"\xff[\xe2-\xff].{2}.{0,60}?(?:Xing|Info)(.{4})(.{4})", re.DOTALL)
_HAS_FRAMES = 1
_TOLERANCE = 2  # Some encoders count the header's frame, and the last one may be left out.


def missing_frames(file: IO[bytes], num_frames: int) -> int:
    """Returns how many more frames the header of an MP3 says than were found.

    Args:
      file: the MP3.
      num_frames: the number of frames that were decoded.

    Returns:
      0 if there is no such header, or none are missing.
    """
    found = _HEADER.match(signatures.after_tags(file)[1])
    if found is None:
        return 0
    flags, claimed = (struct.unpack(">I", field)[0] for field in found.groups())
    missing = claimed - num_frames
    return missing if flags & _HAS_FRAMES and missing > _TOLERANCE else 0
