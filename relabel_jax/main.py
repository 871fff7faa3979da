r"""Trains a network and tests it, as a config says.

The base side of a root, then the transfer to its target side:

  python -m relabel_jax.main --config=configs/base_human.py --workdir=W/base \
      --config.data_dir=DATA --config.labeling=pe_cml
  python -m relabel_jax.main --config=configs/target_human.py --workdir=W/target \
      --config.data_dir=DATA --config.method=finetune --config.base=W/base

A config has the paper's recipe; each field can be changed by --config.FIELD=VALUE:

  data_dir       the --output_dir of data_prep.build
  root           the target root, any class by name or mid
  method         base: the side outside the root; features, finetune, scratch: the side under it
  labeling       ol, pel or pe_cml
  base           the --workdir of the base training, for features and finetune
  num_epochs     100; a finished run goes on when it grows
  batch_size     24
  loss           mse: masked mean squared error of scores; bce: masked cross-entropy of logits
  optimizer      adam, adamw, sgd, rmsprop, lamb or lion, Optax's
  learning_rate  0.001, times learning_rate_decay (0.987) after each epoch
  model.name     waveform_cnn (the paper's), logmel_cnn, or your own as my_package.my_net:Net
  model.OPTION   an option of that network, such as model.features
  seed           of the weights, of the order of the clips and of dropout
  labelings      such as ol,pel,pe_cml: these train together, each in W/LABELING_seedSEED
  seeds          such as 0,1,2: the same for seeds; both may be given
  resident       auto, always or never: the waveforms stay on the device

A grid of runs with its report, the paper's Tables I, III and IV (paper.py:small: in minutes):

  python -m relabel_jax.main --config=configs/paper.py --workdir=W --config.data_dir=DATA

  num_seeds      1; the whole grid with so many seeds
  only           such as human,finetune: these roots and methods, with the bases they need
  truth          the miniature's truth.csv: all runs are scored on it too

relabel_jax/experiments/config.py explains the others. The same command goes on with a run that
was stopped: after its last finished epoch, or, when a SIGTERM stopped it (exit status 143), after
its last step. The workdir then has result.json, metrics.jsonl (a line an epoch), test_scores.npz
and checkpoints/. A summary is printed on stdout, the log on stderr.

All devices of a machine train together. On several machines start the same command on each, with
--coordinator_address=HOST:PORT (of the first) --num_processes=N --process_id=0 and so on, or with
--coordinator_address=auto on a TPU pod or under SLURM. All need the data, the first the workdir.
"""

import contextlib
import logging
import os
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence

from absl import logging as absl_logging
from ml_collections import ConfigDict

from relabel_jax import cli
from relabel_jax.errors import InputError, Interrupted, ProcessFailed
from relabel_jax.experiments import grid
from relabel_jax.experiments.config import members
from relabel_jax.experiments.flags import read_config
from relabel_jax.experiments.run import member_workdirs, run_population
from relabel_jax.ops import cpu_devices
from relabel_jax.progress import LineHandler
from relabel_jax.report.tables import text
from relabel_jax.runs import processes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code. See the module's docstring."""
    parser = cli.parser("relabel_jax.main", __doc__)
    parser.add_argument("--config", required=True, help="an experiment: a file or name of configs/")
    parser.add_argument(
        "--workdir",
        required=True,
        type=pathlib.Path,
        help="the folder of this run alone; made where absent",
    )
    parser.add_argument(
        "--coordinator_address", help="HOST:PORT of process 0, or auto: as the cluster says"
    )
    parser.add_argument("--num_processes", type=int, help="processes on all hosts")
    parser.add_argument("--process_id", type=int, help="number of this process, from 0")
    flags, overrides = parser.parse_known_args(arguments)

    def command() -> None:
        with _ends_with_the_others():
            config = read_config(flags.config, overrides)
            _log_to_stderr()
            _choose_devices(flags, config)
            answer = _train(config, flags.workdir)
            if processes.is_primary():
                print(answer)

    return cli.run(command, stopped=cli.RESUMES)


def _log_to_stderr() -> None:
    absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax logs every step that it takes
    handler = LineHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("relabel_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _choose_devices(flags, config: ConfigDict) -> None:
    """Joins the other processes, if there are any; before anything else that JAX does."""
    for name, least in (("num_processes", 1), ("process_id", 0)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise InputError(f"--{name}={value}: expected at least {least}")
    given = (flags.coordinator_address, flags.num_processes, flags.process_id)
    if any(value is not None for value in given):
        address = flags.coordinator_address or "auto"
        processes.connect(address, flags.num_processes, flags.process_id)
    else:
        cpu_devices.use_cores(config.batch_size)


def _train(config: ConfigDict, workdir: pathlib.Path) -> str:
    """Trains one run, a population or a grid; returns what to print."""
    if "roots" not in config:
        configs = processes.together(lambda: members(config))
        results = run_population(configs, member_workdirs(configs, workdir))
        return "\n".join(result.summary for result in results)
    report = grid.run_grid(config, workdir)
    if report is None:
        return ""
    if report["problems"]:
        print(text(report), flush=True)
        raise InputError("; ".join(report["problems"]))
    return text(report)


@contextlib.contextmanager
def _ends_with_the_others() -> Iterator[None]:
    """Ends this process at once where the others would wait for it, or it for them."""
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
    """Ends this process at once: an ordinary exit waits for the others, and they for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
