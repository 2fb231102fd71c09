"""The command line: thin commands over the library. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from functools import wraps
from typing import Annotated, Any

import typer

from facesieve import __version__
from facesieve.cli.data import data_app
from facesieve.cli.evaluate import choose_scale, evaluate, report
from facesieve.cli.export import export
from facesieve.cli.gallery import gallery_app
from facesieve.cli.identify import enrol, identify, verify
from facesieve.cli.licences import licences
from facesieve.cli.prior import info, presets, prior_app
from facesieve.cli.purify import purify
from facesieve.cli.serve import serve_app
from facesieve.cli.terminal import errors, fail, out
from facesieve.cli.train import train_app
from facesieve.cli.ui import ui
from facesieve.errors import FacesieveError, MissingExtraError

TORCH = {"torch", "diffusers", "safetensors"}  # what the extra of this name installs
LARGER = {
    "export": "export",
    "evaluate": "evaluate",
    "ui": "page",
}  # commands that need more, and their extras

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def main() -> None:
    """Entry point: errors of the user become one line and exit code 2."""
    try:
        app()
    except FacesieveError as error:
        fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TORCH:
            raise
        fail(MissingExtraError("this command", LARGER.get(sys.argv[1], "torch")))


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"facesieve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Remove adversarial perturbations from face photographs before they are identified."""


@wraps(choose_scale)
def _calibrate(**options: Any) -> None:
    errors.print("`facesieve calibrate` is called `facesieve choose-scale` now; the old name works in this release")
    choose_scale(**options)


for command in (purify, presets, info, licences, export, enrol, identify, verify, choose_scale, evaluate, report, ui):
    app.command()(command)
app.command("calibrate", hidden=True)(_calibrate)
for name, group in [
    ("prior", prior_app), ("gallery", gallery_app), ("data", data_app), ("train", train_app), ("serve", serve_app),
]:  # fmt: skip
    app.add_typer(group, name=name)
