"""What belongs to a page: the files that it may read and write, and the work that its visitors may stop."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from facesieve.errors import InputError


@dataclass(frozen=True)
class Own:
    """The files that the page may read: what was uploaded to it, and its samples.

    A request says in words where its photograph lies, and Gradio checks that only of a request in its own form.
    """

    samples: frozenset[Path]
    uploads: Callable[[], str]

    def path(self, photo: Any) -> Path | None:
        """Where the photograph of a request lies; None without one. Raises ``InputError`` for any other file."""
        if not photo:
            return None
        try:
            path = Path(photo["path"]).resolve()  # as it is, not as it is written: past links and ..
            known = path in self.samples or path.is_relative_to(Path(self.uploads()).resolve())
        except (TypeError, KeyError, ValueError, OSError, RuntimeError):  # a NUL in it; links in a ring
            known = False
        if not known:
            raise InputError("not a photograph that was given to this page", advice="drop one, or take a sample")
        return path

    def keep(self, name: str, data: bytes, seconds: float) -> str:
        """Write a result for a visitor to fetch, as ``name`` in a folder of its own, deleted after so many seconds; its path."""
        path = Path(mkdtemp(dir=self.uploads())) / name
        path.write_bytes(data)
        timer = threading.Timer(seconds, lambda: path.unlink(missing_ok=True))
        timer.daemon = True
        timer.start()
        return str(path)


@dataclass(frozen=True, eq=False)
class Stops:
    """Work that its visitor may stop: by session, how often that was asked for."""

    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def stop(self, session: str) -> None:
        """Stop what runs or waits for this visitor."""
        self.asked[session] += 1

    def check_for(self, session: str) -> Callable[[], None]:
        """A check for work that begins now: it raises ``InputError`` once the work is stopped."""
        before = self.asked[session]

        def check() -> None:
            if self.asked[session] != before:
                raise InputError("stopped")

        return check
