"""What a run does: which attack is tried on which defence, on how many images, and how much work that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facesieve.evaluate.defend import Defence
from facesieve.evaluate.experiment import AttackSettings, RunSettings


@dataclass(frozen=True, eq=False)
class Plan:
    """Every attack (or none) and the defences (or none) that it is tried on."""

    settings: RunSettings
    attacks: Sequence[AttackSettings]
    defences: Sequence[Defence]
    images: int  # test images of the run

    def count(self, attack: AttackSettings) -> int:
        """How many test images it is made for."""
        return self.images if attack.probes is None else min(attack.probes, self.images)

    def faced_by(self, attack: AttackSettings | None) -> list[tuple[Defence, int]]:
        """The defences that an attack (or none) is tried on, each with how many images."""
        n = self.images if attack is None else self.count(attack)
        pairs = [(defence, defence.settings) for defence in self.defences]
        return [(d, min(n, s.probes or n)) for d, s in pairs if attack is None or s.faces(attack)]

    def steps(self, attack: AttackSettings, defence: Defence | None) -> int:
        """The work of crafting one image, in evaluations of a network."""
        if defence is None:
            return attack.starts * attack.iterations
        draws = (attack.eot_samples or self.settings.eot_samples) if defence.purifier.draws_noise else 1
        return attack.starts * attack.iterations * (1 + draws * defence.purifier.evaluations)

    def work(self, attack: AttackSettings | None) -> int:
        """The work of an attack (or none) and of everything that it is tried on, in evaluations of a network."""
        wanted = self.faced_by(attack)
        times = 1 if attack is None else len(attack.quantisation)
        total = times * sum(many * defence.purifier.evaluations for defence, many in wanted)
        if attack is not None:
            total += self.count(attack) * self.steps(attack, None) if self.is_bare(attack) else 0
            total += 0 if self.is_oblivious(attack) else sum(many * self.steps(attack, defence) for defence, many in wanted)
        return total

    def noise(self, attack: AttackSettings | None) -> tuple[str, ...]:
        """What a defence's seeds are derived from: an attack that knows it has its own, any other that of clean images."""
        return ("purify",) if attack is None or self.is_oblivious(attack) else ("purify", attack.name)

    def is_oblivious(self, attack: AttackSettings) -> bool:
        """Whether it has nothing of any defence: all face one set."""
        return attack.view(self.settings.threat) is None

    def is_bare(self, attack: AttackSettings) -> bool:
        """Whether it is tried without a defence, too: one that says what it has of a defence is tried behind defences alone."""
        return self.is_oblivious(attack) or attack.through is None
