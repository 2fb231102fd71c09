"""Kill a command again and again at random moments (``kill -9``), begin it anew, and count what is lost, doubled or half there.

    python benchmarks/kills.py KIND [--kills 20] [--minutes M] [--seed 1] [--results FOLDER]

KIND is purify, video, shards, enrol, enrol-lance, enrol-postgres, evaluate, train-prior, train-purifier or service, of
``kill_kinds.py``. A run is killed at a moment that is drawn evenly from the time that an undisturbed one takes, and begun again
in the same place until it ends; then another place begins. After each kill what lies there is held against what an undisturbed
run leaves: nothing but whole results and drafts whose names begin with a dot. What ended has to be all of it, each thing once.
``service`` is a server that enrols and
purifies for clients: whoever was told 201 is enrolled, with all templates; an answer of 200 is whole.

Commands are forked from this process, which has loaded the slow libraries, and starts no threads. ``--results`` adds a row to
``kills.json`` there, and its sums to ``targets.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from kill_kinds import Kind, Tree, enrolled, in_fork, kinds, photographs, postgres
from results import origin, write

# --- kills ----------------------------------------------------------------------------------------


def load_libraries(*, torch: bool = True) -> None:
    """What is slow to load, once for all commands."""
    import cv2
    import onnxruntime  # noqa: F401

    import facesieve.cli
    import facesieve.jobs.run  # noqa: F401

    cv2.setNumThreads(1)
    if torch:
        import diffusers  # noqa: F401
        from torch import set_num_threads

        set_num_threads(1)


def begin(words: list[str], log: Path) -> int:
    """Run a command of facesieve in a forked process: its id."""
    if child := os.fork():
        return child
    code = 1
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["facesieve", *words]
        from facesieve.cli import main

        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # as the interpreter would
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def ended(child: int) -> int:
    """How it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def faults(fresh: Tree, left: Tree, kind: Kind, *, whole: bool) -> list[str]:
    """What is half there, of something else, or missing although the run has ended."""

    def same(name: str) -> bool:
        if name not in fresh:
            return False
        if not kind.close:
            return left[name] == fresh[name]
        return np.allclose(np.frombuffer(left[name], "<f4"), np.frombuffer(fresh[name], "<f4"), atol=1e-3)

    wrong = [f"{name} differs" for name in left if not same(name)]
    if kind.close:  # templates of one person are written together
        there = {name.rsplit(" ", 2)[0] for name in left}
        wrong += [f"{name} is missing" for name in fresh if name.rsplit(" ", 2)[0] in there and name not in left]
    return wrong + ([f"{name} is missing" for name in fresh if name not in left] if whole else [])


def killed(kind: Kind, kills: int, until: float, seed: int, work: Path, said: Callable[[str], None]) -> dict[str, object]:
    """Kill so many runs, until a time at most; how many kills, how many runs ended, and what was wrong."""
    inputs, log, chance = work / "inputs", work / "log", random.Random(seed)
    kind.make(inputs)
    begun = time.monotonic()
    if ended(begin(kind.words(inputs, work / "fresh"), log)):
        raise SystemExit(log.read_text()[-3000:])
    seconds, fresh = time.monotonic() - begun, in_fork(lambda: kind.left(work / "fresh"))
    wrong: list[str] = []
    count = rounds = 0
    while count < kills and time.monotonic() < until:
        out = work / f"out{rounds}"
        begun, child = time.monotonic(), begin(kind.words(inputs, out), log)
        code = _killed_after(child, chance.uniform(0, seconds))
        if code == 0:
            seconds = max(0.7 * seconds, min(seconds, time.monotonic() - begun))  # the machine is faster now, or most was done
        count += code == -signal.SIGKILL
        partial = kind.meanwhile and in_fork(lambda out=out: kind.left(out))
        found = faults(fresh, partial or {}, kind, whole=False)
        if code not in {0, -signal.SIGKILL} and not (code == 1 and not kind.again):
            found.append(f"a run ended with {code}: {log.read_text()[-500:]}")
        if code != -signal.SIGKILL or count == kills or time.monotonic() > until:
            found += _finished(kind, inputs, out, fresh, log)
            rounds += 1
        for one in found:
            said(one)
        wrong += found
    return {"kills": count, "runs": rounds, "wrong": wrong}


