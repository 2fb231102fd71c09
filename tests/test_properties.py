"""What must hold for whatever comes: hypothesis looks for the case that nobody thought of."""

import tempfile
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from facesieve.data.recordio import RecordFile
from facesieve.errors import InputError
from facesieve.galleries.checks import LONGEST_NAME, checked_name
from facesieve.priors import Schedule
from facesieve.sampling import time_travel
from facesieve.service.gate_path import readings
from facesieve.service.gate_routes import KINDS, Routes
from facesieve.service.problems import ProblemError
from make_people import MAGIC, write_records

# --- Schedule.time --------------------------------------------------------------------------------

SCHEDULES = st.lists(st.floats(1e-3, 0.5), min_size=2, max_size=40).map(
    lambda betas: Schedule(torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0))
)


@given(SCHEDULES)
def test_the_levels_of_any_schedule_are_its_whole_steps(schedule):
    assert torch.equal(schedule.time(schedule.sigmas), torch.arange(len(schedule.sigmas), dtype=torch.float32))


@given(SCHEDULES, st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_time_is_in_the_schedule_never_falls_and_leads_back_to_the_level(schedule, levels):
    sigmas = torch.tensor(sorted(levels), dtype=torch.float64)
    times = schedule.time(sigmas)
    assert times.shape == sigmas.shape
    assert bool((times.diff() >= 0).all())
    assert float(times.min()) >= 0
    assert float(times.max()) <= len(schedule.sigmas) - 1
    low, share = times.floor().long(), times.double().frac()
    logs = torch.cat([schedule.sigmas.log(), schedule.sigmas[-1:].log()])
    back = logs[low] + share * (logs[low + 1] - logs[low])
    wanted = sigmas.clamp(schedule.sigmas[0], schedule.sigmas[-1]).log()
    step = float(schedule.sigmas.log().diff().max())  # time is rounded to a whole step within 1e-3, and is float32
    assert_close(back, wanted, rtol=0, atol=2e-3 * step)


# --- time travel ----------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 6))
def test_time_travel_goes_down_step_by_step_and_back_by_whole_stretches(steps, length, repeat):
    sigmas = list(range(steps, -1, -1))  # the level is its own place in the list
    path = time_travel(sigmas, length, repeat)
    moves = [after - before for before, after in pairwise(path)]
    detours = len(range(0, steps - length, length)) * (repeat - 1)
    assert (path[0], path[-1]) == (steps, 0)
    assert path.count(0) == 1  # the sampler wants the end at the end
    assert set(path) == set(sigmas)
    assert set(moves) <= {-1, length}
    assert moves.count(length) == detours or (length, detours) == (1, moves.count(1))
    assert moves.count(-1) == steps + detours * length


# --- names ----------------------------------------------------------------------------------------


@given(st.text(max_size=2 * LONGEST_NAME))
def test_a_name_is_refused_in_one_line_or_kept_as_what_it_looks_like(text):
    refused = ""
    try:
        name = checked_name(text)
    except InputError as error:
        refused = str(error)
    if refused:
        assert refused.isprintable()
        return
    assert checked_name(name) == name
    assert name == name.strip() == unicodedata.normalize("NFC", name)
    assert 0 < len(name) <= LONGEST_NAME
    assert not {unicodedata.category(c) for c in name} & {"Cc", "Cs", "Zl", "Zp"}
    assert name.encode()
    for form in ("NFC", "NFD"):
        assert checked_name(f"  {unicodedata.normalize(form, text)}\n") == name


@given(st.text(max_size=20), st.sampled_from("\0\x07\n\x7f\u2028\u2029\ud800"), st.text(max_size=20))
def test_what_could_break_a_line_is_never_kept(before, bad, after):
    with pytest.raises(InputError):
        checked_name(f"a{before}{bad}{after}a")


# --- the proxy's paths ----------------------------------------------------------------------------

CALLS = [
    "api/v1/recognition/recognize",
    "api/v1/recognition/faces/7/verify",
    "x/api/v1/detection/detect",
    "represent",
    "a/verify",
]
PARTS = st.text("abcxyz09._-", min_size=1, max_size=6).filter(lambda part: part not in {".", ".."})
SLASHES = st.text("/\\", min_size=1, max_size=3)


GATE = Routes(KINDS["both"])


def photographs_go_to(path):
    """Whether a call is purified, or refused since servers disagree: in both cases no photograph passes."""
    try:
        return GATE.of("POST", path.encode()) is not None
    except ProblemError as problem:
        return problem.status == 400


@st.composite
def spelt_otherwise(draw, path):
    """The same address as one server or another understands it: other slashes and case, detours, parameters of a segment."""
    spelt = ""
    for part in path.split("/"):
        detour = draw(st.one_of(st.just(""), st.just("./"), PARTS.map(lambda aside: f"{aside}/../")))
        upper = draw(st.integers(0, len(part)))
        parameter = draw(st.sampled_from(["", "", ";a=1", ";"]))
        spelt += draw(SLASHES) + detour + part[:upper].upper() + part[upper:] + parameter
    return spelt + draw(st.sampled_from(["", "/", "//"]))


@given(st.data(), st.sampled_from(CALLS))
def test_an_address_that_takes_photographs_is_known_however_it_is_spelt(data, path):
    spelt = data.draw(spelt_otherwise(path))
    assert path in readings(spelt.encode())
    assert photographs_go_to(path)
    assert photographs_go_to(spelt)


@given(st.lists(st.one_of(PARTS, st.just("..")), max_size=6))
def test_any_other_address_passes(parts):
    """What is plain is left as it is, and no detour makes a call of what is none."""
    path = "/" + "/".join(parts)
    if ".." not in parts:
        assert path.strip("/") in readings(path.encode())
    assert not photographs_go_to(path)


# --- RecordIO -------------------------------------------------------------------------------------

IMAGES = st.lists(st.one_of(st.binary(max_size=40), st.just(MAGIC)), min_size=1, max_size=6).map(b"".join)


@given(st.lists(st.lists(IMAGES, min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_whatever_was_written_as_records_comes_back(people, contents):
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder) / "r", dict(enumerate(people)), contents=contents)
        records = RecordFile(Path(folder) / "r" / "train.rec")
        found = [(label, records.image(key)) for key, label in records.labels()]
    assert found == [(label, data) for label, images in enumerate(people) for data in images]
