"""Defences without weights against other libraries, and against what must not change."""

import io
import sys

import cv2
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from PIL import Image
from torch.nn import functional
from torch.testing import assert_close

from facesieve.defences.denoisers import NonLocalMeans, TotalVariation, WaveletDenoise
from facesieve.defences.distillation import FeatureDistillation
from facesieve.defences.squeezing import BitDepth, BlockMeanBicubic, GaussianBlur, Jpeg, MedianBlur
from facesieve.errors import MissingExtraError, SettingError

CONSTANT = torch.tensor([51, 128, 204])[None, :, None, None].expand(2, 3, 24, 32) / 255


def no_noise():
    raise AssertionError("these defences draw no noise")


@pytest.fixture(scope="module")
def photos():
    """Two images of whole 8-bit levels: a ramp with an edge and some noise."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(20, 200, 40)[None, None, :, None] + np.array([0, 20, 40]) + rng.normal(0, 8, (2, 24, 40, 3))
    ramp[:, :, 20:] -= 60
    return np.clip(np.rint(ramp), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(photos):
    return torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255


def channels(images):
    """Every channel of every image as a float64 array (H, W)."""
    return images.double().numpy().reshape(-1, *images.shape[2:])


@pytest.mark.parametrize(
    "defence",
    [
        MedianBlur(3),
        MedianBlur(2),
        GaussianBlur(2.0),
        TotalVariation(0.1),
        NonLocalMeans(),
        WaveletDenoise(),
        BlockMeanBicubic(4),
    ],
    ids=str,
)
def test_a_constant_image_stays_constant(defence):
    """Also through YCbCr, whose matrices are inverse to a few thousandths of a level."""
    assert_close(defence(CONSTANT, no_noise), CONSTANT.contiguous(), rtol=0, atol=1e-4 if defence == WaveletDenoise() else 1e-6)


def test_jpeg_is_pillows_own_round_trip(images, photos):
    result = Jpeg(30)(images, no_noise)
    for image, photo in zip(result, photos, strict=True):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "JPEG", quality=30)
        expected = np.asarray(Image.open(file))
        assert torch.equal((255 * image).round().to(torch.uint8), torch.from_numpy(expected.copy()).permute(2, 0, 1))
    assert float((Jpeg(90)(images, no_noise) - images).abs().mean()) < float((result - images).abs().mean())


def test_eight_bits_change_no_photograph_and_one_bit_leaves_two_levels(images):
    assert torch.equal(BitDepth(8)(images, no_noise), images)
    assert set(BitDepth(1)(images, no_noise).unique().tolist()) == {0.0, 1.0}


def test_bits_round_to_the_nearest_level():
    values = torch.tensor([0.0, 0.16, 0.17, 0.49, 0.51, 1.0]).expand(1, 3, 1, 6)
    thirds = torch.tensor([0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 1.0]).expand(1, 3, 1, 6)
    assert_close(BitDepth(2)(values, no_noise), thirds)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_median_is_scipys(images, size):
    expected = [scipy.ndimage.median_filter(each, size, mode="nearest") for each in channels(images)]
    assert np.array_equal(channels(MedianBlur(size)(images, no_noise)), np.array(expected))


def test_median_of_three_is_opencvs(images, photos):
    expected = np.stack([cv2.medianBlur(photo, 3) for photo in photos])
    assert np.array_equal((255 * MedianBlur(3)(images, no_noise)).round().permute(0, 2, 3, 1).numpy(), expected)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 2.5])
def test_gaussian_is_scipys(images, sigma):
    expected = [scipy.ndimage.gaussian_filter(each, sigma, mode="nearest", truncate=4.0) for each in channels(images)]
    np.testing.assert_allclose(channels(GaussianBlur(sigma)(images, no_noise)), expected, atol=1e-6)


def test_feature_distillation_is_a_quantised_dct_of_each_block(images):
    """By SciPy's DCT, block by block."""
    result = channels(FeatureDistillation()(images, no_noise))
    table = np.full((8, 8), 30.0)
    table[:4, :4] = 25
    for plane, done in zip(channels(images), result, strict=True):
        for top, left in ((0, 0), (8, 16), (16, 32)):
            block = 255 * plane[top : top + 8, left : left + 8]
            quantised = np.rint(scipy.fft.dctn(block, norm="ortho") / table) * table
            expected = np.clip(scipy.fft.idctn(quantised, norm="ortho") / 255, 0, 1)
            np.testing.assert_allclose(done[top : top + 8, left : left + 8], expected, atol=1e-5)


