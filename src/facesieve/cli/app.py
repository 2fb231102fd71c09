"""The command line: thin commands over the library. Each command's module is imported when it is called, as are heavy ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from facesieve import __version__
from facesieve.cli.terminal import fail, out, speak_anywhere
from facesieve.errors import FacesieveError, InputError, MissingExtraError, one_line

COMMANDS = {  # where each is in facesieve.cli, in the order of the help
    "purify": "purify:purify",
    "presets": "prior:presets",
    "info": "prior:info",
    "licences": "licences:licences",
    "export": "export:export",
    "enrol": "enrol:enrol",
    "identify": "identify:identify",
    "verify": "identify:verify",
    "verify-set": "verify_set:verify_set",
    "choose-scale": "evaluate:choose_scale",
    "evaluate": "evaluate:evaluate",
    "certify": "certify:certify",
    "report": "evaluate:report",
    "board": "evaluate:board",
    "ui": "ui:ui",
    "calibrate": "evaluate:calibrate",
    "prior": "prior:prior_app",
    "gallery": "gallery:gallery_app",
    "data": "data:data_app",
    "train": "train:train_app",
    "serve": "serve:serve_app",
}
HIDDEN = {"calibrate"}
TORCH = {"torch", "diffusers", "safetensors"}  # what the extra of this name installs
Usage: type[Exception] = typer.BadParameter.__mro__[1]  # UsageError, of the Click that Typer has
LARGER = {
    "export": "export",
    "evaluate": "evaluate",
    "certify": "evaluate",
    "ui": "page",
}  # commands that need more, and their extras


class _Commands(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __getitem__(self, name: str) -> Any:
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _command(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"facesieve.cli.{module}"), attribute)
    alone = typer.Typer(rich_markup_mode="markdown")
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
    else:
        alone.command(name, hidden=name in HIDDEN)(found)
    return typer.main.get_group(alone).commands[name]


class _Group(TyperGroup):
    """The root of the commands."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": None})
        self.commands = _Commands()  # type: ignore[assignment]  # nothing is added later


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)


def main() -> None:
    """Entry point: errors of the user become one line and exit code 2."""
    speak_anywhere()
    try:
        sys.exit(app(standalone_mode=False) or 0)  # else Typer would draw a frame around an error
    except FacesieveError as error:
        fail(error)
    except Usage as error:
        _explain(error)
    except typer.Abort:
        sys.exit(1)
    except OSError as error:  # of the system, where nobody said it better
        fail(InputError(one_line(error), error.filename))
    except MemoryError:
        fail("there is not enough memory; take smaller photographs or a smaller --batch-size")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in TORCH:
            raise
        fail(MissingExtraError("this command", LARGER.get(sys.argv[1], "torch")))


def _explain(error: Any) -> NoReturn:
    """A wrong option or argument; a group of commands alone shows its help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(2)
    command = "facesieve" if error.ctx is None else error.ctx.command_path
    fail(f"{' '.join(error.format_message().split()).rstrip('.')}; see {command} --help")


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
