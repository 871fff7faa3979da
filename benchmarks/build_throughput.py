"""Measures the build's workers against a bare loop of decode + soxr + int16, and their memory.

    python benchmarks/build_throughput.py ../shared/realaudio ../shared/audioset/ontology.json

There are two sets of recordings: the folder's recordings, and generated FLACs of 10 s of 48 kHz
stereo. For each set the script measures three ways in turn; ratios are ratios of medians:

- bare: one thread reads every recording, averages the channels, resamples, rounds, and discards the
  result;
- N bare: N processes do the same at once. This is the upper limit for N cores. It is less than N
  times bare if other programs run or cores share caches;
- build: N workers write the shards. The time includes fsync of each shard, but not the start of the
  workers (imports, about a second each, once).

The script also prints the CPU time a clip of the workers and of the process that feeds them. If
other programs run on the machine, the ratio of these is more reliable.

Finally it prints the peak resident memory of the workers, for 200 clips and for ten times as many.

With `--check` the exit status says whether both sets meet the project's bar: build is at least
0.9 x N x bare.
"""

import argparse
import csv
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time

import numpy as np
import soundfile
import soxr

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from data_prep.plan import Plan
from data_prep.planning import write_plan
from data_prep.recordings import find_by_list
from data_prep.workers import Workers
from data_prep.working_folder import working_folder
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.segments import read_segments
from relabel_jax.labels.views import hashed_splits

BAR = 0.9
NUM_GENERATED = 200
CLIPS_PER_SHARD = 128  # with the default of 256, workers would get unequal shares


def generate(folder: pathlib.Path) -> list[str]:
    """Writes 1/f noise, the spectrum of most recordings, with tones; FLAC halves it like music."""
    rng = np.random.default_rng(0)
    time_s = np.arange(480_000) / 48_000
    slope = 1 / np.sqrt(1 + np.arange(240_001))
    for number in range(NUM_GENERATED):
        noise = np.fft.irfft(slope * np.fft.rfft(rng.standard_normal((2, 480_000))))
        tone = np.sin(2 * np.pi * rng.uniform(100, 3_000, (2, 1)) * time_s)
        samples = 0.1 * noise / noise.std() + 0.1 * tone
        soundfile.write(folder / f"{number}.flac", samples.T, 48_000, subtype="PCM_16")
    return [os.fspath(path) for path in sorted(folder.glob("*.flac"))]


def bare(paths: list[str]) -> tuple[float, float]:
    """Does the least that a build must do; returns clips/s and CPU seconds for a clip."""
    began, cpu_began = time.perf_counter(), time.process_time()
    for path in paths:
        with soundfile.SoundFile(path) as file:
            frames = file.read(11 * file.samplerate, dtype="float32", always_2d=True)
            rate_hz = file.samplerate
        mono = sum(frames.T[1:], start=frames[:, 0]) / np.float32(frames.shape[1])
        if rate_hz != 8_000:
            mono = soxr.resample(mono, rate_hz, 8_000, "VHQ")
        np.clip(np.rint(mono[:80_000] * 32_768), -32_768, 32_767).astype(np.int16)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return len(paths) / seconds, cpu_s / len(paths)


def _bare_process(paths, barrier, results) -> None:
    bare(paths[:20])
    barrier.wait()
    results.put(bare(paths)[0])


