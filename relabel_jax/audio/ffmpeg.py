"""Decodes compressed recordings and containers with FFmpeg, by PyAV."""

import functools
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from relabel_jax.audio import mpeg, ogg
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.mix import check_scale
from relabel_jax.audio.watched import Watched
from relabel_jax.errors import Rejected
from relabel_jax.faults import check_memory

# FFmpeg also reads playlists and other text, which name other files and addresses. Those must not
# be opened. Formats without a signature would accept any file.
_FORMATS = (
    "aac,ac3,adx,aiff,amr,ape,asf,au,avi,avr,caf,dsf,dts,dtshd,eac3,flac,flv,iff,loas,matroska,mlp,"
    "mmf,mov,mp3,mpc,mpc8,mpeg,mpegts,nistsphere,nut,ogg,oma,paf,pvf,qcp,rm,shn,sox,tak,truehd,tta,"
    "voc,w64,wav,wtv,wv,xwma"
)
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
# Their headers do not say the length; FFmpeg guesses it from the bit rate.
_GUESSES_LENGTH = {"aac", "ac3", "eac3", "dts", "loas", "mlp", "mp3", "mpeg", "mpegts", "ogg"}
_FLOAT_CODECS = ("pcm_f32", "pcm_f64")
# Of all channels. Larger arrays would not stay in the cache between the steps.
_MAX_BLOCK_SAMPLES = 1 << 16
_MAX_GAP_S = 10  # a longer one is a damaged time stamp
# A recording that is shorter than its header says, by more than rounding and priming, is partial.
_MIN_PART, _TOLERANCE_S = 0.98, 0.1
_CLOCK = re.compile(r"(\d+):(\d+):([\d.]+)")


