"""A population: each member as if it were alone, one program, and what stops it."""

import functools
import json
import signal

import jax
import numpy as np
import pytest
import small_network
from tiny_training import (
    EPOCHS,
    NUM_CLIPS,
    STEPS_PER_EPOCH,
    inputs,
    states,
    training,
)
from tiny_training import population as population_of

from relabel_jax.data.pipeline import epoch_order
from relabel_jax.errors import InputError, Interrupted
from relabel_jax.experiments.config import members, paper_config
from relabel_jax.experiments.run import member_workdirs, run, run_population
from relabel_jax.runs.training_folder import TrainingFolder
from relabel_jax.train.loop import train
from relabel_jax.train.population import Layout, split_members

pytestmark = pytest.mark.slow

MEMBERS = "abc"
TIMINGS = ("clips_per_s", "seconds")


def population(folder, names=MEMBERS):
    return population_of(folder, names)


def metrics(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


def lines(workdir):
    values = [json.loads(line) for line in metrics(workdir)]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in values]


def assert_same(folder, expected, atol=1e-5):
    """The same files, and the same in them, timings and rounding aside."""
    for name in MEMBERS:
        files = [
            # TensorBoard's files have the time in their names.
            sorted({path.name.partition(".out.")[0] for path in (base / name).iterdir()})
            for base in (folder, expected)
        ]
        assert files[0] == files[1] == ["checkpoints", "events", "metrics.jsonl"]
        got, wanted = lines(folder / name), lines(expected / name)
        assert [line["epoch"] for line in got] == list(range(1, EPOCHS + 1))
        for line, wanted_line in zip(got, wanted, strict=True):
            assert line == pytest.approx(wanted_line, abs=atol)
        kept = [{path.name for path in (base / name / "checkpoints").iterdir()} for base in
                (folder, expected)]  # fmt: skip
        assert kept[0] == kept[1]
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=atol),
            *(states(base / name, EPOCHS)[0] for base in (folder, expected)),
        )


@pytest.mark.parametrize(
    ("members_by", "resident"),
    [
        ("map", "always"),
        ("vmap", "never"),
        pytest.param("map", "never", marks=pytest.mark.release),
        pytest.param("vmap", "always", marks=pytest.mark.release),
    ],
)
def test_a_member_is_what_it_is_alone(alone, tmp_path, members_by, resident):
    trained = train(training(population(tmp_path), members_by=members_by, resident=resident))
    assert_same(tmp_path, alone)
    for result, of_member in zip(trained, population(alone), strict=True):
        best = max(lines(of_member.workdir.path), key=lambda line: line["validation_mAP"])
        assert result.best_epoch == best["epoch"]
        (state,) = states(of_member.workdir.path, best["epoch"])
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-5),
            dict(result.variables["params"]),
            dict(state["params"]),
        )


