"""The attacker who wants a low score as well, on images of one pixel, where the best of both is known in closed form."""

import pytest
import torch

from facesieve.attacks.gradient import pgd
from facesieve.attacks.joint import jointly

STARTS = torch.tensor([0.3, 0.45, 0.9])


def crafted(rounds, *, eps=0.4, needed=(0.5, 0.6, 0.95)):
    """A success is a pixel above what is ``needed``; the score is its square, which is lowest at the border of success."""
    images, border = STARTS[:, None, None, None], torch.tensor(needed)

    def parts(x):
        pixel = x.flatten(1)[:, 0]
        return pixel - border, pixel**2

    def attack(objective):
        return pgd(objective, images, eps=eps, step=0.1, last_step=0.001, iterations=200)

    return jointly(attack, parts, rounds=rounds, first=0.2).flatten()


def test_the_score_falls_to_the_lowest_with_which_the_objective_succeeds():
    """Of a weight c the best pixel is 1 / 2c, so c = 1 / (2 * needed) is the largest that succeeds."""
    alone = crafted(0)
    assert alone.tolist() == pytest.approx([0.7, 0.85, 1.0], abs=1e-6)  # the objective alone goes to the border of ball and range
    found = crafted(14)
    assert found.tolist() == pytest.approx([0.5, 0.6, 0.95], abs=0.01)
    assert (found > torch.tensor([0.5, 0.6, 0.95])).all()


def test_more_rounds_never_make_it_worse():
    scores = [crafted(rounds) ** 2 for rounds in (0, 2, 5, 9)]
    for more, fewer in zip(scores[1:], scores, strict=False):
        assert (more <= fewer + 1e-6).all()


def test_where_nothing_succeeds_the_objective_alone_decides():
    assert crafted(5, eps=0.1, needed=(0.5, 0.6, 2)).tolist() == pytest.approx([0.4, 0.55, 1], abs=1e-6)