def blocks(
    file: IO[bytes], duration_s: float, block_samples: int, facts: Facts
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes the first audio stream of a file; for the arguments see `decode.decode_blocks`.

    Damaged packets are left out, and the recording is marked as partial. The links of a
    chained Ogg follow each other.

    Yields:
      `(channels, rate_hz)`: float32[channels, time], and the sample rate. Both the rate and the
      number of channels may change.

    Raises:
      Rejected: `unreadable`; or `scale`, see `mix.check_scale`.
    """
    block_samples = min(block_samples, _MAX_BLOCK_SAMPLES)
    file.seek(0)
    if file.read(4) != ogg.MAGIC:
        file.seek(0)
        yield from _decode(file, file, duration_s, block_samples, facts)
        return
    facts.length_s = facts.length_s or ogg.length_of_opus_s(file)
    for number, link in enumerate(ogg.links(file)):
        try:
            for channels, rate_hz in _decode(link, file, duration_s, block_samples, facts):
                yield channels, rate_hz
                duration_s -= channels.shape[1] / rate_hz
        except Rejected:
            if not number:
                raise
            facts.partial = True
        if duration_s <= 0:
            return
        link.finish()
        facts.partial |= link.is_cut


def _decode(
    source: Any, file: IO[bytes], duration_s: float, block_samples: int, facts: Facts
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes `source`: the file, or a part of it that only has `read`."""
    import av

    # Tags may have bytes that are not UTF-8. PyAV 19 and later replaces them by default.
    tags: dict[str, Any] = (
        {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    )
    watched = Watched(source)
    try:
        with av.open(watched, mode="r", options=_OPTIONS, **tags) as container:
            if not container.streams.audio:
                raise Rejected("unreadable", "no audio in it")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise Rejected("unreadable", "no decoder for its audio")
            if not facts.length_s:
                facts.length_s = (container.duration or 0) / 1e6
                facts.has_exact_length = _expected_s(container, stream) > 0
            packets = _Packets(container, stream)
            # Other containers round the time stamps.
            fills_gaps = container.format.name == "flac"
            decoded_s = 0.0
            for channels, rate_hz in _join(packets, stream, block_samples, fills_gaps):
                if rate_hz <= 0:
                    raise Rejected("unreadable", "no sample rate in it")
                if stream.codec_context.name.startswith(_FLOAT_CODECS):
                    check_scale(channels)
                watched.check()
                yield channels, rate_hz
                decoded_s += channels.shape[1] / rate_hz
                if decoded_s >= duration_s:
                    return
            if container.format.name == "mp3":
                facts.partial |= mpeg.missing_frames(file, packets.num_good) > 0
            else:
                expected_s = _expected_s(container, stream)
                is_short = decoded_s < _MIN_PART * expected_s - _TOLERANCE_S
                facts.partial |= packets.has_damage or is_short
            watched.check()
    except Rejected:
        watched.check()
        raise
    except (av.error.FFmpegError, ValueError) as error:
        watched.check()
        check_memory()
        # FFmpeg's own errors have numbers of the system, but they speak of the file.
        raise Rejected("unreadable", _text(error)) from None


class _Packets:
    """The packets of a stream, and what became of them.

    Attributes:
      num_good: number of packets that were decoded.
      has_damage: whether some could not be read or decoded.
    """

    def __init__(self, container: Any, stream: Any):
        self._container = container
        self._stream = stream
        self._num_bad = 0
        self._error = ""
        self.num_good = 0
        self.has_damage = False

    def frames(self) -> Iterator[Any]:
        """Decodes the packets to frames. It leaves out those that cannot be decoded.

        Raises:
          Rejected: `unreadable`, if those are most packets: the rest would not be the recording.
        """
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self._found(error)
                packet = None  # nothing more can be read
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._found(error)
                self._num_bad += 1
                continue
            self.num_good += packet.size > 0  # the last packet is empty
            yield from frames
        if self._num_bad > self.num_good:
            what = f"{self._num_bad} of {self._num_bad + self.num_good} packets are damaged"
            raise Rejected("unreadable", f"{what}: {self._error}")
        if self._error and not self.num_good:
            raise Rejected("unreadable", self._error)

    def _found(self, error: Exception) -> None:
        check_memory()
        self.has_damage = True
        self._error = self._error or _text(error)


def _join(
    packets: _Packets, stream: Any, block_samples: int, fills_gaps: bool
) -> Iterator[tuple[np.ndarray, int]]:
    """Joins the short frames to blocks of `block_samples`, counted over all channels.

    Args:
      packets: the packets of `stream`.
      stream: the stream.
      block_samples: see `decode.decode_blocks`.
      fills_gaps: put zeros in place of the samples that the time stamps leave out, so that the rest
        keeps its time. FFmpeg leaves out the damaged frames of a FLAC.
    """
    import av

    fifo = av.AudioFifo()
    rate_hz, block, position = stream.rate, 0, 0

    def rest() -> Iterator[tuple[np.ndarray, int]]:
        if frame := fifo.read(0, partial=True) if block else None:
            yield _to_float(frame), rate_hz

    for frame in packets.frames():
        gap = _gap(frame, position) if fills_gaps else 0
        if gap:
            packets.has_damage = True
            yield from rest()
            fifo = av.AudioFifo()
            yield np.zeros((frame.layout.nb_channels, gap), np.float32), frame.sample_rate
        position += gap + frame.samples
        frame.pts = None
        try:
            fifo.write(frame)
        except ValueError:  # the frame has another rate, format or number of channels
            yield from rest()
            fifo, block = av.AudioFifo(), 0
            fifo.write(frame)
        if not block:
            rate_hz, block = frame.sample_rate, max(1, block_samples // frame.layout.nb_channels)
        while fifo.samples >= block:
            yield _to_float(fifo.read(block)), rate_hz
    yield from rest()
    if not position:
        yield np.zeros((1, 0), np.float32), rate_hz


def _gap(frame: Any, position: int) -> int:
    """The number of samples that are missing between `position` and a frame."""
    if frame.pts is None or not frame.time_base:
        return 0
    gap = round(frame.pts * frame.time_base * frame.sample_rate) - position
    return gap if 0 < gap <= _MAX_GAP_S * frame.sample_rate else 0


def _to_float(frame: Any) -> np.ndarray:
    """Returns float32[channels, time] of an audio frame of any sample format."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    if np.issubdtype(samples.dtype, np.integer):
        return samples.astype(np.float32) / np.float32(1 << 8 * samples.itemsize - 1)
    return samples.astype(np.float32, copy=False)


def _expected_s(container: Any, stream: Any) -> float:
    """The seconds of sound that the header says, or 0 if it does not say them."""
    if container.format.name in _GUESSES_LENGTH:
        return 0.0
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if found := _CLOCK.match(stream.metadata.get("DURATION", "")):  # of a stream of Matroska
        hours, minutes, seconds = map(float, found.groups())
        return 3600 * hours + 60 * minutes + seconds
    is_alone = len(container.streams) == 1
    return container.duration / 1e6 if is_alone and container.duration else 0.0


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@functools.cache
def version() -> str:
    """The versions of FFmpeg's decoders and of PyAV."""
    import av

    numbers = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"{numbers} (PyAV {av.__version__})"
