"""Run an experiment: craft, defend, score; what was done is not done again.

run/
    experiment.json     the settings; a run goes on with the same ones alone
    manifest.json       every image, its hash and its role
    cache/              adversarial and purified batches, by the hash of what made them
    adversarial/        the sets, as float.npy and 8-bit PNG
    cells/              scores of every image, one file for each combination
    report.json         the record
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facesieve import __version__, hardware
from facesieve.data.crops import aligned_crops
from facesieve.data.manifest import Manifest, load_manifest, save_manifest
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.errors import InputError, SettingError
from facesieve.evaluate.cache import Store, image_digest
from facesieve.evaluate.craft import AdversarialSet, adversarial_set
from facesieve.evaluate.defend import Around, Defence, as_seen, defend, make_defence
from facesieve.evaluate.experiment import AttackSettings, Experiment
from facesieve.evaluate.recogniser import Recogniser, judge, load_recogniser
from facesieve.evaluate.sheets import sample_crops, sample_pictures
from facesieve.files import sha256_of_json, write_with_folder
from facesieve.report.record import NONE, AttackRecord, Cell, Record, described_defences, save_record

Say = Callable[[str], None]


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
        say: Say = print,
    ) -> None:
        """Raises ``InputError`` or ``SettingError`` where the folder holds another experiment, or the data is another."""
        self.experiment, self.out, self.say = experiment, out, say
        self.settings = experiment.run
        self._claim()
        self.manifest = self._manifest(source, manifest)
        self.cache = out / "cache" if cache is None else cache
        self.store = Store(self.cache)
        crops = aligned_crops(self.manifest, open_source(source), self.cache, self.settings.size)
        self.gallery, self.owners = self._of("train", crops)
        images, labels = self._of("test", crops)
        order = _round_robin(labels)[: self.settings.probes]
        self.images, self.labels = images[torch.from_numpy(order)], labels[order]
        self.attacks, self.defences = experiment.all_attacks(), experiment.all_defences()
        self.around = Around.of(self.settings)
        shown = self.settings.samples
        self.samples = None if shown is None else sample_crops(Path(shown), self.settings.size)
        self.made = [make_defence(settings, self.around) for settings in self.defences]
        self.recogniser = load_recogniser(experiment.recogniser, self.manifest.people, self.gallery, self.owners)

    def _claim(self) -> None:
        path, text = self.out / "experiment.json", self.experiment.model_dump_json(indent=1) + "\n"
        if path.exists() and path.read_text() != text:
            raise SettingError(f"{self.out}: holds a run of another experiment; choose another folder")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out}: not a folder")
        write_with_folder(path, text.encode())

    def _manifest(self, source: Path, given: Path | None) -> Manifest:
        own = self.out / "manifest.json"
        if given is not None:
            manifest = load_manifest(given)
            if manifest.selection != self.experiment.data:
                raise SettingError(f"{given}: made with other settings than the experiment's [data]; select anew")
        elif own.exists():
            return load_manifest(own)
        else:
            self.say("choosing people and images ...")
            manifest = select(open_source(source), self.experiment.data)
        if own.exists() and load_manifest(own).sha256 != manifest.sha256:
            raise SettingError(f"{self.out}: holds a run on other data; choose another folder")
        save_manifest(own, manifest)
        return manifest

    def _of(self, role: str, crops: np.ndarray) -> tuple[Tensor, np.ndarray]:
        chosen = [number for number, image in enumerate(self.manifest.images) if image.role == role]
        if not chosen:
            raise InputError(f"the data has no {role} images; set data.{role}")
        place = {person: number for number, person in enumerate(self.manifest.people)}
        owners = np.array([place[self.manifest.images[number].person] for number in chosen])
        return torch.from_numpy(crops[chosen]).permute(0, 3, 1, 2).float() / 255, owners

    # --- cells ------------------------------------------------------------------------------------

    def execute(self) -> Record:
        """Everything, cell by cell; the report is written after each, so that it can be looked at on the way."""
        cells: list[Cell] = []
        records: list[AttackRecord] = []
        every: list[AttackSettings | None] = [None, *self.attacks]
        clock = _Clock(self.say, sum(self._work(attack) for attack in every))
        for attack in every:
            for quantisation, faced in self._faced(attack, records, clock).items():
                for defence, images in faced:
                    cells += self._cells(attack, quantisation, defence, images)
                    clock.done(len(images) * (0 if defence is None else defence.evaluations), self._line(cells[-1]))
            report = self._report(cells, records, complete=attack is every[-1])
            save_record(self.out, report)
        return report

    def count(self, attack: AttackSettings) -> int:
        """How many test images it is made for."""
        return len(self.images) if attack.probes is None else min(attack.probes, len(self.images))

    def _wanted(self, attack: AttackSettings | None) -> list[tuple[Defence, int]]:
        """The defences that an attack is tried on, each with how many images."""
        n = len(self.images) if attack is None else self.count(attack)
        pairs = zip(self.defences, self.made, strict=True)
        return [(d, min(n, s.probes or n)) for s, d in pairs if attack is None or s.attacks is None or attack.name in s.attacks]

    def _steps(self, attack: AttackSettings, defence: Defence | None) -> int:
        """The work of crafting one image, in evaluations of a network."""
        draws = self.settings.averaged if defence is not None and defence.random else 1
        return attack.iterations * (1 + (0 if defence is None else draws * defence.evaluations))

    def _work(self, attack: AttackSettings | None) -> int:
        wanted = self._wanted(attack)
        times = 1 if attack is None else len(attack.quantisation)
        total = times * sum(many * defence.evaluations for defence, many in wanted)
        if attack is not None:
            total += self.count(attack) * self._steps(attack, None)
            total += 0 if self._oblivious else sum(many * self._steps(attack, defence) for defence, many in wanted)
        return total

    @property
    def _oblivious(self) -> bool:
        return self.settings.threat == "oblivious"

    def _faced(
        self, attack: AttackSettings | None, records: list[AttackRecord], clock: _Clock
    ) -> dict[str, list[tuple[Defence | None, Tensor]]]:
        """In each form of saving: no defence and every wanted one, with the images that it faces.

        What was crafted joins ``records``.
        """

        def crafted(attack: AttackSettings, n: int, defence: Defence | None) -> dict[str, Tensor]:
            made = self.adversarial(attack, n, defence)
            records.append(made.record)
            clock.done(n * self._steps(attack, defence), made.record.name)
            return made.images

        if attack is None:
            return {"uint8": [(None, self.images), *((defence, self.images[:many]) for defence, many in self._wanted(None))]}
        plain = crafted(attack, self.count(attack), None)
        faced: list[tuple[Defence | None, dict[str, Tensor]]] = [(None, plain)]
        for defence, many in self._wanted(attack):
            own = plain if self._oblivious else crafted(attack, many, defence)
            faced.append((defence, {name: images[:many] for name, images in own.items()}))
        return {name: [(defence, images[name]) for defence, images in faced] for name in attack.quantisation}

    def adversarial(self, attack: AttackSettings, n: int, defence: Defence | None = None) -> AdversarialSet:
        """The first ``n`` test images under the attack, from the cache where they are there.

        With a ``defence`` the attack sees the recogniser behind it.
        """
        recogniser = self.recogniser if attack.on is None else self._other(attack)
        name = attack.name if defence is None else f"{attack.name}, through {defence.name}"
        return adversarial_set(
            attack.model_copy(update={"name": name}), recogniser, self.images[:n], torch.from_numpy(self.labels[:n]),
            seed=self.settings.seed, batch=self.settings.batch, store=self.store, data=self.manifest.sha256,
            folder=self.out / "adversarial" / _slug(name), seen=None if defence is None else as_seen(defence, self.around),
        )  # fmt: skip

    def _other(self, attack: AttackSettings) -> Recogniser:
        assert attack.on is not None
        return load_recogniser(attack.on, self.manifest.people, self.gallery, self.owners)

    def _cells(self, attack: AttackSettings | None, quantisation: str, defence: Defence | None, images: Tensor) -> list[Cell]:
        """The cell, and those of the defence's steps where they are wanted."""
        where = (NONE if attack is None else attack.name, quantisation, NONE if defence is None else defence.name)
        if defence is None:
            return [self._cell(*where, "", images, None)]
        settings = self.settings
        result = defend(defence, images, self.around, self.store, seed=settings.seed, batch=settings.batch)
        return [self._cell(*where, point, scored, result.seconds) for point, scored in result.points]

    def _cell(self, attack: str, quantisation: str, defence: str, point: str, images: Tensor, seconds: float | None) -> Cell:
        key = sha256_of_json({"images": image_digest(images), "recogniser": self.recogniser.name, "data": self.manifest.sha256})
        path = self.out / "cells" / f"{key[:32]}.json"
        labels = self.labels[: len(images)]
        if not path.exists():
            write_with_folder(path, (json.dumps(asdict(judge(self.recogniser, images, labels))) + "\n").encode())
        trial = json.loads(path.read_text())
        timed = None if seconds is None else round(seconds, 4)
        return Cell(attack=attack, quantisation=quantisation, defence=defence, point=point, seconds=timed, **trial)  # type: ignore[arg-type]

    def _line(self, cell: Cell) -> str:
        right = float(np.mean(np.array(cell.predicted) == self.labels[: len(cell.predicted)]))
        return f"attack {cell.attack} ({cell.quantisation}), defence {cell.defence}: {100 * right:.1f} % of {len(cell.predicted)}"

    # --- the record -------------------------------------------------------------------------------

    def _report(self, cells: list[Cell], records: list[AttackRecord], *, complete: bool) -> Record:
        experiment = self.experiment.model_dump(mode="json")
        return Record(
            experiment=experiment,
            environment=self._environment,
            people=self.manifest.people,
            labels=tuple(self.labels.tolist()),
            closed_set=self.recogniser.closed_set,
            defences=described_defences(experiment, [defence.name for defence in self.made if defence.random]),
            attacks=tuple(records),
            cells=tuple(cells),
            pictures=self._pictures if complete else {},
            complete=complete,
        )

    @cached_property
    def _pictures(self) -> dict[str, str]:
        if self.samples is None:
            return {}
        shown = [defence for defence in self.made if defence.steps_too]
        return sample_pictures(self.samples, shown, self.around, seed=self.settings.seed)

    @cached_property
    def _environment(self) -> dict[str, str]:
        return {
            "facesieve": __version__,
            **hardware.summary(),
            "numpy": np.__version__,
            "system": f"{platform.system()} {platform.machine()}",
            "path": str(self.around.path),
            "prior_sha256": ", ".join(sorted(self.around.hashes.values())),
            "recogniser": self.recogniser.name,
            "manifest_sha256": self.manifest.sha256,
        }


