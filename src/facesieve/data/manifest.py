"""The manifest: every image of a data protocol, its hash and its role, so that others can check they have the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from facesieve.errors import ManifestError, one_line
from facesieve.files import first_problem, sha256_of, write_atomic

Role = Literal["train", "test"]
Landmarks = Annotated[tuple[tuple[FiniteFloat, FiniteFloat], ...], Field(min_length=5, max_length=5)]


class Selection(BaseModel):
    """What is chosen from a source; the defaults are the published protocol's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # strict: people = true is not 1

    minimum: int = Field(44, ge=1)  # images that an identity must have
    people: int = Field(1000, ge=1)
    train: int = Field(40, ge=0)  # images of each person
    test: int = Field(4, ge=0)
    seed: int = 0
    aligned: bool = False  # the images are aligned face crops already

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.train + self.test == 0:
            raise ValueError("train and test are both 0, which chooses no image")
        return self


class Image(BaseModel):
    """One image: which person's, where in the source, and where its face is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: str
    role: Role
    ref: str  # how the source calls the image
    sha256: str  # of its bytes
    landmarks: Landmarks | None  # five (x, y), pixels; None for an aligned crop


class Replaced(BaseModel):
    """An image or a person that was chosen and could not be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    person: str
    ref: str | None  # None: the whole person
    reason: str


class Manifest(BaseModel):
    """A selection and its outcome. It holds no time and no place: the same choice is the same file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str  # its kind
    selection: Selection
    images: tuple[Image, ...]  # person by person, training images first
    replaced: tuple[Replaced, ...]

    @property
    def people(self) -> tuple[str, ...]:
        """Names, in the order of the labels."""
        return tuple(dict.fromkeys(image.person for image in self.images))

    @property
    def sha256(self) -> str:
        """The hash of everything in it."""
        return sha256_of(self.text().encode())

    def of(self, role: Role) -> tuple[Image, ...]:
        """The images of one role."""
        return tuple(image for image in self.images if image.role == role)

    def text(self) -> str:
        """The file's content: one image per line, so that two manifests can be compared by eye."""
        head = {"source": self.source, "selection": self.selection.model_dump(mode="json")}
        lines = [json.dumps(head)[:-1] + ', "images": [']
        lines.append(",\n".join(_line(image) for image in self.images))
        lines.append('], "replaced": [')
        lines.append(",\n".join(_line(entry) for entry in self.replaced))
        return "\n".join([*lines, "]}", ""])


def _line(entry: BaseModel) -> str:
    return json.dumps(entry.model_dump(mode="json"), ensure_ascii=False)


def save_manifest(path: Path, manifest: Manifest) -> None:
    """Write it, atomically."""
    write_atomic(path, manifest.text().encode())


def load_manifest(path: Path) -> Manifest:
    """Read it. Raises ``ManifestError`` for a file that is missing or no manifest."""
    try:
        data: Any = json.loads(path.read_bytes())
        return Manifest.model_validate(data)
    except OSError as error:
        raise ManifestError(f"cannot be read: {one_line(error)}", path) from error
    except ValidationError as error:
        place, problem = first_problem(error, count_from=0)
        raise ManifestError(f"not a manifest: {place or 'it'}: {problem.lower()}", path) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {one_line(error)}", path) from error
