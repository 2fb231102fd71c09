"""The service under load: latency and throughput, the gain of batching, and twice the load that it can serve.

    python benchmarks/load.py [--seconds S] [--clients 1 8 64]

Everything runs on this machine over loopback: the server is a process of its own, the clients share
another. Each client sends one aligned face crop, waits for the answer, sends the next. Aligned
crops, because the search for faces in a photograph would hide what the batcher does. Every part ends
after ``--seconds``, or ``--requests`` requests if that is earlier.

``max_batch=1`` is without batching, everything else alike. For twice the capacity, requests are sent
at twice the highest throughput that was measured with batching, whether earlier ones were answered
or not, of a server with its defaults. ``cpu_ms`` is the processor time of server and clients together for each answer; what
so many processors allow at most is their number over that. Memory is the server's resident memory; its growth is the median of
the last quarter of the time over that of the second quarter. Recovery is the time from the last request that was sent until
a new one is answered with 200; those that wait are served first, so that it is about a quarter of
``max_wait_s`` and a batch. Rows go to ``docs/results/load.json``, a table of them to
``docs/results/load.md``, targets to ``docs/results/targets.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from results import origin, write

from facesieve.faces import Detector, FaceCrops
from facesieve.images import encode_photo, read_photo, to_photo
from facesieve.report.targets import Target, keep_targets

HERE = Path(__file__).parent.parent
RESULTS = HERE / "docs" / "results"
SERVE = "from facesieve.service.run import serve; from facesieve.service.settings import Settings; import sys, json; "
SERVE += "serve(Settings.model_validate(json.loads(sys.argv[1])))"
URL = "/v1/purify?aligned=true"

Row = dict[str, Any]


@dataclass
class Tally:
    """What came back: seconds of every answer by status."""

    times: dict[int, list[float]] = field(default_factory=dict)
    sent: int = 0

    def add(self, status: int, seconds: float) -> None:
        self.times.setdefault(status, []).append(seconds)

    def row(self, seconds: float) -> Row:
        good = self.times.get(200, [])
        row: Row = {f"p{q}_ms": round(1000 * float(np.percentile(good, q)), 1) if good else None for q in (50, 95, 99)}
        refused = self.times.get(503, [])
        if refused:
            row["refusal_p99_ms"] = round(1000 * float(np.percentile(refused, 99)), 1)
        statuses = {str(status): len(times) for status, times in sorted(self.times.items())}
        return {"faces_per_s": round(len(good) / seconds, 2), **row, "n": len(good), "statuses": statuses}


def crop() -> bytes:
    """One aligned face of the samples as PNG."""
    photo = read_photo(HERE / "samples" / "collins-1.jpg")
    faces = FaceCrops.cut(photo, Detector().detect(photo), 128)
    return encode_photo(to_photo(faces.crops[0]), "png")


@contextmanager
def server(settings: Row) -> Iterator[tuple[str, int]]:
    """A service of its own process: its address and its process id."""
    words = [sys.executable, "-c", SERVE, json.dumps({"port": 0, "log_level": "warning", "open_metrics": True, **settings})]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{port_of(process)}", process.pid
        process.send_signal(signal.SIGTERM)
        process.wait(90)
    finally:
        process.kill()
        process.wait()


def port_of(process: subprocess.Popen[str]) -> int:
    """The port that the process listens on, as the kernel says: it logs warnings alone."""
    for _ in range(600):
        time.sleep(0.2)
        if process.poll() is not None:
            raise SystemExit(f"the server ended: {process.stderr.read() if process.stderr else ''}")
        for port in listening(process.pid):
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    return port
    raise SystemExit("the server did not start within two minutes")


def listening(pid: int) -> list[int]:
    """Ports on which a process listens; Linux only."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(link.readlink()))
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets]


def memory(pid: int) -> float:
    """Resident memory, MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def processor(pid: int) -> float:
    """Processor time of a process and of this one, seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK") + time.process_time()


async def ask(client: httpx.AsyncClient, data: bytes, tally: Tally) -> int:
    begun = time.perf_counter()
    tally.sent += 1
    try:
        answer = await client.post(URL, content=data, headers={"Content-Type": "image/png"})
        status = answer.status_code
    except httpx.HTTPError:
        status = 0  # no answer
    tally.add(status, time.perf_counter() - begun)
    return status


def client_of(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=None), trust_env=False)


async def closed_loop(url: str, pid: int, clients: int, seconds: float, requests: int, data: bytes) -> Row:
    """``clients`` that each send the next request when the last was answered."""
    async with client_of(url) as client:
        for _ in range(3):
            await ask(client, data, Tally())
        tally, begun, used = Tally(), time.perf_counter(), processor(pid)

        async def one() -> None:
            while time.perf_counter() - begun < seconds and tally.sent < requests:
                await ask(client, data, tally)

        await asyncio.gather(*(one() for _ in range(clients)))
        row = tally.row(time.perf_counter() - begun)
        return {**row, "cpu_ms": round(1000 * (processor(pid) - used) / max(row["n"], 1), 1)}


