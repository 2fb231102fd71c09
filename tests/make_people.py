"""Small data sets of people for the protocol's tests, each written independently of the code that reads it."""

import struct

import cv2
import numpy as np

from facesieve.data.manifest import Selection
from facesieve.images import encode_photo, read_photo

FEW = Selection(minimum=5, people=3, train=3, test=1)
MAGIC = struct.pack("<I", 0xCED7230A)


def pictures(sample_paths, count):
    """``{person: [JPEG bytes]}``: the sample people, every picture a little different."""
    people = {}
    for path in sample_paths:
        person = path.stem.split("-")[0]
        if person not in people:
            photo = cv2.resize(read_photo(path)[:340], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)  # small is quick
            rng = np.random.default_rng(len(people))
            shift = rng.permutation(12)[:count]
            people[person] = [encode_photo(np.ascontiguousarray(photo[s:, s:]), "jpeg", quality=90) for s in shift]
    return people


def write_folders(root, people):
    for person, images in people.items():
        (root / person).mkdir(parents=True)
        for number, data in enumerate(images):
            (root / person / f"{number:03d}.jpg").write_bytes(data)


def write_records(root, people, *, contents=True):
    """InsightFace's layout; people are their numbers."""
    records = [struct.pack("<IfQQ", 0, label, 0, 0) + data for label, person in enumerate(people) for data in people[person]]
    if contents:
        table = [struct.pack("<IfQQff", 2, 0, 0, 0, len(records) + 1, len(records) + len(people))]
        tails = [struct.pack("<IfQQff", 2, 0, 0, 0, 1, 2) for _ in people]  # a person's range of keys: no image
        records = [*table, *records, *tails]
    write_record_file(root, records)


def write_record_file(root, records):
    """RecordIO by dmlc's description; a magic number inside a record parts it. The keys count from 0."""
    root.mkdir(parents=True)
    with (root / "train.rec").open("wb") as file, (root / "train.idx").open("w") as index:
        for key, record in enumerate(records):
            index.write(f"{key}\t{file.tell()}\n")
            parts = record.split(MAGIC) if MAGIC in record else [record]
            for number, part in enumerate(parts):
                flag = 0 if len(parts) == 1 else 1 if number == 0 else 3 if number == len(parts) - 1 else 2
                file.write(MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4))


def write_datasets(root, people):
    import datasets

    names = list(people)
    rows = [(data, name) for name in names for data in people[name]]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": [names.index(name) for _, name in rows]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}),
    )
    table.save_to_disk(str(root))
