"""What reads bytes of strangers, each as a function of bytes, and bytes to begin from.

A target may raise ``FacesieveError`` and nothing else. ``benchmarks/fuzz.py`` hands it what atheris makes up;
``test_fuzz.py`` its seeds, changed a little, and in ``found/`` what once broke it.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from facesieve.errors import FacesieveError, ImageError
from facesieve.files import sha256_of

LONGEST = 2**16  # bytes; what needs more is tried in tests/images/test_bombs.py and by benchmarks/bombs.py
SHM = Path("/dev/shm")


@functools.cache
def folder() -> Path:
    """A folder of this process, in memory where there is such a place."""
    made = tempfile.TemporaryDirectory(dir=SHM if SHM.is_dir() else None)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[object] = []  # folders, removed when the process ends


def put(name: str, data: bytes) -> Path:
    """A new file of that name."""
    path = folder() / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def split(data: bytes, parts: int) -> list[bytes]:
    """Bytes as so many files: two bytes of length before each but the last."""
    found = []
    for _ in range(parts - 1):
        length = int.from_bytes(data[:2], "little")
        found.append(data[2 : 2 + length])
        data = data[2 + length :]
    return [*found, data]


def joined(*files: bytes) -> bytes:
    """The other way round."""
    return b"".join(struct.pack("<H", len(one)) + one for one in files[:-1]) + files[-1]


def each(doors: Sequence[Callable[[], object]]) -> None:
    """Go through all of them. Raises the last refusal where everyone refuses."""
    refusals = []
    for door in doors:
        try:
            door()
        except FacesieveError as error:
            refusals.append(error)
    if len(refusals) == len(doors):
        raise refusals[-1]


# --- photographs ----------------------------------------------------------------------------------


def aside(data: bytes, kind: str, max_pixels: int) -> None:
    """In place of decoding in a child, which holds whatever its decoder does."""
    raise ImageError(f"{kind} is decoded in a child")


def image(data: bytes) -> None:
    """Whatever is decoded in this process."""
    from facesieve.images.reading import read_with_dates

    with mock.patch("facesieve.images.reading.decoded_aside", aside), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_with_dates(data, max_pixels=250_000)


def _saved(format: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **options)
    return file.getvalue()


def image_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112], exif[0x9003] = 6, "2001:02:03 04:05:06"
    jpeg = [_saved("JPEG", exif=exif), _saved("JPEG", progressive=True), _saved("JPEG", "L"), _saved("JPEG", "CMYK")]
    png = [_saved("PNG", exif=exif), _saved("PNG", "P"), _saved("PNG", "RGBA"), _saved("PNG", "I;16"), _saved("PNG", "1")]
    webp = [_saved("WEBP", exif=exif), _saved("WEBP", "RGBA", lossless=True)]
    tiff = [_saved("TIFF"), _saved("TIFF", compression="tiff_lzw"), _saved("TIFF", compression="jpeg")]
    return [*jpeg, *png, *webp, *tiff, _saved("GIF"), _saved("GIF", "L", comment=b"x"), _saved("BMP"), _saved("BMP", "P")]


# --- many photographs -----------------------------------------------------------------------------


def recordio(data: bytes) -> None:
    from facesieve.data.recordio import RecordFile

    index, records = split(data, 2)
    put("records/train.idx", index)
    found = RecordFile(put("records/train.rec", records))
    try:
        for key, _ in list(found.labels())[:3]:
            found.image(key)
    finally:
        found.data.close()


def recordio_seeds() -> list[bytes]:
    header, magic = struct.Struct("<IfQQ"), struct.pack("<I", 0xCED7230A)
    records = [header.pack(2, 0, 0, 0) + struct.pack("<ff", 3, 4), *(header.pack(0, n, 0, 0) + bytes(n + 1) for n in range(3))]
    data, offsets = b"", []
    for record in records:
        offsets.append(len(data))
        data += magic + struct.pack("<I", len(record)) + record + bytes(-len(record) % 4)
    index = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)).encode()
    parts = magic + struct.pack("<I", 1 << 29 | 24) + header.pack(0, 1, 0, 0) + magic + struct.pack("<I", 3 << 29 | 4) + b"abcd"
    return [joined(index, data), joined(b"0\t0\n", parts)]


def tar(data: bytes) -> None:
    from facesieve.jobs.formats.tar import read

    for _ in read(put("shard.tar", data), None):
        pass


def tar_seeds() -> list[bytes]:
    found = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=format) as shard:
            for name in ("a.jpg", "a.json", "b" * 60 + "/" + "c" * 60 + ".png", "d", "._a.jpg"):
                info = tarfile.TarInfo(name)
                info.size = 5
                shard.addfile(info, io.BytesIO(b"\xff\xd8\xff\xe0x"))
        found.append(file.getvalue())
    return found


def parquet(data: bytes) -> None:
    from facesieve.jobs.formats.parquet import read

    for _ in read(put("shard.parquet", data), None):
        pass


def parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    from pyarrow import parquet as pq

    jpeg = b"\xff\xd8\xff\xe0" + bytes(20)
    structured = pa.array([{"bytes": jpeg, "path": "a.jpg"}, None])
    tables = [
        {"image": structured, "label": [1, 2]},
        {"jpg": pa.array([jpeg, jpeg]), "name": ["a", "b"]},
        {"image": structured, "more": [[jpeg], []]},
    ]
    found = []
    for table in tables:
        for compression in ("none", "snappy"):
            file = io.BytesIO()
            pq.write_table(pa.table(table), file, compression=compression)
            found.append(file.getvalue())
    return found


# --- what people write ----------------------------------------------------------------------------


def toml(data: bytes) -> None:
    """Every kind of file in TOML."""
    from facesieve.evaluate.experiment import read_experiment
    from facesieve.purify import chosen_preset
    from facesieve.service.settings import load_settings
    from facesieve.train.cards import DataCard

    path = put("settings.toml", data)
    each(
        [
            lambda: read_experiment(path, note=str),
            lambda: chosen_preset(str(path)),
            lambda: load_settings(path, {}),
            lambda: DataCard.read(path),
        ]
    )


def toml_seeds() -> list[bytes]:
    here = Path(__file__).parents[2]
    kept = [path.read_bytes() for path in sorted((here / "experiments").rglob("*.toml"))[:12]]
    preset = b'preset = "paper"\nname = "x"\nsummary = "y"\n[settings]\nsteps = 5\neta = 0.5\noperator = "grey"\n'
    service = b'port = 1\nmax_batch = 2\nupstream = "http://a"\nupstream_route = "POST /x field=y"\nmax_wait_s = 1e3\n'
    card = b'what = "a"\nterms = "b"\nattribution = ["c"]\n[[parts]]\nwhat = "a"\n'
    return [*kept, preset, service, card]


def manifest(data: bytes) -> None:
    """A manifest, a run's record and a file of keys."""
    from facesieve.data.manifest import load_manifest
    from facesieve.report.record import load_record
    from facesieve.service.keys import read_keys

    path = put("kept.json", data)
    each([lambda: load_record(path), lambda: read_keys(path), lambda: load_manifest(path)])


