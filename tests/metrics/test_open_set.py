"""Thresholds for unknown people: by hand, against loops, and on people that the calibration did not see."""

import numpy as np
import pytest

from facesieve.errors import InputError, SettingError
from facesieve.metrics.open_set import CHUNK, best_scores, calibrate_threshold


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clusters(seed, people, photographs, spread=0.15, dimensions=32):
    """Unit rows around one point for each person, and the names: p0, p0, ... p1 ..."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(people, dimensions)))
    rows = np.repeat(centres, photographs, 0) + spread * rng.normal(size=(people * photographs, dimensions))
    return unit(rows), [f"p{person}" for person in range(people) for _ in range(photographs)]


def split(rows, names, photographs):
    """The first photograph of each person as the template, the others as probes."""
    first = np.arange(len(rows)) % photographs == 0
    names = np.array(names)
    return rows[~first], names[~first], rows[first], names[first]


def test_best_scores_by_hand():
    probes = [[1, 0], [0.6, 0.8], [0, 1]]
    genuine, impostor = best_scores(probes, ["a", "a", "c"], [[1, 0], [0, 1], [0.8, 0.6]], ["a", "b", "a"])
    assert genuine.tolist() == pytest.approx([1, 0.96, -np.inf])
    assert impostor.tolist() == pytest.approx([0, 0.8, 1])


def test_best_scores_against_a_loop_over_more_than_one_chunk():
    rows, names = clusters(0, 30, 40)
    gallery, enrolled = clusters(1, 30, 2)
    assert len(rows) > CHUNK
    genuine, impostor = best_scores(rows.astype(np.float32), names, gallery, enrolled)
    for probe in (0, CHUNK - 1, CHUNK, len(rows) - 1):
        cosines = rows[probe] @ gallery.T
        same = np.array(enrolled) == names[probe]
        assert genuine[probe] == pytest.approx(cosines[same].max(), abs=1e-6)
        assert impostor[probe] == pytest.approx(cosines[~same].max(), abs=1e-6)


def test_a_calibration_by_hand():
    """Probes on a circle, at these angles; templates of a, b and c at 0, 90 and 180 degrees."""

    def at(degrees):
        return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1)

    # nearest other template:      a: 80, 30   b: 50, 85   c: 45, 88, degrees away
    told = calibrate_threshold(at([10, 60, 40, 95, 135.1, 178]), [*"aabbcc"], at([0, 90, 180]), [*"abc"], 2 / 6)
    assert told.threshold.value == pytest.approx(np.cos(np.radians(45.1)))  # above it: 30 and 40 degrees
    assert told.wanted == 2 / 6
    assert told.reached.value == pytest.approx(2 / 6)
    # correct and near enough: a at 10, b at 95, c at 135.1 (44.9 degrees) and 178; wrong: a at 60, b at 40.
    assert told.dir.value == pytest.approx(4 / 6)
    assert told.frr.value == 0
    assert (told.threshold.n, told.threshold.identities) == (6, 3)


def test_the_wanted_rate_holds_for_people_not_seen():
    rows, names = clusters(2, 200, 6, spread=0.12)
    told = calibrate_threshold(*split(rows, names, 6), 0.05, draws=300)
    strangers, _ = clusters(3, 400, 5, spread=0.12)
    templates = split(rows, names, 6)[2]
    accepted = np.mean((strangers @ templates.T).max(1) >= told.threshold.value)
    assert told.reached.value <= 0.05
    assert accepted == pytest.approx(0.05, abs=0.02)
    assert told.threshold.low <= told.threshold.value <= told.threshold.high
    assert told.dir.low <= told.dir.value <= told.dir.high
    assert told.dir.value + told.frr.value <= 1
    assert told.dir.value > 0.5


def test_probes_of_unknown_people_choose_the_threshold_too():
    rows, names = clusters(4, 40, 4)
    probes, people, templates, enrolled = split(rows, names, 4)
    all_of_them = calibrate_threshold(probes, people, templates, enrolled, 0.1, draws=50)
    half = calibrate_threshold(probes, people, templates[:20], enrolled[:20], 0.1, draws=50)
    assert (half.threshold.n, half.threshold.identities) == (120, 40)
    assert (half.dir.n, half.dir.identities) == (60, 20)
    assert half.threshold.value < all_of_them.threshold.value  # fewer people to be taken for
    unknown = np.array([f"unknown {name}" for name in people])
    strangers = calibrate_threshold(probes, unknown, templates, enrolled, 0.1, draws=50)
    assert strangers.dir is None
    assert strangers.frr is None


def test_what_cannot_be_calibrated():
    rows, names = clusters(5, 5, 3)
    probes, people, templates, enrolled = split(rows, names, 3)
    for arguments, match in [
        ((probes, people, templates, enrolled, 0.01), "100 or more"),
        ((probes[:2], people[:2], templates, enrolled, 0.5), "two people; these are all of p0"),
        ((probes, people, templates[:1], enrolled[:1], 0.5), "templates are all of one person"),
        ((probes, people[:-1], templates, enrolled, 0.5), "a name for each"),
        ((probes[:0], [], templates, enrolled, 0.5), "not empty"),
        ((probes, people, templates[:, :-1], enrolled, 0.5), "not all finite rows of norm 1"),
        ((probes, people, unit(templates[:, :-1]), enrolled, 0.5), "32 dimensions and templates 31"),
        ((np.where(probes == probes[3, 3], np.nan, probes), people, templates, enrolled, 0.5), "not all finite"),
    ]:
        with pytest.raises(InputError, match=match):
            calibrate_threshold(*arguments)
    with pytest.raises(SettingError, match="between 0 and 1"):
        calibrate_threshold(probes, people, templates, enrolled, 0)
