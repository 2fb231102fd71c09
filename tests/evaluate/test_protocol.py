"""The data protocol: what is chosen, that it is the same again, and what is said where it cannot be."""

import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from make_people import MAGIC, pictures, write_datasets, write_folders, write_records

from facesieve.errors import InputError
from facesieve.evaluate.manifest import Selection, load_manifest, save_manifest
from facesieve.evaluate.protocol import aligned_crops, select, verify
from facesieve.evaluate.recordio import RecordFile
from facesieve.evaluate.sources import open_source
from facesieve.faces import TEMPLATE, Detector
from facesieve.images import write_photo

FEW = Selection(minimum=5, people=3, train=3, test=1)


@pytest.fixture(scope="module")
def people(sample_paths):
    return pictures(sample_paths, 6)


@pytest.fixture
def folder(people, tmp_path):
    write_folders(tmp_path / "folder", people)
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def chosen(people, tmp_path_factory):
    root = tmp_path_factory.mktemp("chosen") / "folder"
    write_folders(root, people)
    return root, select(open_source(root), FEW)


def test_counts_and_roles_are_the_wanted_ones(chosen):
    _, manifest = chosen
    assert len(manifest.people) == 3
    for person in manifest.people:
        roles = [image.role for image in manifest.images if image.person == person]
        assert roles == ["train"] * 3 + ["test"]
    assert len({image.ref for image in manifest.images}) == len(manifest.images)
    assert manifest.replaced == ()


def test_hashes_are_of_the_files(chosen):
    root, manifest = chosen
    for image in manifest.images:
        assert hashlib.sha256((root / image.ref).read_bytes()).hexdigest() == image.sha256


def test_the_same_seed_gives_the_same_file_and_another_another(chosen, tmp_path):
    root, manifest = chosen
    save_manifest(tmp_path / "a.json", manifest)
    shutil.copytree(root, tmp_path / "elsewhere")
    save_manifest(tmp_path / "b.json", select(open_source(tmp_path / "elsewhere"), FEW))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert load_manifest(tmp_path / "a.json") == manifest
    other = select(open_source(root), FEW.model_copy(update={"seed": 1}))
    assert {image.ref for image in other.images} != {image.ref for image in manifest.images}


def test_one_persons_images_do_not_depend_on_who_else_is_there(chosen, tmp_path):
    root, manifest = chosen
    alone = tmp_path / "alone"
    person = manifest.people[0]
    shutil.copytree(root / person, alone / person)
    images = select(open_source(alone), FEW.model_copy(update={"people": 1})).images
    assert images == tuple(image for image in manifest.images if image.person == person)


@pytest.mark.parametrize("kind", ["recordio", "recordio without contents", "datasets"])
def test_other_sources_hold_the_same_images(people, folder, tmp_path, kind):
    root = tmp_path / "other"
    if kind == "datasets":
        write_datasets(root, people)
    else:
        write_records(root, people, contents="without" not in kind)
    source, plain = open_source(root), open_source(folder)
    assert kind.startswith(source.kind)
    theirs, ours = source.identities(), plain.identities()
    assert len(theirs) == len(ours)
    for name, person in zip(theirs, people, strict=True):
        assert [source.read(ref) for ref in theirs[name]] == people[person]
    manifest = select(source, FEW)
    assert {image.sha256 for image in manifest.images} <= {
        hashlib.sha256(d).hexdigest() for images in people.values() for d in images
    }
    verify(manifest, source)


def test_a_record_with_a_magic_number_inside_is_read_whole(tmp_path):
    data = b"ab" + MAGIC + b"cdefg" + MAGIC
    write_records(tmp_path / "r", {"one": [data, b"x"]})
    records = RecordFile(tmp_path / "r" / "train.rec")
    assert list(records.labels()) == [(1, 0), (2, 0)]
    assert records.image(1) == data
    assert records.image(2) == b"x"


def test_what_cannot_be_used_is_replaced_and_listed(people, folder):
    clean = select(open_source(folder), FEW)
    broken, blank = [image.ref for image in clean.images if image.person == clean.people[0]][:2]
    (folder / broken).write_bytes(b"\xff\xd8\xff nothing")
    write_photo(folder / "blank.png", np.full((99, 99, 3), 120, np.uint8))
    (folder / blank).write_bytes((folder / "blank.png").read_bytes())
    manifest = select(open_source(folder), FEW)
    assert {entry.ref for entry in manifest.replaced} == {broken, blank}
    assert {entry.reason for entry in manifest.replaced if entry.ref == blank} == {"no face found"}
    assert len(manifest.images) == len(clean.images)
    others = [image for image in clean.images if image.person != clean.people[0]]
    assert [image for image in manifest.images if image.person != clean.people[0]] == others


def test_a_person_who_runs_out_is_replaced_whole(people, folder):
    first = select(open_source(folder), FEW).people[0]
    for path in sorted((folder / first).iterdir())[1:]:
        path.write_bytes(b"no image")
    manifest = select(open_source(folder), FEW)
    assert first not in manifest.people
    assert len(manifest.people) == 3
    assert [entry.person for entry in manifest.replaced if entry.ref is None] == [first]


