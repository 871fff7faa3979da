"""CSV files with a header line, such as `clip_id,path` or `clip_id,split`."""

import io
import pathlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from relabel_jax.errors import InputError
from relabel_jax.labels.ast_json import is_json, read_ast_json
from relabel_jax.labels.text_files import read_text

_DELIMITERS = ",;\t"


def read_columns(
    path: str | pathlib.Path, value_column: str, key_column: str = "clip_id"
) -> dict[str, str]:
    """Reads two columns of a CSV with a header line as a dict.

    Semicolons or tabs may separate the columns. A JSON of AST has the columns `clip_id` and `path`.

    Raises:
      InputError: the file cannot be read, lacks a column, or repeats a key.
    """
    path = pathlib.Path(path)
    names = (key_column, value_column)
    table = read_ast_json(path, "paths") if is_json(path) else _read_csv(path, names)
    for name in names:
        if name not in table.column_names:
            raise InputError(
                f"{path}: no column {name!r} (found {', '.join(table.column_names)}); expected a "
                f"header line with the columns {' and '.join(names)}"
            )
    counts = pc.value_counts(table[key_column])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InputError(
            f"{path}: {len(twice)} clips occur more than once, the first is {twice[0].as_py()!r}; "
            "expected one row a clip; remove the duplicate rows"
        )
    return dict(zip(*(table[name].to_pylist() for name in names), strict=True))


def _read_csv(path: pathlib.Path, names: tuple[str, str]) -> pa.Table:
    """The table of a CSV, whose columns of these names are strings."""
    text = read_text(path, "CSV")
    header = text[: text.find("\n") + 1]
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        table = pa.csv.read_csv(
            io.BytesIO(text.encode()),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        first_line = str(error).partition("\n")[0]
        raise InputError(f"{path}: cannot read it as a CSV: {first_line}") from error
    return table.rename_columns([name.strip() for name in table.column_names])