def manifest_seeds() -> list[bytes]:
    here = Path(__file__).parents[1] / "pins" / "kept"
    kept = [path.read_bytes() for path in sorted(here.rglob("*.json")) if path.stat().st_size < LONGEST]
    key = {"name": "a", "hash": "0" * 64, "scopes": ["purify"], "created": "2026-01-01"}
    return [*kept[:12], json.dumps({"keys": [key]}).encode(), b'{"format": 1}']


# --- weights and galleries ------------------------------------------------------------------------

PRIOR = ("card.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors")


@functools.cache
def _prior() -> dict[str, bytes]:
    """The files of the smallest prior."""
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 2}
        unet = UNet2DModel(8, block_out_channels=(2,), layers_per_block=1, add_attention=False, **kinds)
    place = folder() / "made"
    unet.save_pretrained(place)
    DDPMScheduler().save_pretrained(place)
    (place / "card.json").write_text(json.dumps({"name": "x", "sha256": sha256_of((place / PRIOR[3]).read_bytes())}))
    return {name: (place / name).read_bytes() for name in PRIOR}


def prior(data: bytes) -> None:
    """One of a prior's files is made up; the card's hash is that of the weights, so that they are read at all."""
    from facesieve.priors.folder import load_prior

    files, changed = dict(_prior()), PRIOR[data[0] % 4] if data else PRIOR[0]
    files[changed] = data[1:]
    if changed == PRIOR[3]:
        files["card.json"] = json.dumps({"name": "x", "sha256": sha256_of(data[1:])}).encode()
    for name, content in files.items():
        put(f"prior/{name}", content)
    load_prior(folder() / "prior")


def prior_seeds() -> list[bytes]:
    return [bytes([number]) + _prior()[name] for number, name in enumerate(PRIOR)]


ABOUT = {"format": 2, "embedder": "toy", "dimensions": 4, "calibrations": [], "templates": []}


def gallery(data: bytes) -> None:
    """The first byte says whether gallery.json is made up or its templates; their file is called as they would be."""
    from facesieve.galleries import open_gallery

    place = folder() / "gallery"
    place.mkdir(exist_ok=True)
    for path in place.iterdir():
        path.unlink()
    about = data[1:]
    if data[:1] >= b"\x80":
        name = f"templates-{sha256_of(data[1:])[:32]}.npz"
        put(f"gallery/{name}", data[1:])
        about = json.dumps({**ABOUT, "templates": [name]}).encode()
    put("gallery/gallery.json", about)
    found = open_gallery(str(place))
    for entry in found.people()[:2]:
        found.templates_of(entry.person)
    list(found.calibrations())
    list(found.export())


