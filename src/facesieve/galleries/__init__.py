"""A gallery by its location: ``postgresql://...`` or a folder. The back ends are imported when they are used."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from facesieve.errors import InputError
from facesieve.galleries.base import Gallery


def open_gallery(location: str, *, embedder: str | None = None, dimensions: int | None = None) -> Gallery:
    """The gallery at a folder or a PostgreSQL URL; nothing is created.

    With ``embedder`` and ``dimensions``, raises ``GalleryError`` if it was made with others; also
    where there is no gallery, and for a server that cannot be reached. ``MissingExtraError`` if
    the PostgreSQL libraries are not installed.
    """
    if _is_url(location):
        from facesieve.galleries.postgres import PostgresGallery

        return PostgresGallery.open(location, embedder=embedder, dimensions=dimensions)
    from facesieve.galleries.lance import LanceGallery

    return LanceGallery.open(Path(location), embedder=embedder, dimensions=dimensions)


def create_gallery(location: str, *, embedder: str, dimensions: int) -> Gallery:
    """The gallery at a folder or a PostgreSQL URL, made if there is none; raises as ``open_gallery``.

    A folder must be new, empty or a gallery; its parents are made.
    """
    if dimensions < 1:
        raise InputError(f"a gallery of {dimensions} dimensions cannot be; use those of the embedder")
    if _is_url(location):
        from facesieve.galleries.postgres import PostgresGallery

        return PostgresGallery.create(location, embedder=embedder, dimensions=dimensions)
    from facesieve.galleries.lance import LanceGallery

    return LanceGallery.create(Path(location), embedder=embedder, dimensions=dimensions)


def _is_url(location: str) -> bool:
    """Raises ``InputError`` for a URL of another kind, before a folder of that name is made, and for nothing at all."""
    scheme = location.partition("://")[0] if "://" in location else ""
    if scheme in {"postgresql", "postgres"}:
        return True
    if scheme:
        raise InputError(f"a gallery at {scheme}:// is not known; give a folder or postgresql://USER@HOST/DATABASE")
    if not location.strip():
        raise InputError("no gallery is named; give a folder or postgresql://USER@HOST/DATABASE")
    return False


@dataclass(frozen=True)
class Address:
    """A gallery's URL, taken apart: ``?gallery=NAME`` is ours, everything else is the server's."""

    location: str = field(repr=False)  # as it was given
    url: str = field(repr=False)  # for the server
    schema: str  # where the tables are
    shown: str  # how messages name the gallery: without user and password
    secrets: frozenset[str] = field(repr=False)  # what no message may contain

    @classmethod
    def of(cls, location: str) -> Address:
        """Raises ``InputError`` for a URL that cannot be read; the message does not repeat it."""
        try:
            parts = urlsplit(location)
            options = dict(parse_qsl(parts.query, keep_blank_values=True))
            passwords = [parts.password or "", options.get("password", "")]
        except ValueError as error:
            raise InputError("the gallery's URL cannot be read; write postgresql://USER@HOST:PORT/DATABASE") from error
        name = options.pop("gallery", "")
        if not re.fullmatch(r"[a-z0-9_]{0,40}", name):
            raise InputError(f"gallery={name!r} in the URL: use at most 40 of a-z, 0-9 and _")
        url = urlunsplit(parts._replace(query=urlencode({"connect_timeout": "10", **options}, quote_via=quote)))
        shown = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?gallery={name}" if name else "")
        secrets = frozenset(form for word in passwords for form in (word, unquote(word), quote(word)) if form)
        return cls(location, url, f"facesieve_{name}" if name else "facesieve", shown, secrets)

    def clean(self, error: Exception) -> str:
        """The first line of an error, without a password."""
        text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text[:200]
