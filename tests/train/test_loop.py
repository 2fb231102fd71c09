"""The training loop on a task of one number: records, checkpoints, curves, and when it stops."""

import csv

import pytest
import torch

from facesieve.errors import InputError, SettingError
from facesieve.train.average import MovingAverage
from facesieve.train.checkpoints import append_row
from facesieve.train.loop import Record, Run, Task, finish, kept, thinned
from facesieve.train.settings import Training


class Descent(Training):
    """Settings of the task below."""

    steps: int = 6
    rate: float = 0.1
    minutes: float | None = None


class Square(Task):
    """Minimise the square of a number, with noise that depends on the step alone."""

    may_change = frozenset({"steps"})

    def __init__(self, settings=None):
        self.settings = settings or Descent()
        self.total = self.settings.steps
        network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(network.weight)
        self.networks = {"network": network}
        self.optimiser = torch.optim.Adam(network.parameters())
        self.average = MovingAverage(network, 0.9)

    @property
    def weight(self):
        return self.networks["network"].weight

    def rate(self, step):
        return self.settings.rate

    def backward(self, step):
        noise = torch.randn(1, generator=torch.Generator().manual_seed(step))
        loss = (self.weight + 0.01 * noise).square().sum()
        loss.backward()
        return {"loss": loss.item()}

    def measure(self, step):
        with self.average.applied():
            return {"weight": self.weight.item()}


def averaged(task):
    with task.average.applied():
        return task.weight.item()


def test_a_record_a_step_and_held_out_figures_with_the_checkpoints(tmp_path):
    run = Run(Square(), tmp_path)
    records = list(run.records(checkpoint_minutes=1e9))
    assert [record.step for record in records] == [1, 2, 3, 4, 5, 6]
    assert [record.held_out is None for record in records] == 5 * [True] + [False]
    assert records[-1].held_out == {"weight": averaged(run.task)}
    assert list(run.records()) == []


def test_whoever_stops_taking_records_resumes_where_the_last_one_was_written(tmp_path):
    whole = Run(Square(), tmp_path / "whole")
    last = finish(whole)
    for record in Run(Square(), tmp_path / "parts").records(checkpoint_minutes=0):
        if record.step == 4:
            break
    resumed = Run(Square(), tmp_path / "parts")
    assert resumed.step == 4
    assert finish(resumed) == last
    assert resumed.task.weight.item() == whole.task.weight.item()
    assert finish(resumed) == last  # nothing is left to train: measured anew


def test_what_a_killed_run_noted_after_its_checkpoint_is_not_noted_twice(tmp_path):
    """Killed after step 5, in the middle of a row; its last checkpoint is of step 3."""
    whole = Run(Square(), tmp_path / "whole")
    list(kept(whole, checkpoint_minutes=0))
    fresh = (tmp_path / "whole" / "curve.csv").read_text()
    parts = Run(Square(), tmp_path / "parts")
    for record in kept(parts, checkpoint_minutes=0):
        if record.step == 3:
            break
    head, *rows = fresh.splitlines(keepends=True)
    (tmp_path / "parts" / "curve.csv").write_text("".join([head, *rows[:5], rows[5][:4]]))
    list(kept(Run(Square(), tmp_path / "parts"), checkpoint_minutes=0))
    assert (tmp_path / "parts" / "curve.csv").read_text() == fresh
    assert len(rows) == 6


class Killed(BaseException):
    """Nothing that a program can catch, as far as the test is concerned."""


class Named(Square):
    """Its figures have commas in their names, as those of a purifier."""

    def backward(self, step):
        return {"cosine, attacked": super().backward(step)["loss"], "cosine, clean": 1.0}

    def measure(self, step):
        return {"sface, clean": super().measure(step)["weight"]}


@pytest.mark.parametrize("task", [Square, Named])
@pytest.mark.parametrize("number", range(1, 13))
def test_a_run_killed_before_or_after_any_checkpoint_has_each_row_once(tmp_path, monkeypatch, number, task):
    """Six checkpoints: before the first is written, after it, before the second ... The rows are those of a whole run."""
    list(kept(Run(task(), tmp_path / "whole"), checkpoint_minutes=0))
    save, calls = Run.save, []

    def killed(run):
        calls.append("before")
        if len(calls) == number:
            raise Killed
        save(run)
        calls.append("after")
        if len(calls) == number:
            raise Killed

    monkeypatch.setattr(Run, "save", killed)
    with pytest.raises(Killed):
        list(kept(Run(task(), tmp_path / "parts"), checkpoint_minutes=0))
    monkeypatch.setattr(Run, "save", save)
    list(kept(Run(task(), tmp_path / "parts"), checkpoint_minutes=0))
    for name in ("curve.csv", "held-out.csv"):
        assert (tmp_path / "parts" / name).read_text() == (tmp_path / "whole" / name).read_text()


