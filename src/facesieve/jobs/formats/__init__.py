"""What a shard is made of, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True, eq=False)
class Sample:
    """One photograph with whatever is beside it in its shard.

    ``key`` names it within the shard. ``image`` holds the bytes of its file, or None; then ``problem``
    says why. Without a key it is no sample, and is passed on as it is. ``rest`` is what its format
    needs to write it again.
    """

    key: str
    image: bytes | None
    problem: str
    rest: Any


class Writer(Protocol):
    """Writes the samples of one shard, in the order in which they are read."""

    def write(self, sample: Sample, png: bytes | None, record: dict[str, Any] | None) -> None:
        """Write ``sample`` with the purified ``png`` in the place of its image, or as it was if None; and its record, if any."""


class Format(Protocol):
    """Reads and writes shards of one kind. Both raise ``InputError`` for a file that is not one, or that is damaged."""

    def read(self, source: Path, column: str | None) -> Iterator[Sample]:
        """The samples of a shard, one after the other; ``column`` names the image, None finds it."""

    def writer(self, file: BinaryIO, source: Path, column: str | None) -> AbstractContextManager[Writer]:
        """A writer of a shard like ``source`` into an open file; the shard is complete when the context is left."""
