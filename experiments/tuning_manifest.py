"""The photographs that settings are chosen on: of each person the one after the test images, which no recogniser learned from.

    python experiments/tuning_manifest.py --data DIR

Reads ``identities-105.toml`` and writes ``tuning-105.json``: the training images of ``identities-105.json``, and in the
place of its test images the next usable photograph of each person. The test images are listed as replaced.
"""

from __future__ import annotations

import argparse
from itertools import groupby
from pathlib import Path

from facesieve.data.manifest import Image, Manifest, Replaced, load_manifest, save_manifest
from facesieve.data.select import read_selection, select
from facesieve.data.sources import open_source

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    tested = load_manifest(HERE / "identities-105.json")
    wanted = read_selection(HERE / "identities-105.toml", {})
    more = select(open_source(args.data), wanted.model_copy(update={"test": wanted.test + 1}))
    images: list[Image] = []
    replaced = list(more.replaced)
    for _, group in groupby(more.images, key=lambda image: image.person):
        of_person = list(group)
        images += [*of_person[: wanted.train], of_person[-1]]
        kept = of_person[wanted.train : -1]
        replaced += [Replaced(person=i.person, ref=i.ref, reason="a test image, kept for the tests") for i in kept]
    chosen = wanted.model_copy(update={"test": 1})
    ordered = tuple(sorted(replaced, key=lambda entry: (entry.person, entry.ref or "")))
    manifest = Manifest(source=more.source, selection=chosen, images=tuple(images), replaced=ordered)
    assert manifest.of("train") == tested.of("train")
    assert not {image.ref for image in manifest.images} & {image.ref for image in tested.of("test")}
    save_manifest(HERE / "tuning-105.json", manifest)
    print(f"{len(manifest.people)} people, {len(manifest.of('test'))} photographs to choose on")


if __name__ == "__main__":
    main()
