"""Enrol, identify, verify and the gallery's commands, as a user meets them."""

import json
import shutil

import numpy as np
import pytest

from facesieve.images import write_photo
from facesieve.specs import DEFAULT_PRESET


@pytest.fixture
def people(tmp_path, sample_paths):
    """A folder a person, and one photograph apart."""
    folder = tmp_path / "people"
    for path in sample_paths:
        name = path.stem.split("-")[0]
        if path.stem != "obama-3":
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture
def probe(sample_paths):
    return next(path for path in sample_paths if path.stem == "obama-3")


@pytest.fixture
def gallery(facesieve, people, tmp_path):
    folder = tmp_path / "gallery"
    done = facesieve("enrol", people, "--folders", "--gallery", folder, "--templates", "raw")
    assert done.code == 0, done.err
    return folder


def one_line(outcome, code=2):
    assert outcome.code == code
    assert "Traceback" not in outcome.err
    (line,) = outcome.err.strip().splitlines()
    return line


def test_enrol_list_identify_verify_remove(facesieve, gallery, probe):
    listed = json.loads(facesieve("gallery", "list", "--gallery", gallery, "--json").out)
    assert {entry["person"]: entry["templates"] for entry in listed["people"]} == {
        "biden": {"raw": 1}, "collins": {"raw": 1}, "hopper": {"raw": 1}, "obama": {"raw": 2},
    }  # fmt: skip
    for shield in ("none", DEFAULT_PRESET):
        done = facesieve("identify", probe, "--gallery", gallery, "--shield", shield, "--seed", 1, "--json")
        assert done.code == 0, done.err
        ((found,),) = json.loads(done.out).values()
        assert found["matches"][0]["person"] == "obama"
        assert (found["unshielded"] is None) == (shield == "none")
        assert found["templates"] == "raw"
        assert ("nobody has templates behind this shield" in done.err) == (shield == DEFAULT_PRESET)
    assert facesieve("verify", probe, "--person", "obama", "--gallery", gallery, "--shield", "none", "--threshold", 0.4).code == 0
    assert (
        facesieve("verify", probe, "--person", "hopper", "--gallery", gallery, "--shield", "none", "--threshold", 0.4).code == 1
    )
    by_default = facesieve("verify", probe, "--person", "obama", "--gallery", gallery, "--shield", "none")
    assert by_default.code == 0
    assert "(default)" in by_default.out
    undecided = facesieve("verify", probe, "--person", "obama", "--gallery", gallery, "--shield", "none", "--threshold", "none")
    assert undecided.code == 3
    assert "gallery calibrate" in undecided.out
    assert "2 templates removed" in facesieve("gallery", "remove", "obama", "--gallery", gallery).out
    done = facesieve("identify", probe, "--gallery", gallery, "--shield", "none", "--json")
    assert json.loads(done.out)[str(probe)][0]["matches"][0]["person"] != "obama"


def test_identify_prints_names_and_what_the_shield_changed(facesieve, gallery, probe):
    done = facesieve("identify", probe, "--gallery", gallery, "--seed", 1, "--threshold", "none")
    assert done.code == 0, done.err
    for text in ("obama?", "without the shield", "/255", "tamper score"):
        assert text in done.out
    assert "calibrate" not in done.out
    undecided = facesieve("identify", probe, "--gallery", gallery, "--shield", "robust").out  # of which there is no default
    assert "obama?" in undecided
    assert "no default for this recogniser and shield" in undecided
    by_default = facesieve("identify", probe, "--gallery", gallery).out
    assert "obama?" not in by_default
    assert "the default for this recogniser and shield, at FAR 1 %; run `facesieve gallery calibrate" in by_default
    named = facesieve("identify", probe, "--gallery", gallery, "--shield", "none", "--threshold", 0.3)
    assert "obama" in named.out
    assert "obama?" not in named.out
    unknown = facesieve("identify", probe, "--gallery", gallery, "--shield", "none", "--threshold", 0.99)
    assert "unknown" in unknown.out


