"""Files on disk: written atomically, hashed, and TOML that a person wrote."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from facesieve.errors import InputError, one_line

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydantic import ValidationError


# --- writing -----------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically: after a crash, or for a reader, there is either the old file or the new one.

    Raises ``InputError`` where it cannot be written; the old file is then as it was.
    """
    try:
        target = path.resolve()  # a link stays a link, to a new file
        if target.exists() and not target.is_file():
            raise OSError("it is not a regular file")  # replacing /dev/null would harm more than this program
        with draft(target) as (file, _):
            file.write(data)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in the path; RuntimeError: links in a ring
        raise InputError(f"cannot be written ({one_line(error, limit=120)})", path, "choose another place") from error


def write_with_folder(path: Path, data: bytes) -> None:
    """As ``write_atomic``, in a folder that is made if it is missing. Raises ``InputError``."""
    make_folder(path.parent)
    write_atomic(path, data)


def make_folder(path: Path) -> Path:
    """The folder, made with its parents if it is missing. Raises ``InputError``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made: {one_line(error)}", path, "make room or choose another folder") from error
    return path


def check_folder(path: Path) -> None:
    """Before the work: raises ``InputError`` where a folder, there or to be made, cannot take files. Nothing is made."""
    try:
        place = next(place for place in (path, *path.absolute().parents) if place.exists() or place.is_symlink())
        if not place.is_dir():
            raise OSError(f"{place} is no folder" if place != path else "it is no folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise OSError("it may not be written to")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"results cannot go there ({one_line(error)})", path, "choose another folder") from error


def identity_of(path: Path) -> tuple[int, int] | None:
    """The file or folder that a path leads to, whatever it is called; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def draft(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file next to ``target``, open for writing, and its path: it takes the name at the end; on any error it is removed."""
    # Opened as any new file is, so that it gets the permissions of one; tempfile's are the owner's alone.
    part = target.with_name(f".{_stem(target)}.{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file, part
            _settle(file, part, target)
    finally:
        part.unlink(missing_ok=True)  # still there where an error came first


def _settle(file: BinaryIO, part: Path, target: Path) -> None:
    """Flush a draft to disk, then give it the name: after a crash, or for a reader, there is either the old file or the new."""
    file.flush()
    os.fsync(file.fileno())
    part.replace(target)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows, where a folder cannot be opened
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name, too, survives a power cut
        finally:
            os.close(folder)


def remove_drafts(target: Path) -> None:
    """Remove what killed runs left of ``target``."""
    for part in target.parent.glob(f".{_escaped(_stem(target))}.*.part"):
        part.unlink(missing_ok=True)


def _stem(target: Path) -> str:
    """The name that drafts of ``target`` begin with; shortened, as a file system limits the length of names."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= 200 else sha256_of(name)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


# --- hashing -----------------------------------------------------------------------------------------


def sha256_of(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_pixels(values: NDArray[Any]) -> str:
    """The SHA-256 of an array's shape and values, in hexadecimal."""
    return sha256_of(repr(values.shape).encode() + values.tobytes())


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(plain: object) -> str:
    """The SHA-256 of plain data (dicts, lists, text, numbers), whatever the order of keys."""
    return sha256_of(json.dumps(plain, sort_keys=True).encode())


LARGEST_TOML = 2**20  # bytes

# --- settings ----------------------------------------------------------------------------------------


def read_toml(path: Path, error_type: type[InputError] = InputError) -> dict[str, Any]:
    """The tables of a TOML file, UTF-8. Raises ``error_type`` for a file that cannot be read or is not TOML, or too large."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TOML + 1)
        if len(data) > LARGEST_TOML:
            raise error_type(f"larger than {LARGEST_TOML:,} bytes, which no settings are", path)
        return tomllib.loads(data.decode())
    except OSError as error:
        raise error_type(f"cannot be read: {one_line(error)}", path) from error
    except RecursionError as error:
        raise error_type("not a TOML file: nested too deeply", path) from error
    except ValueError as error:
        raise error_type(f"not a TOML file: {one_line(error)}", path) from error


def first_problem(error: ValidationError, *, count_from: int = 1) -> tuple[str, str]:
    """The first of pydantic's findings: its place, such as ``attacks.2.eps``, or "", and what is wrong.

    People count tables from 1, programs the lists in a JSON file from 0.
    """
    first = error.errors(include_url=False)[0]
    # pydantic puts the kinds of a union into the place, such as float or tuple[...]: they are no keys of the user's.
    kinds = {"bool", "int", "float", "str", "none"}
    parts = [part for part in first["loc"] if isinstance(part, int) or not ("[" in part or part in kinds)]
    place = ".".join(str(part + count_from) if isinstance(part, int) else part for part in parts)
    if first["type"] == "extra_forbidden":
        return place, "unknown key"
    return place, first["msg"].removeprefix("Value error, ")
