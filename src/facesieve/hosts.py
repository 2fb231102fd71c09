"""Who can reach an address."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_loopback(authority: str) -> bool:
    """Whether a ``Host`` header, or the rest of an ``Origin`` behind its scheme, names this machine alone, whatever the port.

    A web page's own name can be made to resolve to 127.0.0.1; the browser then sends what the page asks for, with that name.
    """
    host = authority.strip().lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(host)