def test_feature_distillation_keeps_low_frequencies_better_than_high_ones():
    """A wave of the amplitude 0.49 steps of the fine table, in a high and in a low frequency; only steps differ."""
    waves = torch.zeros(2, 1, 8, 8)
    for wave, frequency in zip(waves, ((1, 2), (6, 5)), strict=True):
        coefficients = np.zeros((8, 8))
        coefficients[frequency] = 14
        coefficients[0, 0] = 1000
        wave[0] = torch.from_numpy(scipy.fft.idctn(coefficients, norm="ortho")) / 255
    low, high = FeatureDistillation().__call__(waves.expand(2, 3, 8, 8), no_noise).std((1, 2, 3))
    assert (float(low), float(high)) == (pytest.approx(25 / 8 / 255, rel=0.01), pytest.approx(0, abs=1e-6))


def test_feature_distillation_takes_any_size():
    images = torch.rand(1, 3, 13, 21, generator=torch.Generator().manual_seed(0))
    whole = FeatureDistillation()(functional.pad(images, (0, 3, 0, 3), mode="replicate"), no_noise)
    assert_close(FeatureDistillation()(images, no_noise), whole[..., :13, :21])


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_block_mean_then_bicubic(images, scale):
    means = images.unfold(2, scale, scale).unfold(3, scale, scale).mean((4, 5))
    expected = functional.interpolate(means, scale_factor=float(scale), mode="bicubic").clamp(0, 1)
    assert_close(BlockMeanBicubic(scale)(images, no_noise), expected)


def test_blocks_must_fit():
    with pytest.raises(SettingError, match="cannot be cut into blocks of 7"):
        BlockMeanBicubic(7)(CONSTANT, no_noise)


def test_total_variation_has_less_of_it_and_is_near_the_minimum(images):
    """The objective that Chambolle's algorithm is said to minimise is lower than at the image and at nearby images."""
    weight = 0.1

    def objective(u):
        across, down = u.diff(dim=3)[:, :, :-1], u.diff(dim=2)[..., :-1]
        return (across**2 + down**2).sum(1).sqrt().sum((1, 2)) + (u - images).square().sum((1, 2, 3)) / (2 * weight)

    best = TotalVariation(weight)(images, no_noise)
    assert bool((objective(best) < 0.9 * objective(images)).all())
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        nearby = best + 0.02 * torch.randn(best.shape, generator=generator)
        assert bool((objective(best) < objective(nearby)).all())
    assert bool((objective(best) < objective(0.5 * best + 0.5 * images)).all())


@pytest.mark.parametrize("defence", [TotalVariation(0.05), NonLocalMeans(strength=12.0), WaveletDenoise()], ids=str)
def test_denoisers_bring_a_noised_image_nearer_to_the_clean_one(defence):
    clean = functional.interpolate(torch.rand(2, 3, 3, 3, generator=torch.Generator().manual_seed(1)), (32, 32), mode="bilinear")
    noised = (clean + 0.04 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    before, after = ((each - clean).square().mean((1, 2, 3)) for each in (noised, defence(noised, no_noise)))
    assert bool((after < 0.6 * before).all())


@pytest.mark.parametrize(("kind", "module"), [(TotalVariation, "skimage"), (NonLocalMeans, "skimage"), (WaveletDenoise, "pywt")])
def test_a_missing_package_names_the_extra(kind, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{kind.name} needs an optional extra: pip install 'facesieve\[evaluate\]'"):
        kind()
