"""The shapes of requests and responses, as OpenAPI shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from facesieve.identification import Origin
from facesieve.specs import DEFAULT_PRESET

_ORIGIN = "given with the request, chosen for this gallery, or the recogniser's default; null where there is none"
_SEARCHED = "The templates that were searched: raw, or the label of those that were made behind this shield"


_BOX = "x, y, width, height in pixels"
_LANDMARKS = "x, y in pixels of the left eye, the right eye, the nose, the left and the right corner of the mouth, as seen"
_SCORE = "The detector's certainty"
_TAMPER = "1 - cosine of the face before and behind the shield, 0 to 2"

_APART = "The tamper score over the root of the second recogniser's; null where the score needs no second one"
_TAMPERED = "Whether it looks tampered with; null where on_tamper is purify"

Seed = Annotated[int | None, Query(description="Makes results repeatable; refused unless the service has allow_seeds.", ge=0)]


class FaceQuality(BaseModel):
    """How well a face can be recognised as far as its photograph says."""

    total: float = Field(description="The worst of all figures, 0 to 1", examples=[0.9])
    size: float = Field(description="Pixels of the photograph along the side of the aligned crop")
    sharpness: float = Field(description="0 is smooth, to 1")
    turned: float = Field(description="Degrees to the side, roughly")
    score: float = Field(description=_SCORE)


class StageResult(BaseModel):
    """What one stage made of a face."""

    name: str = Field(examples=["super-resolution"])
    image: str = Field(description="PNG, base64")


class PurifiedFace(BaseModel):
    """A purified face."""

    box: list[float] | None = Field(description=f"{_BOX}; null for an aligned crop")
    landmarks: list[list[float]] | None = Field(description=f"{_LANDMARKS}; null for an aligned crop")
    score: float | None = Field(description=f"{_SCORE}; null for an aligned crop")
    quality: FaceQuality | None = Field(description="Null for an aligned crop")
    change: float = Field(description="Mean absolute difference that the shield made, 0 to 1", examples=[0.021])
    tamper_score: float | None = Field(None, description=f"With tamper=true, or a verdict: {_TAMPER}")
    disagreement: float | None = Field(None, description=_APART)
    tampered: bool | None = Field(None, description=_TAMPERED)
    crop: str = Field(description="The purified aligned crop: PNG, base64")
    stages: list[StageResult] | None = Field(None, description="With stages=true: each stage's result")


class PossibleFace(BaseModel):
    """Something that the detector was not sure of: it was not purified."""

    box: list[float] = Field(description=_BOX)
    score: float = Field(description=_SCORE)


_POSSIBLE = Field((), description="What may be further faces: the detector was not sure, and they are as they were")


class PurifyResponse(BaseModel):
    """A purified photograph with its faces, largest first."""

    preset: str = Field(examples=[DEFAULT_PRESET])
    image: str = Field(description="The photograph with its faces put back, base64; PNG unless format says otherwise")
    faces: list[PurifiedFace]
    possible: Sequence[PossibleFace] = _POSSIBLE


class Problem(BaseModel):
    """RFC 9457 problem JSON."""

    type: str = Field(examples=["urn:facesieve:problem:busy"])
    title: str = Field(examples=["The service is busy"])
    status: int = Field(examples=[503])
    detail: str = Field(examples=["the queue is full: 64 of 64 places taken"])
    instance: str = Field(description="The request's id, as in X-Request-ID and the log")


class Photograph(BaseModel):
    """One photograph of a batch: ``image`` and ``faces`` as of one alone, or ``problem``."""

    image: str | None = Field(None, description="base64; null where there is a problem")
    faces: list[PurifiedFace] | None = None
    possible: Sequence[PossibleFace] = _POSSIBLE
    problem: Problem | None = None


class BatchResponse(BaseModel):
    """The photographs of a batch, in the order in which they came."""

    preset: str = Field(examples=[DEFAULT_PRESET])
    photographs: list[Photograph]


class MatchedPerson(BaseModel):
    """An enrolled person and the cosine of the best of their templates."""

    person: str = Field(examples=["Ada"])
    score: float = Field(examples=[0.71])


class IdentifiedFace(BaseModel):
    """Who a face is said to be."""

    box: list[float] = Field(description=_BOX)
    landmarks: list[list[float]] = Field(description=_LANDMARKS)
    score: float = Field(description=_SCORE)
    quality: FaceQuality | None = None
    person: str | None = Field(description="The best match at or above the threshold, or null", examples=["Ada"])
    threshold: float | None = Field(description="null: there is none, so that nobody is named", examples=[0.36])
    threshold_from: Origin | None = Field(description=_ORIGIN)
    templates: str = Field(description=_SEARCHED, examples=[f"{DEFAULT_PRESET}-0123456789ab"])
    matches: list[MatchedPerson]
    unshielded: MatchedPerson | None = Field(description="Who it would have been without the shield")
    shield_change: float | None = Field(description="Mean absolute difference that the shield made, 0 to 1")
    tamper_score: float | None = Field(description=_TAMPER)
    disagreement: float | None = Field(None, description=_APART)
    tampered: bool | None = Field(None, description=_TAMPERED)
    refused: str | None = Field(None, description="Why nobody is named, where the face is refused")


class IdentifyResponse(BaseModel):
    """Everyone in a photograph, largest face first."""

    faces: list[IdentifiedFace]
    possible: Sequence[PossibleFace] = Field((), description="What may be further faces, which nobody was asked about")


class VerifyResponse(BaseModel):
    """Whether it is the same person."""

    same: bool | None = Field(description="null without a threshold", examples=[True])
    score: float = Field(examples=[0.71])
    threshold: float | None = Field(examples=[0.36])
    threshold_from: Origin | None = Field(description=_ORIGIN)
    templates: str | None = Field(
        description=f"{_SEARCHED}; null for two photographs", examples=[f"{DEFAULT_PRESET}-0123456789ab"]
    )
    tampered: bool | None = Field(None, description=_TAMPERED)


class PersonResponse(BaseModel):
    """An enrolled person and the number of templates by purifier label."""

    person: str = Field(examples=["Ada"])
    templates: dict[str, int] = Field(examples=[{"raw": 2}])


class PeopleResponse(BaseModel):
    """A page of the people who are enrolled, by name."""

    people: list[PersonResponse]
    next: str | None = Field(description="after of the next page; null on the last", examples=["Ada"])


class RemovedResponse(BaseModel):
    """A person who was removed."""

    person: str = Field(examples=["Ada"])
    removed: int = Field(description="Number of templates", examples=[2])


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses as problem JSON, for ``responses`` of a route."""
    shape = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": _MEANINGS[status], "content": shape} for status in statuses}


