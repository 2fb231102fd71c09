"""The command `verify-set`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facesieve.cli.options import AsJson, Embedding, PriorFolder, RuntimeName, Scale, Seed, ShieldName, load_identifier
from facesieve.cli.terminal import errors, out, print_json, progress_bar
from facesieve.errors import many
from facesieve.limits import number
from facesieve.specs import DEFAULT_PRESET

if TYPE_CHECKING:
    from facesieve.evaluate.verify_set import Verification

LISTED = 20  # images that could not be used and are named


def verify_set(
    data: Annotated[Path, typer.Argument(help="InsightFace's lfw.bin, cfp_fp.bin or agedb_30.bin, or LFW's folder.")],
    pairs: Annotated[Path | None, typer.Option(help="Of a folder: the list of pairs; pairs.txt in it if not given.")] = None,
    embedder: Embedding = "sface",
    shield: ShieldName = DEFAULT_PRESET,
    scale: Scale = None,
    far: Annotated[list[float] | None, typer.Option(help="False-accept rates to give the true-accept rate at.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Add the row of a face's mirror image, as InsightFace does.")] = False,
    seed: Seed = None,
    runtime: RuntimeName = "auto",
    prior: PriorFolder = None,
    json_: AsJson = False,
) -> None:
    """Score one of the field's verification sets, without a shield and behind one: ten folds, TAR at FAR."""
    from facesieve.data.pair_sets import open_pairs
    from facesieve.evaluate.verify_set import verify_set as run

    fars = [number(rate, "--far", 1e-9, 1 - 1e-9) for rate in far or (0.01, 0.001)]
    found = open_pairs(data, pairs)
    identifier, front = load_identifier(embedder, shield, scale, runtime, prior)
    with progress_bar(found.name) as tell:
        result = run(found, identifier.embedder, front, fars=fars, flip=flip, seed=seed, report=tell)
    about = {"set": found.name, "pairs": len(found.same), "images": len(found.images), "embedder": identifier.embedder.name}
    if json_:
        print_json({**about, "flip": flip, "results": [_plain(one) for one in result.results], "unused": result.unused})
    else:
        out.print(f"{found.name}: {many(len(found.same), 'pair')} of {many(len(found.images), 'image')}, {about['embedder']}")
        for one in result.results:
            out.print(_line(one))
    if result.unused:
        errors.print(f"{many(len(result.unused), 'image')} cannot be used; their pairs count as refused:", style="bold red")
        for name, trouble in list(result.unused.items())[:LISTED]:
            errors.print(f"  {name}: {trouble}")
        if len(result.unused) > LISTED:
            errors.print("  ...")
        raise typer.Exit(1)


def _plain(one: Verification) -> dict[str, object]:
    folds = one.folds
    return {
        "shield": one.shield,
        "accuracy": folds.mean,
        "deviation": folds.deviation,
        "folds": list(folds.accuracies),
        "thresholds": list(folds.thresholds),
        "eer": one.eer,
        "tar_at_far": {f"{far:g}": tar for far, tar in one.tar.items()},
    }


def _line(one: Verification) -> str:
    tars = [
        f"TAR at FAR {100 * far:g} %: " + ("too few impostor pairs" if tar is None else f"{100 * tar:.2f} %")
        for far, tar in one.tar.items()
    ]
    accuracy = f"accuracy {100 * one.folds.mean:.2f} ± {100 * one.folds.deviation:.2f} %"
    return f"shield {one.shield}: {'; '.join([accuracy, f'EER {100 * one.eer:.2f} %', *tars])}"
