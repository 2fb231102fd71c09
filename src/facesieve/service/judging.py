"""What a caller asks of an identification, and what is done about faces that look tampered with: never less than is set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from facesieve.identification import Given, Identifier
from facesieve.service.presets import Presets
from facesieve.service.problems import ProblemError
from facesieve.tamper_policy import OnTamper


@dataclass(frozen=True)
class Asking:
    """What a caller asks of an identification."""

    threshold: Given = None
    seed: int | None = None
    on_tamper: OnTamper | None = None  # None: what the service does


class Judging:
    """The recogniser with the service's policy behind each of its presets.

    Raises ``SettingError`` for a policy without a threshold for one of them.
    """

    def __init__(self, identifier: Identifier | None, presets: Presets) -> None:
        self._identifier, self._presets = identifier, presets
        for name in presets.names:
            self.of(name)

    def of(self, preset: str | None = None, asked: OnTamper | None = None) -> Identifier | None:
        """That of a preset, with a stricter policy where a caller asks for one; None where there is no recogniser.

        Raises ``SettingError`` for a weaker policy, and where there is no threshold for it.
        """
        if (own := self._identifier) is None:
            return None
        return replace(own, purifier=self._presets.card(preset).label, policy=own.policy.at_least(asked))

    def required(self, asked: OnTamper | None = None) -> Identifier:
        """As ``of`` the service's own preset. Raises 404 where there is no recogniser."""
        if (found := self.of(asked=asked)) is None:
            raise ProblemError(404, "not-found", "this service does not identify")
        return found

    def wanted(self, asked: OnTamper | None) -> bool:
        """Whether a verdict on each face is wanted, by the service or its caller. Raises as ``of``."""
        found = self.of(asked=asked)
        return found is not None and found.policy.on != "purify"
