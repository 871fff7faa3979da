"""A miniature AudioSet: synthetic recordings, a small ontology, and simulated raters.

    python -m data_prep.miniature --output_dir=MINI --num_clips=600

It has AudioSet's form and its faults, and the truth besides, so that everything can be tried and
scored in minutes with nothing to download. The folder holds:

- `ontology.json`: 66 classes below six of AudioSet's roots, in AudioSet's JSON form. Ids, names,
  restrictions and the relations between these classes are AudioSet's own (Gemmeke et al., 2017;
  ontology under CC BY-SA 4.0); descriptions are left empty.
- `audio/ID.flac`: 16-bit FLAC, mostly 10 s, mono and 16 kHz, some shorter or longer, stereo, or at
  another rate. Two or three events of different classes (`data_prep/synthesis.py`) at random
  levels and times within the first 10 s, on background noise.
- `segments.csv`: what the simulated raters chose, in AudioSet's form with three header lines.
- `truth.csv`: all that is true, in the same form: the precise class of every event and *all* of its
  ancestors, abstract and blacklisted ones included. What is not listed there is not in the clip.
- `miniature.json`: the arguments and a summary.

The raters have the two habits of the paper (section II). Of each event they name the precise class
or, with probability `general_only`, any one of its ancestors instead. Then, from each class named,
they name each parent too unless they leave it out; they do so at a rate that belongs to the edge of
the ontology, and go on upwards from the parents they named. They never name an abstract or
blacklisted class, and never a wrong one: their labels are a subset of the truth.

All of a clip follows from the seed and the clip's number: a larger miniature begins with the
smaller one, and the rates of the raters change neither the recordings nor the truth.
"""

import argparse
import base64
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Sequence

import numpy as np
import scipy.special
import soundfile
import soxr
import tqdm

from data_prep import synthesis
from relabel_jax.errors import InputError
from relabel_jax.labels.ontology import Ontology

SEGMENT_S = 10.0
# One event of a clip is drawn class by class. In this share of the clips the others come from the
# same root; else from anywhere, so that every root has enough clips without any other root.
ONE_ROOT_SHARE = 0.7

