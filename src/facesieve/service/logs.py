"""Logs: one JSON object per line on standard error. No photograph, no name of a person, no key, no query."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

logger = logging.getLogger("facesieve.service")


class JsonLines(logging.Formatter):
    """``time``, ``level``, ``event``, and the event's fields from ``extra={"fields": {...}}``.

    Of an exception the type and the places are written, not its message: that may hold what a
    caller sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(record.exc_info[2])]
        return json.dumps(line, ensure_ascii=False)


class StandardError(logging.Handler):
    """Writes to what is standard error at that moment: a program may replace it, and close what it was."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except Exception:  # as every handler: what cannot be logged stops nothing
            self.handleError(record)


def log_to_stderr(level: str) -> None:
    """Send the service's and the server's lines to standard error."""
    handler = StandardError()
    handler.setFormatter(JsonLines())
    for name in ("facesieve.service", "uvicorn.error"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level.upper() if name.startswith("facesieve") else "WARNING")
    for name in ("httpx", "httpcore"):  # the proxy's calls: their lines hold paths and queries
        logging.getLogger(name).setLevel(logging.WARNING)


def event(name: str, fields: dict[str, object], level: int = logging.INFO, *, error: bool = False) -> None:
    """Log an event with its fields; ``error`` adds the exception that is being handled."""
    logger.log(level, name, extra={"fields": fields}, exc_info=error)
