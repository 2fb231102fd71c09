"""Double masking: that its masks cover every patch, and that what it certifies no patch can change."""

import numpy as np
import pytest
import torch

from facesieve.defences.masking import GREY, DoubleMasking, Masks
from facesieve.errors import SettingError


@pytest.mark.parametrize(
    ("size", "patch", "across"), [(128, 19, 6), (128, 29, 6), (112, 16, 3), (20, 5, 4), (17, 3, 7), (9, 8, 2)]
)
def test_every_patch_lies_under_a_mask(size, patch, across):
    masks = Masks(size, patch, across)
    assert all(0 <= y <= size - masks.side and 0 <= x <= size - masks.side for y, x in masks.boxes)
    for top in range(size - patch + 1):
        for left in range(size - patch + 1):
            assert any(
                y <= top and top + patch <= y + masks.side and x <= left and left + patch <= x + masks.side
                for y, x in masks.boxes
            )


def test_a_mask_leaves_grey():
    masks = Masks(16, 4, 3)
    (both,) = masks.masked(torch.zeros(3, 16, 16), [(masks.boxes[0], masks.boxes[-1])])
    assert both[:, 0, 0].tolist() == [GREY] * 3
    assert int((both[0] == GREY).sum()) == 2 * masks.side**2


@pytest.mark.parametrize(("size", "patch", "across"), [(10, 10, 3), (10, 0, 3), (10, 3, 1)])
def test_sets_that_cannot_be_are_refused(size, patch, across):
    with pytest.raises(SettingError, match="no such set"):
        Masks(size, patch, across)


def bright(crops):
    """1 for pictures that are bright on the whole: a patch of full white or black can change it, masks cannot."""
    return (crops.mean((1, 2, 3)) > 0.5).long().numpy()


@pytest.mark.parametrize("level", np.linspace(0.5, 1.0, 11))
def test_what_is_certified_no_patch_changes(level):
    """Every place of the darkest patch is tried."""
    masks = Masks(12, 4, 3)
    crop = torch.full((3, 12, 12), float(level))
    attacked = []
    for top in range(9):
        for left in range(9):
            patched = crop.clone()
            patched[:, top : top + 4, left : left + 4] = 0
            attacked.append(DoubleMasking(bright, masks).named(patched))
    if DoubleMasking(bright, masks).is_certified(crop, 1):
        assert set(attacked) == {1}
    else:
        assert level < 0.51  # masks of grey leave any brighter picture bright


def test_without_masks_the_same_patch_wins():
    crop = torch.full((3, 12, 12), 0.55)
    crop[:, :4, :4] = 0
    assert bright(crop[None]) == [0]


def test_calls_are_counted():
    masks = Masks(12, 4, 3)
    masking = DoubleMasking(bright, masks)
    assert masking.named(torch.ones(3, 12, 12)) == 1
    assert masking.calls == 9
    assert masking.is_certified(torch.ones(3, 12, 12), 1)
    assert masking.calls == 9 + 45