# (mid, name, restriction, names of the children), from AudioSet's ontology.json; the order there.
_CLASSES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/m/0dgw9r", "Human sounds", "abstract", ("Human voice", "Human group actions")),
    ("/m/09l8g", "Human voice", "abstract", ("Speech", "Laughter", "Singing")),
    ("/m/09x0r", "Speech", "", ("Male speech, man speaking", "Female speech, woman speaking")),
    ("/m/05zppz", "Male speech, man speaking", "", ()),
    ("/m/02zsn", "Female speech, woman speaking", "", ()),
    ("/m/01j3sz", "Laughter", "", ("Baby laughter", "Belly laugh")),
    ("/t/dd00001", "Baby laughter", "", ()),
    ("/m/07sq110", "Belly laugh", "", ()),
    ("/m/015lz1", "Singing", "", ("Choir", "Male singing", "Female singing")),
    ("/m/0l14jd", "Choir", "", ()),
    ("/t/dd00003", "Male singing", "", ()),
    ("/t/dd00004", "Female singing", "", ()),
    ("/t/dd00012", "Human group actions", "abstract", ("Clapping", "Applause")),
    ("/m/0l15bq", "Clapping", "", ()),
    ("/m/028ght", "Applause", "", ()),
    ("/m/0jbk", "Animal", "", ("Domestic animals, pets", "Wild animals")),
    ("/m/068hy", "Domestic animals, pets", "", ("Dog",)),
    ("/m/0bt9lr", "Dog", "", ("Bark",)),
    ("/m/05tny_", "Bark", "", ()),
    ("/m/01280g", "Wild animals", "", ("Bird",)),
    ("/m/015p6", "Bird", "", ("Bird vocalization, bird call, bird song",)),
    ("/m/020bb7", "Bird vocalization, bird call, bird song", "", ("Chirp, tweet",)),
    ("/m/07pggtn", "Chirp, tweet", "", ()),
    ("/m/04rlf", "Music", "", ("Musical instrument",)),
    ("/m/04szw", "Musical instrument", "", ("Plucked string instrument", "Choir", "Bell")),
    ("/m/0fx80y", "Plucked string instrument", "", ("Guitar", "Banjo")),
    ("/m/0342h", "Guitar", "", ("Electric guitar", "Acoustic guitar")),
    ("/m/02sgy", "Electric guitar", "", ()),
    ("/m/042v_gx", "Acoustic guitar", "", ()),
    ("/m/018j2", "Banjo", "", ()),
    ("/m/0395lw", "Bell", "", ("Church bell", "Bicycle bell")),
    ("/m/03w41f", "Church bell", "", ()),
    ("/m/0gy1t2s", "Bicycle bell", "", ()),
    ("/m/059j3w", "Natural sounds", "blacklist", ("Wind", "Water", "Fire")),
    ("/m/03m9d0z", "Wind", "", ("Howl (wind)", "Rustling leaves")),
    ("/m/07q8f3b", "Howl (wind)", "", ()),
    ("/m/09t49", "Rustling leaves", "", ()),
    ("/m/0838f", "Water", "", ("Rain", "Steam")),
    ("/m/06mb1", "Rain", "", ("Raindrop", "Rain on surface")),
    ("/m/07r10fb", "Raindrop", "", ()),
    ("/t/dd00038", "Rain on surface", "", ()),
    ("/m/06wzb", "Steam", "", ("Hiss",)),
    ("/m/07rjwbb", "Hiss", "", ()),
    ("/m/02_41", "Fire", "", ("Crackle",)),
    ("/m/07pzfmf", "Crackle", "", ()),
    ("/t/dd00041", "Sounds of things", "blacklist", ("Engine", "Bell", "Alarm")),
    (
        "/m/02mk9",
        "Engine",
        "",
        ("Light engine (high frequency)", "Heavy engine (low frequency)", "Engine knocking"),
    ),
    ("/t/dd00065", "Light engine (high frequency)", "", ()),
    ("/t/dd00067", "Heavy engine (low frequency)", "", ()),
    ("/m/01h82_", "Engine knocking", "blacklist", ()),
    ("/m/07pp_mv", "Alarm", "", ("Siren", "Bicycle bell")),
    (
        "/m/03kmc9",
        "Siren",
        "",
        ("Police car (siren)", "Ambulance (siren)", "Civil defense siren"),
    ),
    ("/m/04qvtq", "Police car (siren)", "", ()),
    ("/m/012n7d", "Ambulance (siren)", "", ()),
    ("/m/0dgbq", "Civil defense siren", "", ()),
    (
        "/t/dd00098",
        "Source-ambiguous sounds",
        "abstract",
        ("Generic impact sounds", "Onomatopoeia"),
    ),
    ("/t/dd00099", "Generic impact sounds", "abstract", ("Bang", "Knock")),
    ("/m/07pws3f", "Bang", "", ()),
    ("/m/07r4wb8", "Knock", "", ()),
    ("/m/05n1m", "Onomatopoeia", "abstract", ("Brief tone", "Hiss", "Clicking", "Hum", "Crackle")),
    ("/t/dd000138", "Brief tone", "abstract", ("Beep, bleep", "Ding", "Chirp, tweet")),
    ("/m/02fs_r", "Beep, bleep", "", ()),
    ("/m/07phxs1", "Ding", "", ()),
    ("/m/07qc9xj", "Clicking", "", ("Tick",)),
    ("/m/07qjznt", "Tick", "", ()),
    ("/m/07rcgpl", "Hum", "", ()),
)


