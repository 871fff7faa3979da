"""Gains of several draws of the label study, pooled."""

import json
import pathlib

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
# Tuberculosis with and without a vaccine: cases and others, cases and others in the control group
# (G. Colditz et al., Efficacy of BCG vaccine, 1994).
TRIALS = """4 119 11 128|6 300 29 274|3 228 11 209|62 13536 248 12619|33 5036 47 5761
|180 1361 372 1079|8 2537 10 619|505 87886 499 87892|29 7470 45 7232|17 1699 65 1600
|186 50448 141 27197|5 2493 3 2338|27 16886 29 17825"""


@pytest.fixture
def draws(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import label_study_draws

    return label_study_draws


def test_pooled_trials_have_the_published_figures(draws):
    """Those of the R package metafor (W. Viechtbauer, 2010), which other packages agree with."""
    counts = np.array([[float(n) for n in line.split()] for line in TRIALS.split("|")])
    cases, others, control_cases, control_others = counts.T
    effects = np.log(cases / (cases + others) * (control_cases + control_others) / control_cases)
    variances = 1 / cases - 1 / (cases + others)
    variances += 1 / control_cases - 1 / (control_cases + control_others)
    pooled = draws.pool(effects, 1.959964 * np.sqrt(variances))
    assert pooled.mean == pytest.approx(-0.4303, abs=1e-4)
    assert pooled.half_width == pytest.approx(1.959964 * 0.0405, abs=1e-4)
    assert pooled.tau**2 == pytest.approx(0.3088, abs=1e-4)
    assert pooled.overall == pytest.approx(-0.7141, abs=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.02])
def test_the_overall_interval_has_the_true_mean(draws, tau):
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        standard_errors = rng.uniform(0.004, 0.008, 4)
        gains = 0.02 + rng.normal(0, tau, 4) + rng.normal(0, standard_errors)
        pooled = draws.pool(gains, 1.96 * standard_errors)
        covered.append(abs(pooled.overall - 0.02) < pooled.overall_half_width)
    # The standard deviation of the share is 0.005. With tau = 0 the interval is wider than it must.
    assert 0.93 < np.mean(covered) < (0.97 if tau else 1)


def row(base, gain, **fields):
    same = {"method": "features", "base_clips": 6, "recipe": "mse", "epochs": 2}
    same |= {"target_clips": 5, "labeling": "complete", "severity": 1.0, "base": base}
    return same | {"gain": gain, "low": gain - 0.01, "high": gain + 0.01} | fields


def test_the_table_has_what_two_studies_have(draws, tmp_path, capsys):
    studies = (
        [row("pel", 0.02), row("pe_cml", 0.01), row("pel", 0.5, epochs=9)],
        [row("pel", 0.04), row("hlp", 0.03)],
    )
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, rows in zip(folders, studies, strict=True):
        folder.mkdir()
        without_gain = {name: value for name, value in row("ol", 0).items() if name != "gain"}
        (folder / "study.json").write_text(json.dumps({"rows": [*rows, without_gain]}))
    assert draws.main([str(folder) for folder in folders]) == 0
    names, *lines = capsys.readouterr().out.splitlines()
    (line,) = (dict(zip(names.split(","), line.split(","), strict=True)) for line in lines)
    assert (line["base"], line["epochs"], line["draws"]) == ("PEL", "2", "2")
    assert float(line["mean"]) == pytest.approx(0.03)
    assert float(line["half_width"]) == pytest.approx(0.01 / np.sqrt(2), abs=1e-4)
    assert float(line["overall_half_width"]) > 0.1  # 12.7 standard errors: two draws say little


def test_what_is_not_a_study_is_refused(draws, tmp_path, capsys):
    (tmp_path / "study.json").write_text('{"rows": []}')
    assert draws.main([str(tmp_path), str(tmp_path / "none")]) == 1
    assert "none/study.json: cannot read it" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text("[]")
    assert draws.main([str(tmp_path), str(tmp_path / "other")]) == 1
    assert "other/study.json: expected the report of label_study.py" in capsys.readouterr().err
    assert draws.main([str(tmp_path), str(tmp_path)]) == 1
    assert "no gain is in two of the studies" in capsys.readouterr().err
