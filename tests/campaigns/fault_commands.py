"""The commands that `faults.py` runs, and their inputs."""

import dataclasses
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).parents[2]
_NETWORK = (
    "--config.batch_size=8",
    "--config.model.features=(4,4,4,4,4,4,4,4,4)",
    "--config.model.dense_units=(8,8)",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of the project, and what is known of it.

    Attributes:
      module: the module that `python -m` runs.
      flags: its flags. INPUTS stands for the folder of the inputs, OUTPUT for a folder that does
        not exist.
      reads: a part of the paths of its inputs, which `eio` makes unreadable; "" if it has none.
      same: which of the files that it writes have the same bytes each time, as a wildcard.
    """

    module: str
    flags: Sequence[str]
    reads: str = ""
    same: str = "*"

    def line(self, inputs: pathlib.Path, output: pathlib.Path) -> list[str]:
        """The command line."""
        flags = [
            flag.replace("INPUTS", str(inputs)).replace("OUTPUT", str(output))
            for flag in self.flags
        ]
        return [sys.executable, "-m", self.module, *flags]


_LABELS = ("--segments=INPUTS/MINI/segments.csv", "--ontology=INPUTS/MINI/ontology.json")
_BUILD = (*_LABELS, "--audio=INPUTS/MINI/audio", "--clips_per_shard=8", "--num_workers=2")
_TRAIN = ("--config=base_human", "--config.data_dir=INPUTS/DATA", "--config.num_epochs=1")
COMMANDS = {
    "relabel": Command("data_prep.relabel", [*_LABELS, "--output=OUTPUT/a.csv"], "segments.csv"),
    "release": Command("data_prep.release", [*_LABELS, "--output_dir=OUTPUT"], "segments.csv"),
    "audit": Command("data_prep.audit", [*_LABELS, "--output_dir=OUTPUT"], "segments.csv"),
    "judge": Command(
        "data_prep.judge",
        [*_LABELS, "--against=INPUTS/MINI/truth.csv", "--replicates=20", "--output_dir=OUTPUT"],
        "truth.csv",
    ),
    "excerpt": Command(
        "data_prep.excerpt",
        [*_LABELS, "--min_per_label=2", "--output=OUTPUT/a.csv"],
        "segments.csv",
    ),
    "miniature": Command(
        "data_prep.miniature", ["--num_clips=8", "--output_dir=OUTPUT", "--num_workers=2"]
    ),
    "build": Command("data_prep.build", [*_BUILD, "--output_dir=OUTPUT"], "MINI/audio/"),
    "verify": Command(
        "data_prep.verify", ["--data_dir=INPUTS/DATA", "--num_workers=2"], "relabel_audioset"
    ),
    "train": Command(
        "relabel_jax.main",
        [*_TRAIN, *_NETWORK, "--workdir=OUTPUT"],
        "relabel_audioset",
        "*/test_scores.npz",
    ),
    "grid": Command(
        "relabel_jax.main",
        [
            *("--config=quickstart", "--config.data_dir=INPUTS/DATA", "--config.num_epochs=1"),
            *(*_NETWORK, "--workdir=OUTPUT"),
        ],
        "relabel_audioset",
        "*/test_scores.npz",
    ),
    "report": Command("relabel_jax.report", ["--workdir=INPUTS/BASE"], "result"),
    "score": Command(
        "relabel_jax.score",
        [*_LABELS, "--scores=INPUTS/BASE", "--num_replicates=20", "--output_dir=OUTPUT"],
        "test_scores",
    ),
    "embed": Command(
        "relabel_jax.embed",
        ["--checkpoint=INPUTS/BASE", "--audio=INPUTS/MINI/audio", "--output=OUTPUT/e.parquet"],
        "MINI/audio/",
    ),
    "nearest": Command(
        "relabel_jax.nearest",
        [
            "--checkpoint=INPUTS/BASE",
            "--embeddings=INPUTS/e.parquet",
            "--audio=INPUTS/query.flac",
        ],
        "e.parquet",
    ),
    "export": Command(
        "relabel_jax.export",
        ["--checkpoint=INPUTS/BASE", "--output_dir=OUTPUT", "--format=safetensors"],
        "BASE/",
    ),
    "benchmark": Command(
        "relabel_jax.benchmark",
        [
            *("--batch_size=2", "--steps=1", "--rounds=1", "--num_classes=4"),
            *("--filters", *["2"] * 9, "--formulations=direct", "--modes=loop"),
            *("--norms=plain", "--precisions=f32", "--output=OUTPUT/b.json"),
        ],
        same="",
    ),
}


def prepare(inputs: pathlib.Path) -> None:
    """Makes the inputs of the commands in a new folder."""
    inputs.mkdir()

    def run(name: str, *flags: str) -> None:
        command = Command(COMMANDS[name].module, flags)
        subprocess.run(
            command.line(inputs, inputs),
            check=True,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    run("miniature", "--num_clips=64", "--output_dir=OUTPUT/MINI")
    run("build", *_BUILD, "--output_dir=OUTPUT/DATA")
    run("train", *_TRAIN, *_NETWORK, "--workdir=OUTPUT/BASE")
    run(
        "embed",
        *("--checkpoint=INPUTS/BASE", "--audio=INPUTS/MINI/audio", "--output=OUTPUT/e.parquet"),
    )
    shutil.copyfile(min((inputs / "MINI" / "audio").iterdir()), inputs / "query.flac")
