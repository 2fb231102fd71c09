"""What a job writes next to its pictures, and the one rule by which it resumes.

A record says what a result was made from. A result is complete if its record says what would be made now, and its
file has the hash in the record. Records are written before the files that they describe: if a job is stopped in
between, the two do not match, and the result is made again. A result of something else is never overwritten unasked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import facesieve
from facesieve.errors import ExistsError, FacesieveError, SettingError
from facesieve.faces import FaceCrops, Finish, check_finish, quality
from facesieve.files import make_folder, sha256_of_file, write_atomic
from facesieve.images import Encoding, to_photo
from facesieve.limits import whole_number
from facesieve.runtime import PurifierCard
from facesieve.specs import MAX_PIXELS

if TYPE_CHECKING:
    from facesieve.recognition import Embedder

FAILURES = "failures.jsonl"

Record = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a job treats its photographs; without ``paste`` the crops are written instead of the photograph.

    ``image_column`` and ``on_failure`` are of shards: what holds the image of a sample (found if None), and whether
    a sample that cannot be purified is left out (``drop``) or passed on as it was, unshielded (``keep``).
    ``max_pixels`` is the largest photograph that is read. ``finish`` is how a face is put back: ``secure``, or for
    people ``detail``, as ``facesieve.faces.paste``. ``encoding`` is how results are written; shards hold PNG.
    ``tamper`` adds each face's tamper score to its record, by the recogniser SFace.
    """

    aligned: bool = False
    paste: bool = True
    overwrite: bool = False
    seed: int | None = None
    batch_size: int = 8
    image_column: str | None = None
    on_failure: Literal["drop", "keep"] = "drop"
    max_pixels: int = MAX_PIXELS
    finish: Finish = "secure"
    encoding: Encoding = field(default_factory=Encoding)
    tamper: bool = False

    def __post_init__(self) -> None:
        whole_number(self.batch_size, "batch-size", 1)
        if self.seed is not None:
            whole_number(self.seed, "seed")
        if check_finish(self.finish) == "detail" and (self.aligned or not self.paste):
            raise SettingError("detail goes with faces that are put back into photographs, not with crops")
        if self.on_failure not in {"drop", "keep"}:
            raise SettingError(f"on-failure {self.on_failure!r} must be drop or keep")
        whole_number(self.max_pixels, "max-pixels", 256)  # the smallest photograph that is read


@dataclass(frozen=True)
class Failure:
    """A photograph that was not purified, or with ``key`` None a whole unit; ``kept`` where it was passed on as it was.

    ``kind`` is the error's type, for whoever has advice about it; records do not hold it.
    """

    source: str
    key: str | None
    reason: str
    kept: bool = False
    kind: str = ""

    @classmethod
    def of(cls, error: FacesieveError, source: str, key: str | None = None, *, kept: bool = False) -> Failure:
        """The failure that an error is."""
        return cls(source, key, str(error), kept, type(error).__name__)

    def as_dict(self) -> Record:
        """Plain data, as records hold it."""
        return {"source": self.source, "key": self.key, "reason": self.reason, "kept": self.kept}


@dataclass(eq=False)
class Work:
    """A photograph in progress: its crops go into the purifier, and come back one after another."""

    before: FaceCrops
    seeds: list[int]  # of the noise, one per face
    dates: bytes = b""  # of the photograph, as EXIF

    def __post_init__(self) -> None:
        self._purified = np.empty_like(self.before.crops)
        self._missing = len(self.before)
        self.seconds = 0.0  # in the purifier

    def put(self, number: int, crop: Any, seconds: float) -> None:
        """Crop ``number`` (3, S, S) is back."""
        self._purified[number] = crop
        self._missing -= 1
        self.seconds += seconds

    @property
    def is_done(self) -> bool:
        """Whether every crop is back."""
        return self._missing == 0

    def pictures(self, options: Options) -> list[bytes]:
        """The results as files: the photograph with its faces put back (of an aligned one, its crop), or each crop."""
        after = self.before.with_crops(self._purified)
        pasted = options.paste or options.aligned
        photos = [after.paste(options.finish)] if pasted else [to_photo(crop) for crop in after.crops]
        return [options.encoding.encoded(photo, self.dates) for photo in photos]

    @property
    def possible(self) -> list[Record]:
        """What may be further faces, which are not purified: ``box``, ``score``."""
        return [{"box": face.box, "score": face.score} for face in self.before.possible]

    @property
    def doubt(self) -> str | None:
        """The same in words; None where there is none."""
        return None if self.before.doubt is None else f"{self.before.doubt}, not purified"

    def face(self, number: int, options: Options) -> Record:
        """A face: ``box``, ``landmarks``, ``score``, ``quality`` (not of an aligned one), ``noise_seed``, tamper score."""
        tamper = {"tamper_score": self._tampers[number]} if options.tamper else {}
        if self.before.aligned:
            return {"noise_seed": self.seeds[number], **tamper}
        face = self.before.faces[number]
        place = {"box": face.box, "landmarks": face.landmarks.tolist(), "score": face.score}
        return {**place, "quality": quality(self.before.photo, face).as_dict(), "noise_seed": self.seeds[number], **tamper}

    @cached_property
    def _tampers(self) -> list[float]:
        """Each face's tamper score, once all crops are back."""
        from facesieve.identification import CROP
        from facesieve.recognition.tampering import tamper_scores

        embedder = _recogniser()
        return tamper_scores(embedder.rows(self.before.at(CROP).crops), embedder.rows(self._purified))


