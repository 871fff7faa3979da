"""Decodes recordings in any format to mono samples at the recording's own rate.

libsndfile decodes WAV, FLAC, Ogg Vorbis, AIFF, CAF and other formats of PCM. FFmpeg decodes MP3,
Opus, the containers and everything else, and what libsndfile cannot decode to the end.
"""

import functools
import math
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np
import soundfile
import soxr

from relabel_jax.audio import ffmpeg, libsndfile, mpeg, ogg, signatures, wav
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.mix import Mixer
from relabel_jax.audio.resample import at_one_rate, to_waveform
from relabel_jax.audio.splice import spliced
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import Rejected

_BLOCK_SAMPLES = 1 << 20

_Decoder = Callable[[IO[bytes], float, int, Facts], Iterator[tuple[np.ndarray, int]]]
_LIBSNDFILE = ("libsndfile", libsndfile.blocks)
_FFMPEG = ("FFmpeg", ffmpeg.blocks)


def decoders() -> str:
    """Names the libraries that make a waveform of a recording, with their versions.

    Other versions may decode the same recording to other samples.
    """
    sndfile = soundfile.__libsndfile_version__
    return f"libsndfile {sndfile}, FFmpeg {ffmpeg.version()}, soxr {soxr.__version__}"


def read_waveform(
    path: str,
    waveform_format: WaveformFormat,
    *,
    mono: str = "mean",
    facts: Facts | None = None,
) -> tuple[np.ndarray, float]:
    """Decodes the beginning of a recording and converts it to a waveform.

    Args:
      path: a file of any format, bit depth, sample rate and number of channels.
      waveform_format: sample rate and length of the waveform.
      mono: the way to make one channel of several; see `mix.MIXES`.
      facts: is filled in.

    Returns:
      `(waveform, duration_s)`: see `resample.to_waveform`.

    Raises:
      Rejected: see `decode` and `resample.to_waveform`.
    """
    samples, rate_hz = decode(path, waveform_format.read_s, mono=mono, facts=facts)
    return to_waveform(samples, rate_hz, waveform_format)


def decode(
    file: str | IO[bytes],
    duration_s: float = math.inf,
    *,
    start_s: float = 0.0,
    mono: str = "mean",
    facts: Facts | None = None,
    silent: bool = False,
) -> tuple[np.ndarray, int]:
    """Decodes a recording and makes one channel of its channels.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode at most this many seconds.
      start_s: leave out the seconds before.
      mono: the way to make one channel of several; see `mix.MIXES`.
      facts: is filled in.
      silent: the standard error of this process goes nowhere, so a decoder may write on it.

    Returns:
      `(samples, rate_hz)`: float32[time], and the sample rate.

    Raises:
      Rejected: `unreadable` (no such file, not audio, damaged), `empty` (0 bytes), `scale` (see
        `mix.check_scale`).
    """
    decoded = decode_blocks(
        file, duration_s, start_s=start_s, mono=mono, facts=facts, silent=silent
    )
    blocks, rates_hz = zip(*decoded, strict=True)
    # There is usually one block. Copying it would add up to 5% to the time of decoding.
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rates_hz[0]


