"""What ``facesieve choose-scale`` writes: a profile for the shield, the indicators, and pictures for a person to look at."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from facesieve.evaluate.choose_scale import Choice
from facesieve.files import write_with_folder
from facesieve.images import encode_photo
from facesieve.pictures import sheet


def write_choice(folder: Path, choice: Choice) -> list[Path]:
    """``profile.toml``, ``scales.json``, and ``scale-N.png`` for each scale; returns their paths, the profile's first."""
    profile = f"# {choice.reason}\npreset = {json.dumps(choice.preset.name)}\n\n[settings]\nscale = {choice.scale}\n"
    numbers = {
        "chosen": choice.scale,
        "reason": choice.reason,
        "unprotected": {"clean": choice.unprotected[0], "adversarial": choice.unprotected[1]},
        "scales": [asdict(found) for found in choice.indicators],
    }
    pages = {
        "profile.toml": profile.encode(),
        "scales.json": (json.dumps(numbers, indent=1) + "\n").encode(),
        **{f"scale-{scale}.png": encode_photo(sheet(columns, cell=160), "png") for scale, columns in choice.sheets.items()},
    }
    for name, data in pages.items():
        write_with_folder(folder / name, data)
    return [folder / name for name in pages]
