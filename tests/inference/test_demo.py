"""The demo as a user has it: the command, the page in a browser, sounds that are dropped on it."""

import contextlib
import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from browser import LAYOUTS, VIEWS, check_accessibility, check_layout, open_page, wait_for

from relabel_jax.audio.decode import read_waveform
from relabel_jax.audio.waveform_format import PAPER_FORMAT
from relabel_jax.demo import main
from relabel_jax.inference.demo import format_similarities, toy_note
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.folder import embed

pytestmark = pytest.mark.slow

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven recordings of noise, one of them long, and what cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for i in range(6):
        noise = np.cumsum(rng.normal(size=8_000 * (i + 1))) if i % 2 else rng.normal(size=40_000)
        soundfile.write(folder / f"{i}.wav", 0.9 * noise / np.abs(noise).max(), 8_000)
    # What a template or HTML would make of this name is not what is shown.
    stereo = rng.uniform(-0.3, 0.3, (23 * 16_000, 2))
    soundfile.write(folder / "long ${1+1}<b>.flac", stereo, 16_000)
    (folder / "text.wav").write_text("no sound")
    (folder / "empty.wav").touch()
    soundfile.write(folder / "nan.wav", np.full(8_000, np.nan), 8_000, subtype="FLOAT")
    return folder


@pytest.fixture(scope="module")
def embeddings(small_base, folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("embeddings") / "e.parquet"
    assert embed(small_base, folder, output) == {"recordings": 10, "rejects": 3, "windows": 9}
    return output


def command(*arguments):
    return [sys.executable, "-m", "relabel_jax.demo", "--no_browser", *map(str, arguments)]


@contextlib.contextmanager
def page(small_base, tmp_path, *arguments, end=signal.SIGINT):
    """The address of the running command; afterwards Ctrl-C, or another signal."""
    if not importlib.util.find_spec("gradio"):
        pytest.skip("needs gradio: pip install '.[demo]'")
    with (
        socket.create_server(("127.0.0.1", 0)) as proxy,  # what would go out comes here
        open(tmp_path / "stderr", "w+") as stderr,
    ):
        way_out = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        environment = os.environ | dict.fromkeys(names, way_out)
        environment |= {"no_proxy": "", "NO_PROXY": "", "TMPDIR": str(tmp_path)}
        with subprocess.Popen(
            command(f"--checkpoint={small_base}", *arguments),
            cwd=REPOSITORY,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=stderr,
        ) as process:
            try:
                line = process.stdout.readline()
                assert line.startswith("http://127.0.0.1:"), (tmp_path / "stderr").read_text()
                yield line.split()[0]
                process.send_signal(end)
                assert process.wait(120) == 0
                assert process.stdout.read() == ""
            finally:
                process.kill()
        stderr.seek(0)
        assert stderr.read() == ""
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):
            proxy.accept()
    assert list(tmp_path.glob("relabel_jax_demo_*")) == []  # what was dropped is deleted


def clear(browser):
    for button in browser.find_elements("css selector", "#sound button[aria-label=Clear]"):
        button.click()
    wait_for(browser, "return document.getElementById('heard').innerText.includes('Nothing yet')")
    wait_for(browser, "return document.querySelector('#sound input[type=file]')")


def drop(browser, path):
    """Gives a file and returns the text of the rows or of the message."""
    clear(browser)
    browser.find_element("css selector", "#sound input[type=file]").send_keys(str(path))
    return shown(browser)


def shown(browser):
    wait_for(browser, "return document.querySelector('#heard .heard, #heard .error')")
    return [row.text for row in browser.find_elements("css selector", "#heard tr, #heard .error")]


def near(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#near li')].map((li) => "
        "[li.dataset.path, li.querySelector('.about').innerText, "
        "li.querySelector('.score').innerText, li.querySelector('audio').src.length])"
    )


