"""Every error that facesieve raises on purpose.

    FacesieveError
    ├── InputError            something the user gave cannot be used
    │   ├── ImageError        bytes that are not a readable, acceptable image
    │   ├── NoFaceError       a photograph without a face that can be found
    │   ├── ManyFacesError    a photograph with more faces than are taken
    │   ├── NotSquareError    an image given as an aligned crop that is not square
    │   ├── TamperedError     a face that looks tampered with, where such faces are refused
    │   ├── AmbiguousImageError  several images where one is expected, and nothing says which
    │   ├── SettingError      a setting outside its range, or two that contradict
    │   ├── ProfileError      a profile's file that cannot be read
    │   ├── ManifestError     a file that is no manifest, or cannot be read
    │   ├── RecordError       a file that is no evaluation's record, or cannot be read
    │   └── ExistsError       a result of something else is in the way
    ├── PriorError            a prior's folder or checkpoint that does not fit
    ├── EmbedderError         a recogniser's weights that do not fit, or that cannot do what is asked
    │   └── OtherPeopleError  a closed-set recogniser of other people than the data's
    ├── GalleryError          a gallery that cannot serve what is asked of it
    │   └── GalleryFailedError  its files or its server fail
    ├── OutOfMemoryError      the machine has no memory left for a photograph
    └── MissingExtraError     a feature whose optional dependency is not installed

An error says what was wrong (``what``), in which file, photograph or setting (``where``), and what can
be done about it, whoever asked (``advice``). Advice that only one edge can give, such as an option of the
command line, is added by that edge, which looks it up by the error's type.
"""

from __future__ import annotations

from typing import Self


class FacesieveError(Exception):
    """Base of all errors raised on purpose; anything else is a defect. ``str`` of it is one line: ``where: what; advice``."""

    def __init__(self, what: str, where: object = None, advice: str | None = None) -> None:
        super().__init__(what, where, advice)
        self.what = what
        self.where = None if where is None else printable(str(where))
        self.advice = advice

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.advice is None else f"{line}; {self.advice}"

    def at(self, where: object) -> Self:
        """This error with its place, unless it names one already."""
        if self.where is None:
            self.where = printable(str(where))
        return self

    def advised(self, advice: str | None) -> Self:
        """This error with what can be done about it, unless it says so already."""
        if self.advice is None:
            self.advice = advice
        return self


class InputError(FacesieveError):
    """Something the user gave cannot be used."""


class ImageError(InputError):
    """Bytes that are not a readable, acceptable image."""


class NoFaceError(InputError):
    """A photograph in which no face was found."""


class ManyFacesError(InputError):
    """A photograph with more faces than are taken."""


class NotSquareError(InputError):
    """An image given as an aligned crop that is not square."""


class TamperedError(InputError):
    """A face that looks tampered with, where such faces are refused. ``score`` is its tamper score, in [0, 2]."""

    score: float | None = None


class AmbiguousImageError(InputError):
    """A sample of a shard, or a table, with several images, where nothing says which one is meant."""


class SettingError(InputError):
    """A setting outside its range, or two settings that contradict each other."""


class ProfileError(InputError):
    """A profile's file that cannot be read."""


class ManifestError(InputError):
    """A file that is no manifest, or cannot be read."""


class RecordError(InputError):
    """A file that is no evaluation's record, or cannot be read."""


class ExistsError(InputError):
    """A file made from something else is where a result has to go."""


class PriorError(FacesieveError):
    """A prior's folder or checkpoint that is missing, damaged or of another architecture."""


class EmbedderError(FacesieveError):
    """A recogniser's weights that are missing, damaged or of another architecture, or that cannot do what is asked."""


class OtherPeopleError(EmbedderError):
    """A closed-set recogniser that was trained on other people than the data's."""


class GalleryError(FacesieveError):
    """A gallery that cannot serve what is asked of it: empty, unknown or known person, another embedder."""


class GalleryFailedError(GalleryError):
    """A gallery whose files or server fail. ``what`` quotes them and may name any place, so it is not for strangers."""


class OutOfMemoryError(FacesieveError):
    """The machine has no memory left for a photograph, which may be sound: the fault is not the sender's."""


class MissingExtraError(FacesieveError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional extra: pip install 'facesieve[{extra}]'")
        self.args = (feature, extra)  # what unpickling calls the class with


def one_line(error: object, *, limit: int = 200) -> str:
    """The first line of somebody else's error (or of a text) that says something, fit for a terminal.

    An ``OSError`` is its reason without number and path; an error without a text is its type's name.
    """
    text = str(getattr(error, "strerror", None) or error)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return printable(first)[:limit]


def many(count: int, noun: str, plural: str | None = None) -> str:
    """``1 face``, ``2 faces``; ``1 person``, ``2 people`` where the plural is not the noun and an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def printable(text: str) -> str:
    """``text`` without anything that could break a line or a terminal: names come from strangers, too."""
    return "".join(character if character.isprintable() else "?" for character in text)
