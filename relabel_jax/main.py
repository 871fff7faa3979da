"""Trains a network and tests it: one run, several runs at once, or a grid of runs.

The help of the command (`--help`) lists the fields of a config and the files of a run.
"""

import argparse
import contextlib
import logging
import os
import pathlib
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence

from absl import logging as absl_logging
from ml_collections import ConfigDict

from relabel_jax import cli
from relabel_jax.errors import InputError, Interrupted, ProcessFailed
from relabel_jax.experiments import grid
from relabel_jax.experiments.config import members, model_config, plain
from relabel_jax.experiments.flags import read_config
from relabel_jax.experiments.run import member_workdirs, run_population
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.models import registry
from relabel_jax.ops import cpu_devices, tpu_flags
from relabel_jax.progress import LineHandler
from relabel_jax.report.tables import text
from relabel_jax.report.write import page_path
from relabel_jax.runs import processes
from relabel_jax.runs.grid_folder import GridFolder
from relabel_jax.runs.old_configs import flat
from relabel_jax.runs.workdir import Workdir

_EPILOG = f"""\
fields of a config, as --config.FIELD=VALUE (the defaults are the paper's recipe):
  data_dir       the --output_dir of data_prep.build
  root           the target root: any class of the ontology, by name or mid
  method         base: train on the classes outside the root
                 features, finetune, scratch: train on the classes under the root
  base           the --workdir of a base training, for features and finetune
  labeling       the labels to train on: {", ".join(LABELINGS)}
                 or a name of labeling_files (default: ol)
  seed           seed of the weights, of the order of the clips and of dropout (default: 0)
  labelings      several labelings, such as ol,pel,pe_cml: they train together, each in
                 W/LABELING_seedSEED
  seeds          several seeds, such as 0,1,2: the same
  labeling_files your own labelings, NAME=FILE,NAME=FILE: Parquet, CSV or AST's JSON with the
                 positive and masked mids of each clip
  num_epochs     100; a finished run continues if the number grows
  batch_size     24
  loss           mse: masked mean squared error of the scores
                 bce: masked binary cross-entropy of the logits
  optimizer      adam, adamw, amsgrad, sgd, rmsprop, lamb or lion (Optax)
  learning_rate  0.001
  learning_rate_decay  0.987: the factor after each epoch
  model.name     waveform_cnn (the paper's), logmel_cnn, cnn6, cnn10, cnn14, mn04, mn10, ast_tiny,
                 ast_small, ast_base, or your own as my_package.my_net:Net
  model.OPTION   an option of that network, such as model.features
  classifier.hidden_units, classifier.norm_order  the classifier of method=features

fields of other recipes, which are off by default (docs/recipes.md):
  schedule.decay exponential (by learning_rate_decay), linear or cosine
  schedule.warmup_steps, schedule.warmup_epochs  steps or epochs in which the rate rises linearly
  schedule.hold_epochs, schedule.decay_epochs, schedule.final  epochs before a linear or cosine
                 decay, epochs of the decay, and the share of the rate that is left
  weight_decay, beta1  of the optimizer
  ema_decay      decay of averages of the weights, which are validated and saved
  sampling       shuffled, or balanced by the labels of the clips
  epoch_clips    clips of an epoch (default: all)
  mixup.alpha, mixup.share, mixup.rule  mixup of clips; the rule for masked labels: strict, known
  teacher, teacher_weight  a file of a teacher's scores, and the weight of the loss to it

fields that change speed and memory, not results:
  resident       keep the waveforms on the device: always, never or auto (if they fit)
  steps_per_call training steps in one program (default: 8, more on fast devices); a SIGTERM waits
                 for up to two of these programs
  members_by     map: the runs of a device one after another; vmap: all at once (default: map)

fields of a grid (configs paper and quickstart) in place of root, method, labeling and seed:
  roots          such as "('Human sounds',)"
  base_labelings, target_labelings  such as "('ol','entailed')"
  num_seeds      repeat the grid with this number of seeds (default: 1)
  only           some roots and methods, such as human,finetune, and the bases that they need
  truth          a CSV of true labels, the miniature's truth.csv, to score all runs on too

examples:
  a base training on everything outside the root, then the transfer to the classes under it:
    python -m relabel_jax.main --config=base_human --workdir=W/base \\
        --config.data_dir=DATA --config.labeling=pe_cml
    python -m relabel_jax.main --config=target_human --workdir=W/target \\
        --config.data_dir=DATA --config.method=finetune --config.base=W/base
  the paper's Tables I, III and IV with a report, in minutes for a miniature data set:
    python -m relabel_jax.main --config=paper:small --workdir=W --config.data_dir=DATA
  two machines with the same data, where the first one has the workdir:
    python -m relabel_jax.main ... --coordinator_address=HOST:PORT --num_processes=2 --process_id=0
    python -m relabel_jax.main ... --coordinator_address=HOST:PORT --num_processes=2 --process_id=1

output: the summary on stdout and the log on stderr.
  a run   W/result.json, W/metrics.jsonl (a line an epoch), W/test_scores.npz, W/checkpoints/,
          W/outputs.json (the classes), and files for TensorBoard
  a grid  a folder for each run, and W/report/ with index.html and the tables as CSV

The same command continues with a run that was stopped: after its last finished epoch, or after its
last step if a SIGTERM stopped it (exit code 143)."""