@functools.cache
def ontology() -> Ontology:
    """The miniature's ontology; its `text` is the content of `ontology.json`."""
    mids = {name: mid for mid, name, _, _ in _CLASSES}
    nodes = [
        {
            "id": mid,
            "name": name,
            "description": "",
            "citation_uri": "",
            "positive_examples": [],
            "child_ids": [mids[child] for child in children],
            "restrictions": [restriction] if restriction else [],
        }
        for mid, name, restriction, children in _CLASSES
    ]
    return Ontology.from_text(json.dumps(nodes, indent=1) + "\n")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What makes a miniature: with the same libraries, the same plan gives the same bytes.

    Attributes:
      num_clips: number of recordings.
      seed: of everything drawn.
      parent_left_out: mean over the ontology's edges of the rate at which raters leave out the
        parent of a class that they named.
      general_only: probability that they name an ancestor of an event's class in its stead.

    Raises:
      InputError: a number is out of its range.
    """

    num_clips: int = 600
    seed: int = 0
    parent_left_out: float = 0.6
    general_only: float = 0.25

    def __post_init__(self):
        if self.num_clips < 1:
            raise InputError(f"--num_clips={self.num_clips}: expected at least 1")
        if self.seed < 0:
            raise InputError(f"--seed={self.seed}: expected 0 or more")
        for name in ("parent_left_out", "general_only"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name}={getattr(self, name)}: expected a rate from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Clip:
    """One recording as written.

    Attributes:
      clip_id: 11 characters, as YouTube's.
      seconds: length of the recording.
      events: class numbers of its two or three events.
    """

    clip_id: str
    seconds: float
    events: tuple[int, ...]


def _generator(plan: Plan, purpose: int, *numbers: int) -> np.random.Generator:
    # Zeros at the end of the entropy would not count: each number is moved by one.
    return np.random.default_rng([plan.seed, purpose, *(number + 1 for number in numbers)])


_RATES, _ORDER, _CLIP, _RATERS = range(1, 5)  # what `_generator` draws for


def clip_id(seed: int, number: int) -> str:
    """64 hashed bits in the alphabet of YouTube ids, A-Z a-z 0-9 - _."""
    digest = hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


@functools.cache
def _sounding_classes() -> np.ndarray:
    """Class numbers with a synthesiser, ascending: int64[sounding]."""
    return np.array(sorted(ontology().find(name) for name in synthesis.SOUNDS))


def draw_events(plan: Plan, number: int, rng: np.random.Generator) -> tuple[int, ...]:
    """The classes of a clip's events, two or three different ones.

    The first is dealt from a shuffled deck of all sounding classes, so that each class has its
    turn once in as many clips as there are classes.
    """
    sounding = _sounding_classes()
    round_number, position = divmod(number, len(sounding))
    first = _generator(plan, _ORDER, round_number).permutation(sounding)[position]
    others = sounding[sounding != first]
    if rng.random() < ONE_ROOT_SHARE:
        is_ancestor = ontology().is_ancestor
        roots = [root for root in ontology().roots if is_ancestor[root, first]]
        root = roots[rng.integers(len(roots))]
        in_root = others[is_ancestor[root, others]]
        others = in_root if len(in_root) else others
    more = rng.choice(others, size=min(int(rng.integers(1, 3)), len(others)), replace=False)
    return (int(first), *more.tolist())


def write_clip(plan: Plan, number: int, audio_dir: pathlib.Path) -> Clip:
    """Draws, synthesises and writes clip `number`."""
    rng = _generator(plan, _CLIP, number)
    events = draw_events(plan, number, rng)
    seconds = SEGMENT_S
    length = rng.random()
    if length < 0.1:
        seconds = round(rng.uniform(4, 9.9), 1)
    elif length < 0.2:
        seconds = round(rng.uniform(10.1, 14), 1)

    heard_s = min(seconds, SEGMENT_S)
    rate_hz = synthesis.SAMPLE_RATE_HZ
    waveform = synthesis.background(rng, seconds)
    waveform *= 10 ** (rng.uniform(-45, -25) / 20)
    for event in events:
        event_s = min(rng.uniform(2.5, 6), heard_s)
        sound = synthesis.SOUNDS[ontology().display_names[event]](rng, event_s)
        # By its loudest tenth of a second: clicks are few, but not faint.
        tenths = np.square(sound[: len(sound) // 1600 * 1600].reshape(-1, 1600)).mean(axis=1)
        sound = sound * (10 ** (rng.uniform(-9, 0) / 20) / np.sqrt(tenths.max()))
        start = int(rng.uniform(0, heard_s - event_s) * rate_hz)
        waveform[start : start + len(sound)] += sound
    waveform *= 10 ** (rng.uniform(-15, -1) / 20) / np.abs(waveform).max()

    file_rate_hz = int(rng.choice([16_000, 22_050, 44_100], p=[0.8, 0.12, 0.08]))
    if file_rate_hz != rate_hz:
        waveform = soxr.resample(waveform, rate_hz, file_rate_hz)
    if rng.random() < 0.2:
        pan = rng.uniform(-0.5, 0.5)  # the mean of both channels is the waveform again
        waveform = waveform[:, np.newaxis] * np.array([1 + pan, 1 - pan], np.float32)
    waveform = waveform / max(1.0, np.abs(waveform).max() / 0.98)
    clip = Clip(clip_id(plan.seed, number), seconds, events)
    soundfile.write(
        audio_dir / f"{clip.clip_id}.flac",
        np.rint(waveform * 32767).astype(np.int16),
        file_rate_hz,
        subtype="PCM_16",
    )
    return clip


def is_offered() -> np.ndarray:
    """bool[classes]: what raters may choose: neither abstract nor blacklisted."""
    return ~(ontology().is_abstract | ontology().is_blacklisted)


def left_out_rates(plan: Plan) -> np.ndarray:
    """float64[classes, classes]: at [p, c] the rate at which p is left out beside its child c.

    Beta quantiles, spread evenly over the edges in random order: some parents are nearly always
    left out and some hardly ever, as in AudioSet (Rain without Water 99%, Electric guitar without
    Guitar 15%), and yet their mean is the one asked for. Zero off the edges.
    """
    is_parent = ontology().is_parent
    num_edges = int(is_parent.sum())
    mean = plan.parent_left_out
    if 0 < mean < 1:
        quantiles = (_generator(plan, _RATES).permutation(num_edges) + 0.5) / num_edges
        edge_rates = scipy.special.betaincinv(2 * mean, 2 * (1 - mean), quantiles)
    else:
        edge_rates = np.full(num_edges, mean)
    rates = np.zeros(is_parent.shape)
    rates[is_parent] = edge_rates
    return rates


def rate_clip(plan: Plan, number: int, events: Sequence[int], rates: np.ndarray) -> set[int]:
    """What the raters choose for one clip.

    Args:
      plan: its `seed` and `general_only` count here.
      number: of the clip.
      events: class numbers, the precise truth.
      rates: of `left_out_rates`.

    Returns:
      The class numbers chosen; at least one for each event.
    """
    rng = _generator(plan, _RATERS, number)
    offered = is_offered()
    chosen: set[int] = set()
    for event in events:
        general = np.flatnonzero(ontology().ancestors(event) & offered)
        only_general = rng.random() < plan.general_only or not offered[event]
        named = [int(rng.choice(general)) if only_general and len(general) else event]
        while named:
            child = named.pop()
            chosen.add(child)
            for parent in np.flatnonzero(ontology().is_parent[:, child] & offered).tolist():
                if rng.random() >= rates[parent, child]:
                    named.append(parent)
    return chosen


def true_labels(events: Sequence[int]) -> set[int]:
    """The events' classes and all of their ancestors."""
    is_true = ontology().is_ancestor[:, list(events)].any(axis=1)
    is_true[list(events)] = True
    return set(np.flatnonzero(is_true).tolist())


