"""The one training loop: a task's steps as a generator of records, resumed from a checkpoint.

A task draws its batches and all its random numbers only from the seed and the number of the step, so a
run that was stopped and resumed is, bit for bit, like one that was not.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from facesieve.errors import FacesieveError, InputError
from facesieve.files import make_folder
from facesieve.hardware import Hardware
from facesieve.progress import Progress, Report, silent
from facesieve.train.average import MovingAverage
from facesieve.train.checkpoints import append_row, check_settings, cut_rows, damaged, read_checkpoint, write_checkpoint
from facesieve.train.settings import Training

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_MINUTES = 5.0
MAY_CHANGE = frozenset({"minutes", "precision"})  # of a resumed run of any kind


class DivergedError(FacesieveError, RuntimeError):
    """A training whose loss is not finite any more."""

    def __init__(self, step: int, losses: Mapping[str, float]) -> None:
        found = ", ".join(f"{name} {loss:g}" for name, loss in losses.items())
        super().__init__(f"a loss is not finite at step {step} ({found})", advice="use a smaller learning_rate")


class Task(ABC):
    """What is trained: networks and their optimiser, and what one step adds to their gradients."""

    settings: Training
    hardware: Hardware
    may_change: frozenset[str] = frozenset()  # settings that a resumed run may have other than it began with
    total: int  # steps in all; where a run is limited by time, as many as it will make at its speed so far
    networks: Mapping[str, nn.Module]  # by their names in a checkpoint
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None = None
    largest_gradient = 1.0  # norm that gradients are clipped to

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""

    @abstractmethod
    def backward(self, step: int) -> dict[str, float]:
        """Add the gradients of a step's batch; returns its losses by name."""

    @abstractmethod
    def measure(self, step: int) -> dict[str, float]:
        """Held-out figures after ``step`` steps, with the same random numbers every time."""

    def in_words(self, held_out: Mapping[str, float]) -> dict[str, str]:
        """Held-out figures as people read them while it trains."""
        return in_words(held_out)

    def is_measured(self, step: int, saves: bool) -> bool:
        """Whether held-out figures are due after ``step`` steps; ``saves`` says whether a checkpoint is.

        Where measuring changes what is kept, this must not depend on ``saves``, which is a matter of time.
        """
        return saves

    def reduced(self) -> torch.autocast:
        """Autocast to bf16 where the hardware's number format is that."""
        return torch.autocast(self.hardware.device.type, torch.bfloat16, enabled=self.hardware.dtype == torch.bfloat16)

    def clipped(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        return [[parameter for group in self.optimiser.param_groups for parameter in group["params"]]]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the task, except the optimiser."""
        average = {} if self.average is None else {"ema": self.average.state_dict()}
        return {name: network.state_dict() for name, network in self.networks.items()} | average

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        for name, network in self.networks.items():
            network.load_state_dict(state[name])
        if self.average is not None:
            self.average.load_state_dict(state["ema"])


@dataclass(frozen=True)
class Record:
    """What a step did, or the steps since the last record."""

    step: int  # made so far
    total: int
    losses: Mapping[str, float]
    held_out: Mapping[str, float] | None  # figures where they were due
    saves: bool = False  # a checkpoint follows


AnyTask = TypeVar("AnyTask", bound=Task)


class Run(Generic[AnyTask]):
    """A task's training in a folder; it resumes from ``checkpoint.pt``."""

    def __init__(self, task: AnyTask, out: Path) -> None:
        """Raises ``SettingError`` where the run in ``out`` began with settings that may not change, ``InputError`` if damaged."""
        self.task, self.out = task, make_folder(out)
        self.step, self.seconds = 0, 0.0
        self._noted = True
        self._planned = task.total
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to resume."""
        return self.out / CHECKPOINT

    @property
    def made(self) -> dict[str, int]:
        """For the card: the steps that were made, where they are not as many as the settings say."""
        return {} if self.step == self._planned else {"steps_made": self.step}

    def records(
        self, *, checkpoint_minutes: float = CHECKPOINT_MINUTES, stop_after_minutes: float = math.inf
    ) -> Iterator[Record]:
        """A record for each step that is left, until the last or until the time is over.

        A checkpoint is written at intervals and after the last step made, when its record was taken: what is noted of it
        stands before that, and is cut off where a run is killed between the two. Whoever stops at a record has it saved.
        """
        begun = saved = time.monotonic()
        ends = self.step >= self.task.total
        while not ends:
            losses = self.advance()
            now = time.monotonic()
            ends = self.step >= self.task.total or now - begun >= 60 * stop_after_minutes
            saves = ends or now - saved > 60 * checkpoint_minutes
            held_out = self.task.measure(self.step) if self.task.is_measured(self.step, saves) else None
            try:
                yield Record(self.step, self.task.total, losses, held_out, saves)
            except GeneratorExit:
                if saves and self._noted:
                    with suppress(InputError):  # the checkpoint before stays
                        self.save()
                raise
            if saves:
                self.save()
                saved = time.monotonic()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """What is inside notes a record. Where that fails, no checkpoint is written that it would be missing from."""
        self._noted = False
        yield
        self._noted = True

    def advance(self) -> dict[str, float]:
        """One step of the optimiser; returns the losses. Raises ``DivergedError`` where one is not finite."""
        begun, task = time.monotonic(), self.task
        for group in task.optimiser.param_groups:
            group["lr"] = task.rate(self.step)
        task.optimiser.zero_grad(set_to_none=True)
        losses = task.backward(self.step)
        if not all(math.isfinite(loss) for loss in losses.values()):
            raise DivergedError(self.step, losses)
        for parameters in task.clipped():
            nn.utils.clip_grad_norm_(parameters, task.largest_gradient)
        task.optimiser.step()
        if task.average is not None:
            task.average.update()
        self.step += 1
        self.seconds += time.monotonic() - begun
        self._foresee()
        return losses

    def _foresee(self) -> None:
        """Where the settings limit the time of training: how many steps fit into it, so that the learning rate falls in time."""
        minutes = getattr(self.task.settings, "minutes", None)
        if minutes is not None and self.step:
            self.task.total = max(self.step, int(self.step * 60 * minutes / max(self.seconds, 1e-9)))

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.task.settings.model_dump(mode="json"),
            "optimiser": self.task.optimiser.state_dict(),
            **self.task.state(),
        }
        write_checkpoint(self.checkpoint, state)

    def _resume(self) -> None:
        device = self.task.optimiser.param_groups[0]["params"][0].device
        state = read_checkpoint(self.checkpoint, device)
        given = self.task.settings.model_dump(mode="json")
        begun = {**self.task.settings.before, **state["settings"]}
        check_settings(self.checkpoint, begun, given, may_change=self.task.may_change | MAY_CHANGE)
        try:
            self.task.load(state)
            self.task.optimiser.load_state_dict(state["optimiser"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:  # other networks, or parts missing
            raise damaged(self.checkpoint) from error
        self._foresee()


# --- learning rates ----------------------------------------------------------------------------------


def warm_up(step: int, steps: int) -> float:
    """The factor of the learning rate that rises linearly to 1 over the first ``steps``."""
    return min(1.0, (step + 1) / max(steps, 1))


def half_cosine(step: int, total: int) -> float:
    """The factor that falls from 1 to 0 along a half cosine."""
    return 0.5 * (1 + math.cos(math.pi * step / max(total, 1)))


# --- from records to files and people -----------------------------------------------------


def thinned(records: Iterable[Record], seconds: float = 30.0) -> Iterator[Record]:
    """Fewer records, each with the mean losses since the last: one every so many seconds, each with held-out figures, and each
    that a checkpoint follows.
    """
    waiting: list[Record] = []
    begun = time.monotonic()
    for record in records:
        waiting.append(record)
        if record.held_out is not None or record.saves or time.monotonic() - begun > seconds:
            yield _joined(waiting)
            waiting, begun = [], time.monotonic()
    if waiting:  # stopped before the end
        yield _joined(waiting)


def _joined(records: list[Record]) -> Record:
    names = records[0].losses
    return replace(records[-1], losses={name: sum(record.losses[name] for record in records) / len(records) for name in names})


def kept(
    run: Run[AnyTask],
    report: Report = silent,
    *,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
    curve: str = "curve.csv",
) -> Iterator[Record]:
    """A run's records, thinned, after their figures were added to ``curve`` and the ``held-out.csv`` next to it, and reported."""
    for name in (curve, "held-out.csv"):
        cut_rows(run.out / name, run.step)
    for record in thinned(run.records(checkpoint_minutes=checkpoint_minutes, stop_after_minutes=stop_after_minutes)):
        with run.noting():
            append_row(run.out / curve, {"step": record.step, **record.losses})
            if record.held_out is not None:
                append_row(run.out / "held-out.csv", {"step": record.step, **record.held_out})
        report(Progress(record.step, record.total, facts=in_words(record.losses)))
        if record.held_out is not None:
            report(Progress(record.step, record.total, "held out", run.task.in_words(record.held_out)))
        yield record


def in_words(figures: Mapping[str, float]) -> dict[str, str]:
    """Figures as people read them."""
    return {name: f"{value:.5f}" for name, value in figures.items()}


def finish(
    run: Run[AnyTask],
    report: Report = silent,
    *,
    checkpoint_minutes: float = CHECKPOINT_MINUTES,
    stop_after_minutes: float = math.inf,
) -> Mapping[str, float]:
    """Train to the end or until the time is over; returns the last held-out figures, measured again if there are none."""
    held_out: Mapping[str, float] | None = None
    for record in kept(run, report, checkpoint_minutes=checkpoint_minutes, stop_after_minutes=stop_after_minutes):
        held_out = record.held_out
    return held_out if held_out is not None else run.task.measure(run.step)
