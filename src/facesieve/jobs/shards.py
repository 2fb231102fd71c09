"""Purify photographs in shards, tar or Parquet: streamed, resumable by shard, one bad photograph stops nothing."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from facesieve.errors import FacesieveError, InputError, SettingError
from facesieve.files import draft, remove_drafts, settle, sha256_of_file, write_atomic
from facesieve.images import encode_photo
from facesieve.jobs.formats import Format, Sample
from facesieve.jobs.plan import Shard
from facesieve.jobs.work import Batches, Guard, Options, Work, face_record, made_by, open_work, pictures, ran_on
from facesieve.shield import Shield

FAILURES = "failures.jsonl"


@dataclass(frozen=True)
class ShardOptions:
    """How a job treats shards: their photographs, which column or suffix holds them, and what becomes of failures.

    ``drop`` leaves a sample out that cannot be purified; ``keep`` passes it on as it was, unshielded.
    """

    photographs: Options = field(default_factory=Options)
    image_column: str | None = None
    on_failure: Literal["drop", "keep"] = "drop"

    def __post_init__(self) -> None:
        if self.on_failure not in {"drop", "keep"}:
            raise SettingError(f"on-failure {self.on_failure!r} must be drop or keep")

    def check(self) -> None:
        """Raises ``SettingError`` for what photographs can have and shards cannot."""
        if not self.photographs.paste:
            raise SettingError("--no-paste makes several pictures of a photograph, and a sample of a shard has one; leave it out")


@dataclass(frozen=True)
class Failure:
    """A photograph that was not purified, or with ``key`` None a whole shard; ``kept`` where it was passed on as it was."""

    source: str
    key: str | None
    reason: str
    kept: bool = False


@dataclass
class Result:
    """What became of a shard, or of several."""

    shards: int = 0
    skipped: int = 0
    photographs: int = 0
    faces: int = 0
    seconds: float = 0.0  # inside the purifier
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Result) -> None:
        """Count ``other`` in."""
        self.shards += other.shards
        self.skipped += other.skipped
        self.photographs += other.photographs
        self.faces += other.faces
        self.seconds += other.seconds
        self.failures += other.failures


def purify_shards(
    shards: Sequence[Shard], shield: Shield, options: ShardOptions, *, advance: Callable[[Result], None] = lambda _: None
) -> Result:
    """Purify the photographs of each shard; what is there already is not made again.

    ``advance`` is called after each shard. A shard that cannot be read, or whose result cannot be
    written, is a failure, and the next one is taken.
    """
    options.check()
    total = Result()
    for shard in shards:
        total.add(purify_shard(shard, shield, options))
        advance(total)
    return total


def purify_shard(shard: Shard, shield: Shield, options: ShardOptions, guard: Guard = nullcontext) -> Result:
    """Purify one shard, unless its result is there; it is written whole or not at all. Does not raise what it can report."""
    try:
        made_from = _made_from(shard, shield, options)
        if not options.photographs.overwrite and (done := _finished(shard, made_from)):
            return done
        shard.target.parent.mkdir(parents=True, exist_ok=True)
        remove_drafts(shard.target)
        with draft(shard.target) as (file, part):
            result = _write(shard, file, shield, options, guard)
            file.flush()
            record = _record(shard, shield, result, made_from, sha256_of_file(part))
            with draft(shard.target) as (beside, small):  # the record first: without its shard it counts for nothing
                beside.write((json.dumps(record, indent=1) + "\n").encode())
                settle(beside, small, _sidecar(shard))
            settle(file, part, shard.target)
        return result
    except (FacesieveError, OSError) as error:
        text = str(error)
        reason = text if str(shard.source) in text or str(shard.target) in text else f"{shard.source}: {text}"
        return Result(failures=[Failure(shard.name, None, reason)])


def _made_from(shard: Shard, shield: Shield, options: ShardOptions) -> dict[str, Any]:
    """Everything that a result depends on; a result made from something else is not this result."""
    return {
        "source_sha256": sha256_of_file(shard.source),
        **made_by(shield, options.photographs),
        "image_column": options.image_column,
        "on_failure": options.on_failure,
    }


def _sidecar(shard: Shard) -> Path:
    return shard.target.with_name(shard.target.name + ".json")


def _record(shard: Shard, shield: Shield, result: Result, made_from: dict[str, Any], sha256: str) -> dict[str, Any]:
    return {
        "source": shard.source.name,
        "photographs": result.photographs,
        "faces": result.faces,
        "failures": [asdict(failure) for failure in result.failures],
        "output": shard.target.name,
        "output_sha256": sha256,
        "made_from": made_from,
        **ran_on(shield),
    }


def _finished(shard: Shard, made_from: dict[str, Any]) -> Result | None:
    """What a finished shard's record says; None if it is to be made.

    Raises ``InputError`` where a result of something else is in the way.
    """
    sidecar = _sidecar(shard)
    if not sidecar.exists():
        if shard.target.exists():
            raise InputError(
                f"{shard.target} exists, but no {sidecar.name} says how it was made; use another folder or --overwrite"
            )
        return None
    try:
        record = json.loads(sidecar.read_text())
        same = record["made_from"] == json.loads(json.dumps(made_from))
        failures = [Failure(**failure) for failure in record["failures"]]
        done = Result(skipped=1, failures=failures)
        sha256 = record["output_sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{sidecar} is no record of this program; use another folder or --overwrite") from error
    if not same:
        raise InputError(f"{sidecar} records another shard or other settings; use another folder or --overwrite")
    return done if shard.target.exists() and sha256_of_file(shard.target) == sha256 else None


def _format(path: Path) -> Format:
    from facesieve.jobs.formats import parquet as parquet_shards
    from facesieve.jobs.formats import tar as tar_shards

    return tar_shards if path.suffix.lower() == ".tar" else parquet_shards


def _write(shard: Shard, file: BinaryIO, shield: Shield, options: ShardOptions, guard: Guard) -> Result:
    """Write the purified shard into ``file``, sample by sample in the order of the source."""
    form, result = _format(shard.source), Result(shards=1)
    batches: Batches[Sample] = Batches(shield, options.photographs.batch_size)
    samples = form.read(shard.source, options.image_column)
    with form.writer(file, shard.source, options.image_column) as out:
        for sample, work, reason in _purified(samples, batches, shield, options, guard):
            if work is not None:
                png = encode_photo(pictures(work, options.photographs)[0], "png")
                out.write(sample, png, _sample_record(work, shield, png))
                result.photographs += 1
            elif not sample.key:
                out.write(sample, None, None)
            else:
                kept = options.on_failure == "keep"
                result.failures.append(Failure(shard.name, sample.key, reason, kept))
                if kept:
                    out.write(sample, None, {"failure": reason})
    result.faces, result.seconds = batches.faces, batches.seconds
    return result


def _sample_record(work: Work[Sample], shield: Shield, png: bytes) -> dict[str, Any]:
    """A photograph's record; settings in full are in the shard's, under the same label."""
    return {
        "faces": [face_record(work, number) for number in range(len(work.faces))],
        "preset": shield.preset.name,
        "shield": shield.label,
        "prior_sha256": shield.prior_sha256,
        "source_sha256": work.sha256,
        "output_sha256": hashlib.sha256(png).hexdigest(),
        **ran_on(shield),
    }


_Place = tuple[Sample, Work[Sample] | None, str]  # a sample, what is made of it, and if that is None the reason


def _purified(
    samples: Iterator[Sample], batches: Batches[Sample], shield: Shield, options: ShardOptions, guard: Guard
) -> Iterator[_Place]:
    """Each sample, in order. Only those are held that wait for a batch, and those behind them."""
    held: deque[_Place] = deque()
    most = 4 * options.photographs.batch_size

    def ready() -> Iterator[_Place]:
        while held and (held[0][1] is None or held[0][1].is_done):
            yield held.popleft()

    for sample in samples:
        work, reason = _opened(sample, shield, options.photographs, guard)
        held.append((sample, work, reason))
        if work is not None:
            for _ in batches.put(work):
                yield from ready()
        if len(held) > most:  # failures that queue up behind a photograph whose batch does not fill
            for _ in batches.rest():
                pass
        yield from ready()
    for _ in batches.rest():
        yield from ready()
    yield from ready()


def _opened(sample: Sample, shield: Shield, options: Options, guard: Guard) -> tuple[Work[Sample] | None, str]:
    if sample.image is None:
        return None, sample.problem
    data, sha256 = sample.image, hashlib.sha256(sample.image).hexdigest()
    try:
        with guard(sample.key):
            return open_work(sample, data, sha256, shield, options, name=sample.key), ""
    except (FacesieveError, OSError) as error:
        return None, str(error)
    except Exception as error:  # one photograph in a hundred million must not stop the others; its reason names the defect
        return None, f"{sample.key}: unforeseen {type(error).__name__}: {error}"


def write_failures(out: Path, failures: Sequence[Failure]) -> None:
    """List what was not purified, one JSON object a line, in ``failures.jsonl`` of the folder of results; no file for none."""
    path = out / FAILURES
    if not failures:
        path.unlink(missing_ok=True)
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "".join(json.dumps(asdict(failure)) + "\n" for failure in failures).encode())