def _parser() -> argparse.ArgumentParser:
    program = cli.program("relabel_jax.main")
    parser = cli.parser(
        "relabel_jax.main",
        "Trains a network and tests it: one run, several runs at once, or a grid of runs.",
        epilog=_EPILOG,
        usage=f"{program} --config=NAME --workdir=W [--config.FIELD=VALUE ...]",
    )
    add = parser.add_argument
    add("--config", required=True, metavar="NAME", help="a config by its name or its path")
    add(
        "--workdir",
        required=True,
        type=cli.path,
        metavar="W",
        help="the folder of this run or grid alone; it is created if it does not exist",
    )
    several = parser.add_argument_group("several processes (hosts) that train as one")
    several.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="address of process 0; or auto on a TPU pod or under SLURM, without the other flags",
    )
    several.add_argument("--num_processes", type=int, metavar="N", help="number of processes")
    several.add_argument(
        "--process_id", type=int, metavar="N", help="number of this process, from 0"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    flags, overrides = _parser().parse_known_args(arguments)

    def command() -> None:
        with _ends_with_the_others():
            config = read_config(flags.config, overrides)
            _log_to_stderr()
            _choose_devices(flags, config)
            _train(config, flags.workdir)

    return cli.run(command, stopped=cli.RESUMES)


def _log_to_stderr() -> None:
    # Orbax logs every step that it takes, and the traceback of each error that it raises.
    absl_logging.set_verbosity(absl_logging.FATAL)
    handler = LineHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("relabel_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _choose_devices(flags: argparse.Namespace, config: ConfigDict) -> None:
    """Joins the other processes if there are any. Must run before JAX does anything else."""
    for name, least in (("num_processes", 1), ("process_id", 0)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise InputError(f"--{name}={value}: expected at least {least}")
    tpu_flags.keep_small_batches()
    given = (flags.coordinator_address, flags.num_processes, flags.process_id)
    if any(value is not None for value in given):
        address = flags.coordinator_address or "auto"
        processes.connect(address, flags.num_processes, flags.process_id)
    else:
        cpu_devices.use_cores(config.batch_size)


def _train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Trains one run, several runs or a grid, and prints the results and the next command."""
    if "roots" in config:
        _train_grid(config, workdir)
        return
    configs = processes.together(lambda: members(config))
    workdirs = member_workdirs(configs, workdir)
    finished = [path for path in workdirs if Workdir(path).is_finished_after(config.num_epochs)]
    results = run_population(configs, workdirs)
    if not processes.is_primary():
        return
    print("\n".join(result.summary for result in results), flush=True)
    for path in finished:
        print(f"{path}: was finished already", file=sys.stderr)
    first = workdirs[0]
    if config.method == "base":
        command = _transfer_command(config, results[0].root, first)
    elif config.method == "features":
        command = f"{cli.program('relabel_jax.report.__main__')} --workdir={workdir}"
    else:
        command = cli.embed_command(first)
    print(f"runs in {', '.join(map(str, workdirs))}\nnext: {command}", file=sys.stderr)


def _transfer_command(config: ConfigDict, root: str, base: pathlib.Path) -> str:
    """The command of a transfer from a base training with this config."""
    fields = {"root": root, "data_dir": config.data_dir, "base": str(base)}
    defaults = flat(plain(model_config(config.model.name)))
    for option, value in flat(plain(config.model)).items():
        if value != (registry.DEFAULT if option == "name" else defaults[option]):
            is_list = isinstance(value, list)
            text = str(tuple(value)).replace(" ", "") if is_list else str(value)
            fields[f"model.{option}"] = text
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    command = ["--config=target_human", "--workdir=TARGET", *flags]
    return f"{cli.program('relabel_jax.main')} {shlex.join(command)}"


def _train_grid(config: ConfigDict, workdir: pathlib.Path) -> None:
    report = grid.run_grid(config, workdir)
    if report is None:  # not process 0
        return
    print(text(report), flush=True)
    page = page_path(workdir)
    finished = GridFolder(workdir).finished_runs()
    tables = sorted(path.name for path in page.parent.glob("*.csv"))
    print(
        f"{len(finished)} runs are finished; the page is {page}, the tables are beside it "
        f"({', '.join(tables)})",
        file=sys.stderr,
    )
    if report["problems"]:
        raise InputError("; ".join(report["problems"]))
    if finished:
        print(f"next: {cli.embed_command(finished[0].path)}", file=sys.stderr)


@contextlib.contextmanager
def _ends_with_the_others() -> Iterator[None]:
    """Ends this process at once on an error after which the processes would wait for each other."""
    try:
        yield
    except ProcessFailed as error:
        print(f"error: {error}", file=sys.stderr)
        _leave()
    except Exception as error:
        if isinstance(error, (InputError, Interrupted)) or not processes.are_several():
            raise
        if processes.is_lost_connection(error):
            print(
                f"error: a process or its network failed ({str(error).splitlines()[0]}); the "
                "finished epochs are saved, start all processes again with the same command",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
        _leave()


def _leave() -> None:
    """Ends this process at once. With an ordinary exit the processes would wait for each other."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
