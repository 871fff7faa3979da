"""What holds for every test: strict JAX, no accelerator, and where the real data lies."""

import os
import pathlib
import shutil

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


@pytest.fixture
def browser():
    """Headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1280,1000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver))
    yield driver
    driver.quit()
