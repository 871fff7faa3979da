"""Reads the headers of the frames of an MP3, and the header that encoders write into the first."""

import functools
import math
import re
import struct
from typing import IO

from relabel_jax.audio import signatures

# After the frame's own header and side information come the name and the flags; the flag 1 says
# that the number of frames follows. LAME writes "Info" if the bit rate is constant.
_HEADER = re.compile(rb"\xff[\xe2-\xff].{2}.{0,60}?(?:Xing|Info)(.{4})(.{4})", re.DOTALL)
_HAS_FRAMES = 1
_TOLERANCE = 2  # Some encoders count the header's frame, and the last one may be left out.

# Of layer 3, by the number in the frame's header.
_KBPS_MPEG_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBPS_MPEG_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MONO = 3
_MAX_WALK_BYTES = 1 << 23
_ID3V1_BYTES = 128


def missing_frames(file: IO[bytes], num_frames: int) -> int:
    """Returns how many more frames the header of an MP3 says than were found.

    Args:
      file: the MP3.
      num_frames: the number of frames that were decoded.

    Returns:
      0 if there is no such header, or none are missing.
    """
    missing = _claimed_frames(signatures.after_tags(file)[1]) - num_frames
    return missing if missing > _TOLERANCE else 0


def _claimed_frames(first_bytes: bytes) -> int:
    """Returns the number of frames that the header says; 0 if it does not say it."""
    found = _HEADER.match(first_bytes)
    if found is None:
        return 0
    flags, claimed = (struct.unpack(">I", field)[0] for field in found.groups())
    return claimed if flags & _HAS_FRAMES else 0


def num_plain_samples(file: IO[bytes], start: int, duration_s: float) -> int | None:
    """Counts the samples of an MP3 that has no oddities, which every decoder decodes alike.

    Every frame begins where the one before it ends, up to the end of the file, and all have the
    same sample rate and number of channels. Either the header says the right number of frames, or
    there is no header and the bit rate is constant.

    Args:
      file: the MP3.
      start: where its first frame begins.
      duration_s: the seconds from the beginning that are needed; later frames do not matter.

    Returns:
      The number of samples in these seconds that no decoder may leave out; None if there is an
      oddity, or the file is not an MP3.
    """
    file.seek(start)
    first = file.read(4)
    if len(first) < 4 or first[0] != 0xFF or first[1] & 0xE6 != 0xE2:
        return None
    rate_hz, frame_samples, sizes = _frame_sizes(first[1], first[2] >> 2 & 3)
    if not sizes or duration_s == math.inf:
        return None
    needed = math.ceil(duration_s * rate_hz / frame_samples) + 2
    num_bytes = (needed + 1) * max(sizes)
    if num_bytes > _MAX_WALK_BYTES:
        return None
    data = first + file.read(num_bytes - 4)
    is_mono = first[3] >> 6 == _MONO
    second, place, count, last = first[1], 0, 0, len(data) - 3
    bit_rates = set()
    while place < last and count <= needed:
        size = sizes[data[place + 2]]
        is_next = data[place] == 0xFF and data[place + 1] == second and size
        if not is_next or (data[place + 3] >> 6 == _MONO) != is_mono:
            break
        bit_rates.add(data[place + 2] >> 4)
        place += size
        count += 1
    has_header = _HEADER.match(data[: signatures.NUM_BYTES]) is not None
    claimed = _claimed_frames(data[: signatures.NUM_BYTES])
    is_cut = count > needed
    count -= has_header
    tail = data[place:]
    is_whole = place <= len(data) and (
        not tail or (len(tail) == _ID3V1_BYTES and tail.startswith(b"TAG"))
    )
    if not count or not (is_cut or is_whole):
        return None
    if has_header:
        is_right = claimed >= count if is_cut else claimed == count
        # The header may also say how many samples at the beginning and the end are padding.
        return max(0, count - 3) * frame_samples if is_right else None
    return count * frame_samples if len(bit_rates) == 1 else None


@functools.cache
def _frame_sizes(second: int, rate_number: int) -> tuple[int, int, tuple[int, ...]]:
    """Returns what the second byte and the number of the sample rate in a frame's header mean.

    Returns:
      The sample rate in Hz, the samples of a frame, and the bytes of a frame by the third byte of
      its header, 0 where that has another sample rate or no known bit rate. Without sizes, these
      numbers mean nothing.
    """
    version = second >> 3 & 3
    if version not in _RATES_HZ or rate_number > 2:
        return 0, 0, ()
    rate_hz = _RATES_HZ[version][rate_number]
    frame_samples = 1_152 if version == 3 else 576
    kbps = _KBPS_MPEG_1 if version == 3 else _KBPS_MPEG_2
    sizes = [
        frame_samples // 8 * kbps[third >> 4] * 1_000 // rate_hz + (third >> 1 & 1)
        if third >> 2 & 3 == rate_number and kbps[third >> 4]
        else 0
        for third in range(256)
    ]
    return rate_hz, frame_samples, tuple(sizes)
