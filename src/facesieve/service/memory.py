"""How the C library keeps memory: a service lives for weeks, and what it has freed belongs to the machine."""

from __future__ import annotations

import ctypes
import os
import sys

# glibc's names in the environment, its numbers in malloc.h, and values. Blocks as large as a photograph are mapped alone and
# given back at once; smaller ones are taken too often for that: each time the machine clears the pages again.
_OPTIONS = (
    ("MALLOC_ARENA_MAX", -8, 2),
    ("MALLOC_MMAP_THRESHOLD_", -3, 4 * 2**20),
    ("MALLOC_TRIM_THRESHOLD_", -1, 64 * 2**20),
)


def give_freed_memory_back() -> None:
    """Let glibc give freed memory back; best before there are threads. What the environment sets stays; elsewhere nothing.

    By itself glibc has a heap for each thread, and raises the size from which a block is mapped alone up to 32 MiB, as large
    blocks are freed. So photographs come to lie among small objects that live long, in each of the heaps: the service would
    grow for hours although nothing is leaked.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    for name, option, value in _OPTIONS:
        if mallopt is not None and name not in os.environ:
            mallopt(option, value)
