"""Every target of the fuzzing: its seeds, seeds changed a little, and what once broke it, each within five seconds."""

import random
import time
from pathlib import Path

import pytest
from fuzz_targets import LONGEST, TARGETS, refuses

CHANGED = 60
FOUND = Path(__file__).parent / "found"


def changed(data, rng):
    """Bytes with a few set, cut out, doubled or taken from elsewhere in them."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 2, 4, 30])
        kind = rng.randrange(4)
        if kind == 0:
            data[at : at + length] = rng.randbytes(length)
        elif kind == 1:
            del data[at : at + length]
        elif kind == 2:
            data[at:at] = data[at : at + length]
        else:
            data[at : at + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_and_no_hang(name):
    target, rng = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    assert not all(refuses(target, seed) for seed in seeds)  # they get somewhere
    assert all(len(seed) <= LONGEST for seed in seeds)
    inputs = [b"", *((rng.choice(seeds) and changed(rng.choice(seeds), rng)) for _ in range(CHANGED))]
    for data in [*inputs, *(path.read_bytes() for path in sorted(FOUND.glob(f"{name}-*")))]:
        begun = time.process_time()
        refuses(target, data)
        assert time.process_time() - begun < 5
