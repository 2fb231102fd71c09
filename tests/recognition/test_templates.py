"""Mean templates against their definitions, person by person."""

import numpy as np
import pytest

from facesieve.recognition.templates import mean_template, mean_templates, nearest_without_own
from facesieve.rows import normalised


@pytest.fixture
def rows():
    return normalised(np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32))


OWNERS = np.array([2, 0, 1, 1, 0, 2, 2, 1, 0, 0, 1, 2])


def test_a_mean_template_is_the_direction_of_the_mean(rows):
    mean = rows.mean(0)
    np.testing.assert_allclose(mean_template(rows), mean / np.linalg.norm(mean), atol=1e-6)


def test_mean_templates_are_each_persons(rows):
    wanted = [mean_template(rows[owner == OWNERS]) for owner in range(3)]
    np.testing.assert_allclose(mean_templates(rows, OWNERS), wanted, atol=1e-6)


def test_a_probe_does_not_meet_its_own_photograph(rows):
    probes = normalised(rows + 0.3 * np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32))
    wanted = []
    for number, probe in enumerate(probes):
        others = np.arange(len(rows)) != number
        wanted.append(int((mean_templates(rows[others], OWNERS[others]) @ probe).argmax()))
    assert nearest_without_own(probes, rows, OWNERS).tolist() == wanted
