"""Compares random access to the records of a data set with reading their raw bytes.

    python benchmarks/reading.py DATA

One thread reads the same records of the train split in the same random order in three ways, which
take turns. Ratios are ratios of medians:

- raw: ArrayRecord's random access; the records are decompressed but not decoded;
- waveforms: the same, and the clip id and the waveform are decoded, as in training;
- TFDS: `tfds.builder_from_directory(DATA).as_data_source(split)[row]`, all fields decoded.

The files are in the page cache, so the disk is not measured. Times are CPU times, so records/s are
per core.

With `--check` the exit status says whether the project's bar is met: both are at least half as fast
as raw.
"""

import argparse
import os
import pathlib
import statistics
import sys
import time

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from relabel_jax.data.data_set import open_data_set
from relabel_jax.data.schema import clip_id_and_waveform

BAR = 0.5
_BATCH = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_dir", type=pathlib.Path, help="what data_prep.build wrote")
    parser.add_argument("--records", type=int, default=1_200, help="a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the bar is missed")
    flags = parser.parse_args()
    shards = sorted(map(str, flags.data_dir.glob("*-train.array_record-*")))
    records = ArrayRecordDataSource(shards)
    with_tfds = tfds.builder_from_directory(flags.data_dir).as_data_source("train")
    num_samples = open_data_set(flags.data_dir).waveform_format.num_samples

    def raw(rows: list[int]) -> None:
        assert len(records.__getitems__(rows)) == len(rows)

    def waveforms(rows: list[int]) -> None:
        batch = np.empty((len(rows), num_samples), np.int16)
        for i, record in enumerate(records.__getitems__(rows)):
            batch[i] = clip_id_and_waveform(record)[1]

    def whole_records(rows: list[int]) -> None:
        for row in rows:
            assert with_tfds[row]["waveform"].shape == (num_samples,)

    ways = {"raw": raw, "waveforms": waveforms, "TFDS": whole_records}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    rng = np.random.default_rng(0)
    for number in range(flags.rounds + 1):  # the first is for the page cache
        rows = rng.integers(len(records), size=(flags.records // _BATCH, _BATCH)).tolist()
        for way, read in ways.items():
            began_s = time.process_time()
            for batch in rows:
                read(batch)
            if number:
                rates[way].append(flags.records / (time.process_time() - began_s))
    median = {way: statistics.median(of_way) for way, of_way in rates.items()}
    print(
        f"{len(records):,} records in {len(shards)} shards; {flags.rounds} rounds of "
        f"{flags.records:,}; load {os.getloadavg()[0]:.1f}; records/s and core"
    )
    for way, rate in median.items():
        print(f"  {way:9} {rate:7,.0f}  ratio to raw {rate / median['raw']:.2f}")
    is_met = min(median.values()) >= BAR * median["raw"]
    print(f"  bar: both at least {BAR}")
    return 0 if is_met or not flags.check else 1


if __name__ == "__main__":
    sys.exit(main())
