"""Where labelled photographs come from: one folder per person, InsightFace's RecordIO, a Hugging Face data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from facesieve.data.recordio import RecordFile
from facesieve.errors import InputError, MissingExtraError, one_line
from facesieve.folders import Passed, below, folders_in, images_in
from facesieve.images import photo_bytes

LABELS = ("label", "identity", "person", "name")  # columns that say who is shown
_OF_DATASETS = ("dataset_info.json", "state.json", "dataset_dict.json")


class Source(Protocol):
    """Identities and their images, by name; bytes are read on demand."""

    @property
    def kind(self) -> str:
        """``folder``, ``recordio`` or ``datasets``."""

    def identities(self) -> Mapping[str, Sequence[str]]:
        """Each person's image refs; both in an order that never changes."""

    def read(self, ref: str) -> bytes:
        """The image file's bytes. Raises ``InputError`` if they cannot be read; it names the ref, not this machine's path."""


def open_source(path: Path, *, label: str | None = None) -> Source:
    """The source that ``path`` holds; ``label`` is the column of a Hugging Face data set that says who is shown.

    Raises ``InputError`` if it holds none, or cannot be told, and for ``label`` where there are no columns.
    """
    source = _open(path, label)
    if label is not None and not isinstance(source, DatasetSource):
        raise InputError(f"is of kind {source.kind}, which has no column {label!r}", path, "leave the label out")
    return source


def _open(path: Path, label: str | None) -> Source:
    try:
        if not path.exists():
            raise InputError("no such file or folder", path)
        records = path / "train.rec" if path.is_dir() else path
        if records.suffix == ".rec" and records.exists():
            return RecordSource(records)
        if any((path / name).exists() for name in _OF_DATASETS):
            return DatasetSource(path, label)
        if path.is_dir() and folders_in(path):
            return FolderSource(path)
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    raise InputError(
        "expected a folder with one folder per person, train.rec with train.idx, or a saved Hugging Face data set", path
    )


class FolderSource:
    """One folder per person; a ref is ``person/file``."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.passed = Passed()  # what was left out when the folders were read, by what it is

    def identities(self) -> Mapping[str, Sequence[str]]:
        """Folders and files by name. Raises ``InputError`` for a folder that cannot be listed, or a name that is no text."""
        self.passed = Passed()
        try:
            found = {folder.name: self._refs(folder) for folder in folders_in(self.root)}
            if beside := len(images_in(self.root)):
                self.passed["in no person's folder"] = beside
        except OSError as error:
            raise InputError(f"cannot be listed: {one_line(error)}", error.filename) from error
        for name in (name for person, refs in found.items() for name in (person, *refs)):
            try:
                name.encode()
            except UnicodeEncodeError as error:  # other bytes; a manifest is UTF-8 and could not hold it
                raise InputError(f"the name {name!a} is not UTF-8", self.root, "rename it") from error
        return found

    def _refs(self, folder: Path) -> list[str]:
        """A person's photographs, by name, and what looks like one: why it cannot be used is told when it is read."""
        found = below(folder)
        self.passed.include(found.passed)
        if found.troubles and found.troubles[0][0] == folder:
            raise InputError(found.troubles[0][2], folder)
        places = [place for _, place in found.files] + [place for _, place, _ in found.troubles]
        return [f"{folder.name}/{place.as_posix()}" for place in sorted(places)]

    def read(self, ref: str) -> bytes:
        """The file's bytes. Raises ``ImageError``, also for more than a photograph has."""
        return photo_bytes(self.root / ref, name=ref)


class RecordSource:
    """InsightFace's ``train.rec`` with ``train.idx``; people are labels, a ref is the record's key."""

    kind = "recordio"

    def __init__(self, path: Path) -> None:
        self.records = RecordFile(path)

    def identities(self) -> Mapping[str, Sequence[str]]:
        """Labels in order, each with its records in the order of the file."""
        found: dict[int, list[str]] = {}
        for key, label in self.records.labels():
            found.setdefault(label, []).append(str(key))
        return {f"{label:06d}": found[label] for label in sorted(found)}

    def read(self, ref: str) -> bytes:
        """The image inside the record."""
        return self.records.image(_number(ref))


