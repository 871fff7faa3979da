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
  learning_rate  0.001, times learning_rate_decay (0.987) after each epoch
  seed           of the weights and of the order of the clips
  labelings      such as ol,pel,pe_cml: these train together, each in W/LABELING_seedSEED
  seeds          such as 0,1,2: the same for seeds; both may be given
  resident       auto, always or never: the waveforms stay on the device

A grid of runs with its report, the paper's Tables I, III and IV (paper.py:small: in minutes):

  python -m relabel_jax.main --config=configs/paper.py --workdir=W --config.data_dir=DATA

  num_seeds      1; the whole grid with so many seeds
  only           such as human,finetune: these roots and methods, with the bases they need
  truth          the miniature's truth.csv: all runs are scored on it too

The others are explained in relabel_jax/config.py. The same command goes on with a run that was
stopped: after its last finished epoch, or, when a SIGTERM stopped it (exit status 143), after its
last step. The workdir then has result.json, metrics.jsonl (a line an epoch), test_scores.npz and
checkpoints/. A summary is printed on stdout, the log on stderr.

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

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from relabel_jax.errors import InputError, Interrupted, ProcessFailed
from relabel_jax.experiments import grid
from relabel_jax.experiments.config import members
from relabel_jax.experiments.run import member_workdirs, run_population, summary
from relabel_jax.ops import cpu_devices
from relabel_jax.report.tables import text
from relabel_jax.runs import processes

_CONFIG = config_flags.DEFINE_config_file("config", None, "an experiment: a file of configs/")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "the folder of this run alone; made where absent", required=True
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, or auto: as the cluster says"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "of all hosts", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "of this one, from 0", lower_bound=0)
flags.mark_flag_as_required("config")


def main(arguments: Sequence[str]) -> None:
    """Dispatches to one run or to a grid of them."""
    del arguments
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)  # Orbax's chatter
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("relabel_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    workdir = pathlib.Path(_WORKDIR.value)
    with _one_line_errors():
        flag_values = (_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        if any(value is not None for value in flag_values):
            address, num_processes, process_id = flag_values
            processes.connect(address or "auto", num_processes, process_id)
        else:
            cpu_devices.use_cores(_CONFIG.value.batch_size)
        if "roots" in _CONFIG.value:
            answer = _run_grid(workdir)
        else:
            configs = processes.together(lambda: members(_CONFIG.value))
            results = run_population(configs, member_workdirs(configs, workdir))
            answer = "\n".join(map(summary, results))
        if processes.is_primary():
            print(answer)


def _run_grid(workdir: pathlib.Path) -> str:
    """The grid's tables as text; raises InputError at the end where cells failed."""
    report = grid.run_grid(_CONFIG.value, workdir)
    if report is None:
        return ""
    if report["problems"]:
        print(text(report), flush=True)
        raise InputError("; ".join(report["problems"]))
    return text(report)


def _parse_flags(arguments: Sequence[str]) -> list[str]:
    with _one_line_errors():
        try:
            rest = flags.FLAGS(arguments)
            _CONFIG.value.keys()  # the error of a file that cannot be read shows on first use
        except flags.Error as error:
            # Of a config file that fails it is a traceback; its last line says what and why.
            *traceback, what = filter(None, map(str.strip, str(error).splitlines()))
            what = what.partition(": ")[2] if traceback else what
            raise InputError(f"{what}; see --help") from error
        except OSError as error:
            raise InputError(f"--config: {str(error).splitlines()[-1].strip()}") from error
        except AttributeError as error:  # 'FIELD' or 'FIELD'\nDid you mean ...
            what = str(error).replace("\\n", "; ").translate({ord(c): None for c in "\\\"'"})
            raise InputError(f"the config has no field {what}; see --help") from error
        if rest[1:]:
            raise InputError(f"unexpected {rest[1]!r}; flags are --NAME=VALUE, see --help")
    return rest


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Ends the program with one line where the user can mend it."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ProcessFailed as error:
        print(f"error: {error}", file=sys.stderr)
        _leave()
    except Interrupted as interrupted:
        print(interrupted, file=sys.stderr)
        sys.exit(143)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if jax.process_count() == 1:
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
    app.run(main, flags_parser=_parse_flags)
