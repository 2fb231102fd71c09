"""The addresses under ``/v1`` but those of the gallery: purify, identify, verify, info."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

import facesieve
from facesieve.errors import FacesieveError
from facesieve.faces import FaceCrops, Finish, Quality
from facesieve.recognition.tampering import Tampering, said
from facesieve.runtime import PurifierCard, Trace
from facesieve.service import answers
from facesieve.service.access import allowed, in_time
from facesieve.service.handlers import Handlers
from facesieve.service.judging import Asking
from facesieve.service.problems import TAMPER_HEADER, as_problem
from facesieve.service.requests import FORMATS, finish_of, format_of, handlers_of, images_in, only, several, wanted_answer
from facesieve.service.schemas import (
    BatchResponse,
    IdentifyResponse,
    Photograph,
    Problem,
    PurifiedFace,
    PurifyResponse,
    Seed,
    StageResult,
    VerifyResponse,
    image_body,
    problem_responses,
)
from facesieve.service.settings import Format
from facesieve.tamper_policy import OnTamper

router = APIRouter(prefix="/v1")

Threshold = Annotated[
    Annotated[float, Field(ge=-1, le=1)] | Literal["none"] | None,
    Query(
        description="Cosine below which nobody is named, or none to name nobody; by default what the gallery was calibrated to, "
        "or else the recogniser's default."
    ),
]
Tamper = Annotated[bool, Query(description="Also the tamper score of each face: how far the shield moved it for the recogniser.")]
Stricter = Annotated[
    OnTamper | None,
    Query(
        description="What is done about a face that looks tampered with: flag or refuse; never weaker than what the service does."
    ),
]
Wanted = Annotated[
    Format | None, Query(alias="format", description="Of images, in JSON too; by default what Accept asks for, or PNG.")
]
PresetName = Annotated[
    str | None,
    Query(alias="preset", description="One of those that /v1/info lists; by default the service's own.", max_length=100),
]
Face = Annotated[
    Finish | None,
    Query(description="How faces are put back: secure, or detail for people, with fine detail from the photograph; if allowed."),
]
_OF_IMAGES = problem_responses(401, 403, 408, 413, 415, 422, 503)
_OF_PEOPLE = {**_OF_IMAGES, **problem_responses(404, 409)}


@dataclass(frozen=True)
class _Asked:
    """What a purification is to bring."""

    aligned: bool
    stages: bool
    tamper: bool
    on_tamper: OnTamper | None
    seed: int | None
    format: Format
    finish: Finish
    preset: str | None


@router.post(
    "/purify",
    dependencies=[Depends(allowed("purify"))],
    response_model=PurifyResponse,
    responses={200: {"content": {kind: {} for kind in FORMATS}}, **_OF_IMAGES, **problem_responses(404, 406)},
    openapi_extra=image_body({"file": "The photograph"}),
)
async def purify(
    request: Request,
    aligned: Annotated[bool, Query(description="The image is an aligned, square face crop.")] = False,
    stages: Annotated[bool, Query(description="In JSON: also what each stage made.")] = False,
    tamper: Tamper = False,
    on_tamper: Stricter = None,
    format: Wanted = None,
    face: Face = None,
    preset: PresetName = None,
    seed: Seed = None,
) -> Response | PurifyResponse:
    """Purify every face. ``Accept: application/json`` gives the faces too; image/png, image/jpeg, image/webp the image."""
    as_json, chosen = wanted_answer(request, format, json_only=stages)
    handlers, (data,) = handlers_of(request), only(await images_in(request, preset), "file")
    asked = _Asked(aligned, stages, tamper, on_tamper, seed, chosen, finish_of(request, face), preset)

    async def work() -> Response | PurifyResponse:
        before, trace, tampering = await _purified(handlers, data, asked)
        request.state.notes["faces"] = len(before)
        if as_json:
            shown = dict(await _shown(handlers, before, trace, tampering, asked))
            return PurifyResponse(preset=handlers.presets.card(preset).name, **shown)
        image = await handlers.encode(before.with_crops(trace.crops), chosen, asked.finish)
        return Response(image, media_type=f"image/{chosen}", headers=_headers(handlers.presets.card(preset), before, tampering))

    return await in_time(request, work())


@router.post(
    "/purify/batch",
    dependencies=[Depends(allowed("purify"))],
    responses={**_OF_IMAGES, **problem_responses(404)},
    openapi_extra=image_body({"file": "Photographs"}, many=True),
)
async def purify_batch(
    request: Request,
    tamper: Tamper = False,
    on_tamper: Stricter = None,
    format: Wanted = None,
    face: Face = None,
    preset: PresetName = None,
    seed: Seed = None,
) -> BatchResponse:
    """Purify several photographs. Each has its result or its problem, in the order in which they came."""
    chosen = format_of(request, format) or handlers_of(request).settings.image_formats[0]
    handlers, asked = (
        handlers_of(request),
        _Asked(False, False, tamper, on_tamper, seed, chosen, finish_of(request, face), preset),
    )
    handlers.check_seed(seed)
    handlers.judging.wanted(on_tamper)
    photographs = several(await images_in(request, preset), handlers.settings.max_images)
    places = asyncio.Semaphore(2 * handlers.settings.readers)  # so that its photographs do not crowd each other out, or others

    async def one(data: bytes) -> Photograph:
        try:
            async with places:
                before, trace, tampering = await _purified(handlers, data, asked)
                return await _shown(handlers, before, trace, tampering, asked)
        except (FacesieveError, MemoryError) as error:
            return Photograph(image=None, problem=Problem.model_validate_json(as_problem(error).body(request.state.request_id)))

    async def work() -> BatchResponse:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(data)) for data in photographs]
        return BatchResponse(preset=handlers.presets.card(preset).name, photographs=[task.result() for task in tasks])

    found = await in_time(request, work())
    request.state.notes["faces"] = sum(len(one.faces or []) for one in found.photographs)
    return found


async def _purified(handlers: Handlers, data: bytes, asked: _Asked) -> tuple[FaceCrops, Trace, list[Tampering] | None]:
    handlers.check_seed(asked.seed)
    wanted = handlers.judging.wanted(asked.on_tamper) or asked.tamper
    before = await handlers.cut(data, aligned=asked.aligned)
    trace = await handlers.purify(before, asked.seed, asked.preset)
    if not wanted:
        return before, trace, None
    return before, trace, await handlers.tampering(before, before.with_crops(trace.crops), asked.preset, asked.on_tamper)


def _headers(card: PurifierCard, before: FaceCrops, tampering: Sequence[Tampering] | None) -> dict[str, str]:
    """What was done, where the answer is an image; ``X-Facesieve-Faces`` is that of older versions."""
    faces = str(len(before))
    found = {"Facesieve-Faces": faces, "X-Facesieve-Faces": faces, "Facesieve-Preset": card.name}
    found["Facesieve-Possible-Faces"] = str(len(before.possible))
    return found if not tampering else {**found, TAMPER_HEADER: ", ".join(said([one], 4) for one in tampering)}


async def _shown(
    handlers: Handlers, before: FaceCrops, trace: Trace, tampering: Sequence[Tampering] | None, asked: _Asked
) -> Photograph:
    after, found = before.with_crops(trace.crops), before.faces or [None] * len(before)
    qualities: Sequence[Quality | None] = await handlers.qualities(before) or [None] * len(before)
    crops = await handlers.encode_crops(trace.crops)
    made = [(step.name, await handlers.encode_crops(step.crops)) for step in trace.steps] if asked.stages else []
    faces = [
        PurifiedFace(
            box=None if face is None else list(map(float, face.box)),
            landmarks=None if face is None else face.landmarks.astype(float).tolist(),
            score=None if face is None else float(face.score),
            quality=answers.face_quality(qualities[n]),
            change=change,
            crop=_text(crops[n]),
            stages=[StageResult(name=name, image=_text(images[n])) for name, images in made] if asked.stages else None,
            **answers.tampering(tampering[n] if tampering else None),
        )
        for n, (face, change) in enumerate(zip(found, after.changes(before), strict=True))
    ]
    image = _text(await handlers.encode(after, asked.format, asked.finish))
    return Photograph(image=image, faces=faces, possible=answers.possible(before))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@router.post(
    "/identify",
    dependencies=[Depends(allowed("identify"))],
    responses=_OF_PEOPLE,
    openapi_extra=image_body({"file": "The photograph"}),
)
async def identify(
    request: Request,
    count: Annotated[int, Query(description="How many of the best matches.", ge=1, le=100)] = 5,
    threshold: Threshold = None,
    on_tamper: Stricter = None,
    seed: Seed = None,
) -> IdentifyResponse:
    """Name everyone in a photograph, with the shield in front of the recogniser."""
    (data,) = only(await images_in(request), "file")
    asking = Asking(threshold, seed, on_tamper)
    found, before = await in_time(request, handlers_of(request).identify(data, count, asking))
    request.state.notes["faces"] = len(found)
    return IdentifyResponse(faces=[answers.identified(one) for one in found], possible=answers.possible(before))


@router.post(
    "/verify",
    dependencies=[Depends(allowed("identify"))],
    responses=_OF_PEOPLE,
    openapi_extra=image_body({"file": "The photograph", "other": "Another photograph, where no person is named"}),
)
async def verify(
    request: Request,
    person: Annotated[str | None, Query(description="The enrolled person that it is said to be.")] = None,
    threshold: Threshold = None,
    on_tamper: Stricter = None,
    seed: Seed = None,
) -> VerifyResponse:
    """Say whether a photograph shows ``person``, or whether two photographs (``file`` and ``other``) show the same one."""
    images, asking = await images_in(request), Asking(threshold, seed, on_tamper)
    if person is None:
        file, other = only(images, "file", "other")
        work = handlers_of(request).compare(file, other, asking)
    else:
        work = handlers_of(request).verify(only(images, "file")[0], person, asking)
    found = await in_time(request, work)
    return answers.verified(found)


@router.get("/info", dependencies=[Depends(allowed(None))], responses=problem_responses(401, 422))
async def info(request: Request) -> dict[str, object]:
    """What runs here, and its limits."""
    handlers = handlers_of(request)
    card, settings = handlers.card, handlers.settings
    return {
        "version": facesieve.__version__,
        "preset": card.preset,
        "presets": handlers.presets.names,
        "purifier": card.label,
        "prior_sha256": card.prior_sha256,
        "size": card.size,
        "path": card.ran_on,
        "embedder": handlers.embedder,
        "gallery": settings.gallery is not None,
        "on_tamper": settings.on_tamper,
        "faces": settings.finishes,
        "formats": settings.image_formats,
        "limits": settings.model_dump(include={"max_bytes", "max_pixels", "max_faces", "max_images", "queue_faces", "max_batch"}),
    }
