"""What holds for every test: strict JAX, no accelerator, and where the real data lies."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

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
