"""The sounds of the miniature AudioSet: one synthesiser per sounding class, in NumPy and SciPy.

Every sound is a function of a random generator and a length in seconds. It returns float32[time] at
16 kHz, at any level. A child is a variant of its parent: the classes below `Guitar` are the same
plucked string with another body, those below `Siren` the same tone with another course of pitch,
those below `Speech`, `Singing` and `Laughter` the same voice with another pitch and pace. All
energy that tells classes apart lies below 4 kHz, where a network at 8 kHz can hear it.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from data_prep.sound_parts import (
    SAMPLE_RATE_HZ,
    Range,
    band,
    beats,
    curve,
    decay,
    fade,
    grains,
    noise,
    num_samples,
    phase_cycles,
    resonate,
    saw,
    sine,
    sum_at,
    unit,
)

# Mean formants of men's vowels in Hz: Peterson and Barney (1952), Control methods used in a study
# of the vowels, table II.
_VOWELS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410))
_PENTATONIC_SEMITONES = np.array([0, 3, 5, 7, 10, 12, 15])


# Voices


def _voiced(
    rng: np.random.Generator,
    frequency_hz: np.ndarray,
    formant_scale: float,
    breath: float,
) -> np.ndarray:
    """One vowel at the given course of pitch: a saw and some breath through three formants."""
    source = saw(frequency_hz) + breath * rng.standard_normal(len(frequency_hz), dtype=np.float32)
    vowel = np.multiply(_VOWELS_HZ[rng.integers(len(_VOWELS_HZ))], formant_scale)
    vowel = np.minimum(vowel, 3700)
    # In parallel, weaker towards the top. In a cascade the first peak would suppress the others.
    formants = [
        gain * resonate(source, [centre_hz], 90 * formant_scale)
        for gain, centre_hz in zip((1, 0.6, 0.3), vowel, strict=True)
    ]
    return fade(unit(np.sum(formants, axis=0)), 0.03)


def _speech(
    rng: np.random.Generator, seconds: float, *, pitch_hz: Range, formant_scale: float
) -> np.ndarray:
    """Syllables of falling pitch, some after a fricative."""
    pitch = rng.uniform(*pitch_hz)
    starts = beats(rng, seconds, rng.uniform(0.2, 0.28), 0.3)
    syllables = []
    for _ in starts:
        length_s = rng.uniform(0.1, 0.2)
        course = pitch * rng.uniform(0.9, 1.2) * np.linspace(1.08, 0.92, num_samples(length_s))
        syllable = rng.uniform(0.5, 1) * _voiced(rng, course, formant_scale, 0.05)
        if rng.random() < 0.4:
            hiss = fade(band(noise(rng, 0.06), 2200, 3800), 0.02)
            syllable = np.concatenate([0.6 * hiss, syllable])
        syllables.append(syllable)
    return sum_at(seconds, starts, syllables)


def _singing(
    rng: np.random.Generator, seconds: float, *, pitch_hz: Range, formant_scale: float
) -> np.ndarray:
    """Held notes of a scale with vibrato."""
    tonic = rng.uniform(*pitch_hz)
    starts = beats(rng, seconds, rng.uniform(0.5, 0.9), 0.2)
    notes = []
    for start, end in zip(starts, [*starts[1:], seconds], strict=True):
        times = np.arange(num_samples(end - start)) / SAMPLE_RATE_HZ
        pitch = tonic * 2 ** (rng.choice(_PENTATONIC_SEMITONES[:5]) / 12)
        vibrato = 1 + 0.02 * np.sin(2 * np.pi * rng.uniform(5, 6.5) * times)
        notes.append(_voiced(rng, pitch * vibrato, formant_scale, 0.02))
    return sum_at(seconds, starts, notes)


def _choir(rng: np.random.Generator, seconds: float) -> np.ndarray:
    singers = [
        _singing(rng, seconds, pitch_hz=pitch, formant_scale=scale)
        for pitch, scale in 2 * (((120, 150), 1.0), ((180, 210), 1.1), ((260, 330), 1.17))
    ]
    return np.sum(singers, axis=0)


def _laughter(
    rng: np.random.Generator,
    seconds: float,
    *,
    pitch_hz: Range,
    formant_scale: float,
    interval_s: Range,
) -> np.ndarray:
    """`Ha`s in quick succession whose pitch and level fall."""
    pitch = rng.uniform(*pitch_hz)
    interval = rng.uniform(*interval_s)
    starts = beats(rng, seconds, interval, 0.1)
    bursts = []
    for number in range(len(starts)):
        fallen = 1 - 0.5 * (number % 8) / 8
        course = pitch * (0.7 + 0.3 * fallen) * np.linspace(1.25, 0.85, num_samples(interval / 2))
        bursts.append(fallen * _voiced(rng, course, formant_scale, 0.4))
    return sum_at(seconds, starts, bursts)


def _bark(rng: np.random.Generator, seconds: float) -> np.ndarray:
    pitch = rng.uniform(280, 480)
    scale = rng.uniform(1.0, 1.3)
    starts = beats(rng, seconds, rng.uniform(0.35, 0.6), 0.3)
    course = pitch * np.concatenate([np.linspace(0.8, 1.5, 700), np.linspace(1.5, 0.6, 1700)])
    barks = [_voiced(rng, course, scale, 0.8) * decay(0.15, 0.08) for _ in starts]
    return sum_at(seconds, starts, barks)


def _bird(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Phrases of short sweeps between 2 and 3.7 kHz."""
    low, high = rng.uniform(2000, 2600), rng.uniform(2900, 3700)
    starts = beats(rng, seconds, rng.uniform(0.1, 0.18), 0.1)
    starts = [start for start in starts if start % 1.2 < 0.8]
    up = rng.random() < 0.5
    sweep = np.geomspace(
        *((low, high) if up else (high, low)), num_samples(rng.uniform(0.05, 0.09))
    )
    chirp = fade(sine(sweep), 0.015)
    return sum_at(seconds, starts, [rng.uniform(0.6, 1) * chirp for _ in starts])


