"""Noise that depends on an image's own seed and on nothing else."""

import math

import pytest
import torch
from torch.testing import assert_close

from facesieve.noise import derive_seed, seeded_noise

SHAPE = (3, 4, 6)


def draws(seeds, count=3, **settings):
    noise = seeded_noise(seeds, SHAPE, **settings)
    return torch.stack([noise() for _ in range(count)])


def test_the_same_seeds_give_the_same_sequence():
    assert torch.equal(draws([1, 2]), draws([1, 2]))


def test_every_draw_and_every_seed_differs():
    flat = draws([0, 1, 2]).flatten(0, 1).flatten(1)
    assert flat.shape == (9, math.prod(SHAPE))
    assert len(flat.unique(dim=0)) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_gets_alone_what_it_gets_in_any_batch(dtype):
    together = draws([7, 0, 7, 9], dtype=dtype)
    assert together.dtype == dtype
    for place, seed in enumerate([7, 0, 7, 9]):
        assert torch.equal(together[:, place], draws([seed], dtype=dtype)[:, 0])


def test_the_global_generator_is_neither_used_nor_moved():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = draws([3])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(draws([3]), first)


def test_two_sources_of_one_seed_do_not_disturb_each_other():
    one, two = seeded_noise([4], SHAPE), seeded_noise([4], SHAPE)
    assert [torch.equal(one(), two()) for _ in range(3)] == [True] * 3


def test_it_is_unit_gaussian():
    """Mean, variance, fourth moment and correlation between draws, each within five standard errors."""
    noise = seeded_noise([derive_seed(1, place) for place in range(100)], (3, 16, 16), dtype=torch.float64)
    first, second = noise(), noise()
    error = 5 / math.sqrt(first.numel())
    assert abs(first.mean()) < error
    assert abs(first.var() - 1) < error * math.sqrt(2)
    assert abs(first.pow(4).mean() - 3) < error * math.sqrt(96)
    assert abs((first * second).mean()) < error
    assert abs((first[:-1] * first[1:]).mean()) < error


def test_derived_seeds_never_change():
    """These numbers are in reports: if they move, no published result can be run again."""
    assert derive_seed(0) == 5254295370254170289
    assert derive_seed(7, "stage", 2) == 779640584439476022


def test_derived_seeds_are_kept_apart_by_seed_label_type_and_order():
    keys = [(0,), (1,), (0, 0), (0, "a"), (0, "a", "b"), (0, "b", "a"), (0, "ab"), (0, 1), (0, "1")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_derived_seeds_use_their_range_and_seed_a_source():
    seeds = [derive_seed(0, place) for place in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert_close(sum(seeds) / 1000 / 2**62, 1.0, rtol=0, atol=5 / math.sqrt(3 * 1000))
    assert seeded_noise([2**63 - 1, 0], SHAPE)().shape == (2, *SHAPE)
