"""Every setting of the service: its meaning, its default, its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from facesieve.errors import MissingExtraError, SettingError, printable
from facesieve.files import first_problem, read_toml
from facesieve.hosts import is_loopback
from facesieve.specs import DEFAULT_PRESET, EMBEDDER, MAX_PIXELS, RUNTIME, in_use
from facesieve.tamper_policy import OnTamper, TamperPolicy, TamperScore


def _lines(given: object) -> object:
    """One line, several lines or a list of them, as a list."""
    return [line.strip() for line in given.splitlines() if line.strip()] if isinstance(given, str) else given


def _routes(lines: tuple[str, ...]) -> tuple[str, ...]:
    from facesieve.service.gate_routes import parse_route

    for line in lines:
        parse_route(line)
    return lines


# The text is for the environment, whose variables would otherwise be read as JSON.
Lines = Annotated[tuple[str, ...] | str, BeforeValidator(_lines), AfterValidator(_routes)]

Format = Literal["png", "jpeg", "webp"]


class Settings(BaseModel):
    """What ``facesieve serve`` can be told, by option, by environment (``FACESIEVE_NAME``) or in a TOML file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    host: str = Field("127.0.0.1", description="Address to listen on; other than loopback only with keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    keys: Path | None = Field(None, description="File of API keys, made by `facesieve serve keys add`.")
    cors_origins: str | None = Field(
        None, description="Web pages of elsewhere that may call the service, such as https://shop.example; several with commas."
    )
    open_metrics: bool = Field(False, description="Serve /metrics without a key.")

    preset: Annotated[str, AfterValidator(in_use)] = Field(
        DEFAULT_PRESET, description="A preset (see `facesieve presets`), or a profile of `facesieve choose-scale`."
    )
    presets: str | None = Field(
        None, description="Other presets that a request may ask for, with commas; each is loaded, and all share one thread."
    )
    scale: int | None = Field(None, description="Resolution scale: 2, 4 or 8; the preset's if not given.")
    prior: Path | None = Field(None, description="Folder of another prior.")
    device: str = Field("auto", description="auto, cpu or cuda.")
    precision: str = Field("auto", description="auto, fp32 or bf16.")
    runtime: str = Field("auto", description=f"What runs the network: {RUNTIME}.")
    gpu_share: float = Field(1, gt=0, le=1, description="On a cluster: how much of a GPU each replica of the model takes.")
    embedder: str = Field("sface", description=f"The recogniser: {EMBEDDER}.")
    on_tamper: OnTamper = Field(
        "purify", description="A face that looks tampered with: purify (as every other), flag (and say so) or refuse."
    )
    tamper_score: TamperScore = Field(
        "change", description="By what: change, how far the shield moved it; disagreement of two recognisers; or both."
    )
    tamper_threshold: float | str | None = Field(
        None, description="Score above which; two with a comma for both. The default for this recogniser and preset if not given."
    )
    gallery: str | None = Field(
        None, description="A gallery's folder, made if there is none, or postgresql://user@host/database."
    )
    page: bool = Field(False, description="Serve the page for people at /ui; on loopback alone, since it asks for no key.")
    samples: Path | None = Field(None, description="Folder of photographs to choose from on the page.")
    allow_seeds: bool = Field(False, description="Let callers choose the noise; whoever knows it can attack it.")

    max_batch: int = Field(8, ge=1, description="Most faces that are purified together.")
    batch_wait_ms: float = Field(10, ge=0, description="How long a face waits for others to share its batch, ms.")
    queue_faces: int = Field(64, ge=1, description="Most faces that wait; more are refused with 503.")
    max_wait_s: float = Field(
        5, gt=0, description="A photograph is refused with 503 while those that wait would take longer than this, s."
    )
    deadline_s: float = Field(
        30, gt=0, description="How long a request may take from its start before it is refused with 503, s."
    )
    readers: int = Field(2, ge=1, description="Threads that read photographs, find their faces and write results.")
    max_requests: int = Field(128, ge=1, description="Most requests at a time; more are refused with 503.")
    max_connections: int = Field(512, ge=1, description="Most connections; for one more, one that sends no request is closed.")

    max_bytes: int = Field(20_000_000, ge=1, description="Largest request body, bytes.")
    max_pixels: int = Field(MAX_PIXELS, ge=256, description="Largest photograph, pixels.")
    max_faces: int = Field(16, ge=1, description="Most faces in a photograph.")
    max_images: int = Field(16, ge=1, le=64, description="Most photographs in a request.")
    formats: str = Field("png,jpeg,webp", description="Formats of images that a request may ask for; the first is the usual one.")
    faces: str = Field(
        "secure", description="How a request may have faces put back: secure, detail (for people), or both with a comma."
    )
    head_timeout_s: float = Field(10, gt=0, description="How long the head of a request may take to arrive, s.")
    body_timeout_s: float = Field(30, gt=0, description="How long a body may take to arrive, s.")
    send_timeout_s: float = Field(30, gt=0, description="How long a client may take nothing of an answer, s.")
    stop_timeout_s: int = Field(60, ge=1, description="How long a stop waits for accepted requests, s.")

    upstream: str | None = Field(None, description="Proxy mode: address of the face recognition server behind.")
    upstream_kind: Literal["compreface", "deepface", "both", "none"] = Field(
        "both", description="Whose calls hold photographs: compreface, deepface, both, or none but those of upstream_route."
    )
    upstream_route: Lines = Field(
        (), description="Proxy mode: other calls that hold photographs, as 'POST /recognize field=image'; one a line, or a list."
    )
    upstream_pass: Lines = Field(
        (), description="Proxy mode: calls that are passed on without a look, as 'POST /uploads'; one a line, or a list."
    )
    upstream_timeout_s: float = Field(60, gt=0, description="How long the server behind may take to answer, s.")
    no_face: Literal["refuse", "pass"] = Field(
        "refuse", description="Proxy mode: refuse a photograph without a face, or pass it on as it is."
    )
    open_proxy: bool = Field(
        False, description="Proxy mode: no key is asked for off loopback; the server behind checks its callers."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error.")

    @property
    def policy(self) -> TamperPolicy:
        """What is done about faces that look tampered with. Raises ``SettingError`` for a threshold that is none."""
        return TamperPolicy(self.on_tamper, self.tamper_score, self.tamper_threshold)

    @property
    def origins(self) -> tuple[str, ...]:
        """``cors_origins``, one by one."""
        return _words(self.cors_origins)

    @property
    def more_presets(self) -> tuple[str, ...]:
        """``presets``, one by one, without the service's own."""
        return tuple(name for name in _words(self.presets) if name != self.preset)

    @field_validator("presets")
    @classmethod
    def _are_in_use(cls, value: str | None) -> str | None:
        for name in _words(value):
            in_use(name)
        return value

    @property
    def finishes(self) -> tuple[str, ...]:
        """``faces``, one by one."""
        return _words(self.faces)

    @field_validator("faces")
    @classmethod
    def _are_finishes(cls, value: str) -> str:
        return _among(value, ("secure", "detail"))

    @property
    def image_formats(self) -> tuple[Format, ...]:
        """``formats``, one by one."""
        return tuple(one for word in _words(self.formats) for one in get_args(Format) if one == word)

    @field_validator("formats")
    @classmethod
    def _are_formats(cls, value: str) -> str:
        return _among(value, get_args(Format))

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        for one in _words(value):
            if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", one):
                raise ValueError(f"{printable(one)} is no origin; write it as https://shop.example, without a path")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.max_faces > self.queue_faces:
            raise ValueError(f"max_faces {self.max_faces} must not be above queue_faces {self.queue_faces}")
        if self.upstream is not None and not self.upstream.startswith(("http://", "https://")):
            raise ValueError("upstream must begin with http:// or https://")
        if self.page and not is_loopback(self.host):
            raise ValueError(f"page: it asks for no key, and others can reach host {self.host}; listen on 127.0.0.1")
        if self.page and self.on_tamper == "refuse":
            raise ValueError("page: it names every face, which on_tamper refuse forbids; start another service for it")
        if self.presets and self.upstream is not None:
            raise ValueError("presets: a proxy has one, since its callers cannot ask for another")
        if self.cors_origins and self.upstream is not None:
            raise ValueError("cors_origins: the server behind the proxy answers for its own addresses")
        if self.page and self.upstream is not None:
            raise ValueError("page: a proxy has none; start another service for it")
        unguarded = self.keys is None and not (self.upstream and self.open_proxy)
        if unguarded and not is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached by others: give a file of keys, or listen on 127.0.0.1")
        return self


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word for word in (text or "").replace(",", " ").split() if word)


def _among(text: str, known: Sequence[str]) -> str:
    """The same text, of one known word or several. Raises ``ValueError``."""
    if not _words(text) or set(_words(text)) - set(known):
        raise ValueError(f"choose among {', '.join(known)}")
    return text


def load_settings(file: Path | None, given: Mapping[str, object]) -> Settings:
    """The settings that are ``given``, else those of the environment, else those in ``file`` (TOML, one per line).

    Raises ``InputError`` for a file that cannot be read, ``SettingError`` for settings that do not fit,
    ``MissingExtraError`` where pydantic-settings is not installed.
    """
    table = {} if file is None else read_toml(file)
    try:
        return Settings.model_validate({**table, **_environment(), **given})
    except ValidationError as error:
        place, what = first_problem(error)
        raise SettingError(what, place or None) from error


def _environment() -> dict[str, Any]:
    """The settings that variables ``FACESIEVE_NAME`` hold; an empty one counts as absent."""
    try:
        from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
    except ImportError as error:
        raise MissingExtraError("the service", "serve") from error

    class Variables(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix="FACESIEVE_", env_ignore_empty=True)

    found = EnvSettingsSource(Variables)()
    if has_service_link():
        found.pop("port", None)
    return found


def has_service_link() -> bool:
    """Whether ``FACESIEVE_PORT`` is none of ours.

    Into the pods beside a Service called facesieve Kubernetes injects the Service's address, such as
    ``tcp://10.0.0.1:8000``, under the very name of this setting.
    """
    return os.environ.get("FACESIEVE_PORT", "").startswith("tcp://")
