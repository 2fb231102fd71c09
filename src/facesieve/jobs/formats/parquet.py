"""Parquet files with the bytes of an image in each row.

The image is a column of bytes, or a structure ``{bytes, path}`` as Hugging Face writes it. Purified,
its bytes are those of a PNG; the column ``facesieve`` is added, with the record of each row in JSON.
All other columns, and the file's metadata, are kept, but for pictures in columns where nobody would look for them (lists, text
in base64): they are failures.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from facesieve.errors import AmbiguousImageError, InputError, MissingExtraError, one_line
from facesieve.folders import begins_as_image
from facesieve.jobs.formats import FORMATS, Sample, ShardFormat, Writer
from facesieve.kinds import HEAD

RECORD = "facesieve"
SMALL = 2**26  # bytes of a file whose columns are read as a whole
ROWS, BYTES = 1000, 2**26  # of a row group that is written; it is held in memory until it is full


def read(source: Path, column: str | None) -> Iterator[Sample]:
    """The rows of a Parquet file, by number from 0; ``column`` holds the images.

    Raises ``InputError`` for a damaged file, and where it is not clear which column holds the images;
    ``MissingExtraError`` without pyarrow.
    """
    pa = _arrow()
    with _opened(source) as file:
        number = 0
        try:
            name, schema = _image_column(source, file.schema_arrow, column), file.schema_arrow
            others = {field.name: _holds_bytes(field.type) for field in schema if field.name != name and _may_hold(field.type)}
            for batch in file.iter_batches(batch_size=16):
                for row in range(len(batch)):
                    yield _sample(number, batch.slice(row, 1), name, others)
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a text that is none
            raise InputError(f"damaged after {number:,} rows ({one_line(error)})", source, "copy it again") from error


def _arrow() -> Any:
    """pyarrow with its Parquet: slow to import, and it comes with an extra."""
    try:
        import pyarrow.parquet
    except ImportError as missing:
        raise MissingExtraError("a Parquet shard", "parquet") from missing
    return pyarrow


def _sample(number: int, row: Any, name: str, others: Mapping[str, bool]) -> Sample:
    """A row. ``others`` are the other columns that may hold pictures, and whether one of them could have been chosen."""
    value = row.column(name)[0].as_py()
    image = value["bytes"] if isinstance(value, dict) else value
    problem = InputError(f"no bytes of an image in {name}", f"row {number}") if image is None else None
    held = [other for other in others if _pictures(row.column(other)[0].as_py())]
    hidden = tuple(other for other in held if not others[other])
    bare = row
    for other in hidden:
        bare = _with(bare, other, _without_pictures(row.column(other)[0].as_py()))
    return Sample(str(number), image, problem, row, bare, hidden, tuple(other for other in held if others[other]))


def _pictures(value: object) -> bool:
    """Whether a value of any depth holds a picture: bytes that begin as one, or such bytes in base64, also as a data URI."""
    if isinstance(value, dict | list | tuple):
        return any(map(_pictures, value.values() if isinstance(value, dict) else value))
    if isinstance(value, str):
        text = value.partition(";base64,")[2] if value.startswith("data:") else value
        if text.startswith("/wo"):  # two bytes of JPEG XL, but more often a path
            return False
        try:
            value = base64.b64decode(text.strip()[: HEAD // 3 * 4].replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            return False
    return isinstance(value, bytes) and begins_as_image(value[:HEAD])


def _without_pictures(value: Any) -> Any:
    """The same with nothing in the place of each picture."""
    if isinstance(value, dict):
        return {key: _without_pictures(part) for key, part in value.items()}
    if isinstance(value, list | tuple):  # a map is a list of pairs
        return type(value)(map(_without_pictures, value))
    return type(value)() if _pictures(value) else value


def _with(row: Any, name: str, value: Any) -> Any:
    """A row of one with another value in a column."""
    pa, index = _arrow(), row.schema.get_field_index(name)
    columns = [pa.array([value], row.schema.field(n).type) if n == index else row.column(n) for n in range(row.num_columns)]
    return pa.RecordBatch.from_arrays(columns, schema=row.schema)


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    pa = _arrow()
    try:
        # A row group may be larger than memory: its pages are read as they are needed. In a small file not, since
        # memory is then taken for a page as large as it claims to be, which may be a lie.
        buffer = 2**20 if source.stat().st_size > SMALL else 0
        file = pa.parquet.ParquetFile(source, buffer_size=buffer, pre_buffer=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a Parquet file, or a damaged one ({one_line(error)})", source, "copy it again") from error
    with file:
        yield file


def _image_column(source: Path, schema: Any, column: str | None) -> str:
    if RECORD in schema.names:
        raise InputError(f"has a column {RECORD} already; this shard is a result of facesieve", source)
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if column is not None:
        if column not in found:
            raise InputError(f"no column {column!r} of bytes; there are {', '.join(found) or 'none'}", source)
        return column
    if len(found) != 1:
        if not found:
            raise InputError("one column of image bytes is expected, there are none", source)
        raise AmbiguousImageError(f"one column of image bytes is expected, there are {', '.join(found)}", source)
    return str(found[0])


def _may_hold(kind: Any) -> bool:
    """Whether values of this type may hold bytes or text at any depth."""
    types = _arrow().types
    if types.is_dictionary(kind):
        return _may_hold(kind.value_type)
    if kind.num_fields:
        return any(_may_hold(kind.field(number).type) for number in range(kind.num_fields))
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    )


def _holds_bytes(kind: Any) -> bool:
    pa = _arrow()
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@contextmanager
def writer(file: BinaryIO, source: Path, column: str | None) -> Iterator[Writer]:
    """A writer of a Parquet file with the columns of ``source`` into ``file``."""
    pa = _arrow()
    with _opened(source) as like:
        schema, name = like.schema_arrow, _image_column(source, like.schema_arrow, column)
    with pa.parquet.ParquetWriter(file, schema.append(pa.field(RECORD, pa.string()))) as inner:
        rows = _ParquetWriter(inner, schema, name)
        yield rows
        rows.flush()


class _ParquetWriter:
    def __init__(self, inner: Any, schema: Any, name: str) -> None:
        self._inner, self._schema, self._name = inner, schema, name
        self._rows: list[Any] = []
        self._records: list[str | None] = []
        self._bytes = 0

    def write(self, sample: Sample, png: bytes | None, record: dict[str, Any] | None) -> None:
        row = sample.rest if png is None else self._replaced(sample.rest, png)
        self._rows.append(row)
        self._records.append(None if record is None else json.dumps(record))
        self._bytes += len(png or sample.image or b"")
        if len(self._rows) >= ROWS or self._bytes >= BYTES:
            self.flush()

    def _replaced(self, row: Any, png: bytes) -> Any:
        value = row.column(self._name)[0].as_py()
        return _with(row, self._name, {**value, "bytes": png} if isinstance(value, dict) else png)

    def flush(self) -> None:
        """Write the waiting rows as a row group."""
        if self._rows:
            pa = _arrow()
            table = pa.Table.from_batches(self._rows, schema=self._schema)
            table = table.append_column(pa.field(RECORD, pa.string()), pa.array(self._records, pa.string()))
            self._inner.write_table(table.cast(self._inner.schema), row_group_size=len(self._rows))
        self._rows, self._records, self._bytes = [], [], 0


FORMATS.register(".parquet", ShardFormat(read, writer))
