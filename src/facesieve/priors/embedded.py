"""The priors that ship with the package, of 128 x 128 faces.

``prior-128`` was trained by ``facesieve train prior``; ``prior-128-tuned`` started from it and was tuned against
attacks on recognisers. ``purifier-128`` is for one evaluation, trained against attacks through itself as
``facesieve train purifier`` does.
"""

from __future__ import annotations

from pathlib import Path

from facesieve.weights import FOLDER

PRIOR, TUNED_PRIOR, PURIFIER = "prior-128", "prior-128-tuned", "purifier-128"
EMBEDDED = (PRIOR, TUNED_PRIOR, PURIFIER)


def embedded_prior_folder(name: str = PRIOR) -> Path:
    """Its folder; ``load_prior`` reads it, ``card.json`` in it says what it is and what its limits are."""
    return FOLDER / name
