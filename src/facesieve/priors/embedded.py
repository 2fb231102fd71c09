"""The priors that ship with the package, of 128 x 128 faces.

``prior-128`` was trained as ``facesieve train prior`` does; ``purifier-128`` is for one evaluation, trained against
attacks through itself as ``facesieve train purifier`` does. Both began from random weights. ``balanced-128`` is the mean of
the two, weight by weight.
"""

from __future__ import annotations

from pathlib import Path

from facesieve.errors import PriorError
from facesieve.weights import FOLDER

PRIOR, BALANCED, PURIFIER = "prior-128", "balanced-128", "purifier-128"
EMBEDDED = (PRIOR, BALANCED, PURIFIER)


def embedded_prior_folder(name: str = PRIOR) -> Path:
    """Its folder; ``load_prior`` reads it, ``card.json`` in it says what it is and what its limits are.

    Raises ``PriorError`` for a name that none of them has.
    """
    if name not in EMBEDDED:
        raise PriorError(f"no prior {name!r} ships with the package", advice=f"give its folder; there are {', '.join(EMBEDDED)}")
    return FOLDER / name