@pytest.mark.parametrize("resident", ["always", "never"])
def test_one_compilation_a_program(tmp_path, resident):
    """For all epochs, members and chunks, also those that are not whole."""
    compiled = []

    def listener(event, duration, **details):
        if "backend_compile" in event:
            compiled.append(details["fun_name"])

    split_members.clear_cache()
    everyone = population(tmp_path)
    batch_size = {"always": 9, "never": 7}[resident]  # as no other test has it
    assert (NUM_CLIPS["train"] // batch_size) % 4 != 0
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        train(training(everyone, batch_size=batch_size, resident=resident))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    for program in ("train_population", "predict_population", "split_members"):
        assert sum(program in name for name in compiled) == 1, compiled


def test_members_differ(alone):
    params = [states(alone / name, EPOCHS)[0]["params"] for name in MEMBERS]
    kernels = [np.asarray(jax.tree.leaves(tree)[-1]) for tree in params]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not np.allclose(kernels[i], kernels[j], atol=1e-2)


def test_the_data_is_read_once(tmp_path):
    """Resident for all epochs and members, streaming for an epoch of the members of one seed."""
    read = {"train": [], "validation": [], "test": []}

    def inputs_and_note(split, clips):
        read[split] += clips.tolist() if len(clips) > 1 else []  # one is asked for as a sample
        return inputs(split, clips)

    train(training(population(tmp_path / "1"), inputs=inputs_and_note, resident="always"))
    for split in ("train", "validation"):
        assert sorted(read[split]) == list(range(NUM_CLIPS[split]))
        read[split].clear()
    two = population(tmp_path / "2", ("a", "b"))
    train(training(two, inputs=inputs_and_note, resident="never"))
    assert len(read["train"]) == EPOCHS * STEPS_PER_EPOCH * 8
    for epoch in np.reshape(read["train"], (EPOCHS, -1)):
        assert len(set(epoch)) == len(epoch)
    assert not read["test"]


def test_alone_and_together_go_on_from_each_other(alone, tmp_path):
    """Three members that stopped after 0, 1 and 2 epochs, together; then one of them alone."""
    a, b, _ = population(tmp_path)
    train(training([a], num_epochs=2))
    train(training([b], num_epochs=1))
    train(training(population(tmp_path), num_epochs=3))
    assert [len(lines(tmp_path / name)) for name in MEMBERS] == [3, 3, 3]
    train(training([a]))
    train(training(population(tmp_path)))
    assert_same(tmp_path, alone)


@pytest.mark.parametrize("epochs_before", [0, 2])
def test_sigterm_saves_within_an_epoch(alone, tmp_path, epochs_before):
    """Stopped again and again, each time a chunk further, together or alone."""

    def inputs_then_sigterm(split, clips):
        if split == "train" and len(clips) > 1:
            signal.raise_signal(signal.SIGTERM)
        return inputs(split, clips)

    everyone = population(tmp_path)
    if epochs_before:
        train(training(everyone, num_epochs=epochs_before))
    handler = signal.getsignal(signal.SIGTERM)
    for chunk in (1, 2):
        stopped = training(everyone, inputs=inputs_then_sigterm, resident="never")
        step = min(epochs_before * STEPS_PER_EPOCH + 4 * chunk, (epochs_before + 1) * 6)
        with pytest.raises(
            Interrupted, match=f"saved after step {step}, the same command continues"
        ):
            train(stopped)
        assert signal.getsignal(signal.SIGTERM) == handler
        assert [path.name for path in (tmp_path / "a" / "interrupted").iterdir()] == [str(step)]
        assert len(lines(tmp_path / "a")) == epochs_before
    train(training(everyone[:1]))  # alone; the others are behind then
    train(training(everyone))
    # The second time it was stopped after an epoch's last step, before that was validated.
    speeds = [json.loads(line)["clips_per_s"] for line in metrics(tmp_path / "a")]
    assert [speed is None for speed in speeds] == [i == epochs_before for i in range(EPOCHS)]
    assert_same(tmp_path, alone)


def test_sigterm_in_validation(alone, tmp_path):
    """The steps of the epoch are saved before the rest is scored."""
    batches_read = []

    def inputs_then_sigterm(split, clips):
        if split == "validation" and len(clips) > 1:
            batches_read.append(clips)
            signal.raise_signal(signal.SIGTERM)
        return inputs(split, clips)

    everyone = population(tmp_path)
    train(training(everyone, num_epochs=2))
    step = 3 * STEPS_PER_EPOCH
    for _ in range(2):  # the second time there is no training before it
        stopped = training(everyone, inputs=inputs_then_sigterm, resident="never", steps_per_call=1)
        with pytest.raises(
            Interrupted, match=f"saved after step {step}, the same command continues"
        ):
            train(stopped)
        assert batches_read
        batches_read.clear()
    for name in MEMBERS:
        assert [path.name for path in (tmp_path / name / "interrupted").iterdir()] == [str(step)]
        assert len(lines(tmp_path / name)) == 2
    train(training(everyone))
    assert_same(tmp_path, alone)


def test_sigterm_when_all_is_computed(alone, tmp_path, monkeypatch):
    """The run is whole, and ends all the same; a second signal cannot break off its writing."""
    handlers = []

    def wait_and_note(folder):
        handlers.append(signal.getsignal(signal.SIGTERM))
        wait(folder)

    wait = TrainingFolder.wait
    monkeypatch.setattr(TrainingFolder, "wait", wait_and_note)
    everyone = population(tmp_path)
    train(training(everyone, num_epochs=EPOCHS - 1))
    handlers.clear()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=f"interrupted; epoch {EPOCHS} is saved"):
        train(training(everyone, on_epoch=lambda: signal.raise_signal(signal.SIGTERM)))
    assert len(handlers) == 2 * len(MEMBERS)  # for the epoch before, and at the end
    assert before not in handlers
    assert_same(tmp_path, alone)