def _killed_after(child: int, seconds: float) -> int:
    """How a process ended: by then, or by the signal."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return ended(child)


def _finished(kind: Kind, inputs: Path, out: Path, fresh: Tree, log: Path) -> list[str]:
    code = ended(begin(kind.words(inputs, out), log))
    found = faults(fresh, in_fork(lambda: kind.left(out)), kind, whole=True)
    return found + ([f"the last run ended with {code}"] if code and kind.again else [])


def served(kills: int, until: float, seed: int, work: Path, said: Callable[[str], None]) -> dict[str, object]:
    """Kill a server that clients enrol people with and purify photographs by."""
    import httpx

    photographs(work / "inputs")
    images = [path.read_bytes() for path in sorted((work / "inputs").iterdir())]
    gallery, chance, wrong, told = work / "gallery", random.Random(seed), list[str](), set[str]()
    script = "from facesieve.cli.serve import serve_app; serve_app()"
    words = [sys.executable, "-c", script, "--port", "0", "--gallery", str(gallery)]

    def client(url: str, number: int, which: int) -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http, suppress(httpx.HTTPError):
            for step in range(1000):
                name = f"{number}-{which}-{step}"
                two = [("file", (f"{n}.jpg", images[(step + n) % len(images)])) for n in range(2)]
                if http.put(f"/v1/gallery/{name}", files=two).status_code == 201:
                    told.add(name)
                many = http.post("/v1/purify/batch", files=two)
                if many.status_code == 200 and not all(one["image"] for one in many.json()["photographs"]):
                    wrong.append("a photograph of a batch is missing")
                one = http.post("/v1/purify", content=images[step % len(images)], headers={"Content-Type": "image/jpeg"})
                if one.status_code == 200 and not one.content.endswith(b"IEND\xaeB`\x82"):
                    wrong.append("an image is cut off")

    for number in range(kills):
        if time.monotonic() > until:
            kills = number
            break
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        url = f"http://127.0.0.1:{json.loads(process.stderr.readline())['port']}"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        ready = time.monotonic() + 60
        while time.monotonic() < ready:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            time.sleep(0.05)
        threads = [threading.Thread(target=client, args=(url, number, which)) for which in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.5, 8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        for thread in threads:
            thread.join()
        there = enrolled(str(gallery))
        counts: dict[str, int] = {}
        for name in there:
            person = name.split(" ")[0]
            counts[person] = counts.get(person, 0) + 1
        found = [f"{name} was told 201 and is not enrolled" for name in told if name not in counts]
        found += [f"{name} has {count} of 4 templates" for name, count in counts.items() if count != 4]
        for one in found:
            said(one)
        wrong += found
    return {"kills": kills, "runs": len(told), "wrong": wrong}


def keep(folder: Path, row: dict[str, object], made: dict[str, str]) -> None:
    """The row, and the sum of all that are there."""
    from facesieve.report.targets import Target, keep_targets

    write(folder / "kills.json", [row | made], ("kind", "seed"))
    every = json.loads((folder / "kills.json").read_text())
    kills, wrong = sum(row["kills"] for row in every), sum(bool(row["wrong"]) for row in every)
    figures = [
        ("kills, over all kinds", ">= 2000", kills),
        ("kinds of which something was lost, doubled or half", "<= 0", wrong),
    ]
    keep_targets(
        folder / "targets.json",
        [Target(area="service", target=name, wanted=wanted, value=value, n=kills, **made) for name, wanted, value in figures],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[*kinds(), "enrol-postgres", "service"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1e9, help="end after so long, with fewer kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"

    def said(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    until = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.kind == "service":
            found = served(args.kills, until, args.seed, work, said)
        else:
            load_libraries(torch=args.kind in {"evaluate", "train-prior", "train-purifier"})
            kind = postgres() if args.kind == "enrol-postgres" else kinds()[args.kind]
            found = killed(kind, args.kills, until, args.seed, work, said)
    row: dict[str, object] = {"kind": args.kind, "seed": args.seed, **found}
    print(json.dumps(row))
    if args.results is not None:
        keep(args.results, row, origin("kills.py", {str(args.results): "FOLDER"}))
    if found["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