def test_out_of_the_box_a_stranger_is_unknown(facesieve, people, tmp_path):
    stranger, folder = people / "collins" / "collins-1.jpg", tmp_path / "known"
    for name in ("biden", "hopper", "obama"):
        assert facesieve("enrol", name, people / name / f"{name}-1.jpg", "--gallery", folder).code == 0
    ((found,),) = json.loads(facesieve("identify", stranger, "--gallery", folder, "--json").out).values()
    assert (found["person"], found["threshold_from"]) == (None, "default")
    assert facesieve("verify", stranger, "--person", "obama", "--gallery", folder).code == 1
    known = facesieve("identify", people / "obama" / "obama-2.jpg", "--gallery", folder, "--json")
    ((found,),) = json.loads(known.out).values()
    assert found["person"] == "obama"


def test_calibrate_sets_the_threshold_that_identify_uses(facesieve, gallery, people, probe):
    done = facesieve("gallery", "calibrate", people, "--far", 0.25, "--gallery", gallery, "--shield", "none")
    assert done.code == 0, done.err
    assert "threshold" in done.out
    (kept,) = json.loads(facesieve("gallery", "list", "--gallery", gallery, "--json").out)["calibrations"]
    assert kept["purifier"] == "raw"
    assert kept["false_accept_rate"] == 0.25
    ((found,),) = json.loads(facesieve("identify", probe, "--gallery", gallery, "--shield", "none", "--json").out).values()
    assert found["threshold"] == pytest.approx(kept["threshold"])
    assert found["person"] == "obama"
    shielded = facesieve("gallery", "calibrate", people, "--far", 0.25, "--gallery", gallery, "--seed", 1)
    assert "against templates raw" in shielded.out  # as identify searches them: nobody has others
    assert "nobody has templates behind this shield" in one_line(shielded, code=0)
    few = facesieve("gallery", "calibrate", people, "--far", 0.0001, "--gallery", gallery, "--shield", "none")
    assert "10,000" in one_line(few) or "10000" in one_line(few)


def test_export_writes_templates_and_no_photograph(facesieve, gallery, tmp_path):
    assert facesieve("gallery", "export", tmp_path / "all.jsonl", "--gallery", gallery).code == 0
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    assert all(len(line["row"]) == 128 and line["embedder"] == "sface-2021dec" for line in lines)
    assert np.linalg.norm(lines[0]["row"]) == pytest.approx(1, abs=1e-5)


def test_both_kinds_of_templates_are_made_and_those_of_the_shield_are_searched(facesieve, people, probe, tmp_path):
    folder, photo = tmp_path / "both", people / "obama" / "obama-1.jpg"
    done = facesieve("enrol", "Obama", photo, "--gallery", folder, "--seed", 3)
    assert done.code == 0, done.err
    assert "2 templates from 1 photograph" in done.out
    (entry,) = json.loads(facesieve("gallery", "list", "--gallery", folder, "--json").out)["people"]
    (label,) = entry["templates"].keys() - {"raw"}
    assert label.startswith(f"{DEFAULT_PRESET}-")
    assert entry["templates"] == {"raw": 1, label: 1}
    done = facesieve("identify", photo, "--gallery", folder, "--seed", 3, "--json")
    ((found,),) = json.loads(done.out).values()
    assert (found["templates"], found["matches"][0]["score"]) == (label, pytest.approx(1, abs=1e-5))
    assert done.err == ""
    verify = ("verify", photo, "--person", "Obama", "--gallery", folder, "--seed", 3, "--threshold", 0.4)
    assert json.loads(facesieve(*verify, "--json").out) == {
        "same": True, "score": pytest.approx(1, abs=1e-5), "threshold": 0.4, "threshold_from": "given", "templates": label,
        "tampered": None,
    }  # fmt: skip
    compared = facesieve("verify", photo, photo, "--shield", "none", "--threshold", 0.4, "--json")
    assert json.loads(compared.out)["templates"] is None
    done = facesieve("gallery", "calibrate", people, "--far", 0.25, "--gallery", folder, "--seed", 3)
    assert f"for probes {label} against templates {label}" in done.out
    (kept,) = json.loads(facesieve("gallery", "list", "--gallery", folder, "--json").out)["calibrations"]
    assert (kept["purifier"], kept["templates"]) == (label, label)


