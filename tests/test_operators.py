"""Law 1 for every operator, and the meaning of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.errors import SettingError
from facesieve.operators import Compose, Grey, MeanPool, grey_mean_pool


def test_degrading_what_was_degraded_changes_nothing(operator, images):
    y = operator(images)
    assert_close(operator(operator.Ap(y)), y, rtol=0, atol=1e-14)


def test_Ap_is_the_pseudo_inverse_of_numpy(operator, matrix):
    observed = torch.eye(len(matrix), dtype=torch.float64)
    shape = operator(torch.zeros(1, 3, 8, 8)).shape[1:]
    columns = operator.Ap(observed.view(-1, *shape)).flatten(1).T
    assert_close(columns, torch.from_numpy(np.linalg.pinv(matrix.numpy())), rtol=0, atol=1e-13)


def test_Ap_A_is_an_orthogonal_projection(operator):
    units = torch.eye(192, dtype=torch.float64).view(-1, 3, 8, 8)
    projection = operator.Ap(operator(units)).flatten(1).T
    assert_close(projection, projection.T, rtol=0, atol=1e-15)
    assert_close(projection @ projection, projection, rtol=0, atol=1e-14)


def test_all_singular_values_are_one_number(matrix):
    """What lets DDNM+ do with one scalar an operator."""
    values = torch.linalg.svdvals(matrix)
    assert len(values) == len(matrix)
    assert_close(values, values[:1].expand_as(values))


def test_operators_are_linear(operator, images):
    first, second = images[:1], images[1:]
    assert_close(operator(2 * first - 3 * second), 2 * operator(first) - 3 * operator(second))


def test_operators_are_values(operator):
    assert {operator: "found"}[replace(operator)] == "found"


def test_a_batch_is_degraded_image_by_image(operator, images):
    assert torch.equal(operator(images)[1:], operator(images[1:]))


def test_mean_pool_averages_blocks_and_repeats_them():
    """On a wide image, so that height and width cannot be mistaken for each other."""
    image = torch.arange(16.0).view(1, 1, 2, 8)
    assert MeanPool(2)(image).tolist() == [[[[4.5, 6.5, 8.5, 10.5]]]]
    assert MeanPool(2).Ap(torch.tensor([[[[1.0, 2.0]]]])).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_mean_pool_keeps_channels_apart(images):
    cells = images.reshape(2, 3, 4, 2, 4, 2)
    assert_close(MeanPool(2)(images), cells.mean((3, 5)))


def test_grey_is_the_plain_mean_of_the_channels(images):
    red, green, blue = images.unbind(1)
    assert_close(Grey()(images)[:, 0], (red + green + blue) / 3)
    assert torch.equal(Grey().Ap(Grey()(images)), Grey()(images).repeat(1, 3, 1, 1))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_fused_operator_is_grey_and_block_mean_in_either_order(scale, images):
    fused = grey_mean_pool(scale)
    assert fused == Compose(Grey(), MeanPool(scale))
    assert_close(fused(images), Compose(MeanPool(scale), Grey())(images))
    assert_close(fused(images), images.view(2, 3, 8 // scale, scale, 8 // scale, scale).mean((1, 3, 5))[:, None])


class Turn:
    """A quarter turn: undone by the turn back."""

    def __call__(self, x):
        return x.rot90(1, (-2, -1))

    def Ap(self, y):
        return y.rot90(-1, (-2, -1))


class Mirror:
    """Left for right: undone by itself."""

    def __call__(self, x):
        return x.flip(-1)

    Ap = __call__


def test_a_composition_is_undone_from_the_outside_in(images):
    """With two operators for which the order matters."""
    for operator in (Compose(Turn(), Mirror()), Compose(Mirror(), Turn())):
        assert torch.equal(operator.Ap(operator(images)), images)
    assert torch.equal(Compose(Turn(), Mirror())(images), Turn()(Mirror()(images)))


@pytest.mark.parametrize("scale", [0, -2])
def test_a_scale_below_one_is_refused(scale):
    with pytest.raises(SettingError, match="scale"):
        MeanPool(scale)


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (1, 3, 9, 8)])
def test_an_image_that_does_not_divide_into_blocks_is_refused(shape):
    with pytest.raises(SettingError, match="blocks of 2"):
        MeanPool(2)(torch.zeros(shape))
