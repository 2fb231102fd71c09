"""The pins of ``constraints.txt`` and what the package and its extras install: each is the other's."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
OF_THE_TOOLS = {"pip", "setuptools"}


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted_by(lines, extras):
    """The packages, with their extras, of requirements that hold on this machine."""
    found = [Requirement(line) for line in lines]
    return {
        (plain(one.name), frozenset(one.extras))
        for one in found
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    }


def needed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    waiting, seen = wanted_by(lines, ()), set()
    while waiting:
        name, extras = one = waiting.pop()
        if one not in seen and name != "facesieve":
            seen.add(one)
            try:
                waiting |= wanted_by(metadata.requires(name) or [], extras)
            except metadata.PackageNotFoundError:  # not installed here
                continue
    return {name for name, _ in seen}


def test_every_pin_is_of_something_that_is_installed():
    """One that nothing needs is never tried, and still looks as if it were."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {plain(line.partition("==")[0]) for line in lines}
    assert len(pins) == len(lines)
    assert not pins - needed()


def test_everything_that_is_installed_is_pinned():
    pins = {plain(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not needed() - pins - OF_THE_TOOLS


def test_the_hashed_pins_are_the_pins_and_each_has_one_hash():
    """`python .ci/hashes.py` makes them again."""
    hashed = [line for line in (ROOT / "constraints-hashes.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line) for line in hashed]
    assert all(found)
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith(("#", "torch=="))]
    assert {(line[1], line[2]) for line in found} == {
        (plain(name), version) for name, _, version in (x.partition("==") for x in lines)
    }
