"""Choose the level of `gentle`: what one evaluation of the prior costs on clean photographs that are in no test.

    python experiments/choosing_gentle.py --source DATA/identities --work WORK [--levels 0.05 0.1] [--scales 1 2]

People are enrolled behind the setting with ten photographs each. The probes are five more of each, so that half a point is
more than one probe: the one for choosing, and four training photographs, which a recogniser that was not trained on these
people may be asked about. About ten minutes a level and scale on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from facesieve.data.manifest import Manifest, load_manifest, save_manifest
from facesieve.evaluate.experiment import Experiment
from facesieve.evaluate.run import evaluate

HERE = Path(__file__).parent
ENROLLED, MORE = 10, 4


def with_more_probes(manifest: Manifest) -> Manifest:
    """Of each person the first ten training photographs, and as probes the next four and the one for choosing."""
    images = []
    for person in manifest.people:
        own = [image for image in manifest.images if image.person == person]
        train = [image for image in own if image.role == "train"]
        probes = [*train[ENROLLED : ENROLLED + MORE], *(image for image in own if image.role == "test")]
        images += [*train[:ENROLLED], *(image.model_copy(update={"role": "test"}) for image in probes)]
    selection = manifest.selection.model_copy(update={"train": ENROLLED, "test": MORE + manifest.selection.test})
    return manifest.model_copy(update={"selection": selection, "images": tuple(images)})


def setting(level: float, scale: int) -> dict[str, object]:
    """`gentle` at another level and scale."""
    levels = dict.fromkeys(("sigma_y", "start_sigma", "end_sigma"), level)
    return {"name": f"{level:g}, scale {scale}", "preset": "gentle", "settings": {**levels, "scale": scale}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the manifest, the runs and their cache")
    parser.add_argument("--levels", type=float, nargs="*", default=[0.02, 0.05, 0.1])
    parser.add_argument("--scales", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--prior")
    args = parser.parse_args()
    manifest = with_more_probes(load_manifest(HERE / "tuning-105.json"))
    args.work.mkdir(parents=True, exist_ok=True)
    save_manifest(args.work / "manifest.json", manifest)
    print("| recogniser | level, scale | clean accuracy lost, points | FRR at FAR 1 % |\n|---|---|---|---|")
    for level, scale in ((level, scale) for level in args.levels for scale in args.scales):
        for embedder in ("sface", "dlib"):
            plain = {
                "data": manifest.selection.model_dump(),
                "recogniser": {"embedder": embedder, "templates": ENROLLED, "enrolled": "purified"},
                "defences": [setting(level, scale)],
                "run": {"measures": ["accuracy"], "prior": args.prior},
            }
            run = args.work / f"{embedder}-{level:g}-{scale}"
            record = evaluate(
                Experiment.model_validate(plain),
                args.source,
                run,
                manifest=args.work / "manifest.json",
                cache=args.work / "cache",
            )
            print_row(embedder, f"{level:g}, scale {scale}", record.measures["accuracy"])


def print_row(embedder: str, name: str, figures: dict) -> None:
    """One line of the table, each figure in percent with its interval."""
    wanted = (figures[f"clean accuracy lost, {name}"], figures[f"FRR, {name}"])
    cells = [f"{100 * f.value:.2f} [{100 * f.low:.2f}, {100 * f.high:.2f}]" for f in wanted]
    print(f"| {embedder} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
