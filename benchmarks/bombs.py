"""Small files that ask for much, made by a seed: how long reading each takes, and how much memory.

    python benchmarks/bombs.py [--count 1000] [--seed 0] [--jobs 1] [--targets]

Seconds are of the processor, of the process and of those that it starts: other work on the machine does not count. Memory is
the peak of the process; of formats that are decoded aside what both processes have together, looked at every 2 ms.
``--targets`` records the figures in docs/results/targets.json. Linux alone tells the peaks.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import time
import warnings
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

from bomb_making import BOMBS
from results import origin

from facesieve.errors import FacesieveError
from facesieve.images import read_photo
from facesieve.report.targets import Target, keep_targets

TARGETS = Path(__file__).parent.parent / "docs" / "results" / "targets.json"


@dataclass(frozen=True)
class Read:
    """What reading one took: seconds of the processor and of the clock, bytes, and how it ended."""

    kind: str
    seconds: float
    wall: float
    memory: int
    outcome: str


def processor() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def resident(process: str) -> int:
    """Bytes of memory that a process has, and those that it started."""
    try:
        own = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
        below = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except (OSError, IndexError):  # it has just ended
        return 0
    return own + sum(map(resident, below))


class Watch(Thread):
    """Looks at the memory of this process and of those that it starts."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self._over = 0, Event()

    def run(self) -> None:
        while not self._over.wait(0.002):
            self.most = max(self.most, resident(str(os.getpid())))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.most


def read(which: tuple[str, int, int]) -> Read:
    """Make one of a kind, by seed and number, and read it; its peak of memory is measured from then."""
    kind = which[0]
    data = BOMBS[kind](random.Random(str(which)))
    warnings.simplefilter("ignore")
    watch = Watch()
    watch.start()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, begun = processor(), time.perf_counter()
    try:
        outcome = "x".join(map(str, read_photo(data).shape))
    except FacesieveError as error:
        outcome = error.what
    seconds, wall = processor() - before, time.perf_counter() - begun
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0])
    return Read(kind, seconds, wall, max(1024 * peak, watch.stop()), outcome)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes, each of which reads one after another")
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    made_at, names = origin("bombs.py", {}), list(BOMBS)
    with get_context("spawn").Pool(args.jobs) as pool:
        found = list(pool.imap_unordered(read, ((names[number % len(names)], args.seed, number) for number in range(args.count))))
    for kind in names:
        of_kind = [one for one in found if one.kind == kind]
        if of_kind:
            slow, large = max(of_kind, key=lambda one: one.seconds), max(one.memory for one in of_kind)
            print(
                f"{kind:28} {slow.seconds:6.2f} s ({slow.wall:.2f} s) {large / 2**20:6.0f} MiB  {slow.outcome[:70]}", flush=True
            )
    seconds, memory = max(one.seconds for one in found), max(one.memory for one in found) / 2**20
    print(f"longest {seconds:.2f} s, most memory {memory:.0f} MiB, {len(found)} bombs")
    if args.targets:
        about = {"area": "service", "n": len(found), **made_at}
        longest = Target(
            target="bombs: longest decode, s of the processor", wanted="<= 5", value=float(f"{seconds:.3g}"), **about
        )
        most = Target(target="bombs: most memory, MiB", wanted="<= 1024", value=float(f"{memory:.4g}"), **about)
        keep_targets(TARGETS, [longest, most])


if __name__ == "__main__":
    main()