class DatasetSource:
    """A Hugging Face data set that ``save_to_disk`` wrote, with an image and a label column; a ref is the row.

    The label is the column of that name, or the one of ``LABELS`` that is there: a set of faces may well have others,
    such as age or emotion, and one of those would make people of ages.
    """

    kind = "datasets"

    def __init__(self, path: Path, label: str | None = None) -> None:
        try:
            import datasets
        except ImportError as error:
            raise MissingExtraError("a Hugging Face data set", "evaluate") from error
        try:
            loaded: Any = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, TypeError) as error:  # what its parts raise for damaged files
            raise InputError(f"not a Hugging Face data set that can be read: {one_line(error)}", path) from error
        if isinstance(loaded, datasets.DatasetDict):
            raise InputError(f"holds the splits {', '.join(loaded)}", path, "give the folder of one of them")
        loaded = loaded.with_format(None)  # one that was set when it was saved may hide columns, or turn bytes into arrays
        images = [name for name, kind in loaded.features.items() if isinstance(kind, datasets.Image)]
        if len(images) != 1 or len(loaded.features) < 2:
            columns = ", ".join(loaded.features)
            raise InputError(f"expected one image and one label column, it has {columns}", path, "keep two by select_columns")
        self.path, self.image, self.label = path, images[0], label
        self.rows = loaded.cast_column(self.image, datasets.Image(decode=False))

    def identities(self) -> Mapping[str, Sequence[str]]:
        """People by name, each with their rows. Raises ``InputError`` for a row without label, and where none can be chosen."""
        column = self._label()
        kind, found = self.rows.features[column], dict[str, list[str]]()
        for row, label in enumerate(self.rows[column]):
            if label is None or label in (-1, ""):  # -1: what data sets write where a label is withheld
                raise InputError(f"row {row} has no label", self.path, "filter such rows out")
            found.setdefault(self._name(kind, label, row), []).append(str(row))
        return {name: found[name] for name in sorted(found)}

    def _label(self) -> str:
        """The column that says who is shown."""
        columns = [name for name in self.rows.features if name != self.image]
        if self.label is not None and self.label not in columns:
            raise InputError(f"has no column {self.label!r}; it has {', '.join(columns)}", self.path)
        known = [self.label] if self.label is not None else [name for name in LABELS if name in columns]
        if len(known) != 1:
            several = (
                f"the columns {', '.join(known)} may all say" if known else f"none of its columns ({', '.join(columns)}) says"
            )
            raise InputError(f"{several} who is shown", self.path, "name the one that does as the label")
        return known[0]

    def _name(self, kind: Any, label: object, row: int) -> str:
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise InputError(f"row {row} has a label that is neither a name nor a number: {label!r:.40}", self.path)
        try:
            return str(kind.int2str(label) if hasattr(kind, "int2str") and isinstance(label, int) else label)
        except ValueError as error:
            raise InputError(f"row {row} has the label {label}, which has no name", self.path) from error

    def read(self, ref: str) -> bytes:
        """The image's bytes, from the table or from the file that it names."""
        row = _number(ref)
        if row >= len(self.rows):
            raise InputError(f"row {ref} is beyond the {len(self.rows)} rows of the data set")
        entry = self.rows[row][self.image] or {"bytes": None, "path": None}
        if entry["bytes"] is not None:
            return bytes(entry["bytes"])
        try:
            return photo_bytes(Path(entry["path"]), name=ref)
        except (InputError, TypeError) as error:
            raise InputError(f"row {ref} has no image that can be read") from error


def _number(ref: str) -> int:
    if not (ref.isascii() and ref.isdigit()):
        raise InputError("not a record's or row's number; the manifest is another source's", ref)
    return int(ref)
