"""The prior that ships with the package: 128 x 128 faces, trained by ``facesieve train prior``."""

from __future__ import annotations

from pathlib import Path


def embedded_prior_folder() -> Path:
    """Its folder; ``load_prior`` reads it, ``card.json`` in it says what it is and where its limits lie."""
    return Path(__file__).parent.parent / "weights" / "prior-128"
