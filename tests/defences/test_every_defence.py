"""One list of defences crossed with one list of laws; a new defence inherits every law in one line."""

import inspect

import pytest
import torch
from torch.testing import assert_close

from facesieve.defences import DEFENCES
from facesieve.defences.ddsa import Ddsa
from facesieve.defences.denoisers import NonLocalMeans, TotalVariation, WaveletDenoise
from facesieve.defences.diffpure import DiffPure
from facesieve.defences.distillation import FeatureDistillation
from facesieve.defences.faceguard import FaceGuard
from facesieve.defences.squeezing import BitDepth, BlockMeanBicubic, GaussianBlur, Jpeg, MedianBlur
from facesieve.errors import SettingError
from facesieve.noise import seeded_noise
from facesieve.purify import Purifier
from white_prior import WhitePrior

EVERY = (
    Jpeg(),
    Jpeg(quality=20),
    FeatureDistillation(),
    BitDepth(),
    BitDepth(bits=1),
    MedianBlur(),
    MedianBlur(size=5),
    GaussianBlur(),
    GaussianBlur(sigma=3.0),
    TotalVariation(),
    NonLocalMeans(),
    WaveletDenoise(),
    WaveletDenoise(wavelet="sym4"),
    BlockMeanBicubic(),
    BlockMeanBicubic(scale=4),
    DiffPure(WhitePrior(32), steps=3),
    Ddsa(),
    FaceGuard(),
    FaceGuard(threshold=0.0),
)

SEEDS = (1, 2, 3)


def smooth_images():
    """Three images (3, 32, 40): noise of few pixels, enlarged, and a little fine noise; values from 0 to 1 and beyond no end."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 4, 5, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (32, 40), mode="bicubic")
    return (1.2 * images - 0.1 + 0.02 * torch.randn(3, 3, 32, 40, generator=generator)).clamp(0, 1)


@pytest.fixture(params=EVERY, ids=lambda defence: str(defence)[:60])
def defence(request):
    return request.param


def run(defence, images, seeds=SEEDS):
    return defence(images, seeded_noise(seeds, tuple(images.shape[1:]), dtype=images.dtype))


def test_the_result_is_like_the_images_and_in_range(defence):
    images = smooth_images()
    result = run(defence, images)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert 0 <= float(result.min()) <= float(result.max()) <= 1


def test_the_images_stay_as_they_were(defence):
    images = smooth_images()
    before = images.clone()
    run(defence, images)
    assert torch.equal(images, before)


def test_a_batch_gives_each_image_what_it_gets_alone(defence):
    images = smooth_images()
    together = run(defence, images)
    alone = torch.cat([run(defence, images[i : i + 1], SEEDS[i : i + 1]) for i in range(3)])
    # Convolutions may sum in another order in a batch; nothing else may differ.
    assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_same_seeds_give_the_same_result(defence):
    assert torch.equal(run(defence, smooth_images()), run(defence, smooth_images()))


def test_it_is_a_stage_of_a_purifier(defence):
    images = smooth_images()[..., :32]  # a purifier takes squares of its prior's size
    ((stage, result),) = Purifier((defence,)).trace(images, seeds=SEEDS)
    assert stage.name == defence.name
    assert result.shape == images.shape


def test_it_does_something(defence):
    """But for the guard, which leaves alone what it does not suspect."""
    images = smooth_images()
    changed = (run(defence, images) - images).abs().amax((1, 2, 3))
    assert bool((changed > 1e-3).all()) or (isinstance(defence, FaceGuard) and defence.threshold > 0)


@pytest.mark.parametrize("kind", [GaussianBlur, MedianBlur, BlockMeanBicubic, Ddsa])
def test_gradients_pass_those_that_are_said_to_be_differentiable(kind):
    images = smooth_images().requires_grad_()
    run(kind(), images).square().sum().backward()
    assert float(images.grad.abs().mean()) > 0.01


def test_every_name_makes_its_defence():
    assert {type(each) for each in EVERY} == {DEFENCES[name] for name in DEFENCES}
    assert all(DEFENCES[name].name == name for name in DEFENCES)
    assert DEFENCES["jpeg"](quality=40) == Jpeg(40)


def test_defaults_are_those_that_were_published():
    published = {
        "jpeg": {"quality": 75},
        "feature-distillation": {"step": 30, "kept_step": 25, "kept": 4},
        "bit-depth": {"bits": 5},
        "median-blur": {"size": 2},
        "non-local-means": {"search": 11, "patch": 3, "strength": 4},
        "wavelet-denoise": {"sigma": 0.04, "wavelet": "db1"},
    }
    for name, settings in published.items():
        parameters = inspect.signature(DEFENCES[name]).parameters
        assert {key: parameters[key].default for key in settings} == settings
    assert inspect.signature(DiffPure).parameters["t"].default == 0.5


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Jpeg, {"quality": 0}, "quality 0 must be"),
        (Jpeg, {"quality": 75.5}, "quality 75.5 must be a whole number"),
        (FeatureDistillation, {"step": 0}, "must be above 0"),
        (FeatureDistillation, {"kept": 9}, "kept 9"),
        (BitDepth, {"bits": 0}, "bits 0"),
        (BitDepth, {"bits": True}, "bits True"),
        (MedianBlur, {"size": 0}, "size 0"),
        (GaussianBlur, {"sigma": 0.0}, "sigma 0.0"),
        (GaussianBlur, {"sigma": float("nan")}, "sigma nan"),
        (TotalVariation, {"weight": -1.0}, "weight -1.0"),
        (NonLocalMeans, {"search": 10}, "search 10 must be an odd number"),
        (NonLocalMeans, {"strength": 0}, "strength 0"),
        (WaveletDenoise, {"sigma": 0}, "sigma 0"),
        (WaveletDenoise, {"wavelet": "haze"}, "wavelet 'haze' is not one of db1"),
        (BlockMeanBicubic, {"scale": 0}, "scale 0"),
        (BlockMeanBicubic, {"scale": 1.5}, "scale 1.5 must be a whole number"),
        (DiffPure, {"prior": None, "t": 0.0}, "t 0.0 must be"),
        (DiffPure, {"prior": None, "eta": 2.0}, "eta 2.0"),
        (DiffPure, {"prior": None, "steps": 0}, "steps 0"),
        (FaceGuard, {"threshold": 1.5}, "threshold 1.5"),
    ],
)
def test_a_wrong_setting_is_one_line(kind, settings, message):
    with pytest.raises(SettingError, match=message) as raised:
        kind(**settings)
    assert "\n" not in str(raised.value)
