"""Reads the recording of a clip: the first of its candidates that is good."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from data_prep.recordings import Candidates
from data_prep.sources import Recording, decode_recording, read_recording
from relabel_jax.audio.facts import Facts
from relabel_jax.audio.mix import MIXES
from relabel_jax.audio.waveform_format import WaveformFormat
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import read_patiently

PARTIAL = ("keep", "reject")

_PROBE_S = 0.1
_PADDING_S = 0.2  # encoders add as much


@dataclasses.dataclass(frozen=True)
class Reading:
    """The ways to make a waveform of a recording. The fields are flags of `data_prep.build`.

    Attributes:
      mono: the way to make one channel of several; see `relabel_jax.audio.mix.MIXES`.
      partial: `keep` or `reject` recordings with a missing or damaged part.
      trim: cut whole videos by the times of their clips.
    """

    mono: str = "mean"
    partial: str = "keep"
    trim: bool = False

    def check(self) -> None:
        """Raises InputError if a value is unknown."""
        for name, values in (("mono", MIXES), ("partial", PARTIAL)):
            if (value := getattr(self, name)) not in values:
                raise InputError(f"--{name}={value}: expected one of {', '.join(values)}")

    def inputs(self) -> dict[str, str]:
        """Returns the entries of a plan's `inputs`, without defaults: older plans have none."""
        return {
            f"--{field.name}": str(value)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @classmethod
    def of_inputs(cls, inputs: Mapping[str, str]) -> "Reading":
        """Reads the entries of a plan's `inputs`."""
        return cls(
            inputs.get("--mono", cls.mono),
            inputs.get("--partial", cls.partial),
            inputs.get("--trim") == str(True),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ClipSound:
    """The sound of a clip.

    Attributes:
      waveform, duration_s: see `resample.to_waveform`.
      is_partial, is_cancelled: see `Facts`.
      is_trimmed: it was cut out of a whole video.
      is_whole_video: it is the beginning of a whole video, although its clip begins later.
    """

    waveform: np.ndarray
    duration_s: float
    is_partial: bool
    is_cancelled: bool
    is_trimmed: bool = False
    is_whole_video: bool = False


def read_clip(
    candidates: Candidates,
    start_s: float,
    end_s: float,
    waveform_format: WaveformFormat,
    reading: Reading,
    on_failure: Callable[[Recording], None],
) -> ClipSound:
    """Reads the first of a clip's recordings that is complete, or else the first that is partial.

    It must run in a process whose standard error goes nowhere, see `decode`.

    Args:
      candidates: the recordings in the order in which they are tried.
      start_s, end_s: the times of the clip.
      waveform_format: sample rate and length of the waveform.
      reading: the ways to make a waveform.
      on_failure: called with each recording that cannot be read.

    Raises:
      InputError: a fault of the system lasts (relabel_jax/faults.py).
      Rejected: none can be read. The reason is that of the first one: see `read_recording`;
        `partial`; or `too_short` (the video ends before the clip begins).
    """
    failures: list[Rejected] = []
    first_partial: ClipSound | None = None
    for recording in candidates:
        try:
            sound = read_patiently(
                functools.partial(_read, recording, start_s, end_s, waveform_format, reading),
                str(recording),
            )
        except Rejected as error:
            on_failure(recording)
            failures.append(error)
            continue
        if not sound.is_partial:
            return sound
        first_partial = first_partial or sound
        failures.append(
            Rejected("partial", f"a part of it is missing or damaged ({sound.duration_s:.1f} s)")
        )
    if first_partial is not None and reading.partial == "keep":
        return first_partial
    others = zip(candidates[1:], failures[1:], strict=True)
    details = [failures[0].detail, *(f"{each}: {error.detail}" for each, error in others)]
    raise Rejected(failures[0].reason, "; ".join(details))


def _read(
    recording: Recording,
    start_s: float,
    end_s: float,
    waveform_format: WaveformFormat,
    reading: Reading,
) -> ClipSound:
    facts = Facts()
    place = recording.path, recording.member
    waveform, duration_s = read_recording(
        *place, waveform_format, mono=reading.mono, facts=facts, silent=True
    )
    threshold_s = _min_length_of_video_s(start_s, end_s)
    is_whole_video = start_s > 0 and threshold_s < facts.length_s
    if start_s > 0 and reading.trim and not facts.has_exact_length:
        # The length is an estimate or unknown.
        samples, _ = decode_recording(*place, _PROBE_S, start_s=threshold_s, silent=True)
        is_whole_video = len(samples) > 0
    if not (is_whole_video and reading.trim):
        return ClipSound(
            waveform, duration_s, facts.partial, facts.cancelled, is_whole_video=is_whole_video
        )
    facts = Facts()
    try:
        waveform, duration_s = read_recording(
            *place,
            waveform_format,
            start_s=start_s,
            duration_s=end_s - start_s,
            mono=reading.mono,
            facts=facts,
            silent=True,
        )
    except Rejected as error:
        if error.reason != "empty":
            raise
        what = f"the video ends before the clip begins at {start_s:g} s"
        raise Rejected("too_short", what) from error
    return ClipSound(waveform, duration_s, facts.partial, facts.cancelled, is_trimmed=True)


def _min_length_of_video_s(start_s: float, end_s: float) -> float:
    """The seconds from which on a recording counts as the whole video, not for the clip alone.

    The clip alone takes `end_s - start_s`, and the video at least `end_s`. This is their mean.
    """
    return end_s - start_s + max(start_s / 2, _PADDING_S)
