"""The addresses under ``/v1``: purify, identify, verify, the gallery, info."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response

import facesieve
from facesieve.errors import InputError
from facesieve.faces import FaceCrops
from facesieve.galleries.base import Match
from facesieve.identification import Identified
from facesieve.runtime import Trace
from facesieve.service.access import allowed, in_time
from facesieve.service.handlers import Format, Handlers
from facesieve.service.request_body import images_of, read_body
from facesieve.service.schemas import (
    IdentifiedFace,
    IdentifyResponse,
    MatchedPerson,
    PersonResponse,
    PurifiedFace,
    PurifyResponse,
    RemovedResponse,
    StageResult,
    VerifyResponse,
    image_body,
    problem_responses,
)

router = APIRouter(prefix="/v1")

Seed = Annotated[int | None, Query(description="Makes results repeatable; refused unless the service has allow_seeds.", ge=0)]
Threshold = Annotated[
    float | None,
    Query(description="Cosine below which nobody is named; by default what the gallery was calibrated to.", ge=-1, le=1),
]
_OF_IMAGES = problem_responses(401, 403, 413, 415, 422, 503)
_FORMATS: dict[str, Format] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


def _handlers(request: Request) -> Handlers:
    handlers: Handlers = request.app.state.handlers
    return handlers


async def _images(request: Request) -> dict[str, list[bytes]]:
    handlers = _handlers(request)
    handlers.check_place()
    body = await read_body(request, handlers.settings.max_bytes, handlers.settings.body_timeout_s)
    return await asyncio.to_thread(images_of, body, request.headers.get("content-type", ""))


def _only(images: dict[str, list[bytes]], *names: str) -> list[bytes]:
    """One image for each name, and nothing else."""
    if set(images) != set(names) or any(len(images[name]) != 1 for name in names):
        raise InputError(f"send one image as {' and one as '.join(names)}, and nothing else; settings go into the query")
    return [images[name][0] for name in names]


@router.post(
    "/purify",
    dependencies=[Depends(allowed("purify"))],
    response_model=PurifyResponse,
    responses={200: {"content": {kind: {} for kind in _FORMATS}}, **_OF_IMAGES},
    openapi_extra=image_body({"file": "The photograph"}),
)
async def purify(
    request: Request,
    aligned: Annotated[bool, Query(description="The image is an aligned, square face crop.")] = False,
    stages: Annotated[bool, Query(description="In JSON: also what each stage made.")] = False,
    seed: Seed = None,
) -> Response | PurifyResponse:
    """Purify every face. ``Accept: application/json`` gives the faces too; image/png , image/jpeg, image/webp the image."""
    handlers, (data,) = _handlers(request), _only(await _images(request), "file")
    wanted = _wanted(request.headers.get("accept", ""), stages)

    async def work() -> Response | PurifyResponse:
        before = await handlers.cut(data, aligned=aligned)
        trace = await handlers.purify(before, seed)
        request.state.notes["faces"] = len(before)
        if wanted == "application/json":
            return await _as_json(handlers, before, trace, stages)
        image = await handlers.encode(before.with_crops(trace.crops), _FORMATS[wanted])
        return Response(image, media_type=wanted, headers={"X-Facesieve-Faces": str(len(before))})

    return await in_time(request, work())


def _wanted(accept: str, stages: bool) -> str:
    """The first type in ``Accept`` that can be given; stages can be given in JSON alone."""
    offered = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    known = next((kind for kind in offered if kind in _FORMATS or kind == "application/json"), None)
    if stages and known not in {None, "application/json"}:
        raise InputError("stages come in JSON: send Accept: application/json")
    return "application/json" if stages else known or "image/png"


async def _as_json(handlers: Handlers, before: FaceCrops, trace: Trace, stages: bool) -> PurifyResponse:
    after, faces = before.with_crops(trace.crops), before.faces
    crops = await handlers.encode_crops(trace.crops)
    made = [(step.name, await handlers.encode_crops(step.crops)) for step in trace.steps] if stages else []
    purified = [
        PurifiedFace(
            box=list(map(float, faces[n].box)) if faces else None,
            score=float(faces[n].score) if faces else None,
            change=change,
            crop=_text(crops[n]),
            stages=[StageResult(name=name, image=_text(images[n])) for name, images in made] if stages else None,
        )
        for n, change in enumerate(after.changes(before))
    ]
    return PurifyResponse(preset=handlers.card.name, image=_text(await handlers.encode(after, "png")), faces=purified)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@router.post(
    "/identify",
    dependencies=[Depends(allowed("identify"))],
    responses={**_OF_IMAGES, **problem_responses(404, 409)},
    openapi_extra=image_body({"file": "The photograph"}),
)
async def identify(
    request: Request,
    count: Annotated[int, Query(description="How many of the best matches.", ge=1, le=100)] = 5,
    threshold: Threshold = None,
    seed: Seed = None,
) -> IdentifyResponse:
    """Name everyone in a photograph, with the shield in front of the recogniser."""
    (data,) = _only(await _images(request), "file")
    found = await in_time(request, _handlers(request).identify(data, count, threshold, seed))
    request.state.notes["faces"] = len(found)
    return IdentifyResponse(faces=[_person(one) for one in found])


def _person(found: Identified) -> IdentifiedFace:
    return IdentifiedFace(
        box=list(map(float, found.face.box)),
        person=found.person,
        threshold=found.threshold,
        templates=found.templates,
        matches=[_match(match) for match in found.matches],
        unshielded=None if found.unshielded is None else _match(found.unshielded),
        shield_change=found.change,
        tamper_score=found.tamper,
    )


def _match(match: Match) -> MatchedPerson:
    return MatchedPerson(person=match.person, score=match.score)


@router.post(
    "/verify",
    dependencies=[Depends(allowed("identify"))],
    responses={**_OF_IMAGES, **problem_responses(404, 409)},
    openapi_extra=image_body({"file": "The photograph", "other": "Another photograph, where no person is named"}),
)
async def verify(
    request: Request,
    person: Annotated[str | None, Query(description="The enrolled person that it is said to be.")] = None,
    threshold: Threshold = None,
    seed: Seed = None,
) -> VerifyResponse:
    """Say whether a photograph shows ``person``, or whether two photographs (``file`` and ``other``) show the same one."""
    images = await _images(request)
    if person is None:
        file, other = _only(images, "file", "other")
        work = _handlers(request).compare(file, other, threshold, seed)
    else:
        work = _handlers(request).verify(_only(images, "file")[0], person, threshold, seed)
    found = await in_time(request, work)
    return VerifyResponse(same=found.same, score=found.score, threshold=found.threshold, templates=found.templates)


@router.put(
    "/gallery/{id:path}",
    status_code=201,
    dependencies=[Depends(allowed("gallery"))],
    responses={**_OF_IMAGES, **problem_responses(404, 409)},
    openapi_extra=image_body({"file": "Photographs of this person, one face each"}, many=True),
)
async def enrol(
    request: Request,
    id: str,
    templates: Annotated[Literal["raw", "purified", "both"], Query(description="What the templates are made from.")] = "both",
    seed: Seed = None,
) -> PersonResponse:
    """Enrol a person, from all the photographs or not at all. Somebody who is enrolled already is a 409: remove them first."""
    images, handlers = await _images(request), _handlers(request)
    if set(images) != {"file"} or not 1 <= len(images["file"]) <= handlers.settings.max_faces:
        raise InputError(f"send 1 to {handlers.settings.max_faces} photographs, each as file, and nothing else")
    made = await in_time(request, handlers.enrol(id, images["file"], templates, seed))
    return PersonResponse(person=id, templates=made)


@router.get("/gallery/{id:path}", dependencies=[Depends(allowed("gallery"))], responses=problem_responses(401, 403, 404))
async def person(request: Request, id: str) -> PersonResponse:
    """An enrolled person. Templates themselves are not given out."""
    entry = await _handlers(request).person(id)
    return PersonResponse(person=entry.person, templates=dict(entry.templates))


@router.delete("/gallery/{id:path}", dependencies=[Depends(allowed("gallery"))], responses=problem_responses(401, 403, 404))
async def remove(request: Request, id: str) -> RemovedResponse:
    """Remove a person with all templates."""
    return RemovedResponse(person=id, removed=await _handlers(request).remove(id))


@router.get("/info", dependencies=[Depends(allowed(None))], responses=problem_responses(401))
async def info(request: Request) -> dict[str, object]:
    """What runs here, and its limits."""
    handlers = _handlers(request)
    card, settings = handlers.card, handlers.settings
    return {
        "version": facesieve.__version__,
        "preset": card.preset,
        "purifier": card.label,
        "prior_sha256": card.prior_sha256,
        "size": card.size,
        "path": card.ran_on,
        "embedder": handlers.embedder,
        "gallery": settings.gallery is not None,
        "limits": settings.model_dump(include={"max_bytes", "max_pixels", "max_faces", "queue_faces", "max_batch"}),
    }