class _Clock:
    """Says what was done and how long the rest will take, by the mean speed of what was not there already."""

    def __init__(self, say: Say, units: int) -> None:
        self.say, self.left = say, units
        self.before, self.seconds, self.spent = time.monotonic(), 0.0, 0

    def done(self, units: int, line: str) -> None:
        now = time.monotonic()
        if units and now - self.before > 0.02 * units**0.5:  # else it came from the disk
            self.seconds, self.spent = self.seconds + now - self.before, self.spent + units
        self.left, self.before = self.left - units, now
        minutes = self.seconds / self.spent * self.left / 60 if self.spent else 0.0
        self.say(f"{line}; about {minutes:.0f} min left" if minutes >= 1 else line)


def evaluate(
    experiment: Experiment, source: Path, out: Path, *, manifest: Path | None = None, cache: Path | None = None, say: Say = print
) -> Record:
    """Run an experiment, or go on with it, in the folder ``out``; returns its record.

    ``source`` is the labelled data; ``manifest`` a selection from it that was made before (else it
    is made and kept in ``out``); ``cache`` a folder that several runs share. Raises ``InputError``
    and its kin for data, weights or settings that do not fit; what was computed is kept.
    """
    return Run(experiment, source, out, manifest=manifest, cache=cache, say=say).execute()


def _round_robin(labels: np.ndarray) -> np.ndarray:
    """Each person's first image, then each one's second: any first N are of as many people as can be."""
    turn = np.array([int((labels[:number] == label).sum()) for number, label in enumerate(labels)])
    return np.lexsort((labels, turn))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in name)
