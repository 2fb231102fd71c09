"""The commands under `prior`, and those about this installation: `presets`, `info`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from facesieve import __version__
from facesieve.cli.options import AsJson
from facesieve.cli.terminal import out, print_json, progress_bar
from facesieve.errors import PriorError
from facesieve.specs import DEFAULT_PRESET, RUNTIME

prior_app = typer.Typer(no_args_is_help=True, help="Face priors: import public checkpoints, look at one.")


@prior_app.command("import")
def prior_import(
    source: Annotated[Path, typer.Argument(help="A diffusers folder, celeba_hq.ckpt, or 256x256_diffusion_uncond.pt.")],
    destination: Annotated[Path, typer.Argument(help="Folder for the converted prior; must not exist yet.")],
) -> None:
    """Convert a public checkpoint into a prior that `purify --prior` takes."""
    from facesieve.priors.folder import read_card
    from facesieve.priors.importing import import_prior

    with progress_bar("importing"):
        prior = import_prior(source, destination)
    parameters = sum(p.numel() for p in prior.network.parameters())
    out.print(
        f"{destination}: {parameters:,} parameters, images of {prior.shape[-1]} x {prior.shape[-2]}, target {prior.prediction}"
    )
    if assumed := read_card(destination).get("assumed"):
        out.print(f"assumed, since the checkpoint does not say: {'; '.join(assumed)}", markup=False)


@prior_app.command("show")
def prior_show(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A prior's folder, or one of those that ship, such as purifier-128; prior-128 if not given."),
    ] = None,
) -> None:
    """Print a prior's card."""
    from facesieve.priors.embedded import EMBEDDED, PRIOR, embedded_prior_folder
    from facesieve.priors.folder import read_card

    shipped = {Path(name): embedded_prior_folder(name) for name in EMBEDDED}
    print_json(read_card(shipped.get(folder or Path(PRIOR), folder or Path())))


MEANING = (
    "Accuracy on the recognisers SFace / dlib, percent. Lost: points, of photographs that nobody attacked.",
    "Kept: of photographs that an attacker changed by at most 2 of 255 levels, unaware of the preset or aware of it.",
    "?: not measured with the weights of today. ≤: not by every attacker, so that what is left may be less.",
    "Milliseconds: one core of a busy machine. All figures, with intervals: docs/results.md in the source repository.",
)


def presets(json_: AsJson = False) -> None:
    """List the presets: what each does, how well, and at what price; with --json every setting."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from facesieve.purify import PRESETS, figures

    if json_:
        print_json([preset.as_dict() | {"measured": figures(preset.name)} for preset in PRESETS.values()])
        return
    columns = {"clean_lost": "clean accuracy lost", "unaware": "kept, unaware", "aware": "kept, aware", "ms": "ms a face"}
    table = Table("preset", "evaluations", *columns.values(), box=SIMPLE_HEAD)
    for preset in PRESETS.values():
        out.print(f"{preset.name}{' (default)' * (preset.name == DEFAULT_PRESET)}: {preset.summary}")
        measured = figures(preset.name)
        table.add_row(preset.name, str(preset.evaluations), *(measured.get(key, "?") for key in columns))
    out.print(table)
    for line in MEANING:
        out.print(line)


def info() -> None:
    """Say what this machine offers, which hardware and runtimes can be used, and which priors ship with the package."""
    from facesieve.priors.embedded import EMBEDDED, embedded_prior_folder
    from facesieve.purify import preset
    from facesieve.runtime.auto import choose
    from facesieve.weights import CARD, read_json

    cards = [read_json(embedded_prior_folder(name) / CARD, PriorError, "card") for name in EMBEDDED]
    priors = [("prior", f"{card['name']}, sha256 {str(card['sha256'])[:16]}") for card in cards]
    runtime = choose(preset(DEFAULT_PRESET))
    chosen = f"{runtime.runtime}, of {RUNTIME} ({DEFAULT_PRESET}: {runtime.reason})"
    for name, value in [("facesieve", __version__), *_machine(), ("runtime", chosen), *priors]:
        out.print(f"{name:10s} {value}")


def _machine() -> list[tuple[str, str]]:
    """What the machine offers to PyTorch, where it is installed."""
    if find_spec("torch") is None:
        return [("torch", "not installed: the quick presets alone; pip install 'facesieve[torch]' for the others")]
    from facesieve.hardware import summary

    return list(summary().items())
