"""The command `serve`, and `serve keys`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from facesieve.cli.terminal import out
from facesieve.errors import MissingExtraError, SettingError
from facesieve.service.settings import Settings, load_settings

serve_app = typer.Typer(rich_markup_mode="markdown", help="Serve the shield over HTTP, or put it in front of another server.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys: add, list, remove. The file holds hashes, never a key.")
serve_app.add_typer(keys_app, name="keys")

Config = Annotated[Path | None, typer.Option("--config", envvar="FACESIEVE_CONFIG", help="TOML file of settings, one per line.")]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="Serve on Ray: local, auto, or the address of one; otherwise in this process.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="With --upstream: print which calls would be shielded and which passed unseen, and end.")
]
KeyFile = Annotated[
    Path, typer.Option("--keys", envvar="FACESIEVE_KEYS", help="The keys file, the one that the service is given.")
]


PANELS = {  # of the help: what the settings from this one on are about
    "host": "Where it listens, and who may call",
    "preset": "Shield and recogniser",
    "gallery": "People and the page",
    "max_batch": "Queue and load",
    "max_bytes": "What a request may hold, and ask for",
    "head_timeout_s": "How long things may take",
    "upstream": "In front of another server",
    "log_level": "Log",
}


def serve(context: typer.Context, config: Path | None, cluster: str | None, dry_run: bool, **given: Any) -> None:
    """Serve the shield over HTTP. With --upstream: purify the photographs in calls to another server.

    Each setting is an option, an environment variable and a line of the --config file, in this order of precedence.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        settings = load_settings(config, {name: value for name, value in given.items() if value not in (None, [])})
    except SettingError as error:
        raise error.advised("`facesieve serve --help` lists the settings") from None
    if dry_run:
        print_routes(settings)
        return
    if cluster is not None:
        serve_on_cluster(settings, cluster)
        return
    try:
        from facesieve.service.run import serve as run
    except ImportError as error:
        raise MissingExtraError("the service", "serve") from error
    run(settings)


def print_routes(settings: Settings) -> None:
    """What the gate would do, without starting it."""
    from facesieve.service.gate_routes import routes_of

    if settings.upstream is None:
        raise SettingError("a dry run says what the gate shields", "dry_run", "give --upstream")
    for line in routes_of(settings).lines():
        out.print(line, markup=False, soft_wrap=True)


def serve_on_cluster(settings: Settings, address: str) -> None:
    """The service on Ray Serve."""
    try:
        from facesieve.service.ray_serve import serve_on
    except ImportError as error:
        raise MissingExtraError("the service on a cluster", "cluster") from error
    serve_on(settings, address)


def _parameters() -> list[inspect.Parameter]:
    """An option for every setting, so that none is missing from ``--help``."""
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        inspect.Parameter("config", kind, annotation=Config, default=None),
        inspect.Parameter("cluster", kind, annotation=Cluster, default=None),
        inspect.Parameter("dry_run", kind, annotation=DryRun, default=False),
    ]
    panel = ""
    for name, setting in Settings.model_fields.items():
        panel = PANELS.get(name, panel)
        usual = "" if setting.default in {None, ()} else f" [default: {setting.default}]"
        flag = "--" + name.replace("_", "-")
        names = (f"{flag}/--no-{flag[2:]}",) if setting.annotation is bool else (flag,)
        variable = f" [env var: FACESIEVE_{name.upper()}]"
        option = typer.Option(*names, help=f"{setting.description}{usual}{variable}", show_default=False, rich_help_panel=panel)
        basic = setting.annotation if setting.annotation in {bool, int, float} else str
        basic = int if name == "scale" else basic  # the checks of the settings see to the rest
        basic = list[str] if setting.default == () else basic
        parameters.append(inspect.Parameter(name, kind, annotation=Annotated[basic | None, option], default=None))
    return parameters


serve.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
serve_app.callback(invoke_without_command=True)(serve)


@keys_app.command()
def add(
    name: Annotated[str, typer.Argument(help="The key's name in lists and logs.")],
    keys: KeyFile,
    scope: Annotated[list[str], typer.Option(help="identify, gallery or purify; may be given more than once.")],
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from facesieve.service.keys import add_key

    out.print(add_key(keys, name, scope))


@keys_app.command("list")
def list_(keys: KeyFile) -> None:
    """The names of all keys, with their scopes."""
    from facesieve.service.keys import Keys

    for key in Keys(keys).all():
        out.print(f"{key.name}: {', '.join(key.scopes)}")


@keys_app.command()
def remove(name: Annotated[str, typer.Argument(help="The key's name.")], keys: KeyFile) -> None:
    """Make a key useless, also for a running service."""
    from facesieve.service.keys import remove_key

    remove_key(keys, name)
    out.print(f"{name}: removed")
