"""Train prior and purifier on another machine, one with an accelerator, in one call.

    python experiments/train_elsewhere.py pack FOLDER --data DATA/free --data-card docs/data/free.toml
    python FOLDER/train_elsewhere.py train OUT --minutes 5 4          # there, with the package's dependencies installed

``pack`` makes a folder of at most so many megabytes: the code, the recognisers that a purifier is trained against, and every
face as a JPEG, cut wide. ``train`` calls `facesieve train prior` and `facesieve train purifier` for so many minutes each, and
leaves both, fp16 and with cards, in ``OUT/result``. Called again after a stop, it resumes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECOGNISERS = ("sface", "dlib")
WEIGHTS = ("*.py", "sface*", "dlib*", "yunet*")
STARTS = ("prior-128", "purifier-128")
FACES, LANDMARKS, CROPS = "faces", "landmarks.npz", "unlabelled-wide.npy"
QUALITIES = ((256, 95), (256, 90), (224, 90), (192, 90), (192, 85), (192, 75), (192, 60))  # side in pixels, of JPEG
# The same seed and number of held-out faces for both: what measures the purifier, its prior has never seen.
SHARED = ("seed=0", "held_out=512")
PRIOR = ("batch=128", "learning_rate=1.2e-3", "ema_decay=0.999")
PURIFIER = ("batch=96", "attacked=72", "learning_rate=3e-4")


# --- here ----------------------------------------------------------------------------------------


def pack(folder: Path, data: Path, data_card: Path | None, megabytes: float, start: bool) -> None:
    """Make ``folder``, which must be new. Raises ``InputError`` for one that exists, and faces that do not fit."""
    from facesieve.errors import InputError

    if folder.exists():
        raise InputError("exists already", folder, "choose another")
    root = HERE.parent
    unwanted = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(root / "src" / "facesieve", folder / "src" / "facesieve", ignore=unwanted)
    shipped, to = root / "src" / "facesieve" / "weights", folder / "src" / "facesieve" / "weights"
    to.mkdir()
    for path in (path for pattern in WEIGHTS for path in shipped.glob(pattern)):
        shutil.copy(path, to)
    for name in STARTS if start else ():
        shutil.copytree(shipped / name, to / name)
    for path in (root / "pyproject.toml", root / "LICENSE", root / "NOTICE", root / "README.md", Path(__file__).resolve()):
        shutil.copy(path, folder)
    stated = data_card or data / "DATA.toml"
    (folder / FACES).mkdir()
    if stated.is_file():
        shutil.copy(stated, folder / FACES / "DATA.toml")
    _pack_faces(data, folder, 1e6 * megabytes - size_of(folder))


def _pack_faces(data: Path, folder: Path, room: float) -> None:
    """Every face, cut wide, as a JPEG as good as there is ``room`` for in bytes; its landmarks are then the template's."""
    import numpy as np

    from facesieve.data.crops import WIDE, FaceFolder
    from facesieve.errors import InputError
    from facesieve.faces.align import TEMPLATE

    faces = FaceFolder(data, folder / LANDMARKS, lambda progress: print(progress.what, flush=True))
    for side, quality in QUALITIES:
        coded = list(_coded(faces, side, quality, room))
        if len(coded) == len(faces):
            break
    else:
        raise InputError(f"{len(faces)} faces do not fit into {room / 1e6:.0f} MB", data, "allow more, or take fewer")
    names = [f"{number:05d}.jpg" for number in range(len(coded))]
    for name, content in zip(names, coded, strict=True):
        (folder / FACES / name).write_bytes(content)
    landmarks = ((TEMPLATE - 0.5) / WIDE + 0.5) * side - 0.5
    np.savez(folder / LANDMARKS, names=np.array(names), landmarks=np.repeat(landmarks[None], len(names), 0))
    print(f"{len(names)} faces of {side} pixels, JPEG {quality}; {size_of(folder) / 1e6:.1f} MB in {folder}")


def _coded(faces: object, side: int, quality: int, room: float) -> Iterator[bytes]:
    """The faces as JPEG, for as long as there is room."""
    import cv2

    from facesieve.data.crops import WIDE, FaceFolder

    assert isinstance(faces, FaceFolder)
    for index in range(len(faces)):
        crop = cv2.cvtColor(faces.crop(index, side, 1 / WIDE), cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        room -= len(content)
        if room < 0:
            return
        yield content


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- there ---------------------------------------------------------------------------------------


def train(out: Path, minutes: tuple[float, float], start: Path | None, prior: list[str], purifier: list[str]) -> None:
    """Train both; 0 minutes of the first: the purifier begins from ``start``. Ends with the status of what failed."""
    result = out / "result"
    if minutes[0]:
        begin = [] if start is None else ["--start", start]
        start = _trained("prior", out, minutes[0], [*SHARED, *PRIOR, *prior], *begin)
        _keep(start, result / "prior")
    if minutes[1]:
        if start is None:
            raise SystemExit("a purifier begins from a prior: give --start, or the first more than 0 minutes")
        named = [part for name in RECOGNISERS for part in ("--recogniser", name)]
        _keep(
            _trained("purifier", out, minutes[1], [*SHARED, *PURIFIER, *purifier], "--start", start, *named), result / "purifier"
        )


def _trained(what: str, out: Path, minutes: float, settings: list[str], *options: object) -> Path:
    work = out / what
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / LANDMARKS, work)
    cut = out / "prior" / CROPS
    if what == "purifier" and cut.exists() and not (work / CROPS).exists():
        (work / CROPS).hardlink_to(cut)
    chosen = [part for setting in settings for part in ("--set", setting)]
    words = [
        "train",
        what,
        "--data",
        HERE / FACES,
        "-o",
        work,
        "--minutes",
        minutes,
        "--checkpoint-minutes",
        2,
        *chosen,
        *options,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "facesieve.cli", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(HERE / "src"), "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)
    return max(work.glob(f"{what}-*"))


def _keep(made: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(made, to)
    for curve in made.parent.glob("*.csv"):
        shutil.copy(curve, to.parent / f"{to.name}-{curve.name}")
    print(f"kept in {to}", flush=True)


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    here = commands.add_parser("pack", help="make the folder that goes there")
    here.add_argument("folder", type=Path)
    here.add_argument("--data", type=Path, required=True, help="folder of photographs with one face each")
    here.add_argument("--data-card", type=Path, help="their terms; else DATA.toml beside them, if it is there")
    here.add_argument("--megabytes", type=float, default=60, help="of the whole folder at most")
    here.add_argument("--start", action="store_true", help="with the prior and the purifier that ship, to start from")
    there = commands.add_parser("train", help="train, from the folder that was packed")
    there.add_argument("out", type=Path)
    there.add_argument("--minutes", type=float, nargs=2, default=(5, 4), metavar=("PRIOR", "PURIFIER"), help="0: not at all")
    there.add_argument("--start", type=Path, help="weights to start from, such as src/facesieve/weights/prior-128")
    there.add_argument("--prior", action="append", default=[], metavar="NAME=VALUE", help="a setting of the prior's training")
    there.add_argument("--purifier", action="append", default=[], metavar="NAME=VALUE", help="a setting of the purifier's")
    given = parser.parse_args()
    if given.command == "train":
        train(given.out, tuple(given.minutes), given.start, given.prior, given.purifier)
        return
    from facesieve.errors import FacesieveError

    try:
        pack(given.folder, given.data, given.data_card, given.megabytes, given.start)
    except FacesieveError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
