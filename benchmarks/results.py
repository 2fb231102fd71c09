"""Results of the benchmarks: where a figure is from, and how it is written among those that are there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facesieve.report.targets import commit


def origin(script: str, private: Mapping[str, str]) -> dict[str, str]:
    """The command and the commit of this run; words that are ``private`` to this machine are replaced."""
    words = [private.get(word, word) for word in sys.argv[1:]]
    return {"command": " ".join([f"python benchmarks/{script}", *words]), "commit": commit()}


def write(path: Path, new: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """Entries of the same keys are replaced; all others stay."""
    old = json.loads(path.read_text()) if path.exists() else []
    taken = {tuple(entry[key] for key in keys) for entry in new}
    kept = [entry for entry in old if tuple(entry[key] for key in keys) not in taken]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept + new, indent=1, ensure_ascii=False) + "\n")
