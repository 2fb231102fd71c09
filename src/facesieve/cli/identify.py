"""The commands `identify` and `verify`, and how photographs come to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from facesieve.cli import clips
from facesieve.cli.options import (
    AsJson,
    Embedding,
    Location,
    MaxPixels,
    PriorFolder,
    RuntimeName,
    Scale,
    Seed,
    ShieldName,
    Threshold,
    load_identifier,
    opened,
    threshold_of,
)
from facesieve.cli.terminal import counted, errors, out, print_json, progress_bar
from facesieve.errors import InputError, NoFaceError
from facesieve.limits import whole_number
from facesieve.specs import DEFAULT_PRESET, MAX_PIXELS

if TYPE_CHECKING:
    from facesieve.faces import Detector, FaceCrops
    from facesieve.galleries import Gallery
    from facesieve.identification import Given, Identified, Identifier, Origin, Verified
    from facesieve.jobs.clips import Voted
    from facesieve.shield import Shield


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
    ) -> Front:
        """The embedder with the shield of that name in front; ``none`` for no shield."""
        from facesieve.faces import Detector

        whole_number(max_pixels, "max-pixels", 256)
        return cls(*load_identifier(embedder, shield, scale, runtime, prior), Detector(), seed, max_pixels)

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
        from facesieve.identification import one_face

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
    front = Front.load(embedder, shield, scale, seed, runtime, prior, max_pixels)
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
        print_json({path: [_plain(face) for face in faces] for path, faces in results.items()} | of_clips)
    elif results:
        _print_faces(results, shield)
    if not json_:
        clips.print_votes(votes)
        every = [face for faces in results.values() for face in faces] + [face for faces in votes.values() for face in faces]
        tell_threshold({(face.threshold, face.origin) for face in every}, asked=wanted == "none")
    finish(failures)


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


def _plain(face: Identified) -> dict[str, object]:
    return {
        "box": list(map(float, face.face.box)),
        "quality": None if face.quality is None else face.quality.as_dict(),
        "person": face.person,
        "threshold": face.threshold,
        "threshold_from": face.origin,
        "templates": face.templates,
        "matches": [{"person": match.person, "score": match.score} for match in face.matches],
        "unshielded": None if face.unshielded is None else {"person": face.unshielded.person, "score": face.unshielded.score},
        "shield_change": face.change,
        "tamper_score": face.tamper,
    }


def _print_faces(results: dict[str, list[Identified]], shield: str) -> None:
    shielded = shield != "none"
    table = Table(
        "photograph", "face", "name", "best matches", *(["without the shield", "changed by", "tamper score"] if shielded else [])
    )
    for path, faces in results.items():
        for number, face in enumerate(faces, 1):
            matches = "\n".join(f"{match.score:.3f} {match.person}" for match in face.matches)
            row = [path, str(number), _name(face), matches]
            if shielded:
                alone = "-" if face.unshielded is None else f"{face.unshielded.score:.3f} {face.unshielded.person}"
                row += [alone, f"{255 * (face.change or 0):.1f}/255", f"{face.tamper or 0:.2f}"]
            table.add_row(*row)
    Console(highlight=False, markup=False, width=None if out.is_terminal else 140).print(table)


def tell_threshold(found: set[tuple[float | None, Origin | None]], *, asked: bool) -> None:
    """Say in a line what decided where nobody has chosen it; ``asked``: no threshold was wanted."""
    for value, origin in found:
        if value is None and not asked:
            out.print(f"no threshold, and no default for this recogniser and shield: nobody can be called unknown; {CALIBRATE}")
        elif origin == "default":
            out.print(f"threshold {value:.3f}, the default for this recogniser and shield, at FAR 1 %; {CALIBRATE}")


def _name(face: Identified) -> str:
    if face.threshold is None:
        return f"{face.matches[0].person}?"
    return face.person or "unknown"


def verify(
    photo: Annotated[Path, typer.Argument(help="A photograph with one face.")],
    other: Annotated[Path | None, typer.Argument(help="Another photograph, to compare with instead of a person.")] = None,
    person: Annotated[str | None, typer.Option(help="The enrolled person to compare with.")] = None,
    gallery: Location = "gallery",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    embedder: Embedding = "sface",
    threshold: Threshold = None,
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
    front = Front.load(embedder, shield, scale, seed, runtime, prior, max_pixels)
    if person is not None:
        with progress_bar("verifying"), opened(gallery, front.identifier) as store:
            result = front.identifier.verify(store, person, *front.faces(photo, one=True), threshold=wanted)
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
        print_json({**fields, "templates": result.templates})
    elif result.same is None:
        out.print(f"score {result.score:.3f}; no threshold to decide by: {CALIBRATE}")
    else:
        verdict = "same person" if result.same else "not the same person"
        out.print(
            f"{verdict}: score {result.score:.3f}, threshold {result.threshold:.3f}{' (default)' * (result.origin == 'default')}"
        )
