"""Folders with the runs of a grid, and with their report."""

import json
import shutil

import numpy as np
import pytest
from grid_of_runs import CONFIG, ROOTS, SEEDS, write_run

from data_prep import miniature
from relabel_jax.labels.labelings import PAPER_LABELINGS
from relabel_jax.labels.ontology import Ontology
from relabel_jax.labels.views import make_view
from relabel_jax.report.__main__ import main

collect_ignore = ["conftest.py"]  # it has no doctest, and shares its name with others


@pytest.fixture(scope="session")
def grid_folder(tmp_path_factory):
    """Two roots, two seeds, all cells but one, of 500 clips labelled by chance; and the truth."""
    folder = tmp_path_factory.mktemp("grid")
    miniature.build(miniature.MiniatureSpec(num_clips=1), folder / "mini", num_workers=1)
    shutil.copy(folder / "mini" / "ontology.json", folder / "ontology.json")
    ontology = Ontology.from_json(folder / "ontology.json")
    generator = np.random.default_rng(0)
    offered = ~ontology.is_abstract & ~ontology.is_blacklisted
    labels = (generator.random((500, len(ontology))) < 0.03) & offered
    clip_ids = np.array([f"clip{i:03}" for i in range(500)])
    splits = np.repeat([0, 1, 2], [300, 50, 150]).astype(np.int8)
    for root in ROOTS:
        cells = [("base", "", labeling) for labeling in PAPER_LABELINGS]
        for labeling in PAPER_LABELINGS:
            cells += [
                (m, base, labeling) for m in ("features", "finetune") for base in PAPER_LABELINGS
            ]
            cells.append(("scratch", "", labeling))
        for method, base, labeling in cells:
            side = "base" if method == "base" else "target"
            view = make_view(
                ontology,
                labels,
                splits,
                root=ontology.find(root),
                side=side,
                labeling=labeling,
            )
            for seed in SEEDS:
                facts = {
                    "root": root,
                    "side": side,
                    "method": method,
                    "base_labeling": base,
                    "labeling": labeling,
                    "seed": seed,
                }
                name = f"{method}_{base}_{labeling}_{seed}"
                write_run(folder / root / name, view, clip_ids, ontology, facts, generator)
    shutil.rmtree(folder / "Human sounds" / "finetune_pel_ol_0")
    shutil.rmtree(folder / "Human sounds" / "finetune_pel_ol_1")
    is_true = labels | (generator.random(labels.shape) < 0.1)
    rows = [
        f'{clip_id}, 0.000, 10.000, "{",".join(np.array(ontology.mids)[row])}"'
        for clip_id, row in zip(clip_ids, is_true, strict=True)
    ]
    (folder / "truth.csv").write_text("# a\n# b\n# c\n" + "\n".join(rows) + "\n")
    description = {
        "roots": [*ROOTS, "Sounds of things"],
        "problems": ["root 'Sounds of things': the data set has no test clip <there>"],
        "command": "python -m relabel_jax.main --config=<configs/paper.py>",
        "versions": {"jax": "1.2.3"},
        "hardware": {"processor": "abacus"},
        "config": CONFIG | {"truth": ""},
    }
    (folder / "grid.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def reported(grid_folder, tmp_path_factory):
    """The folder with its report."""
    folder = tmp_path_factory.mktemp("reported") / "W"
    shutil.copytree(grid_folder, folder)
    assert main([f"--workdir={folder}", f"--truth={folder / 'truth.csv'}"]) == 1  # one was left out
    return folder
