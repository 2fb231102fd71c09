"""What this machine is, and what was measured on it once and for all."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from pathlib import Path

from facesieve.errors import InputError
from facesieve.files import write_with_folder


def processor() -> str:
    """The processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kept(name: str) -> dict[str, float]:
    """The numbers that ``keep`` kept under ``name`` in the user's cache folder; none where it is missing or damaged."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        return {str(key): float(value) for key, value in json.loads(_file(name).read_text()).items()}
    return {}


def keep(name: str, key: str, value: float) -> None:
    """Keep a number beside the others under ``name``, where the folder can be written; else do nothing."""
    with suppress(OSError, InputError):
        write_with_folder(_file(name), json.dumps({**kept(name), key: value}, indent=1).encode())


def _file(name: str) -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("facesieve") / f"{name}.json"
