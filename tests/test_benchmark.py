"""The benchmark: its arithmetic against the paper and XLA, its table and file, bad arguments."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from relabel_jax.benchmark.__main__ import main
from relabel_jax.benchmark.programs import RECIPE, Variant, batches
from relabel_jax.models.flop import train_flop
from relabel_jax.models.variables import shapes
from relabel_jax.train.step import init_state, train_step

pytestmark = pytest.mark.slow

SMALL = ["--filters", *["4"] * 9, "--batch_size=2", "--steps=2", "--rounds=1", "--num_classes=3"]


def test_xla_counts_the_same_arithmetic():
    """Everything except the products (ELU, normalization, Adam) takes few operations."""
    network = Variant("lax", "loop", fold_norm=False, precision="f32").network(7)
    state = jax.eval_shape(lambda variables: init_state(variables, RECIPE), shapes(network))
    step = jax.jit(train_step, static_argnums=(0, 1))
    waveforms, labels, masked = batches(1, 2, 7)
    lowered = step.lower(network, RECIPE, state, waveforms[0], labels[0], masked[0])
    counted = lowered.cost_analysis()["flops"]
    batch = jax.ShapeDtypeStruct(waveforms[0].shape, waveforms.dtype)
    assert 1 < counted / train_flop(network, shapes(network), batch) < 1.1


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "relabel_jax.benchmark", *arguments],
        cwd=pathlib.Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.release
def test_table_and_file(tmp_path):
    path = tmp_path / "figures.json"
    some = ["--formulations", "lax", "direct", "--norms", "folded", "--precisions", "f32"]
    done = run(*SMALL, *some, f"--output={path}")
    assert done.returncode == 0, done.stderr
    assert f"written {path}" in done.stderr
    result = json.loads(path.read_text())
    rows = result["variants"]
    # lax in scan is left out on a CPU.
    assert [(row["formulation"], row["mode"]) for row in rows] == [
        *(("lax", "loop"), ("direct", "loop"), ("direct", "scan"))
    ]
    assert all(row["fold_norm"] and row["precision"] == "f32" for row in rows)
    for row in rows:
        assert row["clips_per_s"] == pytest.approx(2 / (row["ms_per_step"] / 1000))
        low, high = row["ms_per_step_range"]
        assert 0 < low <= row["ms_per_step"] <= high
        peak = result["matmul_flop_per_s"][row["precision"]]
        assert row["share_of_matmul_peak"] == pytest.approx(row["flop_per_s"] / peak)
        assert row["flop_per_s"] == pytest.approx(row["clips_per_s"] * result["flop_per_clip"])
        assert row["compile_s"] > 0
        # At least the activations of layer 1.
        assert row["memory_bytes"] > 2 * 26662 * 4 * 4
        assert (row["accessed_bytes_per_step"] is None) == (row["formulation"] != "lax")
    table = done.stdout.splitlines()
    assert len(table) == 3 + len(rows)
    assert f"{rows[0]['clips_per_s']:.1f}" in table[3].split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=0"], "error: --steps: expected at least 1, got 0"),
        (["--formulations", "lax", "--modes", "scan"], "error: nothing to measure"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message, capsys, monkeypatch):
    flags = os.environ.get("XLA_FLAGS", "")  # JAX runs already, so no devices can be chosen
    monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count=1")
    assert main([*SMALL, *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_an_unknown_precision_is_refused(capsys):
    with pytest.raises(SystemExit) as exiting:
        main(["--precisions", "f16"])
    assert exiting.value.code == 2
    assert "invalid choice: 'f16'" in capsys.readouterr().err.splitlines()[-1]
