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
from dataclasses import asdict
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
from facesieve.evaluate.craft import AdversarialSet, Victim, adversarial_set
from facesieve.evaluate.defend import Defence, RunContext, defend, make_defence
from facesieve.evaluate.evading import Evasion
from facesieve.evaluate.experiment import AttackSettings, Experiment
from facesieve.evaluate.measures import MEASURES
from facesieve.evaluate.recogniser import Recogniser, Recognisers, judge, side_by_side
from facesieve.evaluate.sheets import sample_crops, sample_pictures
from facesieve.faces import Crops
from facesieve.files import sha256_of_json, sha256_of_pixels, write_with_folder
from facesieve.images import to_floats
from facesieve.progress import Progress, Report, Work, silent
from facesieve.report.record import NONE, THROUGH, AttackRecord, Cell, Record, described_defences, save_record
from facesieve.tamper_policy import second_of

Faced = tuple[Defence | None, dict[str, Tensor]]  # a defence or none, and the images that it faces in each form of saving


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
        work = Work(self._report, sum(self._work(attack) for attack in every))
        for attack in every:
            for defence, sets in self._faced(attack, records, work):
                for quantisation, images in sets.items():
                    cells += self._cells(attack, quantisation, defence, images)
                    work.done(len(images) * (0 if defence is None else defence.purifier.evaluations), self._line(cells[-1]))
                self.record = self._record(cells, records, complete=False)
                save_record(self.out, self.record)
        self.record = self._record(cells, records, complete=True)
        self.record = self.record.model_copy(update={"measures": self._measured()})
        save_record(self.out, self.record)
        return self.record

    def count(self, attack: AttackSettings) -> int:
        """How many test images it is made for."""
        return len(self.images) if attack.probes is None else min(attack.probes, len(self.images))

    def faced(self, attack: AttackSettings, defence: Defence, n: int) -> Tensor:
        """The first ``n`` test images under the attack, saved as 8 bit, as this defence faces them."""
        if self.is_oblivious(attack):
            return self.adversarial(attack, self.count(attack)).images["uint8"][:n]
        return self.adversarial(attack, n, defence).images["uint8"]

    def test_crops(self, size: int) -> Crops:
        """The test images again, in the same order, cut at another size: (N, 3, size, size) in [0, 1]."""
        crops = aligned_crops(self.manifest, self._source, self.context.cache.folder, size)
        return to_floats(of_role(self.manifest, crops, "test").images[self._order])

    def faced_by(self, attack: AttackSettings | None) -> list[tuple[Defence, int]]:
        """The defences that an attack (or none) is tried on, each with how many images."""
        n = len(self.images) if attack is None else self.count(attack)
        pairs = [(defence, defence.settings) for defence in self.defences]
        return [(d, min(n, s.probes or n)) for d, s in pairs if attack is None or s.faces(attack)]

    def _steps(self, attack: AttackSettings, defence: Defence | None) -> int:
        """The work of crafting one image, in evaluations of a network."""
        if defence is None:
            return attack.starts * attack.iterations
        draws = (attack.eot_samples or self.settings.eot_samples) if defence.purifier.draws_noise else 1
        return attack.starts * attack.iterations * (1 + draws * defence.purifier.evaluations)

    def _work(self, attack: AttackSettings | None) -> int:
        wanted = self.faced_by(attack)
        times = 1 if attack is None else len(attack.quantisation)
        total = times * sum(many * defence.purifier.evaluations for defence, many in wanted)
        if attack is not None:
            total += self.count(attack) * self._steps(attack, None) if self.is_bare(attack) else 0
            total += 0 if self.is_oblivious(attack) else sum(many * self._steps(attack, defence) for defence, many in wanted)
        return total

    def is_oblivious(self, attack: AttackSettings) -> bool:
        """Whether it has nothing of any defence: all face one set."""
        return attack.view(self.settings.threat) is None

    def is_bare(self, attack: AttackSettings) -> bool:
        """Whether it is tried without a defence, too: one that says what it has of a defence is tried behind defences alone."""
        return self.is_oblivious(attack) or attack.through is None

    def _faced(self, attack: AttackSettings | None, records: list[AttackRecord], work: Work) -> Iterator[Faced]:
        """No defence and each wanted one, with the images that it faces; what was crafted joins ``records``."""

        def crafted(attack: AttackSettings, n: int, defence: Defence | None) -> dict[str, Tensor]:
            made = self.adversarial(attack, n, defence)
            records.append(made.record)
            work.done(n * self._steps(attack, defence), made.record.name)
            return {name: made.images[name] for name in attack.quantisation}

        if attack is None:
            yield None, {"uint8": self.images}
            yield from ((defence, {"uint8": self.images[:many]}) for defence, many in self.faced_by(None))
            return
        plain: dict[str, Tensor] = {}
        if self.is_bare(attack):
            plain = crafted(attack, self.count(attack), None)
            yield None, plain
        for defence, many in self.faced_by(attack):
            own = plain if self.is_oblivious(attack) else crafted(attack, many, defence)
            yield defence, {name: images[:many] for name, images in own.items()}

    def adversarial(self, attack: AttackSettings, n: int, defence: Defence | None = None) -> AdversarialSet:
        """The first ``n`` test images under an attack that sees the recogniser, behind a ``defence`` if one is given."""
        named = attack if defence is None else attack.model_copy(update={"name": f"{attack.name}{THROUGH}{defence.name}"})
        folder = self.out / "adversarial" / _slug(named.name)
        images, labels = self.images[:n], torch.from_numpy(self.labels[:n])
        return adversarial_set(named, self.victim(attack, defence), images, labels, folder)

    def victim(self, attack: AttackSettings, defence: Defence | None) -> Victim:
        """What an attack sees: the recogniser, or its surrogates, behind a ``defence`` if one is given."""
        seen = attack.surrogates or (self.experiment.recogniser,)
        recogniser = side_by_side([self.recognisers.named(settings, defence) for settings in seen])
        view = attack.view(self.settings.threat) or "gradient"  # of no defence, where it sees none
        evasion = None if attack.evades is None or defence is None else self._evasion(attack, defence)
        return Victim(recogniser, self.manifest.sha256, self.context, defence, view, attack.eot_samples, evasion)

    def _evasion(self, attack: AttackSettings, defence: Defence) -> Evasion:
        """What an attack that evades the tamper score keeps low: of the experiment's recogniser, and of the second beside it."""
        own = self.experiment.recogniser
        second = own.model_copy(update={"embedder": second_of(self.recogniser.embedder.name if self.recogniser.embedder else "")})
        both = [self.recognisers.named(settings, defence) for settings in (own, second)]
        return Evasion.of(attack, both, defence.label, reduced=self.settings.gradients is not None)

    def _cells(self, attack: AttackSettings | None, quantisation: str, defence: Defence | None, images: Tensor) -> list[Cell]:
        """The cell, and those of the defence's steps where they are wanted."""
        where: dict[str, object] = {"attack": NONE if attack is None else attack.name, "quantisation": quantisation}
        recogniser = self.recogniser_for(defence)
        if defence is None:
            return [self._cell(recogniser, images, {**where, "defence": NONE, "point": "", "seconds": None})]
        # Behind a defence that it knows each attack meets noise of its own; one set for all meets that of the clean images.
        own = () if attack is None or self.is_oblivious(attack) else ("purify", attack.name)
        result = defend(defence, images, self.context, *own)
        where |= {"defence": defence.name, "seconds": round(result.seconds, 4)}
        return [self._cell(recogniser, scored, {**where, "point": point}) for point, scored in result.points]

    def _cell(self, recogniser: Recogniser, images: Tensor, where: dict[str, object]) -> Cell:
        made_from = {"images": sha256_of_pixels(images.numpy()), "recogniser": recogniser.name, "data": self.manifest.sha256}
        path = self.out / "trials" / f"{sha256_of_json(made_from)[:32]}.json"
        if not path.exists():
            trial = judge(recogniser, images, self.labels[: len(images)])
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
