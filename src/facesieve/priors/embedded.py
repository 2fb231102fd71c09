"""The priors that ship with the package, of 128 x 128 faces.

``prior-128`` was trained by ``facesieve train prior``; ``prior-128-tuned`` began with it and was
tuned for recognition by ``facesieve train tuned-prior``.
"""

from __future__ import annotations

from pathlib import Path

from facesieve.weights import FOLDER

PRIOR, TUNED_PRIOR = "prior-128", "prior-128-tuned"
EMBEDDED = (PRIOR, TUNED_PRIOR)


def embedded_prior_folder(name: str = PRIOR) -> Path:
    """Its folder; ``load_prior`` reads it, ``card.json`` in it says what it is and where its limits lie."""
    return FOLDER / name
