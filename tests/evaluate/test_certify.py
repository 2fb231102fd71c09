"""Certificates of real photographs: resumed, refused, and drawn."""

import json

import numpy as np
import pytest

from facesieve.data.manifest import save_manifest
from facesieve.data.sources import open_source
from facesieve.errors import SettingError
from facesieve.evaluate.certify import Settings, certify, figures_of, patch_side
from facesieve.report.certificates import as_levels, curve, targets
from facesieve.report.targets import read_targets

FEW = Settings(sigmas=(0.06,), first=5, draws=20, alpha=0.05, patches=(0.02,), across=2, templates=3)


@pytest.fixture(scope="module")
def run(chosen, tmp_path_factory):
    source, manifest = chosen
    out = tmp_path_factory.mktemp("certificates")
    return out, certify(FEW, manifest, open_source(source), out)


def test_people_in_good_photographs_are_certified(run):
    smoothed, masked = run[1]["rows"]
    assert smoothed["n"] == masked["n"] == 3
    assert smoothed["certified"]["0"][0] == 1  # three different people, little noise
    radii = [share[0] for share in smoothed["certified"].values()]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0  # 20 draws prove no more than 0.06 * 1.08
    for at, (share, *_) in smoothed["certified"].items():
        assert share == pytest.approx(sum(radius >= float(at) for radius in smoothed["radii"]) / 3, abs=1e-4)
    assert masked["bare"][0] == 1
    assert masked["calls"] >= 4


def test_a_run_that_was_cut_off_goes_on(run, chosen, tmp_path):
    """What was kept is not made again, and the end is the same."""
    out, figures = run
    source, manifest = chosen
    kept = (out / "votes.jsonl").read_text().splitlines()
    (tmp_path / "votes.jsonl").write_text("\n".join(kept[:2]) + "\n" + kept[2][: len(kept[2]) // 2])
    again = certify(FEW, manifest, open_source(source), tmp_path)
    assert again["rows"] == figures["rows"]
    assert json.loads((tmp_path / "certificates.json").read_text()) == again
    kept = (tmp_path / "votes.jsonl").read_text()
    assert certify(FEW, manifest, open_source(source), tmp_path) == again
    assert (tmp_path / "votes.jsonl").read_text() == kept  # what followed the line that was cut off is read again, too


def test_the_curve_falls_where_a_certificate_ends():
    assert curve({"radii": [0.1, 0.3], "n": 4}) == ([0.0, 0.1, 0.3, 0.3], [50.0, 50.0, 25.0, 0.0])
    assert curve({"radii": [], "n": 4}) == ([0.0, 0.0], [0.0, 0.0])


def test_another_run_in_the_same_folder_is_refused(run, chosen):
    source, manifest = chosen
    with pytest.raises(SettingError, match="holds a run with other settings, data or weights: draws is 20 there, 21 here"):
        certify(FEW.model_copy(update={"draws": 21}), manifest, open_source(source), run[0])


def test_a_further_strength_of_noise_is_added_and_what_is_there_stays(run, chosen, tmp_path):
    out, figures = run
    source, manifest = chosen
    (tmp_path / "votes.jsonl").write_text((out / "votes.jsonl").read_text())
    (tmp_path / "certify.json").write_text((out / "certify.json").read_text())
    more = certify(FEW.model_copy(update={"sigmas": (0.06, 0.5), "patches": ()}), manifest, open_source(source), tmp_path)
    assert more["rows"][0] == figures["rows"][0]
    assert more["rows"][1]["sigma"] == 0.5
    kept = (tmp_path / "votes.jsonl").read_text()
    assert kept.startswith((out / "votes.jsonl").read_text())
    assert kept.count("0.06") == (out / "votes.jsonl").read_text().count("0.06")


def test_the_target_is_of_the_noise_that_certifies_most():
    rows = [
        {"recogniser": name, "sigma": sigma, "n": 40, "certified": {"0.1": [1, 1, 1], "0.25": [share, share / 2, 1]}}
        for name, sigma, share in [("sface", 0.12, 0.25), ("sface", 0.25, 0.625), ("sface", 0.5, 0.5), ("dlib", 0.5, 0.125)]
    ]
    sface, dlib = targets({"rows": [*rows, {"recogniser": "sface", "patch": 0.02}], "command": "facesieve certify"})
    assert (sface.value, sface.low, sface.high, sface.n, sface.wanted, sface.reached) == (62.5, 31.25, 100, 40, ">= 50", True)
    assert sface.defence.startswith("noise of 0.25")
    assert (dlib.value, dlib.reached) == (12.5, None)


def test_figures_are_counted_from_the_votes():
    """Of four images: sure and right, sure and wrong, undecided, right by a narrow majority."""
    settings = Settings(sigmas=(0.25,), draws=1000)
    found = [[0, 1000], [1, 1000], [0, 510], [1, 750]]
    lines = {("sigma", 0.25, place): {"sface": vote} for place, vote in enumerate(found)}
    (row,) = figures_of(settings, lines, np.array([0, 0, 1, 1]))
    assert row["abstained"] == 1
    shares = {at: share[0] for at, share in row["certified"].items()}
    assert shares == {"0": 0.5, "0.1": 0.5, "0.25": 0.25, "0.5": 0.25, "0.75": 0, "1": 0, "1.5": 0}


def test_sides_and_levels():
    assert [patch_side(area) for area in (0.02, 0.05, 0.25)] == [19, 29, 64]
    assert as_levels(1.0) == pytest.approx(255 / np.sqrt(3 * 128 * 128))


def test_the_command_draws_a_page(facesieve, chosen, tmp_path):
    source, manifest = chosen
    save_manifest(tmp_path / "m.json", manifest)
    words = ["certify", "--source", source, "--manifest", tmp_path / "m.json", "-o", tmp_path / "out", "--draws", "4"]
    for wrong, message in [
        (["--sigma", "3"], "sigmas.1"),
        (["--templates", "4", "--sigma", "0.06"], "has 3 training images, templates wants 4"),
    ]:
        refused = facesieve(*words, *wrong)
        assert refused.code == 2
        assert message in refused.err
        assert not (tmp_path / "out" / "certificates.json").exists()
    listed = tmp_path / "targets.json"
    facesieve(*words, "--sigma", "0.06", "--alpha", "0.2", "--probes", "2", "--templates", "3", "--targets", listed)
    (target,) = read_targets(listed)
    assert (target.target, target.n, target.value) == ("certified accuracy at L2 0.25, sface", 2, 0)  # 4 draws prove less
    page = (tmp_path / "out" / "certificates.md").read_text()
    assert "| sface | 0.06 |" in page
    assert "--alpha 0.2" in page
    assert (tmp_path / "out" / "certificates.svg").read_text().startswith("<svg")
