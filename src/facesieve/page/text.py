"""What the page says of a result, as Markdown."""

from __future__ import annotations

import re

from facesieve.page.actions import Named, Shown

_MARKS = re.compile(r"([\\`*_{}\[\]()#+.!|<>~$&-])")


def plain(text: str) -> str:
    """``text`` as Markdown that shows it as it is: no link, picture or HTML comes of a name."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def sentence(shown: Shown) -> str:
    """What came of the largest face, in a sentence."""
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
    """Who each face is said to be."""
    lines = ["| face | nearest | cosine | tamper score |", "|---|---|---|---|"]
    for number, (names, tamper) in enumerate(zip(shown.names, shown.tamper, strict=True), 1):
        for one in names:
            which = one.what if len(shown.names) == 1 else f"{number}, {one.what}"
            who = "" if one.person is None else plain(one.person) + (", below the threshold" if one.known is False else "")
            score = "" if one.score is None else f"{one.score:.2f}"
            lines.append(f"| {which} | {who} | {score} | {f'{tamper:.2f}' if one.what == 'purified' else ''} |")
    return "\n".join(lines)


def _said(one: Named) -> str:
    assert one.person is not None
    return "nobody known" if one.known is False else plain(one.person)
