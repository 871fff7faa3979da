"""What holds for every test: strict JAX, no accelerator, and where the real data lies."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from data_prep import build, miniature

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(__file__).parents[2] / "shared"


def _shared(name: str) -> pathlib.Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"needs the folder ../shared/{name}")
    return SHARED / name


@pytest.fixture(scope="session")
def audioset_dir() -> pathlib.Path:
    """AudioSet's real metadata."""
    return _shared("audioset")


@pytest.fixture(scope="session")
def realaudio_dir() -> pathlib.Path:
    """1,246 real recordings with AudioSet labels."""
    return _shared("realaudio")


@pytest.fixture(scope="session")
def miniature_data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data set built from 96 clips of the miniature AudioSet: 81, 9 and 6 in the three splits.

    Each split has clips on both sides of each of the paper's four roots. Shared by all tests:
    whoever changes it changes a copy.
    """
    folder = tmp_path_factory.mktemp("miniature_data")
    miniature.build(miniature.Plan(num_clips=96), folder / "mini", num_workers=2)
    build.build(
        ontology=folder / "mini" / "ontology.json",
        segments=[folder / "mini" / "segments.csv"],
        audio=folder / "mini" / "audio",
        output_dir=folder / "data",
        num_workers=2,
        clips_per_shard=32,
    )
    return folder / "data"
