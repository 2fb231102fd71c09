"""What batching brings on a processor: processor time a face, alone and together, on each runtime.

    python benchmarks/batching.py [--preset gentle] [--rounds 5]

Each row is a process of its own: so many threads inside the network, so many batches beside each other, of so many faces.
Processor time, since that bounds what a service can do on so many processors, whatever else runs beside it; the least of the
rounds counts, since what runs beside it takes its caches. ``onnx 8 bit`` is the graph that ``facesieve export --quantise`` makes,
if ``--quantised`` names its file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time

ONE = ("onnx", "fp32", 1, 1)
KINDS = (  # runtime, number format, threads in the network, batches beside each other
    ONE,
    ("onnx", "fp32", 2, 1),
    ("onnx", "fp32", 1, 2),
    ("torch", "fp32", 1, 1),
    ("torch", "bf16", 1, 1),
)
BATCHES = (1, 2, 4, 8, 16)


def measured(preset: str, runtime: str, precision: str, lanes: int, rounds: int, prior: str | None) -> dict[int, float]:
    """Processor ms a face by batch, in this process."""
    import numpy as np

    from facesieve.purify import chosen_preset
    from facesieve.shield import load_shield

    network = load_shield(chosen_preset(preset), runtime=runtime, precision=precision, prior=prior).runtime
    found = {}
    for count in BATCHES:
        crops = np.random.default_rng(count).random((count, 3, network.card.size, network.card.size), np.float32)

        def run(crops: np.ndarray = crops, count: int = count) -> None:
            for _ in range(max(1, 8 // count)):
                network.purify(crops, range(count))

        times = []
        for _ in range(rounds + 1):  # the first warms up
            begun, threads = time.process_time(), [threading.Thread(target=run) for _ in range(lanes)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            times.append((time.process_time() - begun) / (lanes * count * max(1, 8 // count)))
        found[count] = 1000 * min(times[1:])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="gentle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quantised")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.preset, *json.loads(args.one))))
        return
    kinds = [(*kind, args.rounds, None) for kind in KINDS]
    if args.quantised:
        kinds.append((*ONE, args.rounds, args.quantised))
    print("| runtime | threads | batches beside each other |" + "".join(f" {n} |" for n in BATCHES))
    print("|---|---|---|" + "---|" * len(BATCHES))
    for runtime, precision, threads, lanes, rounds, prior in kinds:
        words = [sys.executable, __file__, "--preset", args.preset]
        words += ["--one", json.dumps([runtime, precision, lanes, rounds, prior])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        answer = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        name = f"{runtime} {'8 bit' if prior else precision}"
        cells = "".join(f" {ms:.1f} |" for ms in json.loads(answer.splitlines()[-1]).values())
        print(f"| {name} | {threads} | {lanes} |{cells}", flush=True)


if __name__ == "__main__":
    main()