def check_scores(rows, embedder, samples, rate_hz):
    """The ten best classes with their paths and what `Embedder.scores` says of them."""
    scores = embedder.scores([samples], rate_hz)[0]
    best = np.argsort(-scores, kind="stable")[:10]
    assert len(rows) == len(best)
    for row, number in zip(rows, best, strict=True):
        path, score = row.rsplit(" ", 1)
        ways = [" > ".join(way) for way in embedder.classes[number].paths]
        assert path.split("\n") == ways
        assert float(score) == pytest.approx(scores[number], abs=0.00051)


def check_nearest(browser, embedder, path, embeddings, folder):
    """The six nearest recordings: the paths and what the cosines are by NumPy."""
    waveform, _ = read_waveform(str(path), PAPER_FORMAT)
    query = embedder.embed(waveform, 8_000)[0].astype(np.float64)
    similarities = {}
    for row in pq.read_table(embeddings).to_pylist():
        other = np.array(row["embedding"])
        cosine = other @ query / np.linalg.norm(other) / np.linalg.norm(query)
        similarities[row["path"]] = max(cosine, similarities.get(row["path"], -1))
    (itself, one), *expected = sorted(similarities.items(), key=lambda item: -item[1])
    assert itself == str(path)
    assert one == pytest.approx(1)
    found = near(browser)
    shown = [each[2] for each in found]
    assert [float(each) for each in shown] == pytest.approx(
        [similarity for _, similarity in expected], abs=0.0051
    )
    assert len(set(shown)) == len(shown) == 6
    assert found[0][:2] == [expected[0][0], f"{folder}, from 0 s"]
    assert "The folder has this sound" in browser.find_element("id", "near").text
    assert wait_for(browser, "return document.querySelector('#near audio').duration") > 0
    return [path for path, _ in expected]


def check_long_recording(browser, embedder, path):
    """Longer than 10 s, at another rate, stereo, and with a name that is code."""
    samples, rate_hz = soundfile.read(path)
    check_scores(drop(browser, path), embedder, samples, rate_hz)
    about = browser.find_element("css selector", "#heard .about").text
    assert about == "23.0 s, the mean over 3 windows of 10 s"
    assert str(path) not in [each[0] for each in near(browser)]
    labels = browser.find_elements("css selector", "#examples button")
    assert path.name in [label.text for label in labels]


def check_microphone(browser):
    """It beeps."""
    clear(browser)
    browser.find_element("css selector", "#sound [aria-label='Record audio']").click()
    wait_for(browser, "return document.querySelector('#sound .record-button')").click()
    time.sleep(1.5)
    wait_for(browser, "return document.querySelector('#sound .stop-button')").click()
    assert len(shown(browser)) == 10
    assert len(near(browser)) == 6


def choose_example(browser, address, view):
    """Opens the page, and chooses the first example."""
    open_page(browser, address, view)
    wait_for(browser, "return document.querySelector('#examples button')").click()
    assert len(shown(browser)) == 10