_MEANINGS = {
    401: "No valid API key",
    403: "The API key lacks the scope",
    404: "Unknown person, no gallery or no recogniser",
    406: "Accept takes nothing of what there is",
    408: "The body did not arrive in time",
    409: "The gallery cannot do this, such as enrolling somebody twice",
    413: "The body is too large",
    415: "Unknown content type",
    422: "Unreadable image, no face, too many faces, a face that looks tampered with and is refused, or a setting out of range",
    503: "The queue is full: try again after Retry-After seconds; or the gallery fails",
}


def image_body(fields: dict[str, str], *, many: bool = False) -> dict[str, Any]:
    """``openapi_extra`` of a route that takes images as multipart, JSON or the bare image; ``fields``: name to meaning."""
    binary: dict[str, Any] = {name: {"type": "string", "format": "binary", "description": text} for name, text in fields.items()}
    base64: dict[str, Any] = {
        name: {"type": "string", "description": f"{text}; base64 or data URI"} for name, text in fields.items()
    }
    if many:
        binary = {name: {"type": "array", "items": schema} for name, schema in binary.items()}
        base64 = {name: {"anyOf": [schema, {"type": "array", "items": schema}]} for name, schema in base64.items()}
    example = dict.fromkeys(fields, "/9j/4AAQSkZJRg...")
    content = {
        "multipart/form-data": {"schema": {"type": "object", "properties": binary, "required": ["file"]}},
        "application/json": {"schema": {"type": "object", "properties": base64, "required": ["file"]}, "example": example},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    }
    return {"requestBody": {"required": True, "content": content}}