def bare_together(paths: list[str], num_workers: int) -> float:
    """Clips/s of `num_workers` processes together."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_workers), context.Queue()
    processes = [
        context.Process(target=_bare_process, args=(paths, barrier, results))
        for _ in range(num_workers)
    ]
    for process in processes:
        process.start()
    rate = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return rate


def make_plan(
    paths: list[str], copies: int, ontology_path: pathlib.Path, data_dir: pathlib.Path
) -> Plan:
    """Plans a data set in which each recording belongs to `copies` clips."""
    (data_dir / ".build").mkdir(parents=True)
    ontology = Ontology.from_json(ontology_path)
    names = [f"clip{copy}_{number}" for copy in range(copies) for number in range(len(paths))]
    (data_dir / "segments.csv").write_text(
        "".join(f'{name}, 0, 10, "{ontology.mids[n % 500]}"\n' for n, name in enumerate(names))
    )
    with open(data_dir / "paths.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("clip_id", "path"))
        writer.writerows((name, paths[n % len(paths)]) for n, name in enumerate(names))
    segments = read_segments([data_dir / "segments.csv"], ontology)
    write_plan(
        data_dir,
        inputs={"--audio": "/"},
        ontology=ontology,
        segments=segments,
        recordings=find_by_list(segments, data_dir / "paths.csv", "/"),
        clip_splits=hashed_splits(names),
        clips_per_shard=CLIPS_PER_SHARD,
        seed=0,
    )
    return Plan.open(data_dir)


def build(
    paths: list[str], copies: int, ontology_path: pathlib.Path, num_workers: int
) -> tuple[float, float, int]:
    """Builds a data set.

    Returns:
      Clips/s once all workers are at work, CPU seconds for a clip, and the peak memory in bytes of
      the largest worker.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(paths, copies, ontology_path, pathlib.Path(folder) / "set")
        peaks: dict[int, int] = {}
        is_done = threading.Event()

        def look() -> None:
            while not is_done.wait(0.1):
                for pid in children():
                    try:
                        status = pathlib.Path(f"/proc/{pid}/status").read_text()
                        peak = status.split("VmHWM:")[1].split()[0]
                    except (OSError, IndexError):
                        continue
                    peaks[pid] = int(peak) * 1024

        looker = threading.Thread(target=look)
        looker.start()
        with (
            working_folder(plan.data_dir),
            Workers(plan, num_workers=num_workers) as workers,
        ):
            # After one shard each, all workers have started and are warm.
            first, rest = plan.shards[:num_workers], plan.shards[num_workers:]
            workers.write_shards(first, lambda _: None)
            began, cpu_began = time.perf_counter(), cpu_s()
            workers.write_shards(rest, lambda _: None)
            seconds, used_s = time.perf_counter() - began, cpu_s() - cpu_began
        is_done.set()
        looker.join()
        outcomes = plan.outcomes()
        assert not any(outcome.rejects for outcome in outcomes)
        num_clips = sum(outcome.num_records for outcome in outcomes[num_workers:])
    return num_clips / seconds, used_s / num_clips, max(peaks.values())


def children() -> list[int]:
    """The workers of this process."""
    tasks = pathlib.Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


def cpu_s() -> float:
    """CPU seconds of this process and its workers."""
    ticks = 0
    for pid in children():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user, system
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("realaudio", type=pathlib.Path, help="folder with labels.csv (path)")
    parser.add_argument("ontology", type=pathlib.Path, help="AudioSet's ontology.json")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="(default: cores)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    flags = parser.parse_args()
    is_met = True
    with tempfile.TemporaryDirectory() as folder:
        with open(flags.realaudio / "labels.csv", newline="") as file:
            real = [str((flags.realaudio / row["path"]).resolve()) for row in csv.DictReader(file)]
        sets = {
            f"{len(real)} real recordings": (real, 8),
            f"{NUM_GENERATED} of 48 kHz stereo": (generate(pathlib.Path(folder)), 20),
        }
        print(
            f"{os.cpu_count()} cores, {flags.num_workers} workers, {flags.rounds} rounds; clips/s"
        )
        for name, (paths, copies) in sets.items():
            rates: dict[str, list[float]] = {"bare": [], "N bare": [], "build": []}
            cpu: dict[str, list[float]] = {"bare": [], "build": []}
            for _ in range(flags.rounds):
                rate, cpu_of_clip_s = bare(paths)
                rates["bare"].append(rate)
                cpu["bare"].append(cpu_of_clip_s)
                rate, cpu_of_clip_s, _ = build(paths, copies, flags.ontology, flags.num_workers)
                rates["build"].append(rate)
                cpu["build"].append(cpu_of_clip_s)
                rates["N bare"].append(bare_together(paths, flags.num_workers))
            median = {way: statistics.median(of_way) for way, of_way in rates.items()}
            ratio = median["build"] / (flags.num_workers * median["bare"])
            is_met &= ratio >= BAR
            print(f"\n{name} (load {os.getloadavg()[0]:.1f})")
            for way, of_way in rates.items():
                print(f"  {way:7} {median[way]:7.1f}  {json.dumps([round(r) for r in of_way])}")
            print(f"  build / (N x bare)  {ratio:.2f}  (bar: at least {BAR})")
            print(f"  build / N bare      {median['build'] / median['N bare']:.2f}")
            cpu_ms = {way: 1_000 * statistics.median(of_way) for way, of_way in cpu.items()}
            print(
                f"  CPU bare / build    {cpu_ms['bare'] / cpu_ms['build']:.2f}  "
                f"({cpu_ms['bare']:.2f} and {cpu_ms['build']:.2f} ms a clip)"
            )
            peaks = [
                build(paths[:200], copies, flags.ontology, flags.num_workers)[-1]
                for copies in (1, 10)
            ]
            print(
                "  peak of a worker    {:.0f} MB for 200 clips, {:.0f} MB for 2,000".format(
                    *(peak / 1e6 for peak in peaks)
                )
            )
    return 0 if is_met or not flags.check else 1


if __name__ == "__main__":
    sys.exit(main())