def gallery_seeds() -> list[bytes]:
    from facesieve.galleries.segments import Segment

    place = folder() / "segments"
    place.mkdir(exist_ok=True)
    rows = np.eye(2, 4, dtype=np.float32)
    written = place / Segment.of({"Ada": {"raw": rows, "toy": rows}, "Bob": {"raw": rows}}).write(place)
    calibration = {"purifier": "raw", "templates": "raw", "threshold": 0.3, "false_accept_rate": 0.01, "pairs": 5}
    return [
        b"\x80" + written.read_bytes(),
        b"\x00" + json.dumps(ABOUT).encode(),
        b"\x00" + json.dumps({**ABOUT, "calibrations": [calibration]}).encode(),
    ]


def graph(data: bytes) -> None:
    """The metadata of a graph; and a recogniser that is asked for nothing but to open."""
    from facesieve.weights.graphs import metadata_of

    metadata_of(data)


def graph_seeds() -> list[bytes]:
    from onnx import helper

    made = helper.make_model(helper.make_graph([], "g", [], []))
    entry = made.metadata_props.add()
    entry.key, entry.value = "facesieve", json.dumps({"format": 1, "size": 128})
    return [made.SerializeToString()]


# --- requests -------------------------------------------------------------------------------------

TYPES = ("multipart/form-data; boundary=b", "application/json", 'multipart/form-data; boundary="b b"', "image/png", "text/plain")


def body(data: bytes) -> None:
    """A request's body, as the service takes it and as the gate does, at a shielded address and elsewhere."""
    from facesieve.service.gate_body import body_without_image, shielded_body
    from facesieve.service.gate_routes import parse_route
    from facesieve.service.request_body import images_of

    kind, content = TYPES[data[0] % len(TYPES)] if data else TYPES[0], data[1:]
    each(
        [
            lambda: images_of(content, kind),
            lambda: shielded_body(content, kind, parse_route("POST /x field=file body=image")),
            lambda: body_without_image(content, kind),
        ]
    )


def body_seeds() -> list[bytes]:
    import base64

    png = _saved("PNG", "1")
    text = base64.b64encode(png).decode()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    form = head + png + b'\r\n--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n[1, "x"]\r\n--b--\r\n'
    return [
        b"\x00" + form,
        b"\x01" + json.dumps({"file": text, "n": [1.5, None, {"a": "data:image/png;base64," + text}]}).encode(),
        b"\x01" + b'{"file": "\\u0041\\/", "a": [[[]]]}',
        b"\x02" + form.replace(b"--b", b"--b b"),
        b"\x03" + png,
        b"\x04" + b"data:image/png;base64," + text.encode(),
    ]


def route(data: bytes) -> None:
    """A path and a query, as the gate reads them, and a line of its table."""
    from facesieve.service.gate_body import check_query
    from facesieve.service.gate_path import readings
    from facesieve.service.gate_routes import parse_route

    path, query = split(data, 2)
    with suppress(ValueError):
        parse_route(path.decode("latin-1"))
    try:
        readings(path)
    finally:
        check_query(query)


def route_seeds() -> list[bytes]:
    return [
        joined(b"/api/v1/recognition/recognize", b"a=b&limit=1"),
        joined(b"/a;b=c/%2e%2e/d//e%252f", b"x=%41&y"),
        joined(b"POST /x/*/** field=image body=image", b""),
    ]


@dataclass(frozen=True)
class FuzzTarget:
    """A function of bytes, and bytes to begin from."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


TARGETS = {
    "image": FuzzTarget(image, image_seeds),
    "recordio": FuzzTarget(recordio, recordio_seeds),
    "tar": FuzzTarget(tar, tar_seeds),
    "parquet": FuzzTarget(parquet, parquet_seeds),
    "toml": FuzzTarget(toml, toml_seeds),
    "manifest": FuzzTarget(manifest, manifest_seeds),
    "prior": FuzzTarget(prior, prior_seeds),
    "gallery": FuzzTarget(gallery, gallery_seeds),
    "graph": FuzzTarget(graph, graph_seeds),
    "body": FuzzTarget(body, body_seeds),
    "route": FuzzTarget(route, route_seeds),
}


def refuses(target: FuzzTarget, data: bytes) -> bool:
    """Whether the target refuses these bytes, in one line. Raises what is none of ours."""
    try:
        target.run(data)
    except FacesieveError as error:
        if "\n" in str(error):
            raise AssertionError("an error of several lines") from error
        return True
    return False
