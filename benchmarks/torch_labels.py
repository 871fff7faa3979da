"""A batch of clip ids to targets and known classes in PyTorch: the label table, an npz, and pandas.

    python benchmarks/torch_labels.py ../shared/audioset

Labels all of AudioSet, then measures each way in a separate process: the median time of a batch
of 256 random clips over AudioSet's 527 classes, the time to open the labels, and the memory that
the process gained. Resident pages of a mapped file count as memory here, though the system can take
them back. All ways make the same tensors; a difference ends the script with an error.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

BATCH = 256
WAYS = ("table", "table, PANNs' names", "npz", "pandas")
REPEATS = {"table": 200, "table, PANNs' names": 200, "npz": 200, "pandas": 10}


def resident_mb() -> float:
    """The resident memory of this process in MB."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def open_table(folder: pathlib.Path, mids: list[str]):
    from relabel_jax.labels.torch import LabelTable, targets_and_known

    table = LabelTable(folder / "table.npz", mids)
    return lambda clip_ids: targets_and_known(table, clip_ids)


def open_npz(folder: pathlib.Path, mids: list[str]):
    import torch

    with np.load(folder / "packed.npz") as arrays:
        all_mids = arrays["mids"].tolist()
        rows = {clip_id: row for row, clip_id in enumerate(arrays["clip_ids"].tolist())}
        pel, masked = arrays["pel"], arrays["masked"]
    columns = [all_mids.index(mid) for mid in mids]

    def batch(clip_ids):
        numbers = [rows[clip_id] for clip_id in clip_ids]
        bits = [
            np.unpackbits(packed[numbers], axis=1, count=len(all_mids))[:, columns]
            for packed in (pel, masked)
        ]
        return torch.from_numpy(bits[0]).float(), 1 - torch.from_numpy(bits[1]).float()

    return batch


def open_pandas(folder: pathlib.Path, mids: list[str]):
    import pandas as pd
    import torch

    labels = pd.read_parquet(folder / "labels.parquet").set_index("clip_id")

    def multi_hot(lists):
        return torch.tensor([[mid in row for mid in mids] for row in map(set, lists)]).float()

    return lambda clip_ids: (
        multi_hot(labels.pel[list(clip_ids)]),
        1 - multi_hot(labels.masked[list(clip_ids)]),
    )


def measure(way: str, folder: pathlib.Path, mids: list[str]) -> dict:
    import pyarrow.parquet as pq
    import torch

    torch.set_num_threads(1)
    clip_ids = pq.read_table(folder / "labels.parquet", columns=["clip_id"])["clip_id"]
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(clip_ids), size=(1 + REPEATS[way], BATCH))
    batches = [tuple(clip_ids.take(rows).to_pylist()) for rows in chosen]
    del clip_ids
    if way == "table, PANNs' names":
        batches = [tuple(f"Y{clip_id}.wav" for clip_id in batch) for batch in batches]
    before = resident_mb()
    began = time.perf_counter()
    get = {"npz": open_npz, "pandas": open_pandas}.get(way, open_table)(folder, mids)
    opened = time.perf_counter() - began
    targets, known = get(batches[0])
    seconds = []
    for batch in batches[1:]:
        began = time.perf_counter()
        get(batch)
        seconds.append(time.perf_counter() - began)
    return {
        "open_s": opened,
        "batch_ms": statistics.median(seconds) * 1e3,
        "gained_mb": resident_mb() - before,
        "sums": [targets.sum().item(), known.sum().item()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("audioset", type=pathlib.Path, help="the folder of AudioSet's metadata")
    parser.add_argument("--worker", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    flags = parser.parse_args()

    from relabel_jax.labels.class_indices import read_class_indices

    mids = read_class_indices(flags.audioset / "class_labels_indices.csv")
    if flags.worker:
        way, folder = flags.worker
        print(json.dumps(measure(way, pathlib.Path(folder), mids)))
        return
    from data_prep.relabel import relabel_files

    with tempfile.TemporaryDirectory() as folder:
        for name, format in (("table", "torch"), ("packed", "npz"), ("labels", "parquet")):
            output = f"{folder}/{name}.{'parquet' if format == 'parquet' else 'npz'}"
            relabel_files(segments=[flags.audioset], output=output, format=format)
        results = {}
        for way in WAYS:
            command = [sys.executable, __file__, str(flags.audioset), "--worker", way, folder]
            results[way] = json.loads(subprocess.check_output(command))
            result = results[way]
            print(
                f"{way:20} opened in {result['open_s']:6.2f} s   {result['batch_ms']:7.2f} ms a "
                f"batch of {BATCH}   {result['gained_mb']:7,.0f} MB",
                flush=True,
            )
    if len({tuple(result["sums"]) for result in results.values()}) > 1:
        sys.exit("the ways differ")


if __name__ == "__main__":
    main()
