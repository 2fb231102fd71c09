"""What the service has freed goes back to the machine."""

import ctypes
import os
import subprocess
import sys

import pytest

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")

# Photographs of 20 MB are freed, as after every request; then small things that stay lie between others that go, in threads.
SCRIPT = """
import threading
import numpy as np
from facesieve.service.memory import give_freed_memory_back

def held():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

if {mended}:
    give_freed_memory_back()
stays, before = [], held()

def work():
    for _ in range(3):
        photo = np.ones(20 * 2**20, np.uint8)
        del photo
    large = []
    for _ in range(12):
        large.append(np.ones(5 * 2**20, np.uint8))
        stays.append(np.ones(3000, np.uint8))
    del large

for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(held() - before)
"""


def grown(*, mended: bool, **environment: str) -> float:
    """By how many MiB a process has grown that holds nothing any more."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(mended=mended)],
        env={**{name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps what is freed")
def test_freed_photographs_are_given_back():
    assert grown(mended=False) > 50  # else there is nothing to mend
    assert grown(mended=True) < 10


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps what is freed")
def test_what_the_environment_says_stays():
    assert grown(mended=True, MALLOC_MMAP_THRESHOLD_=str(2**25), MALLOC_TRIM_THRESHOLD_=str(2**30)) > 50