def test_the_page_in_a_browser(browser, small_base, folder, embeddings, tmp_path):
    embedder = Embedder.load(small_base)
    with page(small_base, tmp_path, f"--embeddings={embeddings}") as address:
        port = address.split(":")[2].strip("/")
        with pytest.raises(ConnectionRefusedError):  # it listens at one address, not at all
            socket.create_connection(("127.0.0.2", port), 1).close()
        second = subprocess.Popen(  # meanwhile
            command(f"--checkpoint={small_base}", f"--port={port}"),
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        browser.get(address)
        wait_for(browser, "return document.querySelector('#sound input[type=file]')")
        assert near(browser) == []

        # A recording of the folder: what the embedder says of it, and the nearest others.
        path = folder / "4.wav"
        check_scores(drop(browser, path), embedder, soundfile.read(path)[0], 8_000)
        nearest = check_nearest(browser, embedder, path, embeddings, folder)
        # Gradio draws the waveform into a canvas of its own tree.
        wait_for(
            browser,
            "return [...document.querySelectorAll('#sound *')].some("
            "(e) => e.shadowRoot?.querySelector('canvas')?.width > 100)",
        )

        for name, message in (
            (
                "text.wav",
                "text.wav: FFmpeg: Invalid data found when processing input; libsndfile: ",
            ),
            ("empty.wav", "empty.wav: the file has 0 bytes. Give a sound"),
            ("nan.wav", "nan.wav: 8000 samples are NaN or inf. Give a sound"),
        ):
            (text,) = drop(browser, folder / name)
            assert text.startswith(message)
            assert near(browser) == []
        check_long_recording(browser, embedder, *folder.glob("long*"))

        # A recording that has gone since the folder was embedded.
        gone = pathlib.Path(nearest[-1])
        gone.rename(tmp_path / "gone")
        assert len(drop(browser, folder / "4.wav")) == 10
        (tmp_path / "gone").rename(gone)
        cards = [card.text for card in browser.find_elements("css selector", "#near li")]
        unplayable = "Cannot be played: No such file or directory"
        assert [unplayable in card for card in cards] == 5 * [False] + [True]

        check_microphone(browser)
        browser.get_log("browser")  # forgets that damaged files could not be drawn
        for view in LAYOUTS:
            choose_example(browser, address, view)
            check_layout(browser, view)
        urls = browser.execute_script(
            "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        )
        assert urls
        for url in urls:
            assert url.startswith((address, f"blob:{address}", "data:")), url
        _, error = second.communicate(timeout=120)
        assert second.returncode == 1
        assert error == f"error: --port={port}: is taken or not allowed; give another\n"


def test_accessibility(browser, axe, small_base, embeddings, tmp_path):
    with page(small_base, tmp_path, f"--embeddings={embeddings}") as address:
        for view in VIEWS:
            choose_example(browser, address, view)
            check_accessibility(browser, axe, view, ".playback")  # Gradio's own button


@pytest.mark.parametrize(
    ("method", "num_clips", "expected"),
    [
        ("base", 295, "a toy: it was trained on only 295 clips"),
        ("finetune", 9_999, "a toy: it was fine-tuned on only 9,999 clips"),
        ("base", 10_000, ""),
    ],
)
def test_few_clips_make_a_toy(method, num_clips, expected):
    note = toy_note({"method": method, "num_clips": {"train": num_clips}})
    assert expected in note
    assert bool(note) == bool(expected)
    assert toy_note({}) == ""


@pytest.mark.parametrize(
    ("similarities", "expected"),
    [
        ([0.9, 0.5], ["0.90", "0.50"]),
        ([0.9951, 0.9949, 0.99], ["0.9951", "0.9949", "0.9900"]),
        ([0.999999, 0.999998], ["0.999999", "0.999998"]),
        ([0.9, 0.9, 0.8], ["0.90", "0.90", "0.80"]),
        ([], []),
    ],
)
def test_decimals_that_tell_similarities_apart(similarities, expected):
    assert format_similarities(similarities) == expected


def test_without_a_folder(browser, small_base, folder, tmp_path):
    with page(small_base, tmp_path, end=signal.SIGTERM) as address:
        browser.get(address)
        wait_for(browser, "return document.querySelector('#sound input[type=file]')")
        assert len(drop(browser, folder / "1.wav")) == 10
        assert "--embeddings=FILE" in browser.find_element("id", "near").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=nowhere"], "nowhere: does not exist"),
        (["--embeddings=nowhere.parquet"], "--embeddings=nowhere.parquet: expected a Parquet"),
        (["--ontology=nowhere.json"], "nowhere.json"),
        (["--port=70000"], "--port=70000: expected 1 to 65535"),
    ],
)
def test_refused(small_base, capsys, arguments, message):
    refused([f"--checkpoint={small_base}", *arguments], message, capsys)


def test_without_gradio(small_base, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    message = "the page needs gradio: pip install '.[demo]' in the checkout of relabel_jax"
    refused([f"--checkpoint={small_base}"], message, capsys)


def refused(arguments, message, capsys):
    assert main([*arguments, "--no_browser"]) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
