"""Runs from config to `result.json`: base trainings or one of the three transfers, alone or several
as a population.
"""

import contextlib
import functools
import json
import logging
import math
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from relabel_jax.data.data_set import DataSet, open_data_set
from relabel_jax.data.schema import WAVEFORM_SAMPLES
from relabel_jax.errors import InputError
from relabel_jax.experiments.base import Base, classes_digest, load_base
from relabel_jax.experiments.config import METHODS, audio_network
from relabel_jax.files import complete_file, only_process, read_json, write_json
from relabel_jax.labels.labelings import LABELINGS
from relabel_jax.labels.views import SPLITS, View, make_view
from relabel_jax.metrics import evaluate
from relabel_jax.models.waveform_cnn import PRECISIONS, TAPS, FeatureNetwork
from relabel_jax.ops.convolution import FORMULATIONS
from relabel_jax.ops.normalization import NORM_ORDERS
from relabel_jax.runs import processes
from relabel_jax.train import resident
from relabel_jax.train.loop import Inputs, Member, Training, train
from relabel_jax.train.population import WRAPPERS
from relabel_jax.train.predict import predict

_LOG = logging.getLogger(__name__)
RESULT_NAME = "result.json"
_SEEDS = 2**32  # JAX's keys take the lower 32 bits
# Where these differ, it is still the same run: data and base may be moved (what they hold may not
# change), and a run may be prolonged.
MAY_CHANGE = ("data_dir", "base", "num_epochs", "steps_per_call", "resident", "members_by")


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains and tests what the config says and returns the content of `result.json`.

    A run that was interrupted goes on; a finished one is only read.

    Args:
      config: of one member, as of `relabel_jax.config.paper_config`.
      workdir: the folder of this run alone; made where absent.

    Raises:
      InputError: a value of the config, the data set, the base or the workdir does not fit.
      Interrupted: by a SIGTERM, after saving.
    """
    return run_population([config], [workdir])[0]


def member_workdirs(configs: Sequence[ConfigDict], workdir: pathlib.Path) -> list[pathlib.Path]:
    """The run folders of a population: `workdir` of a lone run, else `LABELING_seedSEED` in it."""
    if len(configs) == 1:
        return [workdir]
    return [workdir / f"{config.labeling}_seed{config.seed}" for config in configs]


def run_population(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[pathlib.Path],
    on_epoch: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """`run` of several configs that differ in labeling and seed, trained as one program.

    Each leaves in its workdir what it would leave alone, and can go on alone or in another
    population. The finished ones are only read. `on_epoch` is called after each epoch.

    Raises:
      InputError, Interrupted: as of `run`.
    """
    config = configs[0]
    for other in configs[1:]:
        different = {field for field in config if config[field] != other[field]}
        if different - {"labeling", "seed"}:
            raise ValueError(f"members of a population differ in {', '.join(sorted(different))}")
    side = "base" if config.method == "base" else "target"
    data_set, root, views = processes.together(functools.partial(_open, configs, workdirs, side))
    identities: list[dict[str, Any]] = [
        {"config": _plain(config), "data_set": data_set.fingerprint, "base": ""}
        for config in configs
    ]
    processes.check_same(_comparable(identities))
    with contextlib.ExitStack() as stack:

        def look() -> list[tuple[dict[str, Any] | None, str | None]]:
            for workdir in workdirs:
                busy = "another process is training here; wait for it or give another --workdir"
                stack.enter_context(only_process(workdir / ".lock", workdir, busy))
            return [
                _look(identity, data_set.path, workdir)
                for identity, workdir in zip(identities, workdirs, strict=True)
            ]

        results, bases_before = map(list, zip(*processes.from_primary(look), strict=True))
        for result, workdir in zip(results, workdirs, strict=True):
            if result is not None:
                _LOG.info("%s: finished already", workdir)
        unfinished = [m for m, result in enumerate(results) if result is None]
        base = None
        if config.method in ("features", "finetune"):
            try:
                base = load_base(config, data_set.ontology, root)
            except InputError:
                if unfinished:
                    raise
                return results
            for identity, base_before, workdir in zip(
                identities, bases_before, workdirs, strict=True
            ):
                identity["base"] = base.fingerprint
                if base_before not in (None, base.fingerprint):
                    raise InputError(
                        f"{workdir}: was begun from other weights than config.base={config.base} "
                        "has now; give another --workdir"
                    )
        if not unfinished:
            return results

        def begin() -> None:
            for m in unfinished:
                (workdirs[m] / RESULT_NAME).unlink(missing_ok=True)  # of the shorter run
                write_json(workdirs[m] / "config.json", identities[m])

        network, variables, inputs = _prepare(
            config, data_set, views[config.labeling], base, [configs[m].seed for m in unfinished]
        )
        training = Training(
            members=[
                Member(
                    name=str(workdirs[m]),
                    workdir=workdirs[m],
                    variables=start,
                    view=views[configs[m].labeling],
                    seed=configs[m].seed,
                )
                for m, start in zip(unfinished, variables, strict=True)
            ],
            network=network,
            inputs=inputs,
            batch_size=config.batch_size,
            num_epochs=config.num_epochs,
            learning_rate=config.learning_rate,
            learning_rate_decay=config.learning_rate_decay,
            steps_per_call=config.steps_per_call,
            resident=config.resident,
            wrapper=config.members_by,
            on_start=lambda: processes.from_primary(begin),
            on_epoch=on_epoch,
        )
        trained = train(training)
        scores = predict(
            network,
            [best.variables for best in trained],
            training.read("test"),
            len(views[config.labeling].rows["test"]),
            batch_size=config.batch_size,
            batches_per_call=config.steps_per_call,
            wrapper=config.members_by,
            population=len(configs),
        )
        for m, member, best, member_scores in zip(
            unfinished, training.members, trained, scores, strict=True
        ):
            facts = {
                "best_epoch": best.best_epoch,
                "root": data_set.ontology.display_names[root],
                "root_mid": data_set.ontology.mids[root],
                "side": side,
                "labeling": configs[m].labeling,
                "method": config.method,
                "precision": network.precision,
                "backend": jax.default_backend(),
                "base_labeling": base.labeling if base else "",
                "seed": member.seed,
                "num_clips": {split: len(member.view.rows[split]) for split in SPLITS},
                "num_labels": int(member.view.label_set.sum()),
                "classes": classes_digest(data_set.ontology, member.view.columns),
                "data_set": data_set.fingerprint,
                "config": _plain(configs[m]),
            }
            results[m] = processes.from_primary(
                functools.partial(_write_result, member, member_scores, facts, data_set)
            )
    return results


def _open(
    configs: Sequence[ConfigDict], workdirs: Sequence[pathlib.Path], side: str
) -> tuple[DataSet, int, dict[str, View]]:
    """The data set, the target root, and a side's view by labeling."""
    for config in configs:
        _check(config)
    if len(set(workdirs)) < len(configs):
        raise InputError("config.labelings, config.seeds: a labeling or a seed is there twice")
    data_set = open_data_set(configs[0].data_dir)
    root = data_set.ontology.find(configs[0].root)
    views = {
        labeling: make_view(
            data_set.ontology,
            data_set.labels,
            data_set.clip_splits,
            root=root,
            side=side,
            labeling=labeling,
        )
        for labeling in dict.fromkeys(config.labeling for config in configs)
    }
    return data_set, root, views


