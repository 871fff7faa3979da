"""Our Parquet files as others read them."""

import io

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from data_prep import parquet

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("x", pa.float64(), nullable=False),
        pa.field("words", pa.list_(pa.string()), nullable=False),
    ]
)


def written(ids, numbers, lists, strings, list_numbers) -> bytes:
    file = io.BytesIO()
    matrix = np.zeros((len(lists), len(strings)), bool)
    for row, indices in enumerate(lists):
        matrix[row, list(indices)] = True
    parquet.write(
        file,
        [
            parquet.StringColumn("id", pa.array(ids, pa.string())),
            parquet.DoubleColumn("x", np.array(numbers, float)),
            parquet.ListColumn(
                "words", sparse.csr_array(matrix), strings, np.array(list_numbers, np.int32)
            ),
        ],
    )
    return file.getvalue()


@given(st.data())
def test_what_is_written_is_read(data):
    """Lists of all lengths over up to 700 strings: dictionary indices of 1 to 10 bits."""
    num_strings = data.draw(st.sampled_from([1, 2, 3, 9, 255, 256, 257, 700]))
    strings = [f"/m/{number}é" for number in range(num_strings)]
    index = st.integers(0, num_strings - 1)
    lists = data.draw(st.lists(st.sets(index, max_size=40), min_size=1, max_size=6))
    lists.append(set(range(num_strings)))
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=30))
    ids = data.draw(st.lists(st.text(max_size=5), min_size=len(rows), max_size=len(rows)))
    content = written(ids, np.arange(len(rows)) / 4, lists, strings, rows)

    table = pq.read_table(io.BytesIO(content))
    table.validate(full=True)
    assert table.schema.equals(SCHEMA)
    assert table["id"].to_pylist() == ids
    assert table["x"].to_pylist() == (np.arange(len(rows)) / 4).tolist()
    expected = [[strings[i] for i in sorted(lists[row])] for row in rows]
    assert table["words"].to_pylist() == expected


@pytest.mark.parametrize("num_rows", [0, 1, 7, 8, 9, 50])
def test_pages_and_groups(monkeypatch, tmp_path, num_rows):
    """Several pages and row groups, read by all three readers, whole and one column of a group."""
    monkeypatch.setattr(parquet, "_ROWS_PER_PAGE", 4)
    monkeypatch.setattr(parquet, "_ROWS_PER_GROUP", 8)
    lists = [set(), {0}, set(range(0, 600, 7)), set(range(600))]
    strings = [f"w{number}" for number in range(600)]
    rows = [row % 4 for row in range(num_rows)]
    ids = [f"clip {row}" for row in range(num_rows)]
    path = tmp_path / "x.parquet"
    path.write_bytes(written(ids, range(num_rows), lists, strings, rows))
    expected = [[strings[i] for i in sorted(lists[row])] for row in rows]

    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == -(-num_rows // 8)
    assert file.metadata.num_rows == num_rows
    assert file.read()["words"].to_pylist() == expected
    for group in range(file.metadata.num_row_groups):
        part = file.read_row_group(group, columns=["words"])
        assert part["words"].to_pylist() == expected[8 * group : 8 * group + 8]
        for column in range(3):
            chunk = file.metadata.row_group(group).column(column)
            assert chunk.compression == "ZSTD"
            assert 0 < chunk.total_compressed_size < path.stat().st_size
    frame = pd.read_parquet(path)
    assert [list(words) for words in frame["words"]] == expected
    assert frame["id"].tolist() == ids
    found = duckdb.sql(f"select id, x, words from '{path}'").fetchall()
    assert found == list(zip(ids, map(float, range(num_rows)), expected, strict=True))


def test_columns_of_different_lengths():
    with pytest.raises(ValueError, match="same number of rows"):
        written(["a"], [1.0, 2.0], [{0}], ["w"], [0])
