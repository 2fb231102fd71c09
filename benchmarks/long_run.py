"""A mixed load on one service for long: its memory, handles, threads and latency over time, which have to be flat.

    python benchmarks/long_run.py [--minutes 60] [--clients 4] [--pause 0] [--targets]
    python benchmarks/long_run.py --photographs 1000 [--megapixels 24] [--minutes 60] [--clients 4] [--deadline 30] [--targets]

A server with its defaults and a gallery; each client does in turn what strangers do: photographs to purify as image and as JSON,
a batch, an aligned crop, a face to identify, somebody enrolled and removed, a file that is none, a photograph without a face, a
path that is not there, and a connection that is dropped in the middle. Once a second what the server holds is noted. Growth of
memory is the median of the last quarter over that of the second twelfth, from five minutes of an hour on.
With ``--pause`` each client waits up to so many seconds between two things.

With ``--photographs`` each client sends large ones with nine faces instead, as JPEG, until so many were answered in all or the
minutes are over, and the peak of memory is what counts. ``--targets`` records the figures, with the true length or number.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from load import HERE, RESULTS, memory, server
from results import origin

from facesieve.faces import Detector, FaceCrops
from facesieve.images import encode_photo, read_photo, to_photo
from facesieve.report.targets import Target, keep_targets

JPEG = {"Content-Type": "image/jpeg"}


@dataclass
class Seen:
    """What the server held each second, and what was answered."""

    rows: list[tuple[float, float, int, int]] = field(default_factory=list)  # seconds, MiB, handles, threads
    answers: Counter[str] = field(default_factory=Counter)
    times: list[tuple[float, float]] = field(default_factory=list)  # when, and how long, of small photographs
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, pid: int, begun: float) -> None:
        """What it holds now."""
        process = Path(f"/proc/{pid}")
        handles, threads = len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
        self.rows.append((time.monotonic() - begun, memory(pid), handles, threads))

    def median(self, column: int, begin: float, end: float) -> float:
        """Of a column, between these parts of the time."""
        last = self.rows[-1][0]
        return float(np.median([row[column] for row in self.rows if begin * last <= row[0] <= end * last]))


class Client:
    """One client with its own order of things."""

    def __init__(self, url: str, number: int, seen: Seen, begun: float) -> None:
        self.url, self.number, self.seen, self.begun = url, number, seen, begun
        self.chance = random.Random(number)
        self.http = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self.photos = [path.read_bytes() for path in sorted((HERE / "samples").glob("*.jpg"))]
        photo = read_photo(HERE / "samples" / "collins-1.jpg")
        self.crop = encode_photo(to_photo(FaceCrops.cut(photo, Detector().detect(photo), 128).crops[0]), "png")
        slope = np.linspace(0, 255, 640, dtype=np.uint8)
        files = [("file", ("a.jpg", one)) for one in self.photos[:2]]
        self.http.put(f"/v1/gallery/resident {number}", files=files).raise_for_status()  # somebody to be found
        self.blank = encode_photo(np.ascontiguousarray(np.broadcast_to(slope[None, :, None], (480, 640, 3))), "jpeg")

    def told(self, what: str, answer: httpx.Response) -> None:
        with self.seen.lock:
            self.seen.answers[f"{what} {answer.status_code}"] += 1

    def step(self) -> None:
        """One thing."""
        photo, name = self.chance.choice(self.photos), f"client {self.number}"
        files = [("file", ("a.jpg", photo)), ("file", ("b.jpg", self.chance.choice(self.photos)))]
        kind = self.chance.choice(
            ["image", "json", "batch", "crop", "identify", "enrol", "no file", "no face", "no path", "drop"]
        )
        begun = time.monotonic()
        match kind:
            case "image":
                answer = self.http.post("/v1/purify?format=jpeg", content=photo, headers=JPEG)
                self.seen.times.append((begun - self.begun, time.monotonic() - begun))
            case "json":
                answer = self.http.post("/v1/purify?tamper=true", content=photo, headers={**JPEG, "Accept": "application/json"})
            case "batch":
                answer = self.http.post("/v1/purify/batch", files=files)
            case "crop":
                answer = self.http.post("/v1/purify?aligned=true", content=self.crop, headers={"Content-Type": "image/png"})
            case "identify":
                answer = self.http.post("/v1/identify", content=photo, headers=JPEG)
            case "enrol":
                answer = self.http.put(f"/v1/gallery/{name}", files=files)
                self.http.delete(f"/v1/gallery/{name}")
            case "no file":
                answer = self.http.post("/v1/purify", content=self.chance.randbytes(5000), headers=JPEG)
            case "no face":
                answer = self.http.post("/v1/purify", content=self.blank, headers=JPEG)
            case "no path":
                answer = self.http.get(f"/v1/{self.chance.randrange(10**6)}")
            case _:
                self.drop(photo)
                return
        self.told(kind, answer)

    def drop(self, photo: bytes) -> None:
        """Half a request, and away."""
        parts = urlsplit(self.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30) as connection:
            lines = [
                "POST /v1/purify HTTP/1.1",
                f"Host: {parts.netloc}",
                "Content-Type: image/jpeg",
                f"Content-Length: {len(photo)}",
            ]
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + photo[: len(photo) // self.chance.choice([1, 2, 8])])


def crowd(megapixels: float) -> bytes:
    """A photograph of so many megapixels with nine faces."""
    import cv2

    side = int((1e6 * megapixels) ** 0.5)
    photo = np.full((side, side, 3), 120, np.uint8)
    paths = sorted((HERE / "samples").glob("*.jpg"))
    for place in range(9):
        tile = cv2.resize(read_photo(paths[place % len(paths)])[:340, :340], (side // 4, side // 4))
        y, x = (side // 3) * (place // 3) + side // 24, (side // 3) * (place % 3) + side // 24
        photo[y : y + side // 4, x : x + side // 4] = tile
    return encode_photo(photo, "jpeg", quality=90)


def large(client: Client, photo: bytes, wanted: int, over: threading.Event) -> None:
    """Large photographs until so many are answered in all, or the time is over; who is refused waits as told."""
    while client.seen.answers["large 200"] < wanted and not over.is_set():
        answer = client.http.post("/v1/purify?format=jpeg", content=photo, headers=JPEG, timeout=600)
        client.told("large", answer)
        if answer.status_code == 503:
            time.sleep(float(answer.headers.get("retry-after", 1)))


def run(args: argparse.Namespace, url: str, pid: int) -> Seen:
    """The load, until it ends."""
    seen, begun, over = Seen(), time.monotonic(), threading.Event()
    clients = [Client(url, number, seen, begun) for number in range(args.clients)]
    photo = crowd(args.megapixels) if args.photographs else b""

    def work(client: Client) -> None:
        if args.photographs:
            large(client, photo, args.photographs, over)
        while not args.photographs and not over.is_set():
            client.step()
            time.sleep(client.chance.uniform(0, args.pause))

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.note(pid, begun)
        if time.monotonic() - begun > 60 * args.minutes:
            over.set()
        time.sleep(1)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--photographs", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=30, help="deadline_s of the service, for a machine that is slow")
    parser.add_argument("--targets", action="store_true")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        server({"gallery": f"{folder}/gallery", "deadline_s": args.deadline}) as (url, pid),
    ):
        seen = run(args, url, pid)
    figures = report(args, seen)
    if args.targets:
        made = origin("long_run.py", {})
        keep_targets(RESULTS / "targets.json", [Target(area="service", **figure, **made) for figure in figures])


def report(args: argparse.Namespace, seen: Seen) -> list[dict[str, object]]:
    """Print what was seen; the figures for targets."""
    minutes, answered = seen.rows[-1][0] / 60, sum(seen.answers.values())
    early, late, peak = seen.median(1, 1 / 12, 1 / 6), seen.median(1, 3 / 4, 1), max(row[1] for row in seen.rows)
    growth = 100 * (late / early - 1)
    row: dict[str, object] = {
        "minutes": round(minutes, 1),
        "answers": answered,
        "MiB early": round(early),
        "MiB late": round(late),
    }
    row |= {"peak MiB": round(peak), "growth %": round(growth, 2)}
    row["MiB of each twelfth"] = [round(seen.median(1, part / 12, (part + 1) / 12)) for part in range(12)]
    for name, column in (("handles", 2), ("threads", 3)):
        row[name] = [seen.median(column, 1 / 12, 1 / 6), seen.median(column, 3 / 4, 1)]
    if seen.times:
        half = seen.rows[-1][0] / 2
        halves = [[took for at, took in seen.times if (at < half) == first] for first in (True, False)]
        row["median s of a photograph, first and second half"] = [round(float(np.median(one)), 3) for one in halves if one]
    print(json.dumps(row), json.dumps(dict(sorted(seen.answers.items()))), sep="\n")
    if args.photographs:
        name = f"peak memory, {args.clients} clients, photographs of {args.megapixels:g} megapixels with nine faces, MiB"
        return [{"target": name, "wanted": "bounded", "value": round(peak), "n": seen.answers["large 200"]}]
    bad = sum(count for what, count in seen.answers.items() if what.split()[-1] == "500")
    length = f"{minutes:.0f} minutes of mixed load"
    return [
        {"target": f"growth of memory over {length}, %", "wanted": "<= 2", "value": round(growth, 2), "n": answered},
        {"target": f"answers of 500 over {length}", "wanted": "<= 0", "value": bad, "n": answered},
    ]


if __name__ == "__main__":
    main()
