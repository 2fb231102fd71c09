"""Every error that facesieve raises on purpose.

    FacesieveError
    ├── InputError            something the user gave cannot be used
    │   ├── ImageError        bytes that are not a readable, acceptable image
    │   ├── NoFaceError       a photograph without a face that can be found
    │   └── SettingError      a setting outside its range, or two that contradict
    ├── PriorError            a prior's folder or checkpoint that does not fit
    ├── EmbedderError         a recogniser's weights that do not fit, or that cannot do what is asked
    ├── GalleryError          a gallery that cannot serve what is asked of it
    └── MissingExtraError     a feature whose optional dependency is not installed

All messages are one line: what was wrong, where, and what to do about it.
"""


class FacesieveError(Exception):
    """Base of all errors raised on purpose; anything else is a defect."""


class InputError(FacesieveError):
    """Something the user gave cannot be used."""


class ImageError(InputError):
    """Bytes that are not a readable, acceptable image."""


class NoFaceError(InputError):
    """A photograph in which no face was found."""


class SettingError(InputError):
    """A setting outside its range, or two settings that contradict each other."""


class PriorError(FacesieveError):
    """A prior's folder or checkpoint that is missing, damaged or of another architecture."""


class EmbedderError(FacesieveError):
    """A recogniser's weights that are missing, damaged or of another architecture, or that cannot do what is asked."""


class GalleryError(FacesieveError):
    """A gallery that cannot serve what is asked of it: empty, unknown or known person, another embedder."""


class MissingExtraError(FacesieveError):
    """A feature whose optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional extra: pip install 'facesieve[{extra}]'")
