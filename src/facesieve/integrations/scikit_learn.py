"""A transformer for scikit-learn: aligned face crops in, purified ones out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facesieve.errors import InputError, MissingExtraError
from facesieve.faces.crops import described
from facesieve.images import to_floats, to_photo
from facesieve.integrations.crops import AlignedCrops
from facesieve.shield import load_shield
from facesieve.specs import DEFAULT_PRESET

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError as error:
    raise MissingExtraError("the transformer", "evaluate") from error

Images = NDArray[Any]


class FacePurifier(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Purifies aligned crops (N, S, S, 3), RGB, ``uint8`` or floating point in [0, 1]; the result is of the same kind.

    There is nothing to fit. Networks are loaded at the first ``transform`` and are not part of a pickle or a
    clone. Parameters: ``preset``, a preset's name or a profile's file; ``seed``, None for fresh noise, or a
    number that makes results repeatable; ``batch_size`` faces at a time; ``prior``, ``device`` and ``precision`` as for
    ``load_shield``. ``transform`` raises ``InputError`` for other arrays, ``SettingError`` for settings that do not fit.
    """

    def __init__(
        self,
        preset: str = DEFAULT_PRESET,
        *,
        seed: int | None = None,
        batch_size: int = 8,
        prior: str | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.preset = preset
        self.seed = seed
        self.batch_size = batch_size
        self.prior = prior
        self.device = device
        self.precision = precision

    def fit(self, X: Images, y: object = None) -> FacePurifier:  # noqa: N803 - scikit-learn's name
        """Only checks the shape."""
        _check(X)
        self.image_shape_: tuple[int, ...] = X.shape[1:]
        return self

    def transform(self, X: Images) -> Images:  # noqa: N803
        """The purified crops."""
        _check(X)
        if X.dtype != np.uint8:
            crops = torch.from_numpy(np.ascontiguousarray(np.moveaxis(X, -1, 1), np.float32))
            return np.moveaxis(self._purify()(crops).numpy(), 1, -1).astype(X.dtype)
        purified = self._purify()(torch.from_numpy(to_floats(X)))
        return np.stack([to_photo(crop) for crop in purified]) if len(X) else X

    def _purify(self) -> AlignedCrops:
        wanted = (self.preset, self.prior, self.device, self.precision)
        if getattr(self, "_loaded_of", None) != wanted:
            self._loaded = load_shield(self.preset, prior=self.prior, device=self.device, precision=self.precision)
            self._loaded_of = wanted
        return AlignedCrops(self._loaded, self.seed, self.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if not name.startswith("_loaded")}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = False
        tags.non_deterministic = self.seed is None
        return tags


def _check(images: object) -> None:
    fits = isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[-1] == 3
    if not fits or not (images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)):  # type: ignore[attr-defined]
        raise InputError(f"crops are uint8 or floating point arrays (N, S, S, 3), not {described(images)}")
