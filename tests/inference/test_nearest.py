"""The nearest clips: which files of embeddings are read, and which are refused."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from relabel_jax.errors import InputError
from relabel_jax.inference.embedder import Embedder
from relabel_jax.inference.folder import embed
from relabel_jax.inference.listen import listen
from relabel_jax.inference.nearest import Clips
from relabel_jax.nearest import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedder(small_base):
    return Embedder.load(small_base)


@pytest.fixture(scope="module")
def embeddings(small_base, tmp_path_factory):
    """Eight windows of six recordings."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for i in range(6):
        soundfile.write(folder / f"{i}.wav", rng.uniform(-0.5, 0.5, 8_000 * (3 * i + 1)), 8_000)
    output = folder / "e.parquet"
    assert embed(small_base, folder, output) == {"recordings": 6, "rejects": 0, "windows": 8}
    return output


def test_older_embeddings_and_lists_of_any_length(embedder, embeddings):
    """A file that does not name its network, and whose lists have no fixed length."""
    table = pq.read_table(embeddings)
    lists = table["embedding"].cast(pa.list_(pa.float32()))
    plain = pa.table({"embedding": lists, "path": table["path"], "start_s": table["start_s"]})
    pq.write_table(plain, embeddings.with_name("plain.parquet"))
    found = Clips.read(embeddings.with_name("plain.parquet"), embedder)
    expected = Clips.read(embeddings, embedder)
    np.testing.assert_array_equal(found.directions, expected.directions)
    assert list(found.paths) == list(expected.paths) == table["path"].to_pylist()
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, atol=1e-6)


def other_network(table):
    return table.replace_schema_metadata({"relabel_jax.network": "0123"})


def other_width(table):
    rows = pa.array([[1.0, 2.0]] * len(table), pa.list_(pa.float32(), 2))
    return table.set_column(2, "embedding", rows)


def with_nan(table):
    rows = pa.array([[np.nan] * 8] * len(table), pa.list_(pa.float32(), 8))
    return table.set_column(2, "embedding", rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_network, "is of another network than --checkpoint; embed the folder again"),
        (other_width, "checkpoint, with embeddings of 8 values: "),
        (with_nan, "has a NaN or an infinity"),
        (lambda table: table.slice(0, 0), "has no rows"),
        (lambda table: table.drop_columns("start_s"), "expected a Parquet file as relabel_jax.emb"),
        (lambda table: table.set_column(0, "path", pa.nulls(8, pa.string())), "expected a Parquet"),
        (None, "expected a Parquet file"),
    ],
)
def test_embeddings_that_are_refused(embedder, embeddings, tmp_path, change, message):
    path = tmp_path / "e.parquet"
    if change is None:
        path.write_text("no table")
    else:
        pq.write_table(change(pq.read_table(embeddings)), path)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Clips.read(path, embedder)
    assert str(caught.value).startswith(f"--embeddings={path}: ")
    assert "\n" not in str(caught.value)


def test_the_nearest_window_of_each_recording(embedder, embeddings):
    clips = Clips.read(embeddings, embedder)
    table = pq.read_table(embeddings).to_pylist()
    query = np.array([table[-1]["embedding"], table[0]["embedding"]], np.float32)
    found = clips.nearest(query, 3)
    assert len({path for path, _, _ in found}) == 3
    assert {(table[i]["path"], table[i]["start_s"]) for i in (-1, 0)} == {
        (path, start_s) for path, start_s, _ in found[:2]
    }
    assert [similarity for _, _, similarity in found[:2]] == pytest.approx([1, 1], abs=1e-5)
    assert found[2][2] <= found[1][2]


def test_the_nearest_to_a_recording(embedder, embeddings):
    """The recording itself is in the folder, and is left out."""
    clips = Clips.read(embeddings, embedder)
    query = embeddings.with_name("2.wav")
    found = clips.nearest_to(query, embedder, 3)
    assert len(found) == 3
    assert str(query) not in [path for path, _, _ in found]
    copy = embeddings.with_name("copy")
    copy.write_bytes(query.read_bytes())
    path, _, similarity = clips.nearest_to(copy, embedder, 1)[0]
    assert (path, similarity) == (str(query), pytest.approx(1, abs=1e-5))


def test_a_last_window_of_padding_is_not_searched_with(embedder, embeddings):
    """The recording of 13 s has a second window of 3 s, which has a neighbour of its own."""
    clips = Clips.read(embeddings, embedder)
    long = embeddings.with_name("4.wav")
    _, windows, _ = listen(embedder, str(long))
    assert len(windows) == 2
    copy = embeddings.with_name("copy_of_4")
    copy.write_bytes(long.read_bytes())
    found = clips.nearest_to(copy, embedder, 6)
    assert found == clips.nearest(windows[:1], 6)
    assert found != clips.nearest(windows, 6)


def test_the_command(small_base, embeddings, capsys):
    arguments = [f"--checkpoint={small_base}", f"--embeddings={embeddings}", "--number=2"]
    assert main([*arguments, f"--audio={embeddings.with_name('0.wav')}"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["similarity", "start_s", "path"]
    assert len(rows) == 2
    assert all(-1 <= float(row.split()[0]) <= 1 for row in rows)
    assert main([*arguments, f"--audio={embeddings}"]) == 1
    assert capsys.readouterr().err == (
        f"error: {embeddings}: FFmpeg: Invalid data found when processing input; "
        "libsndfile: Format not recognised.\n"
    )
    assert main([*arguments, "--audio=x.wav", "--number=0"]) == 1
    assert "--number=0: expected a number of at least 1" in capsys.readouterr().err