@cache
def _recogniser() -> Embedder:
    from facesieve.recognition.embedders import load_embedder

    return load_embedder("sface", gradients=False)


def made_from(sha256: str, card: PurifierCard, options: Options) -> Record:
    """Everything that a photograph's result depends on: its bytes, the purifier, the settings."""
    pasted = options.paste and not options.aligned
    made = {"source_sha256": sha256, **card.made_from, "aligned": options.aligned, "pasted": pasted, "seed": options.seed}
    finish = {} if options.finish == "secure" else {"finish": options.finish}  # records of before have none
    tamper = {"tamper": True} if options.tamper else {}
    detector = {} if options.aligned or card.detector is None else {"detector": card.detector}
    return {**made, **detector, **finish, **tamper, **options.encoding.made_from}


def ran_on(card: PurifierCard, options: Options) -> Record:
    """Which of the two finishes a result is, and what made it: hardware and version."""
    return {"finish": options.finish, "ran_on": card.ran_on, "version": facesieve.__version__}


def write_record(path: Path, record: Record) -> None:
    """Write a record, atomically. Raises ``InputError``."""
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())


def read_record(path: Path, keys: Mapping[str, type]) -> Record | None:
    """A record with ``keys`` of these types, or None if there is none. Raises ``ExistsError`` for a file of another kind."""
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(record[key], kind) for key, kind in {"made_from": dict, "output_sha256": str, **keys}.items()):
            return dict(record)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ExistsError("is no sidecar of this program", path)


def is_made(sidecar: Path, results: Sequence[tuple[Path, Record | None]], wanted: Record) -> bool:
    """Whether every result is there, made from what is ``wanted``; ``sidecar`` is the first one's.

    Raises ``ExistsError`` where a result of something else is in the way.
    """
    path, first = results[0]
    if first is None:
        if path.exists():
            raise ExistsError("exists, but no sidecar says how it was made", path)
        return False
    plain = json.loads(json.dumps(wanted))
    for record in (record for _, record in results if record is not None):
        made = _with_detector(record, plain)
        others = sorted(key for key in {*plain, *made} if plain.get(key) != made.get(key))
        if others == ["detector"]:
            raise ExistsError("was made when faces were found in another way", sidecar)
        if others:
            raise ExistsError(f"records another photo or other settings ({', '.join(others)})", sidecar)
    return all(
        record is not None and path.exists() and sha256_of_file(path) == record["output_sha256"] for path, record in results
    )


def doubt_of(record: Record, wanted: Record) -> str | None:
    """What a complete result leaves in doubt, in words: possible faces, or how those of an older record were found."""
    if "detector" in wanted and "detector" not in record["made_from"]:
        return "made by a version that did not record how it found faces, and may have missed some; make it again to be sure"
    return str(record["doubt"]) if record.get("doubt") else None


def _with_detector(record: Record, wanted: Record) -> Record:
    """What a record was made from; one of before detectors were named counts as of the one that is wanted."""
    return {**({"detector": wanted["detector"]} if "detector" in wanted else {}), **record["made_from"]}


def write_failures(out: Path, failures: Sequence[Failure]) -> None:
    """List what was not purified, one JSON object per line, in ``failures.jsonl`` of the results folder, if anything."""
    path = out / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    write_atomic(make_folder(out) / FAILURES, "".join(json.dumps(failure.as_dict()) + "\n" for failure in failures).encode())