# Strings, bells and tones


def _pluck(
    rng: np.random.Generator, frequency_hz: float, seconds: float, time_constant_s: float
) -> np.ndarray:
    """A plucked string (Karplus and Strong, 1983): noise that is averaged once a period.

    The average of neighbours is a product in the frequency domain, so the k-th period is the first
    one times the k-th power of the loop's gain, and all periods are one inverse FFT.
    """
    period = round(SAMPLE_RATE_HZ / frequency_hz)
    spectrum = np.fft.rfft(rng.standard_normal(period))
    spectrum[0] = 0
    turns = np.arange(period // 2 + 1) / period
    gain = np.exp(-period / SAMPLE_RATE_HZ / time_constant_s)
    loop = gain * (1 + np.exp(-2j * np.pi * turns)) / 2
    # From the fourth period on: the raw noise before it is a click that drowns the string.
    powers = np.arange(4, int(seconds * SAMPLE_RATE_HZ / period) + 5)[:, np.newaxis]
    # By the logarithm, because a complex power of arrays takes six times as long.
    log_loop = np.log(loop + 1e-12)
    periods = np.fft.irfft(spectrum * np.exp(powers * log_loop), n=period)
    return fade(unit(periods.ravel()).astype(np.float32), 0.002)


def _plucked_tune(
    rng: np.random.Generator,
    seconds: float,
    *,
    tonic_hz: Range,
    interval_s: Range,
    time_constant_s: float,
) -> np.ndarray:
    tonic = rng.uniform(*tonic_hz)
    starts = beats(rng, seconds, rng.uniform(*interval_s), 0.05)
    notes = [
        _pluck(rng, tonic * 2 ** (semitones / 12), 3 * time_constant_s, time_constant_s)
        for semitones in rng.choice(_PENTATONIC_SEMITONES, len(starts))
    ]
    return sum_at(seconds, starts, notes)


def _acoustic_guitar(rng: np.random.Generator, seconds: float) -> np.ndarray:
    tune = _plucked_tune(
        rng, seconds, tonic_hz=(110, 200), interval_s=(0.25, 0.5), time_constant_s=0.5
    )
    return tune + 1.5 * resonate(tune, [110], 40) + resonate(tune, [220], 40)  # the body


def _electric_guitar(rng: np.random.Generator, seconds: float) -> np.ndarray:
    tune = _plucked_tune(
        rng, seconds, tonic_hz=(110, 200), interval_s=(0.25, 0.5), time_constant_s=1.5
    )
    return band(np.tanh(5 * band(tune, 0, 2500)), 80, 3500)


def _banjo(rng: np.random.Generator, seconds: float) -> np.ndarray:
    tune = _plucked_tune(
        rng, seconds, tonic_hz=(240, 380), interval_s=(0.11, 0.18), time_constant_s=0.15
    )
    return tune + 2 * resonate(tune, [900], 300)


def _struck(
    frequency_hz: float, ratios: Sequence[float], seconds: float, time_constant_s: float
) -> np.ndarray:
    """Partials that decay, the higher the faster: a bell."""
    times = np.arange(num_samples(seconds), dtype=np.float32) / SAMPLE_RATE_HZ
    sound = np.zeros_like(times)
    for ratio in ratios:
        if frequency_hz * ratio < 3800:
            tone = np.sin(np.float32(2 * np.pi * frequency_hz * ratio) * times)
            sound += tone * np.exp(times * np.float32(-(ratio**0.7) / time_constant_s))
    return sound


def _church_bell(rng: np.random.Generator, seconds: float) -> np.ndarray:
    # Hum, prime, tierce, quint, nominal and above of a minor-third bell.
    bell = _struck(rng.uniform(180, 380), (0.5, 1, 1.2, 1.5, 2, 2.5, 3, 4.2, 5.4), 4, 1.2)
    starts = beats(rng, seconds, rng.uniform(0.9, 1.6), 0.05)
    return sum_at(seconds, starts, [bell] * len(starts))


def _bicycle_bell(rng: np.random.Generator, seconds: float) -> np.ndarray:
    bell = _struck(rng.uniform(1700, 2400), (0.5, 1, 1.07, 1.48, 1.55), 0.5, 0.25)
    starts = beats(rng, seconds, rng.uniform(0.055, 0.08), 0.1)
    starts = [start for start in starts if start % 1 < 0.45]  # the thumb: trr-ring, trr-ring
    return sum_at(seconds, starts, [bell] * len(starts))


def _ding(rng: np.random.Generator, seconds: float) -> np.ndarray:
    ding = _struck(rng.uniform(900, 1600), (1, 2.0), 1, 0.3)
    starts = beats(rng, seconds, rng.uniform(0.9, 1.5), 0.2)
    return sum_at(seconds, starts, [ding] * len(starts))


def _beep(rng: np.random.Generator, seconds: float) -> np.ndarray:
    length_s = rng.uniform(0.12, 0.3)
    beep = fade(sine(np.full(num_samples(length_s), rng.uniform(900, 1600))), 0.005)
    starts = beats(rng, seconds, 2 * length_s, 0)
    return sum_at(seconds, starts, [beep] * len(starts))


def _siren(rng: np.random.Generator, pitch_hz: np.ndarray) -> np.ndarray:
    """The tone of a siren on a given course of pitch."""
    tone = band(saw(pitch_hz), 300, 3500)
    return fade(np.tanh(rng.uniform(1, 2) * tone), 0.2)


def _police_siren(rng: np.random.Generator, seconds: float) -> np.ndarray:
    cycle = (np.arange(num_samples(seconds)) / SAMPLE_RATE_HZ * rng.uniform(1.5, 3.5)) % 1
    low = rng.uniform(550, 700)
    return _siren(rng, low * rng.uniform(2, 2.6) ** np.interp(cycle, (0, 0.6, 1), (0, 1, 0)))


def _ambulance_siren(rng: np.random.Generator, seconds: float) -> np.ndarray:
    cycle = (np.arange(num_samples(seconds)) / SAMPLE_RATE_HZ * rng.uniform(0.7, 1.1)) % 1
    low = rng.uniform(420, 650)
    return _siren(rng, np.where(cycle < 0.5, low, low * 4 / 3))


def _civil_siren(rng: np.random.Generator, seconds: float) -> np.ndarray:
    rise = np.interp(np.linspace(0, 1, num_samples(seconds)), (0, 0.45, 0.7, 1), (0.5, 1, 1, 0.7))
    return _siren(rng, rng.uniform(380, 520) * rise)


def _hum(rng: np.random.Generator, seconds: float) -> np.ndarray:
    base = rng.choice([100.0, 120.0])
    tones = [
        rng.uniform(0.2, 1) * sine(np.full(num_samples(seconds), harmonic * base))
        for harmonic in (1, 2, 3, 4)
    ]
    return fade(np.asarray(np.sum(tones, axis=0, dtype=np.float32)), 0.3)


# Wind, water and fire


def _wind(rng: np.random.Generator, seconds: float) -> np.ndarray:
    gusts = curve(rng, seconds, 1.5, (0.2, 1)) ** 2
    return fade(unit(band(noise(rng, seconds), 60, rng.uniform(400, 600)) * gusts), 0.3)


def _howling_wind(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Wind and a narrow band of noise whose centre wanders."""
    course = curve(rng, seconds, 1.5, (450, 950))
    howl = band(noise(rng, seconds), 0, 20) * sine(course)
    return 0.5 * _wind(rng, seconds) + fade(unit(howl), 0.3)


def _rustling_leaves(rng: np.random.Generator, seconds: float) -> np.ndarray:
    gusts = curve(rng, seconds, 5, (0, 1)) ** 2
    leaves = band(noise(rng, seconds), 1400, 3700)
    flutter = grains(rng, seconds, 60, noise(rng, 0.02) * decay(0.02, 0.006))
    return 0.5 * _wind(rng, seconds) + unit((unit(leaves) + band(flutter, 1400, 3700)) * gusts)


def _rain(rng: np.random.Generator, seconds: float) -> np.ndarray:
    bed = unit(band(noise(rng, seconds), rng.uniform(500, 800), 3700))
    drops = unit(grains(rng, seconds, 150, band(noise(rng, 0.01), 1200, 3700)))
    return fade(bed * curve(rng, seconds, 1, (0.8, 1)) + 0.5 * drops, 0.3)


def _raindrops(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Single drops, each a bubble of rising pitch, before faint rain."""
    starts = np.sort(rng.uniform(0, seconds, max(int(seconds * rng.uniform(5, 10)), 2))).tolist()
    drops = [
        rng.uniform(0.4, 1)
        * fade(sine(rng.uniform(900, 2200) * np.linspace(1, 1.4, 800)) * decay(0.05, 0.015), 0.001)
        for _ in starts
    ]
    return sum_at(seconds, starts, drops) + 0.05 * _rain(rng, seconds)


def _rain_on_surface(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Rain and its drumming on a panel."""
    panel = resonate(noise(rng, 0.08) * decay(0.08, 0.02), [rng.uniform(220, 450)], 50)
    return 0.5 * _rain(rng, seconds) + fade(unit(grains(rng, seconds, 50, panel)), 0.3)


def _hiss(rng: np.random.Generator, seconds: float) -> np.ndarray:
    return fade(band(noise(rng, seconds), rng.uniform(2300, 2800), 3800), 0.1)


def _crackle(rng: np.random.Generator, seconds: float) -> np.ndarray:
    snap = band(noise(rng, 0.01) * decay(0.01, 0.002), 700, 3700)
    roar = unit(band(noise(rng, seconds), 60, 350))
    return grains(rng, seconds, rng.uniform(12, 30), snap / np.abs(snap).max()) + 0.05 * roar


# Engines


def _engine(
    rng: np.random.Generator,
    seconds: float,
    *,
    firing_hz: Range,
    high_hz: float,
    knocking: bool = False,
) -> np.ndarray:
    """Explosions at a nearly steady rate, each of another strength, and some noise."""
    rate = rng.uniform(*firing_hz) * curve(rng, seconds, 2, (0.95, 1.05))
    cycles = phase_cycles(rate)
    number = cycles.astype(np.int64)
    strength = rng.uniform(0.6, 1, number[-1] + 1).astype(np.float32)[number]
    source = strength * np.exp(-6 * (cycles - number)).astype(np.float32)
    source += 0.1 * rng.standard_normal(len(source), dtype=np.float32)
    engine = unit(band(source, 30, high_hz))
    if knocking:
        knock = resonate(noise(rng, 0.03) * decay(0.03, 0.006), [rng.uniform(1400, 1900)], 120)
        knock *= 5 / np.abs(knock).max()
        starts = np.flatnonzero(np.diff(number // 8)) / SAMPLE_RATE_HZ
        engine += sum_at(seconds, starts.tolist(), [knock] * len(starts))
    return fade(engine, 0.3)


# Impacts


def _clap(rng: np.random.Generator) -> np.ndarray:
    return band(noise(rng, 0.06) * decay(0.06, 0.012), rng.uniform(700, 1000), 2800)


def _clapping(rng: np.random.Generator, seconds: float) -> np.ndarray:
    starts = beats(rng, seconds, rng.uniform(0.25, 0.45), 0.06)
    return sum_at(seconds, starts, [_clap(rng) for _ in starts])


def _applause(rng: np.random.Generator, seconds: float) -> np.ndarray:
    people = [grains(rng, seconds, rng.uniform(30, 50), _clap(rng)) for _ in range(3)]
    return fade(np.sum(people, axis=0), 0.4)


def _knock(rng: np.random.Generator, seconds: float) -> np.ndarray:
    panel_hz = rng.uniform(180, 420)
    knock = resonate(noise(rng, 0.12) * decay(0.12, 0.01), [panel_hz], 40)
    knock = unit(knock) + 0.3 * unit(resonate(knock, [2.7 * panel_hz], 80))
    starts = beats(rng, seconds, rng.uniform(0.16, 0.26), 0.1)
    starts = [start for start in starts if start % 1.5 < 0.8]
    return sum_at(seconds, starts, [rng.uniform(0.7, 1) * knock for _ in starts])


def _bang(rng: np.random.Generator, seconds: float) -> np.ndarray:
    starts = beats(rng, seconds, rng.uniform(1.0, 1.8), 0.3)
    high_hz = rng.uniform(1200, 2000)
    bangs = [band(noise(rng, 0.7) * decay(0.7, 0.12), 50, high_hz) for _ in starts]
    return sum_at(seconds, starts, bangs)


def _click(rng: np.random.Generator, centre_hz: float) -> np.ndarray:
    click = resonate(noise(rng, 0.02) * decay(0.02, 0.003), [centre_hz], 300)
    return click / np.abs(click).max()


def _clicking(rng: np.random.Generator, seconds: float) -> np.ndarray:
    click = _click(rng, rng.uniform(1500, 3200))
    starts = beats(rng, seconds, rng.uniform(0.08, 0.16), 0.6)
    return sum_at(seconds, starts, [rng.uniform(0.4, 1) * click for _ in starts])


def _tick(rng: np.random.Generator, seconds: float) -> np.ndarray:
    centre_hz = rng.uniform(1500, 3200)
    tick, tock = _click(rng, centre_hz), _click(rng, 0.8 * centre_hz)
    starts = beats(rng, seconds, float(rng.choice([0.2, 0.25, 0.5])), 0)
    return sum_at(seconds, starts, [(tick, tock)[i % 2] for i in range(len(starts))])


def background(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """The noise of a room or a microphone: low and steady, with a random colour for each clip."""
    coloured = unit(band(noise(rng, seconds), 0, rng.uniform(500, 3500)))
    return coloured + 0.1 * noise(rng, seconds)


SOUNDS: dict[str, Callable[[np.random.Generator, float], np.ndarray]] = {
    "Male speech, man speaking": functools.partial(_speech, pitch_hz=(90, 140), formant_scale=1),
    "Female speech, woman speaking": functools.partial(
        _speech, pitch_hz=(180, 250), formant_scale=1.17
    ),
    "Male singing": functools.partial(_singing, pitch_hz=(110, 160), formant_scale=1),
    "Female singing": functools.partial(_singing, pitch_hz=(240, 340), formant_scale=1.17),
    "Choir": _choir,
    "Baby laughter": functools.partial(
        _laughter, pitch_hz=(380, 550), formant_scale=1.45, interval_s=(0.16, 0.22)
    ),
    "Belly laugh": functools.partial(
        _laughter, pitch_hz=(120, 190), formant_scale=1, interval_s=(0.24, 0.34)
    ),
    "Clapping": _clapping,
    "Applause": _applause,
    "Bark": _bark,
    "Chirp, tweet": _bird,
    "Acoustic guitar": _acoustic_guitar,
    "Electric guitar": _electric_guitar,
    "Banjo": _banjo,
    "Church bell": _church_bell,
    "Bicycle bell": _bicycle_bell,
    "Wind": _wind,
    "Howl (wind)": _howling_wind,
    "Rustling leaves": _rustling_leaves,
    "Rain": _rain,
    "Raindrop": _raindrops,
    "Rain on surface": _rain_on_surface,
    "Hiss": _hiss,
    "Crackle": _crackle,
    "Engine": functools.partial(_engine, firing_hz=(60, 100), high_hz=1200),
    "Light engine (high frequency)": functools.partial(_engine, firing_hz=(160, 280), high_hz=3500),
    "Heavy engine (low frequency)": functools.partial(_engine, firing_hz=(22, 40), high_hz=500),
    "Engine knocking": functools.partial(_engine, firing_hz=(60, 100), high_hz=1200, knocking=True),
    "Police car (siren)": _police_siren,
    "Ambulance (siren)": _ambulance_siren,
    "Civil defense siren": _civil_siren,
    "Knock": _knock,
    "Bang": _bang,
    "Beep, bleep": _beep,
    "Ding": _ding,
    "Clicking": _clicking,
    "Tick": _tick,
    "Hum": _hum,
}
"""By AudioSet display name: `SOUNDS[name](rng, seconds)` is float32[time] at 16 kHz."""
