"""The commands that ``full_disk.py`` runs beside those of ``kill_kinds.py``: they end too soon to be killed at many moments."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from kill_kinds import Kind, Tree, enrolled, experiment, files, in_fork
from kills import begin, ended

RESULTS = Path(__file__).parent.parent / "docs" / "results"
RECORDS = [str(RESULTS / f"evaluation-{name}.json") for name in ("worst-case-dlib", "oblivious-sface", "sface-adaptive")]


def one_file(out: Path) -> Tree:
    """What is written as one file."""
    return {out.name: out.read_bytes()} if out.is_file() else {}


def keys(out: Path) -> Tree:
    """The names in a file of keys."""
    return {entry["name"]: b"" for entry in json.loads(out.read_text())["keys"]} if out.exists() else {}


def nothing(folder: Path) -> None:
    """No inputs."""
    folder.mkdir(parents=True, exist_ok=True)


def gallery(folder: Path) -> None:
    """A gallery of 40 people of five templates each."""
    from facesieve.galleries import create_gallery

    def fill() -> Tree:
        draws = np.random.default_rng(0)
        made = create_gallery(str(folder / "gallery"), embedder="sface", dimensions=128)
        rows = draws.normal(size=(40, 5, 128)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        made.enrol_all({f"person {number}": {"raw": own} for number, own in enumerate(rows)})
        made.close()
        return {"made": b""}

    folder.mkdir(parents=True, exist_ok=True)
    in_fork(fill)


def selected(folder: Path) -> None:
    """People, and a manifest that selects from them."""
    experiment(folder)
    if ended(begin(_select(folder, folder / "manifest.json"), folder / "log")):
        raise SystemExit((folder / "log").read_text())


def _select(inputs: Path, out: Path) -> list[str]:
    counts = ["--minimum", "3", "--people", "4", "--train", "2", "--test", "1"]
    return ["data", "select", str(inputs / "people"), "-o", str(out), *counts]


def _certify(inputs: Path, out: Path) -> list[str]:
    few = ["--sigma", "0.1", "--draws", "4", "--templates", "2", "--probes", "2"]
    return ["certify", "--source", str(inputs / "people"), "--manifest", str(inputs / "manifest.json"), "-o", str(out), *few]


def _copy(scheme: str) -> Callable[[Path, Path], list[str]]:
    return lambda inputs, out: ["gallery", "copy", str(inputs / "gallery"), f"{scheme}{out}"]


def certificates(out: Path) -> Tree:
    """All but drawings, whose files say when they were made, and the log of the command."""
    return {name: data for name, data in files(out).items() if not name.endswith((".png", ".svg", ".pdf"))}


def more_kinds() -> dict[str, Kind]:
    """Commands that write."""
    key = ["serve", "keys", "add", "me", "--scope", "purify", "--keys"]

    def there(location: str) -> Callable[[Path], Tree]:
        def look(out: Path) -> Tree:
            with suppress(FileNotFoundError):
                return enrolled(f"{location}{out}")
            return {}

        return look

    return {
        "export": Kind(lambda _, out: ["export", f"{out}.onnx"], lambda out: one_file(Path(f"{out}.onnx")), nothing, again=False),
        "gallery-copy": Kind(_copy(""), there(""), gallery, again=False, close=True),
        "gallery-copy-lance": Kind(_copy("lancedb://"), there("lancedb://"), gallery, again=False, close=True),
        "report": Kind(lambda _, out: ["report", RECORDS[0], "-o", str(out)], files, nothing),
        "board": Kind(lambda _, out: ["board", *RECORDS, "-o", str(out)], files, nothing),
        "select": Kind(_select, one_file, experiment, again=False),
        "certify": Kind(_certify, certificates, selected),
        "keys": Kind(lambda _, out: [*key, str(out)], keys, nothing, again=False),
    }
