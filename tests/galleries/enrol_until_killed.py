"""Processes that enrol people without end and print each name once ``enrol`` has returned; made to be killed.

This one imports what is slow, once. For each line ``LOCATION PREFIX`` on its input (tab between) it
forks one that enrols, prints ``pid NUMBER``, and when that one has ended, ``end``.
"""

import os
import sys
from itertools import count

import lance_namespace  # noqa: F401  most of what LanceDB imports
import numpy as np
import psycopg  # noqa: F401
import pyarrow  # noqa: F401

import facesieve.images  # noqa: F401

TEMPLATES = {"raw": 3, "toy": 2}


def say(text):
    """One write, so that a kill leaves the whole line or none: an unbuffered ``print`` makes two."""
    os.write(sys.stdout.fileno(), f"{text}\n".encode())


def enrol(location, prefix):
    from facesieve.galleries import open_gallery  # after the fork: LanceDB has threads

    if location.startswith("lancedb://"):
        from facesieve.galleries import lance as gallery_lance

        gallery_lance.FILES = 3  # merged often, so that the kill meets that as well
    gallery = open_gallery(location)
    rows = np.eye(5, gallery.dimensions, dtype=np.float32)
    for number in count():
        name = f"{prefix}-{number}"
        gallery.enrol(name, {"raw": rows[:3], "toy": rows[3:]})
        say(name)


def main():
    for line in sys.stdin:
        child = os.fork()
        if not child:
            enrol(*line.rstrip("\n").split("\t"))
        say(f"pid {child}")
        os.waitpid(child, 0)
        say("end")


if __name__ == "__main__":
    main()
