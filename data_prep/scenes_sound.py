"""The sound of scenes: reads recordings, and mixes their events on background noise."""

import collections
import functools
import io
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr

from data_prep import synthesis
from data_prep.scenes_draw import SCENE_S, Event, Scene, ScenesSpec, Sound
from data_prep.scenes_files import Recording
from relabel_jax.audio.decode import decode
from relabel_jax.audio.resample import resample
from relabel_jax.errors import InputError, Rejected
from relabel_jax.faults import read_patiently
from relabel_jax.files import complete_file

MAX_RECORDING_S = 60.0
"""Of longer recordings only the beginning is used."""

_SILENT_DB = -70.0
_FADE_S = 0.01
_MAX_BYTES = 1 << 28  # of the samples that a process keeps in memory
_FULL_SCALE = 32_768.0
_CHANGED = "has changed since it was measured; put it back, or make the scenes in another folder"


def read_samples(path: str, sample_rate_hz: int) -> np.ndarray:
    """Reads the beginning of a recording of any format.

    Returns:
      int16[time] at this rate, at most `MAX_RECORDING_S` long.

    Raises:
      InputError: a fault of the system lasts.
      Rejected: it cannot be read; see `decode` and `resample`.
    """
    samples, rate_hz = read_patiently(functools.partial(decode, path, MAX_RECORDING_S), path)
    return resample(samples, rate_hz, sample_rate_hz)


def measure(samples: np.ndarray, sample_rate_hz: int) -> Sound:
    """Finds the loudest tenth of a second of a recording, int16[time].

    Raises:
      Rejected: `silent`, if it is below -70 dB.
    """
    tenth = sample_rate_hz // 10
    padded = np.zeros(-(-len(samples) // tenth) * tenth, np.float32)
    padded[: len(samples)] = samples / np.float32(_FULL_SCALE)
    powers = np.square(padded.reshape(-1, tenth)).mean(axis=1)
    loudest = int(powers.argmax())
    level_db = 10 * math.log10(max(float(powers[loudest]), 1e-12))
    if level_db < _SILENT_DB:
        raise Rejected("silent", f"its loudest tenth of a second has {level_db:.0f} dB")
    return Sound(len(samples), loudest * tenth, round(level_db, 2))


def survey(path: str, sample_rate_hz: int) -> Sound | Rejected:
    """Reads a recording and measures it; returns the reason if it cannot be used."""
    try:
        return measure(read_samples(path, sample_rate_hz), sample_rate_hz)
    except Rejected as error:
        return error


class Mixer:
    """Makes the recordings of scenes.

    Args:
      spec: the arguments of the scenes.
      recordings: the recordings.
      source: the folder of the recordings.
      folder: the folder of the scenes; its folders `audio` and `events` get the files.
    """

    def __init__(
        self,
        spec: ScenesSpec,
        recordings: Sequence[Recording],
        source: pathlib.Path,
        folder: pathlib.Path,
    ):
        self._spec = spec
        self._recordings = recordings
        self._source = source
        self._folder = folder
        self._read: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._num_bytes = 0

    def write(self, scene: Scene) -> None:
        """Writes the events and the recording of a scene; each file is complete or absent.

        The events have scaper's text form: a line `onset, offset, label` for each label of each
        event, separated by tabs, in seconds.

        Raises:
          InputError: a recording of it has changed since it was measured, or a file cannot be
            written.
        """
        lines = sorted(
            (event.start / self._spec.sample_rate_hz, event.num_samples, name)
            for event in scene.events
            for name in self._recordings[event.recording].label_names
        )
        with complete_file(self._folder / "events" / f"{scene.clip_id}.txt") as path:
            path.write_text(
                "".join(
                    f"{onset:.6f}\t{onset + length / self._spec.sample_rate_hz:.6f}\t{name}\n"
                    for onset, length, name in lines
                ),
                encoding="utf-8",
            )
        content = io.BytesIO()
        soundfile.write(
            content, self.mix(scene), self._spec.sample_rate_hz, subtype="PCM_16", format="FLAC"
        )
        with complete_file(self._folder / "audio" / f"{scene.clip_id}.flac") as path:
            path.write_bytes(content.getbuffer())

    def mix(self, scene: Scene) -> np.ndarray:
        """The waveform of a scene, int16[time].

        The loudest tenth of a second of each event is `snr_db` above the background, whose level is
        that of the whole scene. The peak of the scene is random, from -15 to -1 dB.
        """
        rng = self._spec.generator(2, scene.split, scene.number)
        waveform = self._background(rng)
        for event in scene.events:
            sound = self._cut(event)
            waveform[event.start : event.start + event.num_samples] += sound
        waveform *= np.float32(10 ** (rng.uniform(-15, -1) / 20) / np.abs(waveform).max())
        return np.rint(waveform * 32767).astype(np.int16)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """Noise of a random colour with a root mean square of 1."""
        noise = synthesis.background(rng, SCENE_S)
        rate_hz = self._spec.sample_rate_hz
        if rate_hz != synthesis.SAMPLE_RATE_HZ:
            noise = soxr.resample(noise, synthesis.SAMPLE_RATE_HZ, rate_hz)
        fitted = np.zeros(self._spec.num_samples, np.float32)
        fitted[: len(noise)] = noise[: len(fitted)]
        return synthesis.unit(fitted)

    def _cut(self, event: Event) -> np.ndarray:
        """The part of the recording that an event takes, at its level, faded where it was cut."""
        whole = self._samples(event.recording)
        sound = whole[event.skip : event.skip + event.num_samples].astype(np.float32)
        gain_db = event.snr_db - self._recordings[event.recording].sound.level_db
        sound *= np.float32(10 ** (gain_db / 20) / _FULL_SCALE)
        length = min(round(_FADE_S * self._spec.sample_rate_hz), len(sound) // 2)
        ramp = np.linspace(0, 1, length, dtype=np.float32)
        if event.skip:
            sound[:length] *= ramp
        if event.skip + event.num_samples < len(whole):
            sound[len(sound) - length :] *= ramp[::-1]
        return sound

    def _samples(self, recording: int) -> np.ndarray:
        """The samples of a recording, int16[time]. Those read last are kept in memory."""
        if (kept := self._read.get(recording)) is not None:
            self._read.move_to_end(recording)
            return kept
        path = str(self._source / self._recordings[recording].path)
        try:
            samples = read_samples(path, self._spec.sample_rate_hz)
        except Rejected as error:
            raise InputError(f"{path}: {_CHANGED}: {error}") from error
        if len(samples) != self._recordings[recording].sound.num_samples:
            raise InputError(f"{path}: {_CHANGED}")
        self._read[recording] = samples
        self._num_bytes += samples.nbytes
        while self._num_bytes > _MAX_BYTES:
            _, oldest = self._read.popitem(last=False)
            self._num_bytes -= oldest.nbytes
        return samples
