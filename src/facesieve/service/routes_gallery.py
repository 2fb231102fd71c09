"""The addresses of the gallery: who is enrolled, enrol, add photographs, remove."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request

from facesieve.galleries.base import Entry
from facesieve.service.access import allowed, in_time
from facesieve.service.requests import handlers_of, images_in, several
from facesieve.service.schemas import PeopleResponse, PersonResponse, RemovedResponse, Seed, image_body, problem_responses

router = APIRouter(prefix="/v1/gallery", dependencies=[Depends(allowed("gallery"))])

_LOOKING = problem_responses(401, 403, 404, 409, 422, 503)
_ENROLLING = problem_responses(401, 403, 404, 408, 409, 413, 415, 422, 503)
_PHOTOGRAPHS = image_body({"file": "Photographs of this person, one face each"}, many=True)
Kind = Annotated[Literal["raw", "purified", "both"], Query(description="What the templates are made from.")]


@router.get("", responses=_LOOKING)
async def people(
    request: Request,
    limit: Annotated[int, Query(description="Most people on a page.", ge=1, le=1000)] = 100,
    after: Annotated[
        str | None, Query(description="The last name of the page before: next of its answer.", max_length=200)
    ] = None,
) -> PeopleResponse:
    """Who is enrolled, by name, a page at a time."""
    found, more = await handlers_of(request).people(limit, after)
    return PeopleResponse(people=[_shown(entry) for entry in found], next=found[-1].person if more else None)


@router.put("/{id:path}", status_code=201, responses=_ENROLLING, openapi_extra=_PHOTOGRAPHS)
async def enrol(request: Request, id: str, templates: Kind = "both", seed: Seed = None) -> PersonResponse:
    """Enrol a person, from all the photographs or not at all. Somebody who is enrolled already is a 409: remove them first."""
    images, handlers = await images_in(request), handlers_of(request)
    photographs = several(images, handlers.settings.max_images)
    made = await in_time(request, handlers.enrol(id, photographs, templates, seed))
    return PersonResponse(person=id, templates=made)


@router.post("/{id:path}", responses=_ENROLLING, openapi_extra=_PHOTOGRAPHS)
async def add(request: Request, id: str, templates: Kind = "both", seed: Seed = None) -> PersonResponse:
    """Add photographs of somebody who is enrolled, all of them or none: the templates that there are now."""
    images, handlers = await images_in(request), handlers_of(request)
    photographs = several(images, handlers.settings.max_images)
    return _shown(await in_time(request, handlers.add(id, photographs, templates, seed)))


@router.get("/{id:path}", responses=_LOOKING)
async def person(request: Request, id: str) -> PersonResponse:
    """An enrolled person. Templates themselves are not given out."""
    return _shown(await handlers_of(request).person(id))


@router.delete("/{id:path}", responses=_LOOKING)
async def remove(request: Request, id: str) -> RemovedResponse:
    """Remove a person with all templates."""
    return RemovedResponse(person=id, removed=await handlers_of(request).remove(id))


def _shown(entry: Entry) -> PersonResponse:
    return PersonResponse(person=entry.person, templates=dict(entry.templates))
