"""What a purifier is, as plain data: for code that needs its label or its settings and has no model in its process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from facesieve.files import sha256_of


@dataclass(frozen=True)
class PurifierCard:
    """A purifier: its preset's settings, its prior's hash, and where and in which number format it runs.

    Of a whole shield, ``detector`` is what the places of its faces depend on.
    """

    preset: dict[str, Any]  # ``Preset.as_dict()``
    size: int  # side of the crops, pixels
    prior_sha256: str
    dtype: str  # number format of the network: float32, bfloat16, int8
    ran_on: str  # device and number format, and why, in words
    detector: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The preset's name."""
        name: str = self.preset["name"]
        return name

    @property
    def evaluations(self) -> int:
        """How often the prior is evaluated for one face."""
        return sum(r["evaluations"] for r in self.preset["restorations"])

    @property
    def label(self) -> str:
        """What a gallery remembers this purifier by: the preset's name, and a hash of all its settings and its prior."""
        made_from = json.dumps([self.preset["restorations"], self.prior_sha256], sort_keys=True)
        return f"{self.name}-{sha256_of(made_from.encode())[:12]}"

    @property
    def made_from(self) -> dict[str, Any]:
        """Everything of the purifier that a result depends on, as sidecars record it."""
        return {"preset": self.preset, "prior_sha256": self.prior_sha256, "precision": self.dtype}
