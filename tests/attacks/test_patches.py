"""Patches sit where the template's landmarks say."""

import pytest
import torch

from facesieve.attacks.gradient import pgd
from facesieve.attacks.patches import eyeglass_frame, forehead_sticker
from facesieve.faces import TEMPLATE

SIZES = (112, 128, 160)


def at(mask, point, size):
    x, y = (point * size).astype(int)
    return mask[0, y, x].item()


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_surrounds_the_eyes_and_leaves_them_nose_and_mouth_free(size):
    mask = eyeglass_frame(size)
    assert mask.shape == (1, size, size)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert all(at(mask, point, size) == 0 for point in TEMPLATE)
    for eye in TEMPLATE[:2]:
        x, y = (eye * size).astype(int)
        for line in (mask[0, :y, x], mask[0, y:, x], mask[0, y, :x], mask[0, y, x:]):  # up, down, left, right
            assert line.any()
    assert 0.05 < mask.mean() < 0.2
    assert mask[0, :, 0].any()  # temples reach the border
    assert mask[0, :, -1].any()


@pytest.mark.parametrize("size", SIZES)
def test_the_sticker_lies_above_the_eyes_inside_the_picture(size):
    mask = forehead_sticker(size)
    rows, columns = torch.nonzero(mask[0], as_tuple=True)
    assert rows.min() >= 0
    assert rows.max() < TEMPLATE[:2, 1].min() * size
    assert columns.min() >= int(TEMPLATE[0, 0] * size) - 1
    assert columns.max() <= int(TEMPLATE[1, 0] * size) + 1
    assert 0.03 < mask.mean() < 0.15
    assert (
        mask[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.98
    )  # a rectangle; its corners may be cut


def test_an_attack_under_a_patch_stays_under_it():
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    mask = eyeglass_frame(112)
    found = pgd(lambda x: x.flatten(1).sum(1), images, eps=1, step=0.5, iterations=3, mask=mask)
    assert torch.equal(found * (1 - mask), images * (1 - mask))
    assert (found * mask == mask).all()
