"""A Parquet writer for lists of which few are distinct.

The masked labels of AudioSet are 132 million strings, but in only 56,000 different lists. A
general writer (pyarrow's takes 2 to 5 s) encodes each string; here each *different list* is encoded
once, to bytes that can stand anywhere in a page, and a page is a gather of such bytes. This works
because Parquet's run-length/bit-packing hybrid lets every run end at a byte: a list of k elements
becomes runs of repetition and definition levels, and its dictionary indices become one bit-packed
run of 8 * (k // 8) values and k % 8 runs of a single value.

Written by the Parquet format's own documents (apache/parquet-format: README.md, Encodings.md,
parquet.thrift) and read back in the tests by pyarrow, pandas and DuckDB: one file, zstd, data pages
version 1, required columns of strings, float64 and lists of strings.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

_ROWS_PER_PAGE = 1 << 14
_ROWS_PER_GROUP = 1 << 18  # a reader holds one group at a time: 17 M masked labels of all AudioSet

# parquet.thrift: the values of its enums that occur here.
_DOUBLE, _BYTE_ARRAY = 5, 6  # Type
_REQUIRED, _OPTIONAL, _REPEATED = 0, 1, 2  # FieldRepetitionType
_UTF8, _LIST = 0, 3  # ConvertedType
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8  # Encoding
_ZSTD = 6  # CompressionCodec
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2  # PageType


class StringColumn:
    """A required string column.

    Args:
      name: the column's name.
      values: string array [rows].
    """

    path: tuple[str, ...]
    parquet_type = _BYTE_ARRAY
    encodings = (_PLAIN,)
    dictionary_pages: Sequence["_Page"] = ()

    def __init__(self, name: str, values: pa.Array):
        self.path = (name,)
        self._values = values.cast(pa.binary())

    def __len__(self) -> int:
        return len(self._values)

    def schema(self) -> list[bytes]:
        return [
            _struct(
                _i32(1, _BYTE_ARRAY),
                _i32(3, _REQUIRED),
                _binary(4, self.path[0]),
                _i32(6, _UTF8),
                _nested(10, _struct(_nested(1, _struct()))),
            )
        ]

    def page(self, rows: slice) -> tuple[int, bytes | memoryview]:
        """The number of values and the body of a data page."""
        values = self._values[rows]
        return len(values), _plain_strings(values)


class DoubleColumn:
    """A required float64 column.

    Args:
      name: the column's name.
      values: float64[rows].
    """

    parquet_type = _DOUBLE
    encodings = (_PLAIN,)
    dictionary_pages: Sequence["_Page"] = ()

    def __init__(self, name: str, values: np.ndarray):
        self.path = (name,)
        self._values = values.astype("<f8", copy=False)

    def __len__(self) -> int:
        return len(self._values)

    def schema(self) -> list[bytes]:
        return [_struct(_i32(1, _DOUBLE), _i32(3, _REQUIRED), _binary(4, self.path[0]))]

    def page(self, rows: slice) -> tuple[int, bytes | memoryview]:
        """The number of values and the body of a data page."""
        values = self._values[rows]
        return len(values), memoryview(values).cast("B")


class ListColumn:
    """A required column of lists of strings, each row one of a few distinct lists.

    Args:
      name: the column's name.
      lists: bool[lists, strings], sparse, with sorted indices: the strings of each distinct list.
      strings: the strings, at least one.
      list_numbers: int32[rows], the row in `lists` of each row of the column.
    """

    parquet_type = _BYTE_ARRAY
    encodings = (_PLAIN, _RLE, _RLE_DICTIONARY)

    def __init__(
        self,
        name: str,
        lists: sparse.csr_array,
        strings: Sequence[str],
        list_numbers: np.ndarray,
    ):
        self.path = (name, "list", "element")
        dictionary = _plain_strings(pa.array(strings, pa.string()).cast(pa.binary()))
        header = _nested(7, _struct(_i32(1, len(strings)), _i32(2, _PLAIN)))
        self.dictionary_pages = [
            _compressed_page(dictionary, len(strings), _DICTIONARY_PAGE, header)
        ]
        self._list_numbers = pa.array(list_numbers)
        self._lengths = np.diff(lists.indptr)
        self._bit_width = max(1, (len(strings) - 1).bit_length())
        self._repetition, self._definition, self._indices = _encoded_lists(lists, self._bit_width)

    def __len__(self) -> int:
        return len(self._list_numbers)

    def schema(self) -> list[bytes]:
        name, repeated, element = self.path
        return [
            _struct(
                _i32(3, _REQUIRED),
                _binary(4, name),
                _i32(5, 1),
                _i32(6, _LIST),
                _nested(10, _struct(_nested(3, _struct()))),
            ),
            _struct(_i32(3, _REPEATED), _binary(4, repeated), _i32(5, 1)),
            _struct(
                _i32(1, _BYTE_ARRAY),
                _i32(3, _OPTIONAL),
                _binary(4, element),
                _i32(6, _UTF8),
                _nested(10, _struct(_nested(1, _struct()))),
            ),
        ]

    def page(self, rows: slice) -> tuple[int, bytes | memoryview]:
        """The number of values (an empty list counts as one) and the body of a data page."""
        numbers = self._list_numbers[rows]
        num_values = np.maximum(self._lengths[np.asarray(numbers)], 1).sum()
        repetition = joined_bytes(self._repetition.take(numbers))
        definition = joined_bytes(self._definition.take(numbers))
        body = b"".join(
            (
                len(repetition).to_bytes(4, "little"),
                repetition,
                len(definition).to_bytes(4, "little"),
                definition,
                self._bit_width.to_bytes(1, "little"),
                joined_bytes(self._indices.take(numbers)),
            )
        )
        return int(num_values), body


Column = StringColumn | DoubleColumn | ListColumn


def write(file: BinaryIO, columns: Sequence[Column]) -> None:
    """Writes columns of one length as a Parquet file."""
    num_rows = len(columns[0])
    if any(len(column) != num_rows for column in columns):
        raise ValueError("columns: expected the same number of rows in all")
    offset = file.write(b"PAR1")
    groups = []
    with ThreadPoolExecutor(2) as pool:
        starts = range(0, num_rows, _ROWS_PER_GROUP)
        jobs = [
            (column, slice(page, min(page + _ROWS_PER_PAGE, start + _ROWS_PER_GROUP, num_rows)))
            for start in starts
            for column in columns
            for page in range(start, min(start + _ROWS_PER_GROUP, num_rows), _ROWS_PER_PAGE)
        ]
        pages: Iterator[_Page] = pool.map(lambda job: _data_page(*job), jobs)
        for start in starts:
            rows = min(_ROWS_PER_GROUP, num_rows - start)
            chunks = []
            for column in columns:
                chunk = list(itertools.islice(pages, -(-rows // _ROWS_PER_PAGE)))
                chunks.append(_write_chunk(file, column, chunk, offset))
                offset = chunks[-1].end
            groups.append(
                _struct(
                    _list(1, _STRUCT, [chunk.metadata for chunk in chunks]),
                    _i64(2, sum(chunk.num_bytes for chunk in chunks)),
                    _i64(3, rows),
                )
            )
    root = _struct(_binary(4, "schema"), _i32(5, len(columns)))
    footer = _struct(
        _i32(1, 2),
        _list(2, _STRUCT, [root, *itertools.chain(*(column.schema() for column in columns))]),
        _i64(3, num_rows),
        _list(4, _STRUCT, groups),
        _binary(6, "relabel_jax"),
    )
    file.write(footer + len(footer).to_bytes(4, "little") + b"PAR1")


@dataclasses.dataclass(frozen=True)
class _Page:
    content: bytes  # header and compressed body
    num_values: int
    num_bytes: int  # before compression, with the header


@dataclasses.dataclass(frozen=True)
class _Chunk:
    metadata: bytes
    num_bytes: int
    end: int  # offset in the file behind it


def _data_page(column: Column, rows: slice) -> _Page:
    num_values, body = column.page(rows)
    encoding = column.encodings[-1]
    levels = (_i32(3, _RLE), _i32(4, _RLE))
    header = _nested(5, _struct(_i32(1, num_values), _i32(2, encoding), *levels))
    return _compressed_page(body, num_values, _DATA_PAGE, header)


def _compressed_page(
    body: bytes | memoryview, num_values: int, page_type: int, header: "_Field"
) -> _Page:
    compressed = pa.Codec("zstd", compression_level=1).compress(body, asbytes=True)
    sizes = (_i32(2, len(body)), _i32(3, len(compressed)))
    encoded_header = _struct(_i32(1, page_type), *sizes, header)
    return _Page(encoded_header + compressed, num_values, len(encoded_header) + len(body))


def _write_chunk(file: BinaryIO, column: Column, pages: Sequence[_Page], offset: int) -> _Chunk:
    dictionary = column.dictionary_pages
    for page in (*dictionary, *pages):
        file.write(page.content)
    compressed = sum(len(page.content) for page in (*dictionary, *pages))
    num_bytes = sum(page.num_bytes for page in (*dictionary, *pages))
    fields = [
        _i32(1, column.parquet_type),
        _list(2, _I32, [_zigzag(encoding) for encoding in column.encodings]),
        _list(3, _BINARY, [_string(name) for name in column.path]),
        _i32(4, _ZSTD),
        _i64(5, sum(page.num_values for page in pages)),
        _i64(6, num_bytes),
        _i64(7, compressed),
        _i64(9, offset + sum(len(page.content) for page in dictionary)),
    ]
    if dictionary:
        fields.append(_i64(11, offset))
    metadata = _struct(_i64(2, offset), _nested(3, _struct(*fields)))
    return _Chunk(metadata, num_bytes, offset + compressed)


# Encodings.


def _plain_strings(values: pa.Array) -> memoryview:
    """Encoding PLAIN: each string behind its length as 4 bytes."""
    lengths = np.asarray(pc.binary_length(values)).astype("<i4")
    prefixes = pa.Array.from_buffers(pa.binary(4), len(lengths), [None, pa.py_buffer(lengths)])
    return joined_bytes(pc.binary_join_element_wise(prefixes.cast(pa.binary()), values, b""))


def _encoded_lists(lists: sparse.csr_array, bit_width: int) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Repetition levels, definition levels and dictionary indices: binary arrays [lists].

    All lists of one length have the same layout, so the work goes length by length.
    """
    lengths = np.diff(lists.indptr)
    different, length_number = np.unique(lengths, return_inverse=True)
    # A list is optional elements (definition 2: there, 1: null) below a repeated group that an
    # empty list lacks (0). The first element of a row has repetition 0, the others 1.
    repetition = [_run(1, 0) + _run(max(k - 1, 0), 1) for k in different.tolist()]
    definition = [_run(k, 2) if k else _run(1, 0) for k in different.tolist()]

    widths = np.array([len(_index_header(k)) for k in different.tolist()])
    widths = widths + different // 8 * bit_width + 3 * (different % 8)
    if bit_width <= 8:
        widths -= different % 8
    ends = np.cumsum(widths[length_number])
    starts = ends - widths[length_number]
    content = np.empty(ends[-1] if len(ends) else 0, np.uint8)
    for number, k in enumerate(different.tolist()):
        rows = np.flatnonzero(length_number == number)
        indices = lists.indices[lists.indptr[rows, None] + np.arange(k)].astype("<u2")
        packed = k // 8 * 8
        bits = np.unpackbits(indices[:, :packed].view(np.uint8), axis=1, bitorder="little")
        bits = bits.reshape(len(rows), packed, 16)[:, :, :bit_width].reshape(len(rows), -1)
        header = np.frombuffer(_index_header(k), np.uint8)
        single = np.full((len(rows), k - packed, 1), 1 << 1, np.uint8)
        value = indices[:, packed:, None].view(np.uint8)[:, :, : -(-bit_width // 8)]
        encoded = (
            np.broadcast_to(header, (len(rows), len(header))),
            np.packbits(bits, axis=1, bitorder="little"),
            np.concatenate([single, value], axis=2).reshape(len(rows), -1),
        )
        content[starts[rows, None] + np.arange(widths[number])] = np.concatenate(encoded, axis=1)
    offsets = np.append(0, ends).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    by_length = pa.array(length_number)
    return (
        pa.array(repetition, pa.binary()).take(by_length),
        pa.array(definition, pa.binary()).take(by_length),
        pa.Array.from_buffers(pa.binary(), len(lengths), buffers),
    )


def _run(count: int, level: int) -> bytes:
    """A run of one level; no level here needs more than a byte."""
    return _varint(count << 1) + bytes([level]) if count else b""


def _index_header(num_indices: int) -> bytes:
    """What stands before the bit-packed groups of eight."""
    return _varint(num_indices // 8 << 1 | 1) if num_indices >= 8 else b""


# Thrift's compact protocol, as far as Parquet's footer and page headers need it.

_I32, _I64, _BINARY, _LIST_TYPE, _STRUCT = 5, 6, 8, 9, 12
_Field = tuple[int, int, bytes]  # id, type, encoded value


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1)  # nothing here is negative


def _string(text: str) -> bytes:
    return _varint(len(text.encode())) + text.encode()


def _i32(field: int, number: int) -> _Field:
    return field, _I32, _zigzag(number)


def _i64(field: int, number: int) -> _Field:
    return field, _I64, _zigzag(number)


def _binary(field: int, text: str) -> _Field:
    return field, _BINARY, _string(text)


def _nested(field: int, struct: bytes) -> _Field:
    return field, _STRUCT, struct


def _list(field: int, kind: int, elements: Iterable[bytes]) -> _Field:
    elements = list(elements)
    size = bytes([len(elements) << 4 | kind]) if len(elements) < 15 else bytes([0xF0 | kind])
    if len(elements) >= 15:
        size += _varint(len(elements))
    return field, _LIST_TYPE, size + b"".join(elements)


def _struct(*fields: _Field) -> bytes:
    encoded, last = bytearray(), 0
    for field, kind, value in fields:
        encoded.append((field - last) << 4 | kind)
        encoded += value
        last = field
    return bytes(encoded) + b"\0"


def joined_bytes(values: pa.Array) -> memoryview:
    """The bytes of all values of a string or binary array, one behind the other."""
    _, offsets, content = values.buffers()
    start, end = np.frombuffer(offsets, np.int32)[[values.offset, values.offset + len(values)]]
    return memoryview(content or b"")[start:end]