def test_one_person_without_templates_behind_the_shield_is_a_line_on_standard_error(facesieve, people, probe, tmp_path):
    folder = tmp_path / "mixed"
    assert facesieve("enrol", "Obama", people / "obama" / "obama-1.jpg", "--gallery", folder).code == 0
    for options in (("--shield", "none"), ("--shield", "none", "--templates", "both"), ("--templates", "raw")):
        done = facesieve("enrol", "Ada", people / "hopper" / "hopper-1.jpg", "--gallery", folder, *options)
        assert done.code == 0, done.err
        assert "1 template from 1 photograph" in done.out
        facesieve("gallery", "remove", "Ada", "--gallery", folder)
    facesieve("enrol", "Ada", people / "hopper" / "hopper-1.jpg", "--gallery", folder, "--templates", "raw")
    for command in (("identify", probe), ("verify", probe, "--person", "Obama", "--threshold", -1)):
        done = facesieve(*command, "--gallery", folder, "--json")
        (line,) = done.err.strip().splitlines()
        assert line.startswith(f"{folder}: Ada has no templates behind this shield ({DEFAULT_PRESET}-")
        assert "gallery remove" in line
        assert '"templates": "raw"' in done.out


def test_one_seed_and_one_photograph_give_one_restoration_whatever_the_command(facesieve, people, tmp_path):
    """Noise depends on the seed, the file's bytes and the face's number: not on the command, the name or the path."""
    folder, photo, copy = tmp_path / "purified", people / "obama" / "obama-1.jpg", tmp_path / "copy.jpg"
    shutil.copy(photo, copy)
    for name, path in {"Ada": photo, "Bob": copy}.items():
        done = facesieve("enrol", name, path, "--gallery", folder, "--templates", "purified", "--seed", 3)
        assert done.code == 0, done.err
    done = facesieve("identify", copy, "--gallery", folder, "--seed", 3, "--json")
    ((found,),) = json.loads(done.out).values()
    assert [match["score"] for match in found["matches"]] == pytest.approx([1, 1], abs=1e-5)
    done = facesieve("verify", photo, "--person", "Bob", "--gallery", folder, "--seed", 3, "--threshold", 0.5, "--json")
    assert json.loads(done.out)["score"] == pytest.approx(1, abs=1e-5)


def test_a_gallery_is_copied_to_lancedb_and_back(facesieve, gallery, tmp_path, probe):
    there, back = f"lancedb://{tmp_path / 'there'}", tmp_path / "back"
    assert facesieve("gallery", "copy", gallery, there).out == "5 templates copied\n"
    assert facesieve("gallery", "copy", tmp_path / "there", back).out == "5 templates copied\n"
    listed = [facesieve("gallery", "list", "--gallery", place, "--json").out for place in (gallery, tmp_path / "there", back)]
    assert listed[0] == listed[1] == listed[2]
    assert "people are enrolled here already; copy to a new gallery" in one_line(facesieve("gallery", "copy", gallery, back))
    assert facesieve("verify", probe, "--person", "obama", "--gallery", back, "--shield", "none", "--threshold", 0.4).code == 0


@pytest.mark.postgres
def test_a_gallery_on_a_server(facesieve, people, probe, server):
    url = f"{server}&gallery=cli"
    assert facesieve("enrol", people, "--folders", "--gallery", url).code == 0
    done = facesieve("identify", probe, "--gallery", url, "--shield", "none", "--json")
    ((found,),) = json.loads(done.out).values()
    assert found["matches"][0]["person"] == "obama"
    nowhere = facesieve("identify", probe, "--gallery", "postgresql://me:secret@127.0.0.1:9/none", "--shield", "none")
    assert "secret" not in one_line(nowhere)