def test_crops_lie_on_the_template_and_are_made_once(chosen, tmp_path):
    original, manifest = chosen
    root = shutil.copytree(original, tmp_path / "copy")
    crops = aligned_crops(manifest, open_source(root), tmp_path, 128)
    assert crops.shape == (12, 128, 128, 3)
    (face,) = Detector().detect(np.pad(np.asarray(crops[0]), ((64, 64), (64, 64), (0, 0)), "edge"))
    assert np.abs(face.landmarks - 64 - TEMPLATE * 128).max() < 8  # pixels: the same face, found again
    shutil.rmtree(root / manifest.people[0])
    again = aligned_crops(manifest, open_source(root), tmp_path, 128)  # not read again
    assert (again == crops).all()


def test_changed_and_missing_files_are_named_and_nothing_is_written(people, folder, tmp_path):
    source = open_source(folder)
    manifest = select(source, FEW)
    changed, gone = manifest.images[0].ref, manifest.images[5].ref
    (folder / changed).write_bytes((folder / manifest.images[1].ref).read_bytes() + b"\0")
    (folder / gone).unlink()
    with pytest.raises(InputError, match=rf"{changed} has changed \(and 1 more\)"):
        aligned_crops(manifest, source, tmp_path / "cache", 64)
    assert not (tmp_path / "cache").exists()


def test_aligned_images_are_taken_as_they_are(tmp_path):
    for person in ("a", "b"):
        (tmp_path / "crops" / person).mkdir(parents=True)
        for number in range(3):
            write_photo(tmp_path / "crops" / person / f"{number}.png", np.full((112, 112, 3), 10 * number, np.uint8))
    source = open_source(tmp_path / "crops")
    manifest = select(source, Selection(minimum=3, people=2, train=2, test=1, aligned=True))
    crops = aligned_crops(manifest, source, tmp_path, 160)
    assert [int(crop[80, 80, 0]) for crop in crops] == [10 * int(image.ref[2]) for image in manifest.images]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--people", 9), "9 people with 3 + 1 usable images"),
        (("--minimum", 99), "0 have at least 99 images"),
        (("--people", 0), "people = 0"),
        (("--config", "{here}/bad.toml"), "unknown table or key 'dat'"),
        (("--config", "{here}/key.toml"), "key.toml: peple"),
        (("--config", "{here}/none.toml"), "none.toml: cannot be read"),
        (("--config", "{here}/text.toml"), "not a TOML file"),
    ],
)
def test_mistakes_are_one_line(facesieve, folder, tmp_path, arguments, said):
    (tmp_path / "bad.toml").write_text("[dat]\npeople = 1\n")
    (tmp_path / "key.toml").write_text("[data]\npeple = 1\n")
    (tmp_path / "text.toml").write_text("people: 1\n")
    given = [str(a).format(here=tmp_path) for a in arguments]
    wanted = ["--minimum", 5, "--people", 3, "--train", 3, "--test", 1, *given]
    done = facesieve("data", "select", folder, "-o", tmp_path / "m.json", *wanted)
    assert done.code == 2
    assert said in done.err.strip().splitlines()[-1]
    assert "Traceback" not in done.err
    assert not (tmp_path / "m.json").exists()


def test_other_places_are_one_line(facesieve, tmp_path):
    (tmp_path / "empty").mkdir()
    for source, said in ((tmp_path / "nowhere", "no such file"), (tmp_path / "empty", "expected a folder")):
        done = facesieve("data", "select", source, "-o", tmp_path / "m.json")
        assert done.code == 2
        assert said in done.err


def test_the_command_writes_what_the_library_chooses(facesieve, chosen, tmp_path):
    root, manifest = chosen
    (tmp_path / "few.toml").write_text("[data]\nminimum = 5\npeople = 2\ntrain = 3\ntest = 1\n[recogniser]\n")
    done = facesieve("data", "select", root, "-o", tmp_path / "m.json", "--config", tmp_path / "few.toml", "--people", 3)
    assert done.code == 0, done.err
    assert "3 people, 9 images to train, 3 to test" in done.out
    assert load_manifest(tmp_path / "m.json") == manifest


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not a manifest"), ("{}", "not a manifest: source"), ('{"source": 1}', "not a manifest")]
)
def test_a_file_that_is_no_manifest_is_one_line(tmp_path, text, said):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=said):
        load_manifest(tmp_path / "m.json")


def test_damaged_records_are_one_line(tmp_path):
    write_records(tmp_path / "r", {"one": [b"abcd" * 10]}, contents=False)
    path = tmp_path / "r" / "train.rec"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(InputError, match="train.rec"):
        RecordFile(path).image(0)
    path.write_bytes(struct.pack("<I", 1) + whole[4:])
    with pytest.raises(InputError, match="do not belong together"):
        RecordFile(path).image(0)
    path.with_suffix(".idx").write_text("nonsense\n")
    with pytest.raises(InputError, match="not an index"):
        RecordFile(path)


IDENTITIES = Path(__file__).parents[3] / "shared" / "data" / "identities"


@pytest.mark.skipif(not IDENTITIES.exists(), reason="the development photographs (../shared/data/identities) are not here")
def test_the_shipped_protocol_fits_the_development_photographs(facesieve, tmp_path):
    config = Path(__file__).parents[2] / "experiments" / "identities-105.toml"
    done = facesieve(
        "data", "select", IDENTITIES, "-o", tmp_path / "m.json", "--config", config, "--people", 2, "--train", 3, "--test", 1
    )
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert len(manifest["images"]) == 8
