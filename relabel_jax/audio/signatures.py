"""Tells by the first bytes of a file whether it is a recording, and who decodes it."""

import re
from typing import IO

NUM_BYTES = 512
"""Number of bytes at the beginning of a file that the signatures need."""

# libsndfile decodes these; the samples of most are PCM.
_LIBSNDFILE = re.compile(
    rb"(RIFF|RIFX|RF64|BW64).{4}WAVE"
    rb"|riff\x2e\x91\xcf\x11"  # Sony Wave64
    rb"|FORM.{4}(AIFF|AIFC|8SVX|16SV)"
    rb"|caff|fLaC|\.snd|dns\.|NIST_1A|2BIT|PVF1| paf|fap |\x64\xa3[\x01-\x04]\x00"
    rb"|Creative Voice File|Extended Instrument: |ALawSoundFile"
    rb"|MATLAB 5\.0 MAT-file, written by libsndfile",
    re.DOTALL,
)

# FFmpeg decodes these: containers and compressed formats.
_FFMPEG = re.compile(
    rb"OggS|ID3[\x02-\x04]"
    # MPEG audio layers 2 and 3: no free bit rate (0), no forbidden bit rate (15) or sample rate (3)
    rb"|\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd][\x10-\x1b\x20-\x2b\x30-\x3b\x40-\x4b\x50-\x5b\x60-\x6b"
    rb"\x70-\x7b\x80-\x8b\x90-\x9b\xa0-\xab\xb0-\xbb\xc0-\xcb\xd0-\xdb\xe0-\xeb]"
    rb"|\xff[\xf0\xf1\xf8\xf9][\x00-\xf7]|ADIF"  # AAC
    rb"|.{4}(ftyp|moov|mdat|wide|free|skip)"  # MP4, QuickTime, 3GP
    rb"|\x1a\x45\xdf\xa3"  # Matroska, WebM
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11"  # ASF: WMA, WMV
    rb"|FLV\x01|RIFF.{4}AVI |RIFF.{4}QLCM|\x00\x00\x01\xba|\x47.{187}\x47.{187}\x47"
    rb"|TTA[12]|wvpk|MAC |tBaK|MPCK|MP\+|ajkg|\.RMF|\.ra\xfd|DSD |FRM8.{8}DSD "
    rb"|\x0b\x77.{3}[\x00-\x87]|\x7f\xfe\x80\x01|#!AMR|OMA3|ea3\x03",
    re.DOTALL,
)

# FFmpeg takes these bytes for compressed sound in files of any content.
_MPEG = re.compile(rb"ID3|\xff[\xe2-\xff]", re.DOTALL)


def is_audio(file: str | IO[bytes]) -> bool:
    """Whether a file begins as an audio or video file does.

    It reads 512 bytes and decodes nothing, so it is fast. A file that begins with something else
    may still be a recording, such as an MP3 behind other bytes; then only its name tells.

    Args:
      file: a path, or an open binary file that can seek.

    Raises:
      OSError: the file cannot be read.
    """
    if isinstance(file, str):
        with open(file, "rb", buffering=0) as opened:
            return is_audio(opened)
    file.seek(0)
    first_bytes = file.read(NUM_BYTES)
    return bool(_LIBSNDFILE.match(first_bytes) or _FFMPEG.match(first_bytes))


def after_tags(file: IO[bytes]) -> tuple[int, bytes]:
    """Finds the end of the ID3 tags, which may be before any format.

    Returns:
      `(start, first_bytes)`: the position after the tags, and the first bytes there.
    """
    start = 0
    while True:
        file.seek(start)
        first_bytes = file.read(NUM_BYTES)
        if len(first_bytes) < 10 or not first_bytes.startswith(b"ID3"):
            return start, first_bytes
        size = 0
        for byte in first_bytes[6:10]:
            size = size << 7 | byte & 0x7F
        start += 10 + size


def is_for_libsndfile(first_bytes: bytes) -> bool:
    """Whether libsndfile decodes the format that begins with these bytes."""
    return _LIBSNDFILE.match(first_bytes) is not None


def may_be_mpeg(first_bytes: bytes) -> bool:
    """Whether libsndfile would take these bytes for an MP3, which it must not decode.

    It stops at a length that it estimates, and its library writes on stderr.
    """
    return _MPEG.match(first_bytes) is not None