def summary(result: dict[str, Any]) -> str:
    """What a run reached, in one line."""
    test = result["test"]
    metrics = ", ".join(
        f"{name} {'undefined' if test[field] is None else format(test[field], '.4f')}"
        for name, field in (("mAP", "mAP"), ("mean AUC", "mean_auc"), ("d-prime", "d_prime"))
    )
    return (
        f"{result['root']}, {result['side']} side, {result['method']}, {result['labeling']}: "
        f"test {metrics} ({result['num_clips']['test']} clips, {result['num_labels']} labels, "
        f"best epoch {result['best_epoch']} of {result['config']['num_epochs']})"
    )


def _check(config: ConfigDict) -> None:
    """Refuses values that no run can have."""
    for field, choices in (
        ("labeling", LABELINGS),
        ("method", METHODS),
        ("norm_order", NORM_ORDERS),
        ("formulation", ("auto", *FORMULATIONS)),
        ("precision", ("auto", *PRECISIONS)),
        ("resident", resident.MODES),
        ("members_by", ("auto", *WRAPPERS)),
    ):
        if config[field] not in choices:
            raise InputError(f"config.{field}: {config[field]!r} is none of {', '.join(choices)}")
    for field in (
        *("batch_size", "num_epochs", "steps_per_call"),
        *("learning_rate", "learning_rate_decay"),
    ):
        if not 0 < config[field] < math.inf:
            raise InputError(f"config.{field}: expected a positive number, got {config[field]}")
    if len(config.filters) != len(TAPS):
        raise InputError(
            f"config.filters: expected {len(TAPS)} numbers, one a convolution, got {config.filters}"
        )
    if not config.dense_units:
        raise InputError("config.dense_units: expected at least one layer, the embedding")
    for field in ("filters", "dense_units"):
        if min(config[field]) < 1:
            raise InputError(f"config.{field}: expected positive numbers, got {config[field]}")
    if not config.data_dir:
        raise InputError("config.data_dir is empty; set it to the --output_dir of data_prep.build")
    if not 0 <= config.seed < _SEEDS:
        raise InputError(f"config.seed: expected 0 or more and below 2**32, got {config.seed}")


