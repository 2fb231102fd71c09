"""Killed at any moment, begun again: nothing is lost, nothing doubled, nothing half there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shard_making import BAD, small, write_parquet, write_tar

pytestmark = pytest.mark.kills

KILLS = 12
HERE = Path(__file__).parent


@contextmanager
def jobs():
    """``begin(sources, out, seed)`` starts the job as a process: its id, and a function that waits for its exit code."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent)])
    process = subprocess.Popen(
        [sys.executable, str(HERE / "killed_job.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )

    def begin(sources, out, seed):
        process.stdin.write(json.dumps([[str(s) for s in sources], str(out), seed]) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline()), lambda: int(process.stdout.readline())

    try:
        yield begin
    finally:
        process.stdin.close()
        process.wait(60)


@pytest.fixture
def sources(tmp_path, sample_paths):
    photos = [small(path, 160) for path in sample_paths]
    first = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", photo) for n, photo in enumerate(photos[:3])] + [("bad.jpg", BAD)])
    second = write_parquet(tmp_path / "b.parquet", photos[3:])
    return [first, second, write_tar(tmp_path / "c.tar", [("x.jpg", photos[1]), ("x.txt", b"beside it")])]


def tree(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_after_kill_9_at_random_moments_a_resumed_run_leaves_what_a_fresh_one_does(tmp_path, sources):
    chance, killed, halves = random.Random(5), 0, 0
    with jobs() as begin:
        started = time.monotonic()
        _, wait = begin(sources, tmp_path / "fresh", 1)
        assert wait() == 0
        seconds, fresh = time.monotonic() - started, tree(tmp_path / "fresh")
        assert len(fresh) == 6
        rounds = 0
        while killed < KILLS:
            out = tmp_path / f"out{rounds}"
            pid, wait = begin(sources, out, 1)
            time.sleep(chance.uniform(0, seconds))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            code = wait()
            assert code in {0, -signal.SIGKILL}
            there = tree(out)
            halves += any(name.startswith(".") for name in there)
            assert all(data == fresh[name] for name, data in there.items() if not name.startswith("."))
            killed += code != 0
            rounds += code == 0  # done: the next one begins anew
        _, wait = begin(sources, out, 1)
        assert wait() == 0
        assert halves  # some were killed while they wrote
    for number in range(rounds):
        assert tree(tmp_path / f"out{number}") == fresh
    assert tree(out) == fresh