def test_a_loss_that_is_not_finite_names_step_and_member(tmp_path):
    everyone = population(tmp_path)
    train(training(everyone, num_epochs=1))

    def inputs_with_nan(split, clips):
        values = inputs(split, clips)
        if split == "train":
            values[clips == 7] = np.nan
        return values

    # The step of epoch 2 that has clip 7, for the first member that meets it.
    steps = {}
    for of_member in everyone:
        order = epoch_order(of_member.seed, 2, NUM_CLIPS["train"])[: STEPS_PER_EPOCH * 8]
        if 7 in order:
            steps[of_member.name] = STEPS_PER_EPOCH + list(order).index(7) // 8 + 1
    name = min(steps, key=steps.get)
    with pytest.raises(InputError) as caught:
        train(training(everyone, inputs=inputs_with_nan))
    assert f"epoch 2: the training loss is nan at step {steps[name]} ({name})" in str(caught.value)
    assert "\n" not in str(caught.value)
    for name in MEMBERS:
        assert [line["epoch"] for line in lines(tmp_path / name)] == [1]
        states(tmp_path / name, 1)


def test_a_batch_that_the_devices_do_not_divide(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: jax.local_devices() * 3)
    with pytest.raises(InputError, match=r"config.batch_size 8 is not divisible by the 3 devices"):
        Layout.of(1, 8, "auto")


def test_members_of_a_config():
    config = paper_config("Human sounds", "base")
    config.update({"labelings": "ol,pe_cml", "seeds": (0, 5)})
    configs = members(config)
    assert [(c.labeling, c.seed) for c in configs] == [
        *(("ol", 0), ("ol", 5)),
        *(("pe_cml", 0), ("pe_cml", 5)),
    ]
    assert all(c.labelings == "" and c.seeds == () for c in configs)
    assert members(configs[0]) == [configs[0]]


def test_runs_from_a_config(miniature_data, tmp_path):
    """A network of audio, from config to results: each folder like the lone run's."""
    config = paper_config("Human sounds", "base")
    config.update({"data_dir": str(miniature_data), "batch_size": 8, "num_epochs": 1})
    small_network.use_in(config)
    config.resident = "never"  # one program less: validation and test clips share one
    config.labelings = "ol,pe_cml"
    configs = members(config)
    workdirs = member_workdirs(configs, tmp_path)
    assert [path.name for path in workdirs] == ["ol_seed0", "pe_cml_seed0"]
    results = run_population(configs, workdirs)
    again = run_population(configs, workdirs)
    assert [each.as_json() for each in again] == [each.as_json() for each in results]
    alone = run(configs[1], tmp_path / "alone")
    assert alone.config == results[1].config
    assert alone.test == pytest.approx(results[1].test, abs=1e-4)
    scores = [np.load(folder / "test_scores.npz") for folder in (workdirs[1], tmp_path / "alone")]
    np.testing.assert_allclose(scores[0]["scores"], scores[1]["scores"], atol=1e-5)
    for file in scores:
        file.close()
    with pytest.raises(InputError, match="a labeling or a seed is there twice"):
        run_population([configs[0], configs[0]], [workdirs[0]] * 2)