def _prepare(
    config: ConfigDict, data_set: DataSet, view: View, base: Base | None, seeds: Sequence[int]
) -> tuple[nn.Module, list[dict[str, Any]], Inputs]:
    """The network of the config's method, its variables at the start by seed, what it is fed."""
    num_classes = len(view.columns)

    @processes.alone
    def read_waveforms(split: str, clips: np.ndarray) -> np.ndarray:
        return data_set.read_waveforms(view.rows[split][clips])

    if config.method == "features":
        assert base is not None
        embeddings = {
            split: predict(
                base.network,
                [base.variables],
                functools.partial(read_waveforms, split),
                len(view.rows[split]),
                batch_size=config.batch_size,
                batches_per_call=config.steps_per_call,
                method="embed",
            )[0]
            for split in SPLITS
        }
        classifier = FeatureNetwork(
            num_classes, config.norm_order, precision=base.network.precision
        )
        starts = [_start(classifier, embeddings["train"][:1], seed) for seed in seeds]
        return classifier, starts, lambda split, clips: embeddings[split][clips]

    network = audio_network(config, num_classes)
    waveform = np.zeros((1, WAVEFORM_SAMPLES), np.int16)
    starts = [_start(network, waveform, seed) for seed in seeds]
    if base is not None:  # everything but the output layer, which has other classes
        starts = [
            {
                "params": base.variables["params"] | {"output": start["params"]["output"]},
                "batch_stats": base.variables["batch_stats"],
            }
            for start in starts
        ]
    return network, starts, read_waveforms


@functools.partial(jax.jit, static_argnums=(0, 1))
def _random_variables(network: nn.Module, inputs: jax.ShapeDtypeStruct, key: jax.Array):
    return network.lazy_init(key, inputs, train=False)


def _start(network: nn.Module, inputs: np.ndarray, seed: int) -> dict[str, Any]:
    """Random variables, on the host: the training gives its own buffers away at each step."""
    like = jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)
    return jax.device_get(_random_variables(network, like, jax.random.key(seed)))


