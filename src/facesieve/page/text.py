"""What the page says about a result or a mistake, as Markdown."""

from __future__ import annotations

import re

from facesieve.errors import EmbedderError, FacesieveError, GalleryError, NoFaceError, PriorError
from facesieve.page.actions import Named, Shown

ADVICE: dict[type[FacesieveError], str] = {  # what a visitor can do
    NoFaceError: "choose a photograph that shows one from the front, and larger",
    GalleryError: "choose somebody from the list",
}

ENROL_AGAIN = "Remove people and enrol them again behind it: they are then recognised better."

_MARKS = re.compile(r"([\\`*_{}\[\]()#+.!|<>~$&-])")
ON_THE_SERVER = (EmbedderError, GalleryError, PriorError)  # the place that they name means nothing to a visitor


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it is: no name becomes a link, a picture or HTML."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def mistake(error: FacesieveError) -> str:
    """A user's mistake in a line."""
    error = error.advised(ADVICE.get(type(error)))
    if isinstance(error, ON_THE_SERVER):
        error.where = None
    return f"**{plain(str(error))}**"


def sentence(shown: Shown) -> str:
    """What happened to the largest face, in a sentence."""
    first, *middle, last = shown.names[0]
    if last.person is None:
        return "Purified. There is nobody in a gallery to name: start the page with one."
    before, after = _said(first), _said(last)
    if middle and _said(middle[0]) != before:
        back = "gives the name back" if after == before else "does not give the name back"
        return f"The attack makes {before} into {_said(middle[0])}; the shield {back}."
    if middle:
        return "The attack did not change the name: give it more ε or more steps."
    both = f"{before}, before and after" if after == before else f"{before} before, {after} after"
    return f"Purified. Nearest in the gallery: {both}."


def table(shown: Shown) -> str:
    """Who each face is said to be, and by which templates."""
    lines = ["| face | nearest | cosine | tamper score |", "|---|---|---|---|"]
    for number, (names, tamper) in enumerate(zip(shown.names, shown.tamper, strict=True), 1):
        for one in names:
            which = one.what if len(shown.names) == 1 else f"{number}, {one.what}"
            who = "" if one.person is None else plain(one.person) + (", below the threshold" if one.known is False else "")
            score = "" if one.score is None else f"{one.score:.2f}"
            lines.append(f"| {which} | {who} | {score} | {f'{tamper:.2f}' if one.what == 'purified' else ''} |")
    return "\n".join([*lines, *_compared(shown)])


def _compared(shown: Shown) -> list[str]:
    """Which templates the purified faces were compared with, as a paragraph."""
    searched = shown.names[0][-1].templates
    if searched is None:
        return []
    if shown.shortfall is not None:
        return ["", plain(f"Purified faces are compared with raw templates: {shown.shortfall}. {ENROL_AGAIN}")]
    return ["", plain(f"Purified faces are compared with templates that were made behind the same shield ({searched}).")]


def _said(one: Named) -> str:
    assert one.person is not None
    return "nobody known" if one.known is False else plain(one.person)
