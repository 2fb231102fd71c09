"""Every picture below a folder, read here and by Pillow: the same, or refused in one line.

    python benchmarks/against_pillow.py FOLDER [--targets]

Made for the test images in Pillow's source package (``pip download --no-binary pillow pillow``, then ``Tests/images``). A
picture that Pillow reads and that is read here must be the same in every pixel, upright and in sRGB. ``--targets`` records how
many differ, and how many ended in anything but a photograph or one line, in docs/results/targets.json.
"""

from __future__ import annotations

import argparse
import io
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from results import origin

from facesieve.errors import FacesieveError
from facesieve.images import Photo, as_photo, read_photo
from facesieve.kinds import HEAD, kind_of
from facesieve.report.targets import Target, keep_targets

TARGETS = Path(__file__).parent.parent / "docs" / "results" / "targets.json"


def by_pillow(data: bytes) -> Photo | None:
    """The picture as Pillow decodes it; None where it does not."""
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > 50_000_000:
            return None
        return as_photo(image)
    except Exception:
        return None


def compared(data: bytes) -> str:
    """What the two readings are to each other."""
    try:
        here = read_photo(data)
    except FacesieveError as error:
        return "refused here" if "\n" not in str(error) else "broken"
    except Exception:
        return "broken"
    there = by_pillow(data)
    if there is None:
        return "read here alone"
    return "equal" if np.array_equal(here, there) else "different"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    count: Counter[str] = Counter()
    for path in sorted(path for path in args.folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if kind_of(data[:HEAD]) is None:
            continue
        count[found := compared(data)] += 1
        if found not in {"equal", "refused here"}:
            print(f"{found}: {path.name}")
    print(dict(count))
    if args.targets:
        about = {
            "area": "service",
            "wanted": "<= 0",
            "n": count.total(),
            **origin("against_pillow.py", {str(args.folder): "FOLDER"}),
        }
        names = {
            "different": "Pillow's test images: read otherwise than by Pillow",
            "broken": "Pillow's test images: no clear end",
        }
        keep_targets(TARGETS, [Target(target=name, value=count[key], **about) for key, name in names.items()])


if __name__ == "__main__":
    main()
