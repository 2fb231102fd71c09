"""API keys: each has a name and scopes; the file holds hashes, never a key.

A key is ``fs_`` and 256 random bits, so SHA-256 without a salt is enough: there is nothing to
guess. The file is reread when it changes.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from facesieve.errors import FacesieveError, InputError, one_line
from facesieve.files import sha256_of, write_atomic

Scope = Literal["purify", "identify", "gallery"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class KeysFailedError(FacesieveError):
    """The file of keys cannot be read any more, so that nobody can be let in."""


@dataclass(frozen=True)
class Key:
    """What the file holds of a key."""

    name: str
    scopes: tuple[str, ...]
    sha256: str  # of the key, hexadecimal


class Keys:
    """The keys in a file. Raises ``InputError`` where it is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: list[Key] = []
        self.all()

    def all(self) -> list[Key]:
        """Every key, as the file is now."""
        try:
            about = self._path.stat()
        except OSError as error:
            raise InputError("no file of keys", self._path, "make one by `facesieve serve keys add NAME`") from error
        if (stamp := (about.st_mtime_ns, about.st_ino)) != self._stamp:
            self._keys, self._stamp = read_keys(self._path), stamp
        return self._keys

    def find(self, key: str) -> Key | None:
        """The key's entry, or None; takes the same time whichever it is. Raises ``KeysFailedError``: no caller's mistake."""
        digest = hash_of(key)
        found = None
        try:
            entries = self.all()
        except InputError as error:
            raise KeysFailedError(error.what, error.where, error.advice) from error
        for entry in entries:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return found


def hash_of(key: str) -> str:
    """SHA-256, hexadecimal."""
    return sha256_of(key.encode("utf-8", "surrogateescape"))


def read_keys(path: Path) -> list[Key]:
    """The keys in a file; none if there is no file. Raises ``InputError`` for a damaged one."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["keys"]
        return [Key(str(entry["name"]), tuple(entry["scopes"]), str(entry["sha256"])) for entry in entries]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("not a file of keys, or damaged", path, "restore it from a copy or make a new one") from error


def add_key(path: Path, name: str, scopes: Iterable[str]) -> str:
    """A new key, which is nowhere else: the file holds its hash. Raises ``InputError`` for a name that is taken."""
    wanted, known = tuple(dict.fromkeys(scopes)), read_keys(path)
    if not name.strip() or not wanted or set(wanted) - set(SCOPES):
        raise InputError(f"a key needs a name and scopes among {', '.join(SCOPES)}")
    if any(entry.name == name for entry in known):
        raise InputError(f"there is a key called {name} already", path, "remove it first, or take another name")
    key = "fs_" + secrets.token_urlsafe(32)
    _write(path, [*known, Key(name, wanted, hash_of(key))])
    return key


def remove_key(path: Path, name: str) -> None:
    """Make a key useless, at once. Raises ``InputError`` for an unknown name."""
    known = read_keys(path)
    if all(entry.name != name for entry in known):
        raise InputError(f"there is no key called {name}", path, "`facesieve serve keys list` shows them")
    _write(path, [entry for entry in known if entry.name != name])


def _write(path: Path, keys: list[Key]) -> None:
    write_atomic(path, (json.dumps({"keys": [asdict(key) for key in keys]}, indent=1) + "\n").encode())
    path.chmod(0o600)