def _write_result(
    member: Member, scores: np.ndarray, facts: dict[str, Any], data_set: DataSet
) -> dict[str, Any]:
    """Writes `test_scores.npz` and `result.json`, and returns what is in the latter.

    The scores' file has `clip_id` str[clips], `mids` str[classes], `scores` float32, `labels` bool
    and `masked` bool [clips, classes], over the classes of the label set.

    Args:
      scores: float32[test clips, side classes].
    """
    view = member.view
    in_set = view.label_set
    scores = scores[:, in_set]
    labels = view.labels["test"][:, in_set]
    masked = view.masked["test"][:, in_set]
    with (
        complete_file(member.workdir / "test_scores.npz") as temporary,
        open(temporary, "wb") as file,
    ):
        np.savez_compressed(
            file,
            clip_id=data_set.clip_ids[view.rows["test"]],
            mids=np.array(data_set.ontology.mids)[view.columns[in_set]],
            scores=scores,
            labels=labels,
            masked=masked,
        )
    test = evaluate(scores, labels, masked)
    result = {
        "test": {
            "mAP": _or_none(test.mean_average_precision),
            "mean_auc": _or_none(test.mean_auc),
            "d_prime": _or_none(test.d_prime),
        },
        **facts,
    }
    write_json(member.workdir / RESULT_NAME, result)
    return result


def _comparable(identities: list[dict[str, Any]]) -> dict[str, Any]:
    """What must be the same in all processes, by the name that a message has for it."""
    same: dict[str, Any] = {"the data set of fingerprint": identities[0]["data_set"]}
    for field in identities[0]["config"]:
        if field not in ("data_dir", "base"):  # base is read by process 0
            values = [identity["config"][field] for identity in identities]
            same[f"config.{field}"] = values[0] if len(values) == 1 else values
    return same


def begun_before(
    path: pathlib.Path,
    identity: dict[str, Any],
    may_change: Collection[str],
    data_dir: pathlib.Path,
) -> dict[str, Any]:
    """What the file at `path` says that its folder was begun with: the same as now.

    Args:
      path: `config.json` of a run or `grid.json`, in the workdir.
      identity: what such a file has now; at least `config` and `data_set`, a fingerprint.
      may_change: fields of the config that may differ.
      data_dir: of now, for messages.

    Raises:
      InputError: it is damaged, or the workdir belongs to another config or data set.
    """
    workdir = path.parent
    before = read_json(path)
    try:
        absent = identity.keys() - before.keys()
        old = before["config"]
        int(old["num_epochs"])
        differences = [
            f"config.{field} {old.get(field)!r}, not {value!r}"
            for field, value in identity["config"].items()
            if field not in may_change and old.get(field) != value
        ]
        if absent:
            raise KeyError(min(absent))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is damaged or of an older version ({error!r}); give another --workdir"
        ) from error
    if differences:
        raise InputError(
            f"{workdir}: was begun with {differences[0]}; go on with the same config or give "
            "another --workdir"
        )
    if before["data_set"] != identity["data_set"]:
        raise InputError(
            f"{workdir}: was begun on another data set than {data_dir}; go on with that "
            "one or give another --workdir"
        )
    return before


def _look(
    identity: dict[str, Any], data_dir: pathlib.Path, workdir: pathlib.Path
) -> tuple[dict[str, Any] | None, str | None]:
    """What a workdir has: the result, None if there is work left; and the base's fingerprint, "" if
    there is no base, None if the run has not begun. Nothing is changed.

    Raises:
      InputError: the workdir belongs to another config or data set.
    """
    num_epochs = identity["config"]["num_epochs"]
    path = workdir / "config.json"
    if path.exists():
        before = begun_before(path, identity, MAY_CHANGE, data_dir)
        num_epochs_before = int(before["config"]["num_epochs"])
        if num_epochs < num_epochs_before:
            raise InputError(
                f"{workdir}: was begun with config.num_epochs {num_epochs_before}, "
                f"which can grow but not shrink to {num_epochs}; give another --workdir"
            )
        if num_epochs == num_epochs_before and (workdir / RESULT_NAME).exists():
            return read_json(workdir / RESULT_NAME), before["base"]
        return None, before["base"]
    if any(workdir.glob("checkpoints/*")):
        raise InputError(
            f"{workdir}: has checkpoints but no config.json to tell of what; give another --workdir"
        )
    return None, None


def _plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back, with lists for tuples."""
    return json.loads(config.to_json())


def _or_none(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
