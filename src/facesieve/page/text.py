"""What the page says about a result or a mistake, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from facesieve.errors import EmbedderError, FacesieveError, GalleryError, NoFaceError, PriorError, many
from facesieve.page.actions import Named, Shown

ADVICE: dict[type[FacesieveError], str] = {  # what a visitor can do
    NoFaceError: "choose a photograph that shows one from the front, and larger",
    GalleryError: "choose somebody from the list",
}

ENROL_AGAIN = "Remove people and enrol them again behind it: they are then recognised better."

CALIBRATE = "one of your own is chosen by `facesieve gallery calibrate`."

USUAL = {
    "gentle": 0.03,
    "balanced": 0.09,
    "robust": 0.18,
}  # the tamper score that 99 of 100 untouched photographs keep to: benchmarks/result.py

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


def message(shown: Shown) -> str:
    """What happened to each face, and what may be a face and was left as it was."""
    return sentence(shown) if shown.left is None else f"{sentence(shown)} **Not purified: {plain(shown.left)}.**"


def sentence(shown: Shown) -> str:
    """What happened to the face, or to each of several, in a sentence."""
    first, *middle, last = shown.names[0]
    if last.person is None:
        return "Purified. There is nobody in a gallery to name: start the page with one."
    before, after = _said(first), _said(last)
    if middle and _said(middle[0]) != before:
        back = "gives the name back" if after == before else "does not give the name back"
        made = "unknown" if middle[0].known is False else f"into {_said(middle[0])}"
        return f"The attack makes {before} {made}; the shield {back}."
    if middle:
        return "The attack did not change the name: give it more ε or more steps."
    if len(shown.names) > 1:
        each = [f"face {number} is {_verdict(names)}" for number, names in enumerate(shown.names, 1)]
        return f"{len(each)} faces purified, the largest first: {'; '.join(each)}."
    if last.known is not None:
        return f"Purified. The face is {_verdict(shown.names[0])}."
    both = f"{before}, before and after" if after == before else f"{before} before, {after} after"
    return f"Purified. Nearest in the gallery: {both}."


def _verdict(names: Sequence[Named]) -> str:
    """Whom a face is taken for behind the shield, and whom without it."""
    first, last = names[0], names[-1]
    if last.person is None:
        return "not named"
    verdict = {True: f"taken for {plain(last.person)}", False: "unknown", None: f"nearest to {plain(last.person)}"}[last.known]
    if _said(first) == _said(last):
        return verdict
    return f"{verdict} (without the shield {'unknown' if first.known is False else plain(first.person or '')})"


def of_folder(count: int, failures: Sequence[str], doubts: Sequence[str] = ()) -> str:
    """What came of a folder: each photograph that was left out, and what was not purified in others."""
    said = f"{count - len(failures)} of {many(count, 'photograph')} purified."
    return "\n".join(
        [said, *(f"- left out: {plain(failure)}" for failure in failures), *(f"- not purified: {plain(one)}" for one in doubts)]
    )


def tamper(shown: Shown) -> str:
    """The tamper scores in a sentence, with a colour, as HTML."""
    score = max(shown.tamper)
    which = "" if len(shown.tamper) == 1 else f" of face {shown.tamper.index(score) + 1}, the highest,"
    colour, meaning = _judged(score, USUAL.get(shown.preset))
    return (
        f'<span style="color: {colour}">●</span> <b>Tamper score{which} {score:.2f}</b>: how far purification moved the face '
        f"for the recogniser, 0 for not at all, 2 for the opposite. {meaning}"
    )


def _judged(score: float, usual: float | None) -> tuple[str, str]:
    """A score's colour, and what it means."""
    if usual is None:
        return "gray", "What untouched photographs score behind this preset has not been measured."
    if score <= usual:
        return "green", f"99 of 100 untouched photographs score at most {usual:.2f} behind this preset."
    if score <= 3 * usual:
        return "darkorange", f"Few untouched photographs score above {usual:.2f}: it may be a poor photograph, or an attack."
    return (
        "red",
        f"Untouched photographs hardly ever score above {3 * usual:.2f}: somebody may have changed it. A hint, no proof.",
    )


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
    last = shown.names[0][-1]
    if last.templates is None:
        return []
    by_default = "" if last.default is None else f" Below {last.default:.2f} a face is unknown, by default: {CALIBRATE}"
    if shown.shortfall is not None:
        said = f"Purified faces are compared with raw templates: {shown.shortfall}. {ENROL_AGAIN}"
    else:
        said = f"Purified faces are compared with templates that were made behind the same shield ({last.templates})."
    return ["", plain(said) + by_default]


def _said(one: Named) -> str:
    return "nobody known" if one.known is False or one.person is None else plain(one.person)
