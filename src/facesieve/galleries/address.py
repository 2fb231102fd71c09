"""Where a gallery on a server is: its URL, and how messages may name it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from facesieve.errors import InputError, one_line


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
            raise InputError("the gallery's URL cannot be read", advice="write postgresql://USER@HOST:PORT/DATABASE") from error
        name = options.pop("gallery", "")
        if not re.fullmatch(r"[a-z0-9_]{0,40}", name):
            raise InputError(f"gallery={name!r} in the URL", advice="use at most 40 of a-z, 0-9 and _")
        url = urlunsplit(parts._replace(query=urlencode({"connect_timeout": "10", **options}, quote_via=quote)))
        shown = f"postgresql://{parts.netloc.rpartition('@')[2]}{parts.path}" + (f"?gallery={name}" if name else "")
        secrets = frozenset(form for word in passwords for form in (word, unquote(word), quote(word)) if form)
        return cls(location, url, f"facesieve_{name}" if name else "facesieve", shown, secrets)

    def clean(self, error: Exception) -> str:
        """The first line of an error, without a password."""
        line = one_line(error, limit=1000)  # shortened afterwards: half a password would not be found
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line[:200]
