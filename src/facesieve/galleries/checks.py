"""Checks of names, labels and templates before a gallery stores them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from facesieve.errors import InputError
from facesieve.rows import Rows, unit_rows

LONGEST_NAME = 200  # characters
_JOINERS = "\u200c\u200d"  # Persian, the scripts of India and emoji are written with them
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)  # seen as nothing


def checked_name(text: str, what: str = "a person's name") -> str:
    """``text`` in Unicode NFC without surrounding blanks, so that what looks the same is the same.

    Raises ``InputError`` if nothing is left, for more than 200 characters, and for control
    characters, line separators and broken surrogates.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise InputError(f"{what} is empty", advice="give one")
    if len(name) > LONGEST_NAME:
        raise InputError(f"{what} has {len(name)} characters, at most {LONGEST_NAME} are allowed: '{name[:20]}...'")
    if bad := next((c for c in name if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None):
        raise InputError(f"{what} holds the control character U+{ord(bad):04X}: {name!a}", advice="leave it out")
    return name


def new_name(text: str) -> str:
    """``checked_name`` of somebody who is enrolled: in it, nothing is unseen, so that no two people look alike.

    Raises ``InputError`` as that does, and for characters without width or that turn the direction of writing. People who
    were enrolled under such a name earlier are found and can be removed.
    """
    name = checked_name(text)
    for before, character, after in zip(f" {name}", name, f"{name[1:]} ", strict=False):
        unseen = unicodedata.category(character) == "Cf" or character in _BLANK
        if unseen and not (character in _JOINERS and _joins(before, after)):
            raise InputError(
                f"a person's name holds the unseen character U+{ord(character):04X}: {name!a}", advice="leave it out"
            )
    return name


def _joins(before: str, after: str) -> bool:
    """Whether a joiner between these changes what is seen: in Arabic scripts, after a virama, within one picture character."""
    arabic = all("\u0600" <= character <= "\u08ff" for character in (before, after))
    pictures = unicodedata.category(before) in {"So", "Sk"} and unicodedata.category(after) == "So"
    return arabic or pictures or unicodedata.combining(before) == 9  # the class of viramas


def checked_label(text: str) -> str:
    """A purifier's label; as ``checked_name``."""
    return checked_name(text, "a purifier's label")


def checked_people(people: Mapping[str, Mapping[str, Rows]], dimensions: int) -> dict[str, dict[str, Rows]]:
    """Names, labels and rows as they are stored. Raises ``InputError`` as ``Gallery.enrol_all`` says."""
    checked: dict[str, dict[str, Rows]] = {}
    for given, templates in people.items():
        person = new_name(given)
        if person in checked:
            raise InputError("given twice", person, "give all templates of a person at once")
        if not templates:
            raise InputError("no templates", person, "give at least one")
        checked[person] = {}
        for name, rows in templates.items():
            label = checked_label(name)
            if label in checked[person]:
                raise InputError(f"the purifier {label} is given twice", person)
            checked[person][label] = unit_rows(rows, f"{person}, templates of {label}", dimensions)
            if not len(rows):
                raise InputError(f"no templates of {label}", person, "give at least one, or leave the label out")
    if not checked:
        raise InputError("nobody to enrol", advice="give at least one person")
    return checked
