"""The flags of `data_prep.build`."""

import argparse
import textwrap

from data_prep.inputs import Inputs
from data_prep.reading import PARTIAL, Reading
from data_prep.sources import forms
from data_prep.workers import CLIP_TIMEOUT_S
from relabel_jax import cli
from relabel_jax.audio.mix import MIXES
from relabel_jax.labels import segment_flags

_WIDTH = 96

_EPILOG = """\
what --audio takes (one or several with commas; wildcards too):
  a folder with recordings: wav, flac, mp3, ogg, opus, m4a, webm and most other formats
FORMS
  a folder with such files; nothing is unpacked on disk

how the recording of clip ID, 30 s to 40 s, is found there:
  by its name: ID, YID, ID_30_40, ID_30.0-40.0, ID_30_10, ID_30, ID_000030, ID_30000, Title [ID];
  ID.webm.wav; video_id, KEY and audio_name count as names. If several recordings fit, they are
  tried in this order until one can be read
  a recording must begin where its clip begins; its first --duration_s seconds are stored. Whole
  videos need --trim

where the labels come from:
  from --segments; without it, from the parquet, tar or h5 files: every recording is a clip,
  whose times in clips.parquet are 0 and --duration_s; labels may be mids, names or, with
  --class_indices, numbers

examples:
  python -m data_prep.build --audio=recordings \\
      --segments=balanced_train_segments.csv,unbalanced_train_segments.csv.gz --output_dir=DATA
  python -m data_prep.build --audio='bal_train/*.parquet' --output_dir=DATA \\
      --sample_rate_hz=32000
  python -m data_prep.build --audio=balanced_train.h5 \\
      --class_indices=class_labels_indices.csv --output_dir=DATA

output: a TFDS data set (ArrayRecord shards), ontology.json, clips.parquet and rejects.csv in
DATA; a summary on stderr. The same command finishes a build that was stopped."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of `data_prep.build`."""
    made = cli.parser(
        "data_prep.build",
        "Turns recordings and labels into a data set that relabel_jax trains on.",
        epilog=_EPILOG.replace("FORMS", _forms()),
    )
    made.add_argument(
        "--output_dir",
        required=True,
        type=cli.path,
        metavar="DATA",
        help="the data set's folder",
    )
    _add_inputs(made)
    segment_flags.add_unknown(made.add_argument_group("labels of --segments"))
    _add_format(made)
    _add_reading(made)
    _add_work(made)
    return made


def _forms() -> str:
    """Returns the paragraphs on the forms of files with many recordings."""
    return "\n".join(
        textwrap.fill(
            f"{form.files}: {form.holds}".replace("`", ""),
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
        )
        for form in forms()
    )


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("inputs").add_argument
    add(
        "--ontology",
        metavar="JSON",
        help="the ontology (default: AudioSet's, which comes with this package)",
    )
    add(
        "--segments",
        metavar="CSV[,CSV.gz]",
        help="one or more segment files; optional if the files in --audio have labels",
    )
    add(
        "--audio",
        metavar="FOLDER|FILE[,...]",
        help="where the recordings are (see below); with --paths one folder, and optional",
    )
    add(
        "--paths",
        metavar="CSV",
        help="columns clip_id and path, or the JSON of AST: the recording of each clip, instead "
        "of a search by name; "
        "paths are relative to --audio or, if it has no such file, to the CSV's folder",
    )
    add(
        "--class_indices",
        metavar="CSV",
        help="AudioSet's class_labels_indices.csv, if the labels in --audio or --segments are "
        "class numbers",
    )
    add(
        "--source_rate_hz",
        type=int,
        metavar="HZ",
        help="sample rate of HDF5 files in --audio that do not say it",
    )
    add(
        "--label_threshold",
        type=float,
        metavar="X",
        help="the smallest score of a positive label, if the labels in --audio are scores",
    )
    add(
        "--splits",
        metavar="CSV",
        help="columns clip_id and split (train, validation, test); other clips are split "
        "80/10/10 by a hash of their id",
    )


def _add_format(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("format of the data set").add_argument
    add(
        "--sample_rate_hz",
        type=int,
        default=Inputs.sample_rate_hz,
        metavar="HZ",
        help="sample rate of the waveforms, at least 1000 (default: %(default)s)",
    )
    add(
        "--duration_s",
        type=float,
        default=Inputs.duration_s,
        metavar="S",
        help="length of the waveforms: longer recordings are cut, shorter ones zero-padded "
        "(default: %(default)g)",
    )
    add(
        "--clips_per_shard",
        type=int,
        default=Inputs.clips_per_shard,
        metavar="N",
        help="largest number of clips in a shard (default: %(default)s, about 40 MB for 10 s at "
        "8 kHz)",
    )
    add(
        "--split_seed",
        type=int,
        default=Inputs.split_seed,
        metavar="N",
        help="seed of the hashes that choose a clip's split and place (default: %(default)s)",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("reading of recordings").add_argument
    add(
        "--mono",
        choices=MIXES,
        default=Reading.mono,
        help="how several channels become one: their mean, the loudest, or the left one (default: "
        "%(default)s)",
    )
    add(
        "--partial",
        choices=PARTIAL,
        default=Reading.partial,
        help="what to do with recordings with a missing or damaged part; clips.parquet says "
        "which are kept (default: %(default)s)",
    )
    add(
        "--trim",
        action="store_true",
        help="cut whole videos by the times of their segments; recordings of the clips alone stay "
        "as they are",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("work").add_argument
    add("--num_workers", type=int, metavar="N", help="processes (default: the number of cores)")
    add(
        "--clip_timeout_s",
        type=float,
        default=CLIP_TIMEOUT_S,
        metavar="S",
        help="reject a clip that takes longer to read (default: %(default)g)",
    )
    add(
        "--retry_rejects",
        action="store_true",
        help="try all rejected clips again: does the shards again that left out clips, whatever "
        "the reason; clips without a recording (no_file, ambiguous, outside) need a new listing, "
        "so build into a new folder for them; if it is stopped, finish without this flag",
    )
    add(
        "--part",
        default="",
        metavar="K/N",
        help="do every Nth shard only, from the Kth on, as one of N jobs (a SLURM array); the jobs "
        "may run at the same time and again, and the last to finish writes the index",
    )
    add(
        "--runner",
        metavar="RUNNER",
        help="an engine that does the work instead of processes on this machine: dask, dataflow, "
        "flink, spark, direct or another runner of Beam; needs pip install '.[beam]', or '.[dask]'",
    )
    add(
        "--beam_options",
        default="",
        metavar="OPTIONS",
        help="options of the runner: --beam_options='--dask_client_address=HOST:8786' or "
        "--beam_options='--direct_num_workers=8 --direct_running_mode=multi_processing'",
    )