def test_bad_photographs_are_listed_and_the_others_enrolled(facesieve, people, tmp_path):
    (people / "obama" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    write_photo(people / "hopper" / "blank.png", np.full((120, 120, 3), 127, np.uint8))
    (people / "empty").mkdir()
    done = facesieve("enrol", people, "--folders", "--gallery", tmp_path / "g")
    assert done.code == 1
    for text in ("broken.jpg", "blank.png", "empty: not enrolled"):
        assert text in done.err
    listed = json.loads(facesieve("gallery", "list", "--gallery", tmp_path / "g", "--json").out)
    assert {entry["person"] for entry in listed["people"]} == {"biden", "collins", "hopper", "obama"}


def test_mistakes_are_one_line(facesieve, gallery, people, probe, tmp_path, sample_paths):
    photo = people / "obama" / "obama-1.jpg"
    twice = facesieve("enrol", "obama", photo, "--gallery", gallery)
    assert twice.code == 1
    assert "obama" in twice.err
    assert "leave --shield none out" in one_line(
        facesieve("enrol", "Ann", photo, "--gallery", gallery, "--templates", "purified", "--shield", "none")
    )
    assert "choose raw, purified or both" in one_line(facesieve("enrol", "Ann", photo, "--gallery", gallery, "--templates", "x"))
    assert "no photographs of nobody" in one_line(facesieve("enrol", "nobody", "--gallery", gallery))
    nowhere = tmp_path / "nowhere"
    assert "gallery" in one_line(facesieve("identify", probe, "--gallery", nowhere, "--shield", "none"))
    assert not nowhere.exists()
    assert "no embedder" in one_line(facesieve("identify", probe, "--gallery", gallery, "--embedder", "arc"))
    assert "unknown preset" in one_line(facesieve("identify", probe, "--gallery", gallery, "--shield", "strong"))
    assert "either" in one_line(facesieve("verify", probe, "--gallery", gallery))
    assert "either" in one_line(facesieve("verify", probe, probe, "--person", "obama", "--gallery", gallery))
    assert "Nobody" in one_line(facesieve("verify", probe, "--person", "Nobody", "--gallery", gallery, "--shield", "none"))
    assert "missing.jpg" in facesieve("identify", "missing.jpg", "--gallery", gallery, "--shield", "none").err
    assert "--folders expects" in one_line(facesieve("enrol", people / "obama", "--folders", "--gallery", gallery))


def test_a_face_that_looks_tampered_with_is_flagged_or_refused(facesieve, gallery, probe):
    """A threshold that every face exceeds stands for tampering, one that none does for its absence."""
    command = ("identify", probe, "--gallery", gallery, "--seed", 1, "--threshold", 0.3)
    flagged = facesieve(*command, "--on-tamper", "flag", "--tamper-threshold", "0.000001")
    assert (flagged.code, "obama" in flagged.out, ", tampered" in flagged.out) == (0, True, True)
    assert f"{probe}, face 1: the face looks tampered with: tamper score " in flagged.err
    clean = facesieve(*command, "--on-tamper", "refuse", "--tamper-threshold", 2)
    assert (clean.code, "obama" in clean.out, "tampered" in clean.out + clean.err) == (0, True, False)
    refused = facesieve(*command, "--on-tamper", "refuse", "--tamper-threshold", "0.000001")
    assert (refused.code, "refused" in refused.out) == (1, True)
    assert f"{probe}, face 1: refused: the face looks tampered with" in refused.err
    as_json = facesieve(*command, "--on-tamper", "refuse", "--tamper-threshold", "0.000001", "--json")
    ((face,),) = json.loads(as_json.out).values()
    assert as_json.code == 1
    assert (face["person"], face["matches"], face["unshielded"], face["tampered"]) == (None, [], None, True)
    assert "looks tampered with" in face["refused"]
    for done in (refused, as_json):
        names = done.out.replace(str(probe), "")
        assert not any(person in names for person in ("obama", "biden", "hopper", "collins"))
    verified = facesieve("verify", probe, "--person", "obama", *command[2:], "--on-tamper", "refuse", "--tamper-threshold", 1e-6)
    assert f"{probe}: the face looks tampered with" in one_line(verified)
    assert verified.out == ""


def test_a_policy_that_cannot_be_kept_is_one_line(facesieve, gallery, probe):
    command = ("identify", probe, "--gallery", gallery)
    assert "error: --on-tamper: 'ignore': choose purify, flag or refuse" in one_line(facesieve(*command, "--on-tamper", "ignore"))
    assert "without a shield there is no tamper score" in one_line(facesieve(*command, "--shield", "none", "--on-tamper", "flag"))
    no_default = one_line(facesieve(*command, "--shield", "robust", "--scale", 4, "--on-tamper", "refuse"))
    assert "no default threshold of the score change for sface-2021dec behind robust" in no_default
    assert no_default.endswith("give a threshold for the tamper score")
    assert "--tamper-threshold: 'x': a threshold is a number above 0" in one_line(
        facesieve(*command, "--on-tamper", "flag", "--tamper-threshold", "x")
    )