@pytest.mark.parametrize("name", ["curve.csv", "held-out.csv"])
def test_no_row_is_lost_where_the_curve_cannot_be_written(tmp_path, monkeypatch, name):
    list(kept(Run(Square(), tmp_path / "whole"), checkpoint_minutes=0))
    parts, whole = tmp_path / "parts", tmp_path / "whole"

    def full(path, row):
        if path.name == name and row["step"] == 4:
            with path.open("a") as file:
                file.write("4,0.")
            raise InputError("cannot be written: no space left", path)
        append_row(path, row)

    monkeypatch.setattr("facesieve.train.loop.append_row", full)
    with pytest.raises(InputError, match="no space left"):
        list(kept(Run(Square(), parts), checkpoint_minutes=0))
    monkeypatch.setattr("facesieve.train.loop.append_row", append_row)
    list(kept(Run(Square(), parts), checkpoint_minutes=0))
    for each in ("curve.csv", "held-out.csv"):
        assert (parts / each).read_text() == (whole / each).read_text()


def test_half_a_header_is_written_anew(tmp_path):
    (tmp_path / "curve.csv").write_text("step,lo")
    list(kept(Run(Square(Descent(steps=2)), tmp_path), checkpoint_minutes=0))
    assert (tmp_path / "curve.csv").read_text().splitlines()[0] == "step,loss"
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 3


def test_it_stops_when_the_time_is_over_and_has_saved(tmp_path):
    run = Run(Square(), tmp_path)
    records = list(run.records(stop_after_minutes=0))
    assert [record.step for record in records] == [1]
    assert records[0].held_out is not None
    assert Run(Square(), tmp_path).step == 1


def test_a_training_that_is_limited_in_time_foresees_its_end(tmp_path, monkeypatch):
    """A second a step: three steps in a twentieth of a minute, whatever ``steps`` says, over all calls together."""
    clock = iter(range(1000))
    monkeypatch.setattr("facesieve.train.loop.time.monotonic", lambda: next(clock))
    seen = []

    class Timed(Square):
        def rate(self, step):
            seen.append((step, self.total))
            return super().rate(step)

    limited = Descent(minutes=0.05)
    run = Run(Timed(limited), tmp_path)
    run.advance()
    run.save()
    again = Run(Timed(limited), tmp_path)
    assert [record.total for record in again.records(checkpoint_minutes=1e9)] == [3, 3]
    assert seen == [(0, 6), (1, 3), (2, 3)]
    assert again.seconds == 3
    assert list(Run(Timed(limited), tmp_path).records()) == []
    assert next(Run(Timed(Descent(minutes=0.1)), tmp_path).records()).total == 6


def test_settings_stay_but_for_those_that_may_change(tmp_path):
    finish(Run(Square(), tmp_path))
    assert Run(Square(Descent(steps=8)), tmp_path).step == 6
    with pytest.raises(SettingError, match=r"checkpoint\.pt: this run has rate 0\.1, not 0\.2; use another folder"):
        Run(Square(Descent(rate=0.2)), tmp_path)


def test_thinned_records_have_mean_losses_and_miss_no_figure():
    records = [Record(n, 9, {"loss": float(n)}, {"figure": 1.0} if n == 4 else None) for n in range(1, 8)]
    joined = list(thinned(records, seconds=1e9))
    assert [(record.step, record.losses["loss"]) for record in joined] == [(4, 2.5), (7, 6.0)]
    assert [record.held_out for record in joined] == [{"figure": 1.0}, None]
    assert list(thinned(records, seconds=0)) == records


def test_curves_are_appended_and_told(tmp_path):
    told = []
    for steps in (2, 3):
        finish(Run(Square(Descent(steps=steps)), tmp_path), told.append)
    for name, column in (("curve.csv", "loss"), ("held-out.csv", "weight")):
        rows = list(csv.DictReader((tmp_path / name).open()))
        assert [row["step"] for row in rows] == ["2", "3"]
        assert all(float(row[column]) > 0 for row in rows)
    assert [(line.done, line.total, line.what, *line.facts) for line in told[2:]] == [
        (3, 3, "", "loss"),
        (3, 3, "held out", "weight"),
    ]


def test_the_moving_average_leaves_the_weights_as_they_are():
    task = Square()
    with torch.no_grad():
        task.weight.fill_(3.0)
    task.average.update()
    inside = averaged(task)
    assert 1 < inside <= 3
    assert task.weight.item() == 3


def test_a_loss_that_is_not_finite_ends_it(tmp_path):
    run = Run(Square(), tmp_path)
    with torch.no_grad():
        run.task.weight.fill_(torch.nan)
    with pytest.raises(RuntimeError, match="not finite at step 0"):
        run.advance()


@pytest.mark.parametrize("damage", ["cut", "words", "another", "empty"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage):
    run = Run(Square(), tmp_path)
    run.advance()
    run.save()
    whole = run.checkpoint.read_bytes()
    if damage == "another":
        settings = run.task.settings.model_dump(mode="json")
        torch.save({"step": 1, "seconds": 1.0, "settings": settings, "optimiser": {}}, run.checkpoint)
    else:
        run.checkpoint.write_bytes({"cut": whole[: len(whole) // 2], "words": b"words", "empty": b""}[damage])
    with pytest.raises(InputError, match="damaged, or no checkpoint of this training; move it away"):
        Run(Square(), tmp_path)
