"""Parquet files with the bytes of an image in each row.

The image is a column of bytes, or a structure ``{bytes, path}`` as Hugging Face writes it. Purified,
its bytes are those of a PNG; the column ``facesieve`` is added, with the record of each row in JSON.
All other columns, and the file's metadata, are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from facesieve.errors import AmbiguousImageError, InputError, MissingExtraError, one_line
from facesieve.jobs.formats import FORMATS, Sample, ShardFormat, Writer

RECORD = "facesieve"
ROWS, BYTES = 1000, 2**26  # of a row group that is written; it is held in memory until it is full


def read(source: Path, column: str | None) -> Iterator[Sample]:
    """The rows of a Parquet file, by number from 0; ``column`` holds the images.

    Raises ``InputError`` for a damaged file, and where it is not clear which column holds the images;
    ``MissingExtraError`` without pyarrow.
    """
    pa = _arrow()
    with _opened(source) as file:
        name = _image_column(source, file.schema_arrow, column)
        number = 0
        try:
            for batch in file.iter_batches(batch_size=16):
                for row in range(len(batch)):
                    yield _sample(number, batch.slice(row, 1), name)
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"damaged after {number:,} rows ({one_line(error)})", source, "copy it again") from error


def _arrow() -> Any:
    """pyarrow with its Parquet: slow to import, and it comes with an extra."""
    try:
        import pyarrow.parquet
    except ImportError as missing:
        raise MissingExtraError("a Parquet shard", "parquet") from missing
    return pyarrow


def _sample(number: int, row: Any, name: str) -> Sample:
    value = row.column(name)[0].as_py()
    image = value["bytes"] if isinstance(value, dict) else value
    problem = InputError(f"no bytes of an image in {name}", f"row {number}") if image is None else None
    return Sample(str(number), image, problem, row)


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    pa = _arrow()
    try:
        # A row group may be larger than memory: its pages are read as they are needed.
        file = pa.parquet.ParquetFile(source, buffer_size=2**20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
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
        index = self._schema.get_field_index(self._name)
        pa, kind = _arrow(), self._schema.field(index).type
        value = {**row.column(index)[0].as_py(), "bytes": png} if pa.types.is_struct(kind) else png
        columns = [pa.array([value], kind) if n == index else row.column(n) for n in range(row.num_columns)]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def flush(self) -> None:
        """Write the waiting rows as a row group."""
        if self._rows:
            pa = _arrow()
            table = pa.Table.from_batches(self._rows, schema=self._schema)
            table = table.append_column(pa.field(RECORD, pa.string()), pa.array(self._records, pa.string()))
            self._inner.write_table(table.cast(self._inner.schema), row_group_size=len(self._rows))
        self._rows, self._records, self._bytes = [], [], 0


FORMATS.register(".parquet", ShardFormat(read, writer))
