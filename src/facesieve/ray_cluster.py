"""Joining a Ray, for the jobs and for the service: on this machine or on many."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from facesieve.errors import InputError, MissingExtraError, SettingError, one_line


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Within a Ray: ``local`` starts one on this machine, ``auto`` joins the one here, ``host:port`` one elsewhere.

    If this process has joined one already, that one is used whatever the address, and left running. Raises
    ``InputError`` where there is none, ``MissingExtraError`` where Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("a cluster", "cluster") from error
    if ray.is_initialized():
        yield
        return
    _check(address)
    alone = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **alone)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"no Ray there ({one_line(error)})", f"cluster {address}", "`local` starts one") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Check that something listens there: Ray itself would try for minutes. Raises ``InputError``."""
    if address in {"local", "auto"}:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except ValueError as error:
        raise InputError("give local, auto, host:port or ray://host:port", f"cluster {address}") from error
    except OSError as error:
        raise InputError(f"nobody answers there ({one_line(error)})", f"cluster {address}", "`local` starts a Ray") from error


def models_that_fit(device: str, wanted: int | None = None, *, gpu_share: float = 1) -> tuple[int, dict[str, Any]]:
    """How many models the joined Ray has room for, or ``wanted``; and what each needs: a GPU where there are any, or a CPU.

    ``gpu_share`` of a GPU, in (0, 1], is what a model takes.

    Raises ``SettingError`` where ``device`` is cuda and there is no GPU.
    """
    import ray

    found = ray.cluster_resources()
    gpus = int(found.get("GPU", 0))
    if device == "cuda" and not gpus:
        raise SettingError("there is no GPU in this cluster", f"device {device}", "`auto` takes what is there")
    if gpus and device != "cpu":
        return wanted or gpus * int(1 / gpu_share), {"num_gpus": gpu_share}
    return wanted or max(1, int(found.get("CPU", 1))), {"num_cpus": 1}