async def overload(url: str, pid: int, rate: float, seconds: float, data: bytes) -> Row:
    """Requests at a fixed rate, answered or not; memory meanwhile, and the time to the first answer afterwards."""
    tally, tasks, sizes = Tally(), set[asyncio.Task[int]](), []
    async with client_of(url) as client:
        begun = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(begun + number / rate - time.perf_counter(), 0))
            tasks.add(asyncio.create_task(ask(client, data, tally)))
            sizes.append(memory(pid))
        ended = time.perf_counter()
        while await ask(client, data, Tally()) != 200:
            await asyncio.sleep(0.05)
        recovery = time.perf_counter() - ended
        await asyncio.gather(*tasks)
        row = tally.row(time.perf_counter() - begun)
    quarters = np.array_split(sizes, 4)
    growth = float(np.median(quarters[3]) - np.median(quarters[1]))
    return {**row, "rate_per_s": round(rate, 2), "recovery_s": round(recovery, 2), "growth_MiB": round(growth, 1)}


def measure(args: argparse.Namespace, data: bytes) -> list[Row]:
    rows: list[Row] = []
    room = {
        "queue_faces": max(*args.clients, 64),
        "max_requests": 4 * max(*args.clients, 64),
        "max_wait_s": 120,
        "deadline_s": 120,
    }
    for batch in (8, 1):
        with server({"max_batch": batch, **room}) as (url, pid):
            for clients in args.clients:
                found = asyncio.run(closed_loop(url, pid, clients, args.seconds, args.requests, data))
                rows.append({"part": "closed loop", "clients": clients, "max_batch": batch, **found})
                print(json.dumps(rows[-1]), flush=True)
    capacity = max(row["faces_per_s"] for row in rows if row["max_batch"] == 8)
    with server({}) as (url, pid):
        found = asyncio.run(overload(url, pid, 2 * capacity, args.seconds, data))
    rows.append({"part": "twice the capacity", "clients": None, "max_batch": 8, **found})
    print(json.dumps(rows[-1]), flush=True)
    return rows


def targets(rows: list[Row], origin: Row) -> list[Target]:
    def target(name: str, wanted: str, value: float, n: int) -> Target:
        return Target(area="service", target=name, wanted=wanted, value=value, n=n, **origin)

    found, most = [], max(row["clients"] or 0 for row in rows)
    for row in (row for row in rows if row["part"] == "closed loop" and row["max_batch"] == 8):
        [alone] = [other for other in rows if (other["clients"], other["max_batch"]) == (row["clients"], 1)]
        gain = round(row["faces_per_s"] / alone["faces_per_s"], 3) if alone["faces_per_s"] else float("nan")
        wanted = "> 1" if row["clients"] == most else "none set"
        found.append(target(f"gain of batching in throughput, {row['clients']} clients", wanted, gain, row["n"]))
    closed = {(row["clients"], row["max_batch"]): row for row in rows if row["part"] == "closed loop"}
    if (alone := closed.get((1, 1))) and (crowd := closed.get((64, 8))):
        gain = round(crowd["faces_per_s"] / alone["faces_per_s"], 3)
        found.append(target("throughput of 64 clients over one client unbatched", ">= 2.5", gain, crowd["n"]))
        processors = len(os.sched_getaffinity(0))
        bound = round(1000 * processors / crowd["cpu_ms"] / alone["faces_per_s"], 3)
        found.append(target(f"the same, if {processors} processors did nothing else", "none set", bound, crowd["n"]))
    last = rows[-1]
    if (slowest := last.get("refusal_p99_ms")) is not None:
        found.append(target("p99 of a refusal at twice the capacity, ms", "<= 50", slowest, last["statuses"]["503"]))
    others = sum(count for status, count in last["statuses"].items() if status not in {"200", "503"})
    total = sum(Counter(last["statuses"]).values())
    found.append(target("answers other than 200 and 503 at twice the capacity", "<= 0", others, total))
    found.append(target("growth of memory at twice the capacity, MiB", "flat", last["growth_MiB"], total))
    found.append(target("recovery after twice the capacity, s", "<= 2", last["recovery_s"], total))
    return found


def table(rows: list[Row]) -> str:
    """All rows as Markdown."""
    names = {"part": "load", "clients": "clients", "max_batch": "max_batch", "faces_per_s": "faces / s"}
    names |= {
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "cpu_ms": "processor ms / face",
        "n": "answered",
        "statuses": "statuses",
    }
    names |= {"refusal_p99_ms": "p99 of a refusal ms", "recovery_s": "recovery s", "growth_MiB": "memory growth MiB"}

    def cell(value: object) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{status}: {count}" for status, count in value.items())
        return "-" if value is None else str(value)

    lines = [" | ".join(names.values()), " | ".join("---" for _ in names)]
    lines += [" | ".join(cell(row.get(key)) for key in names) for row in rows]
    commands = sorted({f"`{row['command']}` at {row['commit']}" for row in rows})
    return "# The service under load\n\n" + "\n".join(f"| {line} |" for line in lines) + f"\n\n{'; '.join(commands)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    made = origin("load.py", {str(args.results): "FOLDER"})
    rows = [row | made for row in measure(args, crop())]
    write(args.results / "load.json", rows, ("part", "clients", "max_batch"))
    keep_targets(args.results / "targets.json", targets(rows, made))
    (args.results / "load.md").write_text(table(json.loads((args.results / "load.json").read_text())))


if __name__ == "__main__":
    main()
