"""Purify many photographs on this machine: batched across photos, resumable, one bad file stops nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facesieve.errors import FacesieveError, InputError
from facesieve.files import IMAGE_SUFFIXES, files_below, write_atomic
from facesieve.images import Photo, encode_photo
from facesieve.jobs.plan import refuse_clashes
from facesieve.jobs.work import (
    Batches,
    Guard,
    Keep,
    Options,
    Work,
    face_record,
    made_by,
    open_work,
    pictures,
    ran_on,
)
from facesieve.shield import Shield

__all__ = ["Item", "Options", "Summary", "plan", "purify_files"]


@dataclass(frozen=True)
class Item:
    """A photograph and where its results go: ``target`` is a path without suffix."""

    source: Path
    target: Path
    name: str = ""  # what records call the photograph; "" for its path


@dataclass
class Summary:
    """What a job did."""

    done: int = 0
    skipped: int = 0
    faces: int = 0
    seconds: float = 0.0  # inside the purifier
    failures: list[str] = field(default_factory=list)
    failed: list[Path] = field(default_factory=list)  # the photographs of ``failures``
    written: list[Path] = field(default_factory=list)


def plan(inputs: Sequence[Path], out: Path) -> list[Item]:
    """All photographs among files and folders (recursive), with targets that mirror the folders.

    Two photographs whose names differ in the suffix alone keep it in their targets. Raises
    ``InputError`` for a path that does not exist, a folder without photographs, or two inputs of
    one name.
    """
    found = files_below(inputs, out, "photographs", IMAGE_SUFFIXES)
    stems = [relative.with_suffix("") for _, relative in found]
    items = [
        Item(source, out / (relative if stems.count(stem) > 1 else stem))
        for (source, relative), stem in zip(found, stems, strict=True)
    ]
    refuse_clashes((item.source, item.target) for item in items)
    return items


def purify_files(
    items: Sequence[Item],
    shield: Shield,
    options: Options,
    *,
    advance: Callable[[Summary], None] = lambda _: None,
    keep: Keep = lambda *_: None,
    guard: Guard = nullcontext,
) -> Summary:
    """Purify each item's faces and write the results; what is there already is not made again.

    ``advance`` is called after each photograph, ``keep`` with every batch of crops and what
    each stage made of it. ``guard`` is entered while a photograph is opened, and may refuse it by an
    ``InputError``. Failures of single files are collected in the summary.
    """
    summary = Summary()
    batches: Batches[Item] = Batches(shield, options.batch_size, keep)

    def finish(done: Iterator[Work[Item]]) -> None:
        for work in done:
            summary.faces, summary.seconds = batches.faces, batches.seconds
            _finish(work, shield, options, summary)
            advance(summary)

    for item in items:
        try:
            with guard(str(item.source)):
                opened = _open(item, shield, options)
        except (FacesieveError, OSError) as error:
            _fail(summary, item, error)
            advance(summary)
            continue
        if opened is None:
            summary.skipped += 1
            advance(summary)
            continue
        finish(batches.put(opened))
    finish(batches.rest())
    summary.faces, summary.seconds = batches.faces, batches.seconds
    return summary


def _fail(summary: Summary, item: Item, error: Exception) -> None:
    text = str(error)
    summary.failures.append(text if str(item.source) in text else f"{item.source}: {text}")
    summary.failed.append(item.source)


def _open(item: Item, shield: Shield, options: Options) -> Work[Item] | None:
    """Read the photo and cut its faces; None if its results are there already."""
    data = item.source.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if not options.overwrite and _is_done(item, _made_from(sha256, shield, options)):
        return None
    return open_work(item, data, sha256, shield, options, name=str(item.source))


def _made_from(sha256: str, shield: Shield, options: Options) -> dict[str, Any]:
    """Everything that a result depends on; a result made from something else is not this result."""
    return {"source_sha256": sha256, **made_by(shield, options)}


def _is_done(item: Item, made_from: dict[str, Any]) -> bool:
    """Whether every face's record is there, says ``made_from``, and its picture is the recorded one.

    Raises ``InputError`` where a result of something else is in the way.
    """
    first = _record_at(_sidecar(item, 0))
    if first is None:
        if _image(item, None).exists():
            raise InputError(
                f"{_image(item, None)} exists, but no sidecar says how it was made; use another folder or --overwrite"
            )
        return False
    records = [first, *(_record_at(_sidecar(item, number)) for number in range(1, first["faces"]))]
    wanted = json.loads(json.dumps(made_from))
    if any(record is not None and record["made_from"] != wanted for record in records):
        raise InputError(f"{_sidecar(item, 0)} records another photo or other settings; use another folder or --overwrite")
    return all(record is not None and _holds(item, record) for record in records)


def _record_at(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        if {"made_from", "faces", "output", "output_sha256"} <= record.keys():
            return dict(record)
    except (ValueError, AttributeError):
        pass
    raise InputError(f"{path} is no sidecar of this program; use another folder or --overwrite")


def _holds(item: Item, record: dict[str, Any]) -> bool:
    path = item.target.with_name(record["output"])
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == record["output_sha256"]


def _sidecar(item: Item, number: int) -> Path:
    return item.target.with_name(f"{item.target.name}.face{number + 1}.json")


def _image(item: Item, number: int | None) -> Path:
    return item.target.with_name(f"{item.target.name}.png" if number is None else f"{item.target.name}.face{number + 1}.png")


def _finish(work: Work[Item], shield: Shield, options: Options, summary: Summary) -> None:
    """Write a photo's results: the records first, which hold the pictures' hashes, then the pictures.

    Stopped in between, the records and the pictures do not fit, and the photo is purified again.
    """
    item, made_from = work.item, _made_from(work.sha256, shield, options)
    results = [(path, encode_photo(picture, "png")) for path, picture in _results(work, options)]
    try:
        item.target.parent.mkdir(parents=True, exist_ok=True)
        for number in range(len(work.faces)):
            path, data = results[0] if len(results) == 1 else results[number]
            record = _record(work, number, shield) | {
                "output": path.name,
                "output_sha256": hashlib.sha256(data).hexdigest(),
                "made_from": made_from,
            }
            write_atomic(_sidecar(item, number), (json.dumps(record, indent=1) + "\n").encode())
        for path, data in results:
            write_atomic(path, data)
        if options.overwrite:
            _remove_others(item, len(work.faces), {path for path, _ in results})
    except (FacesieveError, OSError) as error:
        _fail(summary, item, error)
        return
    summary.done += 1
    summary.written += [path for path, _ in results]


def _remove_others(item: Item, faces: int, written: set[Path]) -> None:
    """What an earlier run with other settings left: pictures of another kind, and of faces that are found no longer."""
    number = 0
    while number < faces or _sidecar(item, number).exists() or _image(item, number).exists():
        if number >= faces:
            _sidecar(item, number).unlink(missing_ok=True)
        if _image(item, number) not in written:
            _image(item, number).unlink(missing_ok=True)
        number += 1
    if _image(item, None) not in written:
        _image(item, None).unlink(missing_ok=True)


def _results(work: Work[Item], options: Options) -> Iterator[tuple[Path, Photo]]:
    each_face = not options.paste and not options.aligned
    for number, picture in enumerate(pictures(work, options)):
        yield _image(work.item, number if each_face else None), picture


def _record(work: Work[Item], number: int, shield: Shield) -> dict[str, Any]:
    return {
        "source": work.item.name or str(work.item.source),
        "face": number + 1,
        "faces": len(work.faces),
        **face_record(work, number),
        "seconds": round(work.seconds / len(work.faces), 4),
        **ran_on(shield),
    }