def parents_chosen(labels: Sequence[set[int]]) -> float:
    """The share of labels with an offered parent that have such a parent beside them.

    AudioSet's raters: 0.52, by the same count. NaN where no label has an offered parent.
    """
    offered_parents = ontology().is_parent & is_offered()[:, np.newaxis]
    answered = [
        bool(chosen & set(parents.tolist()))
        for chosen in labels
        for label in chosen
        if len(parents := np.flatnonzero(offered_parents[:, label]))
    ]
    return float(np.mean(answered)) if answered else float("nan")


def write_segments(
    path: pathlib.Path, title: str, clips: Sequence[Clip], labels: Sequence[set[int]]
) -> None:
    """A segments file in AudioSet's form, mids in alphabetical order as there."""
    mids = ontology().mids
    rows = []
    for clip, chosen in zip(clips, labels, strict=True):
        end_s = min(clip.seconds, SEGMENT_S)
        names = ",".join(sorted(mids[label] for label in chosen))
        rows.append(f'{clip.clip_id}, 0.000, {end_s:.3f}, "{names}"\n')
    num_positive = sum(map(len, labels))
    header = (
        f"# Segments csv: {title}\n"
        f"# num_ytids={len(clips)}, num_segs={len(clips)}, "
        f"num_unique_labels={len(set().union(*labels))}, num_positive_labels={num_positive}\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    _write_durably(path, header + "".join(rows))


def _write_durably(path: pathlib.Path, text: str) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_audio(plan: Plan, audio_dir: pathlib.Path, num_workers: int) -> list[Clip]:
    """Writes all recordings, on `num_workers` processes; the clips by number."""
    write = functools.partial(write_clip, plan, audio_dir=audio_dir)
    progress = functools.partial(
        tqdm.tqdm, total=plan.num_clips, desc="synthesise", unit="clip", mininterval=0.5
    )
    if num_workers == 1:
        return list(progress(map(write, range(plan.num_clips))))
    with concurrent.futures.ProcessPoolExecutor(
        num_workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        try:
            return list(progress(pool.map(write, range(plan.num_clips), chunksize=8)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def summarise(clips: Sequence[Clip], labels: Sequence[set[int]]) -> dict:
    """Counts for `miniature.json` and the last lines of the command."""
    truth = [true_labels(clip.events) for clip in clips]
    target_clips: collections.Counter[str] = collections.Counter()
    for root in ontology().roots:
        side = set(np.flatnonzero(ontology().descendants(root)).tolist()) | {root}
        target_clips[ontology().display_names[root]] = sum(bool(side & given) for given in labels)
    answered = parents_chosen(labels)
    return {
        "hours": round(sum(clip.seconds for clip in clips) / 3600, 4),
        "labels_per_clip": round(float(np.mean([len(given) for given in labels])), 3),
        "true_labels_per_clip": round(float(np.mean([len(true) for true in truth])), 3),
        "parents_left_out": None if np.isnan(answered) else round(1 - answered, 4),
        "clips_per_root": dict(target_clips),
    }


def build(plan: Plan, output_dir: pathlib.Path, num_workers: int) -> dict:
    """Writes a miniature under a temporary name and renames it when it is complete.

    Returns:
      The summary that also stands in `miniature.json`.

    Raises:
      InputError: the folder cannot be written or a worker was killed.
    """
    partial_dir = output_dir.with_name(f".{output_dir.name}.{os.getpid()}.partial")
    try:
        audio_dir = partial_dir / "audio"
        audio_dir.mkdir(parents=True)
        clips = write_audio(plan, audio_dir, num_workers)
        rates = left_out_rates(plan)
        labels = [rate_clip(plan, number, clip.events, rates) for number, clip in enumerate(clips)]
        truth = [true_labels(clip.events) for clip in clips]
        _write_durably(partial_dir / "ontology.json", ontology().text)
        write_segments(partial_dir / "segments.csv", "the miniature's raters", clips, labels)
        write_segments(partial_dir / "truth.csv", "the miniature's truth", clips, truth)
        summary = summarise(clips, labels)
        content = {"arguments": dataclasses.asdict(plan), "summary": summary}
        _write_durably(partial_dir / "miniature.json", json.dumps(content, indent=1) + "\n")
        partial_dir.rename(output_dir)
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{output_dir}: cannot write the miniature: {error}") from error
    except concurrent.futures.BrokenExecutor as error:
        raise InputError(
            f"{output_dir}: a worker process was killed; try a smaller --num_workers"
        ) from error
    finally:
        shutil.rmtree(partial_dir, ignore_errors=True)
    return summary


def existing_summary(plan: Plan, output_dir: pathlib.Path) -> dict | None:
    """The summary of the miniature that already stands at `output_dir`; None if nothing does.

    Raises:
      InputError: what stands there is something else, or was made with other arguments.
    """
    if not output_dir.exists():
        return None
    try:
        content = json.loads((output_dir / "miniature.json").read_text(encoding="utf-8"))
        arguments, summary = content["arguments"], content["summary"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{output_dir}: already exists and is no complete miniature; remove it or give "
            "another --output_dir"
        ) from None
    if arguments != dataclasses.asdict(plan):
        raise InputError(
            f"{output_dir}: already holds a miniature made with other arguments ({arguments}); "
            "remove it or give another --output_dir"
        )
    return summary


def _parser() -> argparse.ArgumentParser:
    defaults = Plan()
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.miniature",
        description="Synthesises a miniature AudioSet: recordings, ontology, labels by simulated "
        "raters, and the truth.",
        epilog="example: python -m data_prep.miniature --output_dir=mini --num_clips=600; then "
        "python -m data_prep.build --ontology=mini/ontology.json --segments=mini/segments.csv "
        "--audio=mini/audio --output_dir=mini_data",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        required=True,
        default=argparse.SUPPRESS,
        help="folder to make; it must not exist, or be the same miniature already",
    )
    parser.add_argument("--num_clips", type=int, default=defaults.num_clips, help="recordings")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of everything drawn")
    parser.add_argument(
        "--num_workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; changes nothing in the result",
    )
    parser.add_argument(
        "--parent_left_out",
        type=float,
        default=defaults.parent_left_out,
        help="how often raters leave out a class's parent: mean over the ontology's edges",
    )
    parser.add_argument(
        "--general_only",
        type=float,
        default=defaults.general_only,
        help="how often raters name an ancestor in place of the precise class",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status."""
    flags = _parser().parse_args(argv)
    start = time.perf_counter()
    try:
        if flags.num_workers < 1:
            raise InputError(f"--num_workers={flags.num_workers}: expected at least 1")
        plan = Plan(flags.num_clips, flags.seed, flags.parent_left_out, flags.general_only)
        summary = existing_summary(plan, flags.output_dir)
        done = summary is not None
        if summary is None:
            summary = build(plan, flags.output_dir, flags.num_workers)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left_out = summary["parents_left_out"]
    print(
        f"{flags.output_dir}: {'already complete' if done else 'written'}: {plan.num_clips} clips, "
        f"{summary['hours']:.2f} hours, {summary['labels_per_clip']:.2f} labels a clip of "
        f"{summary['true_labels_per_clip']:.2f} true ones, parents left out "
        f"{'-' if left_out is None else f'{left_out:.0%}'}, "
        f"{time.perf_counter() - start:.1f} s"
    )
    per_root = [f"{name} {number}" for name, number in summary["clips_per_root"].items()]
    print(f"clips with a label of: {', '.join(per_root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