def decode_blocks(
    file: str | IO[bytes],
    duration_s: float = math.inf,
    block_samples: int = _BLOCK_SAMPLES,
    *,
    start_s: float = 0.0,
    mono: str = "mean",
    facts: Facts | None = None,
    silent: bool = False,
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a recording as `decode` does, block by block.

    The memory depends neither on the length of the recording nor on its number of channels, which
    may be 1,024 in a WAV file.

    Args:
      file: a path, or an open binary file that can seek.
      duration_s: decode at most this many seconds.
      block_samples: the number of samples of a block, counted over all channels.
      start_s: leave out the seconds before. They are decoded, because seeking is not exact in all
        formats.
      mono: the way to make one channel of several; see `mix.MIXES`.
      facts: is filled in; it is complete after the last block.
      silent: the standard error of this process goes nowhere, so a decoder may write on it. Then
        MP3s without oddities are decoded by libsndfile, which takes half of FFmpeg's time and
        gives the same samples except for rounding.

    Yields:
      `(samples, rate_hz)`: float32[time], and the sample rate, which is the same for all blocks.
      There is at least one block.

    Raises:
      Rejected: see `decode`. It is raised when the decoder reaches the damaged block.
    """
    facts = Facts() if facts is None else facts
    mixer = Mixer(mono, facts)
    try:
        if isinstance(file, str):
            kind = stat.S_IFMT(os.stat(file).st_mode)
            if kind not in (stat.S_IFREG, stat.S_IFDIR):  # opening a pipe may wait for ever
                raise Rejected("unreadable", "not a regular file")
            with open(file, "rb", buffering=0) as opened:
                yield from decode_blocks(
                    opened,
                    duration_s,
                    block_samples,
                    start_s=start_s,
                    mono=mono,
                    facts=facts,
                    silent=silent,
                )
            return
        if not (size := file.seek(0, os.SEEK_END)):
            raise Rejected("empty", "the file has 0 bytes")
        start, first_bytes = signatures.after_tags(file)
        if signatures.is_for_libsndfile(first_bytes):
            file = wav.repaired(spliced(b"", file, start, size - start) if start else file)
        end_s = start_s + duration_s
        order = _order(file, first_bytes)
        if silent and signatures.may_be_mpeg(first_bytes):
            plain = mpeg.num_plain_samples(file, start, end_s)
            if plain is not None:
                order = [("libsndfile", functools.partial(libsndfile.blocks, min_samples=plain))]
                order += [_FFMPEG]
        blocks = _decode_by_any(order, file, end_s, block_samples, facts)
        if start_s:
            blocks = _skip(blocks, start_s)
        wanted: float | None = None
        for samples, rate_hz in at_one_rate(
            (mixer.mix(channels), rate_hz) for channels, rate_hz in blocks
        ):
            if wanted is None:
                wanted = math.inf if duration_s == math.inf else round(duration_s * rate_hz)
            samples = samples[: int(min(len(samples), wanted))]
            yield samples, rate_hz
            wanted -= len(samples)
            if not wanted:
                break
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from error


def _decode_by_any(
    order: Sequence[tuple[str, _Decoder]],
    file: IO[bytes],
    duration_s: float,
    block_samples: int,
    facts: Facts,
) -> Iterator[tuple[np.ndarray, int]]:
    """Decodes a file by the first decoder that can; the next one continues if it fails.

    Yields:
      `(channels, rate_hz)`: float32[channels, time], and the sample rate.
    """
    failures: list[str] = []
    done, rate_hz = 0, 0
    for name, decode_file in order:
        place = 0  # of the next sample that this decoder gives
        try:
            for channels, rate_hz in decode_file(file, duration_s, block_samples, facts):
                new = channels[:, max(0, done - place) :]
                place += channels.shape[1]
                if new.shape[1]:
                    facts.decoder = name
                    yield new, rate_hz
                    done = place
        except Rejected as error:
            if error.reason != "unreadable":
                raise
            failures.append(f"{name}: {error.detail}")
        else:
            if done:
                return
    if not done and not rate_hz:
        raise Rejected("unreadable", "; ".join(failures))
    if not done:
        yield np.zeros((1, 0), np.float32), rate_hz
    # The last decoder failed, too.
    facts.partial = True


def _skip(
    blocks: Iterator[tuple[np.ndarray, int]], start_s: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Leaves out the first seconds of `(channels, rate_hz)`; yields at least one block."""
    left_s = start_s
    for channels, rate_hz in blocks:
        num_left = round(left_s * rate_hz)
        if num_left < channels.shape[1]:
            yield channels[:, num_left:], rate_hz
            left_s = 0.0
        else:
            left_s -= channels.shape[1] / rate_hz
    if left_s:
        yield np.zeros((1, 0), np.float32), rate_hz


def _order(file: IO[bytes], first_bytes: bytes) -> list[tuple[str, _Decoder]]:
    """Returns the decoders to try, in order."""
    if first_bytes.startswith(ogg.MAGIC):
        # FFmpeg decodes Opus in less than half of the time.
        if ogg.OPUS in first_bytes and not ogg.has_one_page_of_sound(file):
            return [_FFMPEG, _LIBSNDFILE]
        return [_LIBSNDFILE, _FFMPEG]
    if signatures.is_for_libsndfile(first_bytes):
        return [_LIBSNDFILE, _FFMPEG]
    return [_FFMPEG] if signatures.may_be_mpeg(first_bytes) else [_FFMPEG, _LIBSNDFILE]
