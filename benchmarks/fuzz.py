"""Fuzz what reads bytes of strangers, by coverage, with atheris.

    python benchmarks/fuzz.py [TARGET ...] [--seconds 60] [--seed 1] [--results FOLDER]

The targets are those of ``tests/fuzz/fuzz_targets.py``, all of them by default; each runs in a process of its own for so long.
It fails on an exception that is none of ours, on an input that takes longer than 5 s, and where the process holds 1 GiB more
than with its libraries loaded; the input is then in ``tests/fuzz/found``, for the tests to try again. What covers something new
stays in ``--corpus``, which a next run begins from. ``--results`` adds the runs to ``fuzz.json`` there, a row for each target
and seed, and their sum to ``targets.json``. Needs atheris: Linux, Python 3.11 to 3.13.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import origin, write

HERE = Path(__file__).parent.parent
FUZZ = HERE / "tests" / "fuzz"
SLOWEST, MOST = 5, 1024  # seconds, MiB


def inside(name: str, words: list[str]) -> None:
    """In the process of one target: until libFuzzer ends it."""
    import atheris

    sys.path.insert(0, str(FUZZ))
    with atheris.instrument_imports(include=["facesieve"]):
        from fuzz_targets import TARGETS, refuses

        target = TARGETS[name]
        for seed in target.seeds():
            refuses(target, seed)  # imports what it needs
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    atheris.Setup([sys.argv[0], f"-rss_limit_mb={held + MOST}", *words], lambda data: refuses(target, data))
    atheris.Fuzz()


def fuzzed(name: str, seconds: int, seed: int, corpus: Path) -> dict[str, object]:
    """What became of one target: how many inputs, of what speed, the most memory, and what broke it."""
    sys.path.insert(0, str(FUZZ))
    from fuzz_targets import LONGEST, TARGETS

    kept = corpus / name
    kept.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (kept / f"seed{number}").write_bytes(data)
    before = set(FUZZ.glob(f"found/{name}-*"))
    words = [f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={SLOWEST}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    words += [f"-artifact_prefix={FUZZ}/found/{name}-", "-verbosity=1", str(kept)]
    begun = time.monotonic()
    done = subprocess.run([sys.executable, __file__, "--inside", name, *words], capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    stats = {key: int(value) for key, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    if not stats:
        raise SystemExit(said[-2000:])
    found = sorted(path.name for path in set(FUZZ.glob(f"found/{name}-*")) - before)
    if found:
        print(said[-3000:], file=sys.stderr)
    return {
        "target": name,
        "seed": seed,
        "seconds": round(time.monotonic() - begun),
        "inputs": stats["number_of_executed_units"],
        "slowest_s": stats["slowest_unit_time_sec"],
        "peak_MiB": stats["peak_rss_mb"],
        "corpus": len(list(kept.iterdir())),
        "broke": found,
    }


def keep(folder: Path, rows: list[dict[str, object]], made: dict[str, object]) -> None:
    """The rows, and the sum of all that are there."""
    from facesieve.report.targets import Target, keep_targets

    write(folder / "fuzz.json", [row | made for row in rows], ("target", "seed"))
    every = json.loads((folder / "fuzz.json").read_text())
    inputs, broke = sum(row["inputs"] for row in every), sum(len(row["broke"]) for row in every)

    def target(name: str, wanted: str, value: float) -> Target:
        return Target(area="service", target=name, wanted=wanted, value=value, n=len(every), **made)

    figures = [
        target("fuzzed inputs", ">= 1000000", inputs),
        target("fuzzed inputs: crashes, hangs over 5 s, more than 1 GiB", "<= 0", broke),
    ]
    keep_targets(folder / "targets.json", figures)


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "facesieve-corpus")
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(FUZZ))
    from fuzz_targets import TARGETS

    rows = []
    for name in args.targets or TARGETS:
        rows.append(fuzzed(name, args.seconds, args.seed, args.corpus))
        print(json.dumps(rows[-1]), flush=True)
    if args.results is not None:
        keep(args.results, rows, origin("fuzz.py", {str(args.results): "FOLDER", str(args.corpus): "CORPUS"}))
    if any(row["broke"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
