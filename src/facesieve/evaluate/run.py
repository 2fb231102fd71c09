"""Run an experiment: craft, defend, score; what was done is not done again.

run/
    experiment.json     the settings; a run resumes with the same ones alone
    manifest.json       every image, its hash and its role
    cache/              adversarial and purified batches, by the hash of what made them
    adversarial/        the sets, as float.npy and 8-bit PNG
    trials/             scores of every image, one file for each combination
    report.json         the record
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve import __version__, hardware
from facesieve.data.crops import aligned_crops, of_role
from facesieve.data.sources import open_source
from facesieve.errors import InputError
from facesieve.evaluate import claim
from facesieve.evaluate.cache import BatchCache
from facesieve.evaluate.cascade import Left, left_by
from facesieve.evaluate.craft import AdversarialSet, Victim, adversarial_set
from facesieve.evaluate.defend import Defence, RunContext, defend, make_defence
from facesieve.evaluate.evading import Evasion
from facesieve.evaluate.experiment import AttackSettings, Experiment
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.plan import Plan
from facesieve.evaluate.recogniser import Recogniser, Recognisers, judge, side_by_side
from facesieve.evaluate.sheets import sample_crops, sample_pictures
from facesieve.faces import Crops
from facesieve.files import sha256_of_json, sha256_of_pixels, write_with_folder
from facesieve.images import to_floats
from facesieve.progress import Progress, Report, Work, silent
from facesieve.report.record import NONE, THROUGH, AttackRecord, Cell, Record, described_defences, save_record
from facesieve.tamper_policy import second_of


@dataclass(frozen=True, eq=False)
class Faced:
    """A defence or none, and the images that it faces in each form of saving; ``left`` of a cascade, whose images they are."""

    defence: Defence | None
    sets: dict[str, Tensor]
    left: Left | None = None


class Run:
    """One experiment in one folder."""

    def __init__(
        self,
        experiment: Experiment,
        source: Path,
        out: Path,
        *,
        manifest: Path | None = None,
        cache: Path | None = None,
        samples: Path | None = None,
        report: Report = silent,
        command: str = "",
    ) -> None:
        """Raises ``InputError`` or ``SettingError`` where the folder holds another experiment, or the data is another."""
        self.experiment, self.settings, self.out, self._report = experiment, experiment.run, out, report
        self._command = {"command": command} if command else {}
        claim.check(out, experiment)
        folder = out / "cache" if cache is None else cache
        self._source = open_source(source)
        self.context = RunContext.of(self.settings, BatchCache(folder))
        shown = samples or self.settings.samples
        self.samples = None if shown is None else sample_crops(Path(shown), self.settings.size)
        self.attacks = experiment.all_attacks()
        self.defences = [make_defence(settings, self.context) for settings in experiment.all_defences()]
        self.manifest = claim.wanted_manifest(out, experiment, source, manifest, report)  # may take long: after what may fail
        crops = aligned_crops(self.manifest, self._source, folder, self.settings.size)
        self.gallery, test = of_role(self.manifest, crops, "train"), of_role(self.manifest, crops, "test")
        self._order = round_robin(test.labels)[: self.settings.probes]
        self.images, self.labels = torch.from_numpy(to_floats(test.images[self._order])), test.labels[self._order]
        self.plan = Plan(self.settings, self.attacks, self.defences, len(self.images))
        self.recognisers = Recognisers(self.gallery, self.context)
        self.recogniser = self.recogniser_for(None)
        self.record = self._record([], [], complete=False)
        claim.keep(out, experiment, self.manifest)

    def recogniser_for(self, defence: Defence | None) -> Recogniser:
        """Who names what comes from behind a defence: of people enrolled as they are, or behind the same defence."""
        return self.recognisers.named(self.experiment.recogniser, defence)

    # --- cells ------------------------------------------------------------------------------------

    def execute(self) -> Record:
        """Everything, cell by cell; the record is written after each defence, so that it can be looked at on the way."""
        cells: list[Cell] = []
        records: list[AttackRecord] = []
        every: list[AttackSettings | None] = [None, *self.attacks]
        work = Work(self._report, sum(self.plan.work(attack) for attack in every))
        for attack in every:
            for faced in self._faced(attack, cells, records, work):
                for quantisation in faced.sets:
                    cells += self._cells(attack, quantisation, faced)
                    evaluations = 0 if faced.defence is None else faced.defence.purifier.evaluations
                    work.done(len(cells[-1].predicted) * evaluations, self._line(cells[-1]))
                self.record = self._record(cells, records, complete=False)
                save_record(self.out, self.record)
        self.record = self._record(cells, records, complete=True)
        self.record = self.record.model_copy(update={"measures": self._measured()})
        save_record(self.out, self.record)
        return self.record

    def faced(self, attack: AttackSettings, defence: Defence, n: int) -> Tensor:
        """The first ``n`` test images under the attack, saved as 8 bit, as this defence faces them."""
        if self.plan.is_oblivious(attack):
            return self.adversarial(attack, self.plan.count(attack)).images["uint8"][:n]
        return self.adversarial(attack, n, defence).images["uint8"]

    def test_crops(self, size: int) -> Crops:
        """The test images again, in the same order, cut at another size: (N, 3, size, size) in [0, 1]."""
        crops = aligned_crops(self.manifest, self._source, self.context.cache.folder, size)
        return to_floats(of_role(self.manifest, crops, "test").images[self._order])

    def _faced(
        self, attack: AttackSettings | None, cells: list[Cell], records: list[AttackRecord], work: Work
    ) -> Iterator[Faced]:
        """No defence and each wanted one, with the images that it faces; what was crafted joins ``records``."""

        def crafted(attack: AttackSettings, n: int, defence: Defence | None) -> Faced:
            name = NONE if defence is None else defence.name
            left = left_by(cells, records, attack, name, self.labels[:n]) if attack.cascade else None
            made = self.adversarial(attack, n, defence, left)
            records.append(made.record)
            work.done(n * self.plan.steps(attack, defence), made.record.name)
            return Faced(defence, {name: made.images[name] for name in attack.quantisation}, left)

        if attack is None:
            yield Faced(None, {"uint8": self.images})
            yield from (Faced(defence, {"uint8": self.images[:many]}) for defence, many in self.plan.faced_by(None))
            return
        plain: dict[str, Tensor] = {}
        if self.plan.is_bare(attack):
            plain = (bare := crafted(attack, self.plan.count(attack), None)).sets
            yield bare
        for defence, many in self.plan.faced_by(attack):
            if self.plan.is_oblivious(attack):
                yield Faced(defence, {name: images[:many] for name, images in plain.items()})
            else:
                yield crafted(attack, many, defence)

    def adversarial(
        self, attack: AttackSettings, n: int, defence: Defence | None = None, left: Left | None = None
    ) -> AdversarialSet:
        """The first ``n`` test images under an attack that sees the recogniser, behind a ``defence`` if one is given.

        Of a cascade those alone that the attacks before it ``left``.
        """
        places = None if left is None else left.places
        chosen = slice(n) if places is None else list(places)
        named = attack if defence is None else attack.model_copy(update={"name": f"{attack.name}{THROUGH}{defence.name}"})
        folder = self.out / "adversarial" / _slug(named.name)
        images, labels = self.images[chosen], torch.from_numpy(self.labels[chosen])
        return adversarial_set(named, self.victim(attack, defence), images, labels, folder, places)

    def victim(self, attack: AttackSettings, defence: Defence | None) -> Victim:
        """What an attack sees: the recogniser, or its surrogates, behind a ``defence`` if one is given."""
        seen = attack.surrogates or (self.experiment.recogniser,)
        recogniser = side_by_side([self.recognisers.named(settings, defence) for settings in seen])
        view = attack.view(self.settings.threat) or "gradient"  # of no defence, where it sees none
        evasion = None if attack.evades is None or defence is None else self._evasion(attack, defence)
        noise = self.plan.noise(attack) if attack.known_seed and defence is not None else None
        return Victim(recogniser, self.manifest.sha256, self.context, defence, view, attack.eot_samples, evasion, noise)

    def _evasion(self, attack: AttackSettings, defence: Defence) -> Evasion:
        """What an attack that evades the tamper score keeps low: of the experiment's recogniser, and of the second beside it."""
        own = self.experiment.recogniser
        second = own.model_copy(update={"embedder": second_of(self.recogniser.embedder.name if self.recogniser.embedder else "")})
        both = [self.recognisers.named(settings, defence) for settings in (own, second)]
        return Evasion.of(attack, both, defence.label, reduced=self.settings.gradients is not None)

    def _cells(self, attack: AttackSettings | None, quantisation: str, faced: Faced) -> list[Cell]:
        """The cell, and those of the defence's steps where they are wanted."""
        where: dict[str, object] = {"attack": NONE if attack is None else attack.name, "quantisation": quantisation}
        defence, images, left = faced.defence, faced.sets[quantisation], faced.left
        if left is not None and not left.places:
            return [left.worst]
        recogniser, places = self.recogniser_for(defence), None if left is None else left.places

        def cell(scored: Tensor, **more: object) -> Cell:
            found = self._cell(recogniser, scored, self.labels[list(places or range(len(scored)))], where | more)
            return found if left is None else left.joined(found)

        if defence is None:
            return [cell(images, defence=NONE, point="", seconds=None)]
        result = defend(defence, images, self.context, *self.plan.noise(attack), places=places)
        seconds = round(result.seconds, 4)
        return [
            cell(scored, defence=defence.name, point=point, seconds=seconds)
            for point, scored in result.points[0 if left is None else -1 :]
        ]

    def _cell(self, recogniser: Recogniser, images: Tensor, labels: NDArray[np.int64], where: dict[str, object]) -> Cell:
        made_from = {"images": sha256_of_pixels(images.numpy()), "recogniser": recogniser.name, "data": self.manifest.sha256}
        path = self.out / "trials" / f"{sha256_of_json(made_from)[:32]}.json"
        if not path.exists():
            trial = judge(recogniser, images, labels)
            write_with_folder(path, (json.dumps(asdict(trial)) + "\n").encode())
        try:
            return Cell.model_validate({**where, **json.loads(path.read_text())})
        except (OSError, ValueError, TypeError) as error:
            raise InputError("damaged", path, "delete it, and it is made again") from error

    def _line(self, cell: Cell) -> str:
        correct = float(np.mean(np.array(cell.predicted) == self.labels[: len(cell.predicted)]))
        what = f"attack {cell.attack} ({cell.quantisation}), defence {cell.defence}"
        return f"{what}: {100 * correct:.1f} % of {len(cell.predicted)}"

    # --- the record -------------------------------------------------------------------------------

    def _record(self, cells: list[Cell], records: list[AttackRecord], *, complete: bool) -> Record:
        experiment = self.experiment.model_dump(mode="json")
        return Record(
            experiment=experiment,
            environment=self._environment,
            people=self.manifest.people,
            labels=tuple(self.labels.tolist()),
            closed_set=self.recogniser.closed_set,
            defences=described_defences(experiment, [d.name for d in self.defences if d.purifier.draws_noise]),
            attacks=tuple(records),
            cells=tuple(cells),
            pictures=self._pictures if complete else {},
            complete=complete,
        )

    def _measured(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = {}
        for name in self.settings.measures:
            self._report(Progress(0, len(self.settings.measures), f"measuring {name} ..."))
            found[name] = dict(MEASURES.load(name)(self))
        return found

    @cached_property
    def _pictures(self) -> dict[str, str]:
        if self.samples is None:
            return {}
        return sample_pictures(self.samples, self.defences, self.context)

    @cached_property
    def _environment(self) -> dict[str, str]:
        return {
            "facesieve": __version__,
            **hardware.summary(),
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.machine()}",
            "path": str(self.context.hardware),
            "prior_sha256": ", ".join(sorted(str(prior.sha256) for prior in self.context.loaded.values())),
            "recogniser": self.recogniser.name,
            "manifest_sha256": self.manifest.sha256,
            **self._command,
        }


def evaluate(
    experiment: Experiment,
    source: Path,
    out: Path,
    *,
    manifest: Path | None = None,
    cache: Path | None = None,
    samples: Path | None = None,
    report: Report = silent,
    command: str = "",
) -> Record:
    """Run an experiment, or resume it, in the folder ``out``; returns its record.

    ``source`` is the labelled data; ``manifest`` a selection from it that was made before (else it
    is made and kept in ``out``); ``cache`` a folder that several runs share; ``samples`` photographs that may be
    shown, in place of the experiment's (they change no figure); ``command`` what a person types to run it, for the
    record. Raises ``InputError`` and its kin for data, weights or settings that do not fit; what was computed is kept.
    """
    return Run(experiment, source, out, manifest=manifest, cache=cache, samples=samples, report=report, command=command).execute()


def round_robin(labels: NDArray[np.int64]) -> NDArray[np.intp]:
    """Each person's first image, then each one's second: any first N are of as many people as can be."""
    turn = np.array([int((labels[:number] == label).sum()) for number, label in enumerate(labels)])
    return np.lexsort((labels, turn))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name)
