"""What holds for every test: strict JAX, no accelerator, and where the real data lies."""

import fcntl
import functools
import os
import pathlib
import shutil
from collections.abc import Callable

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# LLVM's -O0 compiles in half of the time. Flags of the environment come later, so they win:
# XLA_FLAGS=--xla_backend_optimization_level=3 make test
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"
# Half of the time is compiling, and most programs occur in several tests. So each is compiled once
# and then loaded, also by the commands that the tests start.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import hypothesis
import jax
import numpy as np
import pytest
from browser import read_axe, start_browser

from data_prep import build, miniature
from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.experiments.config import paper_config
from relabel_jax.experiments.run import run
from relabel_jax.inference.pretrained import Pretrained, SoundClass
from relabel_jax.models.waveform_cnn import WaveformCNN
from relabel_jax.ops.formulation import Formulation

jax.config.update("jax_numpy_rank_promotion", "raise")
# A first example compiles and imports, and the machine may have other things to do.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

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
def segments_sample() -> pathlib.Path:
    """300 of AudioSet's real segments.

    They have labels under all seven roots, labels with several parents, and clips with nothing but
    a general label.
    """
    return pathlib.Path(__file__).parent / "data_prep" / "segments_sample.csv"


@pytest.fixture(
    scope="session",
    params=["sample", pytest.param("all", marks=[pytest.mark.slow, pytest.mark.release])],
)
def real_segments(request: pytest.FixtureRequest) -> list[pathlib.Path]:
    """Segment files of AudioSet: the sample, then all of balanced_train and eval if at hand."""
    if request.param == "sample":
        return [request.getfixturevalue("segments_sample")]
    folder = request.getfixturevalue("audioset_dir")
    return [folder / "balanced_train_segments.csv", folder / "eval_segments.csv"]


@pytest.fixture(scope="session")
def realaudio_dir() -> pathlib.Path:
    """1,246 real recordings with AudioSet labels."""
    return _shared("realaudio")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory):
    """`made_once(name, make)`: the folder that `make` fills, once for all workers of pytest-xdist.

    Whoever changes it changes a copy.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
        folder, done = base / name, base / f"{name}.done"
        with open(base / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def miniature_data(made_once) -> pathlib.Path:
    """A data set built from 96 clips of the miniature AudioSet: 81, 9 and 6 in the three splits.

    Each split has clips on both sides of each of the paper's four roots.
    """

    def make(folder):
        miniature.build(miniature.MiniatureSpec(num_clips=96), folder / "mini", num_workers=1)
        build.build(
            ontology=folder / "mini" / "ontology.json",
            segments=[folder / "mini" / "segments.csv"],
            audio=folder / "mini" / "audio",
            output_dir=folder / "data",
            num_workers=1,
            clips_per_shard=32,
        )

    return made_once("miniature_data", make) / "data"


@pytest.fixture(scope="session")
def miniature_at(miniature_data: pathlib.Path, made_once):
    """`miniature_at(rate_hz, seconds)`: the same clips as a data set of another format."""
    mini = miniature_data.parent / "mini"

    def built(rate_hz: int, seconds: float) -> pathlib.Path:
        def make(folder):
            build.build(
                ontology=mini / "ontology.json",
                segments=[mini / "segments.csv"],
                audio=mini / "audio",
                output_dir=folder / "data",
                num_workers=1,
                sample_rate_hz=rate_hz,
                duration_s=seconds,
            )

        return made_once(f"miniature_{rate_hz}_hz_{seconds}_s", make) / "data"

    return built


@pytest.fixture(scope="session")
def small_base(miniature_data: pathlib.Path, made_once) -> pathlib.Path:
    """The workdir of a finished base training of a small network."""
    config = paper_config("Human sounds", "base")
    config.update({"data_dir": str(miniature_data), "labeling": "pe_cml", "num_epochs": 1})
    config.batch_size = 8
    config.model.update({"features": (4,) * 9, "dense_units": (8, 8)})
    config.resident = "never"  # one program less: validation and test clips share one
    return made_once("small_base", lambda workdir: run(config, workdir))


@pytest.fixture(scope="session")
def recordings(realaudio_dir: pathlib.Path) -> list[pathlib.Path]:
    """25 real recordings: every 50th, so of all sources, formats and rates."""
    paths = [path for path in (realaudio_dir / "audio").rglob("*.*") if path.is_file()]
    return sorted(paths)[::50]


@pytest.fixture(scope="session")
def paper_network(recordings: list[pathlib.Path]) -> Pretrained:
    """The paper's network with random weights, normalized by the statistics of these recordings.

    Its embeddings vary by 0.26 from recording to recording. Those of a network that was trained on
    795 such clips vary by 0.19; without the 0.1 below it would be 1.2, and rounding errors grow
    with them.
    """
    network = WaveformCNN(num_classes=30, formulation=Formulation.resolve())
    waveforms = np.stack([read_waveform(str(path), PAPER_FORMAT)[0] for path in recordings])
    init = jax.jit(functools.partial(network.init, train=False))
    variables = jax.device_get(init(jax.random.key(0), waveforms))
    apply = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    _, after = apply(variables, waveforms)
    before = variables["batch_stats"]
    of_batch = jax.tree_util.tree_map_with_path(  # the momentum is 0.99
        lambda path, new, old: np.asarray(
            (new - 0.99 * old) / 0.01 + 0.1 * (path[-1].key == "var"), np.float32
        ),
        *(after["batch_stats"], before),
    )
    classes = tuple(SoundClass(f"/m/{i:02}", f"Sound {i}", ((f"Sound {i}",),)) for i in range(30))
    return Pretrained(network, {**variables, "batch_stats": of_batch}, classes, {})


@pytest.fixture(scope="session")
def _chromium():
    driver = start_browser()
    yield driver
    driver.quit()


@pytest.fixture
def browser(_chromium):
    """Headless Chromium with a new tab; see `browser.py` for what pages are checked for."""
    first = _chromium.current_window_handle
    _chromium.switch_to.new_window("tab")
    _chromium.get_log("browser")  # forgets what other tests have logged
    yield _chromium
    _chromium.close()
    _chromium.switch_to.window(first)


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which checks the accessibility of pages."""
    return read_axe()
