"""Settings and profiles as TOML files that a person wrote."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from facesieve.errors import InputError


def read_toml(path: Path, hint: str = "") -> dict[str, Any]:
    """The tables of a TOML file, UTF-8.

    Raises ``InputError`` for a file that cannot be read (with a ``hint`` at what to do) or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}{hint and '; ' + hint}") from error
    except ValueError as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
