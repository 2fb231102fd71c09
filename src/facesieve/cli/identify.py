"""The commands `identify` and `verify`, and how photographs come to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.cli import answers, clips
from facesieve.cli.options import (
    AsJson,
    ByScore,
    Embedding,
    Location,
    MaxPixels,
    OnTampering,
    PriorFolder,
    RuntimeName,
    Scale,
    Seed,
    ShieldName,
    TamperLimit,
    Threshold,
    load_identifier,
    opened,
    policy_of,
    threshold_of,
)
from facesieve.cli.terminal import counted, errors, out, print_json, progress_bar
from facesieve.errors import InputError, NoFaceError, TamperedError
from facesieve.limits import whole_number
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS

if TYPE_CHECKING:
    from facesieve.faces import Detector, FaceCrops
    from facesieve.galleries import Gallery
    from facesieve.identification import Given, Identified, Identifier, Origin, Verified
    from facesieve.jobs.clips import Voted
    from facesieve.shield import Shield
    from facesieve.tamper_policy import TamperPolicy


CALIBRATE = "run `facesieve gallery calibrate FOLDER`, or give --threshold"


@dataclass(frozen=True, eq=False)
class Front:
    """The way of a photograph to its embeddings."""

    identifier: Identifier
    shield: Shield | None  # None: faces are embedded as they are
    detector: Detector
    seed: int | None
    max_pixels: int = MAX_PIXELS

    @classmethod
    def load(
        cls,
        embedder: str,
        shield: str,
        scale: int | None,
        seed: int | None,
        runtime: str,
        prior: Path | None = None,
        max_pixels: int = MAX_PIXELS,
        policy: TamperPolicy | None = None,
    ) -> Front:
        """The embedder with the shield of that name in front; ``none`` for no shield. Raises as ``load_identifier``."""
        from facesieve.faces import Detector

        whole_number(max_pixels, "max-pixels", 256)
        return cls(*load_identifier(embedder, shield, scale, runtime, prior, policy), Detector(), seed, max_pixels)

    def faces(self, path: Path, *, one: bool = False) -> tuple[FaceCrops, FaceCrops | None]:
        """The faces in a photograph as they are and, where there is a shield, as it leaves them. Raises as ``before``."""
        before = self.before(path, one=one)
        if before.doubt and not one:
            errors.print(f"{path}: {before.doubt}, not looked at")
        return before, self.restored(before)

    def restored(self, before: FaceCrops) -> FaceCrops | None:
        """The faces as the shield leaves them; None where there is none."""
        return None if self.shield is None else self.shield.restore(before, before.seeds(self.seed))

    def before(self, path: Path, *, one: bool = False) -> FaceCrops:
        """The faces in a photograph as they are. Raises ``InputError`` where there is none and, for ``one``, more than one."""
        from facesieve.faces import one_face

        try:
            return one_face(self._cut(path)) if one else self._cut(path)
        except NoFaceError as error:
            raise error.at(path).advised("take a photograph that shows the whole face") from error
        except InputError as error:
            raise error.at(path)  # noqa: B904  the same error

    def votes(self, path: Path, gallery: Gallery, threshold: Given) -> list[Voted]:
        """Who is in a clip. Raises as ``identify_clip``."""
        from facesieve.jobs.clips import identify_clip

        return identify_clip(
            path, self.identifier, gallery, self.shield, detector=self.detector, seed=self.seed, threshold=threshold,
            max_pixels=self.max_pixels,
        )  # fmt: skip

    def _cut(self, path: Path) -> FaceCrops:
        from facesieve.faces import FaceCrops
        from facesieve.files import sha256_of_file
        from facesieve.identification import CROP
        from facesieve.images import read_photo

        photo = read_photo(path, max_pixels=self.max_pixels)
        size = CROP if self.shield is None else self.shield.card.size
        return FaceCrops.cut(photo, self.detector.detect(photo), size, sha256=sha256_of_file(path))


def identify(
    photos: Annotated[list[Path], typer.Argument(help="Photographs and clips; every face in them is looked up.")],
    gallery: Location = "gallery",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    embedder: Embedding = "sface",
    threshold: Threshold = None,
    on_tamper: OnTampering = "purify",
    tamper_score: ByScore = "change",
    tamper_threshold: TamperLimit = None,
    count: Annotated[int, typer.Option(min=1, help="How many of the best matches to show.")] = 3,
    seed: Seed = None,
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    json_: AsJson = False,
) -> None:
    """Name the people in photographs and clips, with the shield in front of the recogniser."""
    from facesieve.jobs.video import is_clip

    wanted = threshold_of(threshold)
    policy = policy_of(on_tamper, tamper_score, tamper_threshold)
    front = Front.load(embedder, shield, scale, seed, runtime, prior, max_pixels, policy)
    failures: list[str] = []
    results: dict[str, list[Identified]] = {}
    votes: dict[str, list[Voted]] = {}
    with opened(gallery, front.identifier) as store, counted(photos, "identifying") as each:
        for path in each:
            try:
                if is_clip(path):
                    votes[str(path)] = front.votes(path, store, wanted)
                    continue
                results[str(path)] = front.identifier.identify(store, *front.faces(path), threshold=wanted, count=count)
            except InputError as error:
                failures.append(str(error))
        if results or votes:
            tell_shortfall(front.identifier, store)
    if json_:
        of_clips = {path: [clips.plain(one) for one in faces] for path, faces in votes.items()}
        print_json({path: [answers.plain(face) for face in faces] for path, faces in results.items()} | of_clips)
    elif results:
        answers.print_faces(results, shield)
    if not json_:
        clips.print_votes(votes)
        every = [face for faces in results.values() for face in faces] + [face for faces in votes.values() for face in faces]
        tell_threshold({(face.threshold, face.origin) for face in every}, asked=wanted == "none")
    finish(failures + answers.tampered_lines(results) + clips.refusals(votes))


def tell_shortfall(identifier: Identifier, store: Gallery) -> None:
    """Say in a line if raw templates are searched behind a shield, and what to do about it."""
    if short := identifier.shortfall(store):
        advice = "for better accuracy on clean photographs, `facesieve gallery remove` and `enrol` again with this --shield"
        errors.print(f"{store.where}: {short}; {advice}")


def finish(failures: Sequence[str]) -> None:
    """Report what did not work; exit code 1 if anything did not."""
    for line in failures:
        errors.print(f"  {line}")
    if failures:
        raise typer.Exit(1)


def tell_threshold(found: set[tuple[float | None, Origin | None]], *, asked: bool) -> None:
    """Say in a line what decided where nobody has chosen it; ``asked``: no threshold was wanted."""
    for value, origin in found:
        if value is None and not asked:
            out.print(f"no threshold, and no default for this recogniser and shield: nobody can be called unknown; {CALIBRATE}")
        elif origin == "default":
            out.print(f"threshold {value:.3f}, the default for this recogniser and shield, at FAR 1 %; {CALIBRATE}")


def verify(
    photo: Annotated[Path, typer.Argument(help="A photograph with one face.")],
    other: Annotated[Path | None, typer.Argument(help="Another photograph, to compare with instead of a person.")] = None,
    person: Annotated[str | None, typer.Option(help="The enrolled person to compare with.")] = None,
    gallery: Location = "gallery",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    embedder: Embedding = "sface",
    threshold: Threshold = None,
    on_tamper: OnTampering = "purify",
    tamper_score: ByScore = "change",
    tamper_threshold: TamperLimit = None,
    seed: Seed = None,
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    json_: AsJson = False,
) -> None:
    """Say whether a photograph shows a person, or two photographs the same person; exit code 1 if not."""
    if (other is None) == (person is None):
        raise InputError("give either a second photograph or --person NAME")
    wanted = threshold_of(threshold)
    policy = policy_of(on_tamper, tamper_score, tamper_threshold)
    front = Front.load(embedder, shield, scale, seed, runtime, prior, max_pixels, policy)
    if person is not None:
        with progress_bar("verifying"), opened(gallery, front.identifier) as store:
            try:
                result = front.identifier.verify(store, person, *front.faces(photo, one=True), threshold=wanted)
            except TamperedError as error:
                raise error.at(photo)  # noqa: B904  the same error
            tell_shortfall(front.identifier, store)
    else:
        assert other is not None
        with counted([photo, other], "verifying") as each:
            (first, made), (second, also_made) = (front.faces(path, one=True) for path in each)
        after = None if made is None or also_made is None else (made, also_made)
        result = front.identifier.compare(first, second, after=after, threshold=wanted)
    _say(result, json_)
    if result.same is None:
        raise typer.Exit(3)
    if not result.same:
        raise typer.Exit(1)


def _say(result: Verified, json_: bool) -> None:
    if json_:
        fields = {"same": result.same, "score": result.score, "threshold": result.threshold, "threshold_from": result.origin}
        print_json({**fields, "templates": result.templates, "tampered": result.tampered})
        return
    if result.tampered:
        errors.print("a face looks tampered with")
    if result.same is None:
        out.print(f"score {result.score:.3f}; no threshold to decide by: {CALIBRATE}")
    else:
        verdict = "same person" if result.same else "not the same person"
        out.print(
            f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f}{' (default)' * (result.origin == 'default')}"
        )
