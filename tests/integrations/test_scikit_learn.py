"""The transformer in the real scikit-learn."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import check_is_fitted

from facesieve.errors import InputError, SettingError
from facesieve.faces import FaceCrops
from facesieve.images import to_floats, to_photo
from facesieve.integrations.scikit_learn import FacePurifier
from facesieve.shield import load_shield


@pytest.fixture(scope="module")
def crops(sample_photos):
    shield = load_shield("robust")
    return np.stack([to_photo(shield.cut(photo).crops[0]) for photo in list(sample_photos.values())[:2]])


def test_it_gives_what_the_shield_gives(crops):
    made = FacePurifier(seed=3).fit(crops).transform(crops)
    seeds = [seed for crop in crops for seed in FaceCrops.whole(crop, 128).seeds(3)]
    wanted = np.moveaxis(load_shield().runtime.purify(to_floats(crops), seeds).crops, 1, -1)
    assert made.dtype == np.uint8
    assert np.abs(made / 255 - wanted).max() <= 0.51 / 255
    as_floats = FacePurifier(seed=3).transform((crops / 255).astype(np.float32))
    assert as_floats.dtype == np.float32
    assert np.abs(as_floats - wanted).max() < 1e-5


def test_it_works_in_a_pipeline_and_survives_cloning_and_pickling(crops):
    first = FacePurifier(seed=1)
    means = make_pipeline(first, FunctionTransformer(lambda images: images.reshape(len(images), -1).mean(1)))
    found = means.fit_transform(crops)
    assert found.shape == (2,)
    copied = clone(first)
    assert copied.get_params() == first.get_params()
    assert not hasattr(copied, "image_shape_")
    thawed = pickle.loads(pickle.dumps(first))
    assert len(pickle.dumps(first)) < 10_000  # settings, no networks
    assert np.array_equal(thawed.transform(crops), first.transform(crops))
    assert not np.array_equal(first.set_params(seed=2).transform(crops), thawed.transform(crops))
    check_is_fitted(first)


def test_a_changed_setting_is_a_changed_shield(crops):
    purifier = FacePurifier(seed=1)
    default = purifier.transform(crops[:1])
    assert not np.array_equal(purifier.set_params(preset="stage1").transform(crops[:1]), default)
    with pytest.raises(SettingError, match="best"):
        purifier.set_params(preset="best").transform(crops[:1])


@pytest.mark.parametrize("images", [np.zeros((2, 128, 128)), np.zeros((2, 3, 128, 128)), np.zeros((2, 8, 8, 3), int), [[1]]])
def test_other_arrays_are_refused(images):
    with pytest.raises(InputError, match="N, S, S, 3"):
        FacePurifier().fit(images)
    with pytest.raises(InputError, match="N, S, S, 3"):
        FacePurifier().transform(images)
