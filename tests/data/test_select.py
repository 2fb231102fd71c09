"""The data protocol: what is chosen, that it is the same again, and what is said where it cannot be."""

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from facesieve.data.crops import aligned_crops
from facesieve.data.manifest import Selection, load_manifest, save_manifest
from facesieve.data.select import read_selection, select, select_beyond
from facesieve.data.sources import open_source
from facesieve.errors import InputError, SettingError
from facesieve.faces import TEMPLATE, Detector
from facesieve.faces.yunet import FILE
from facesieve.files import sha256_of
from facesieve.images import read_photo, write_photo
from facesieve.weights import FOLDER
from make_people import FEW, write_folders


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


def test_photographs_to_choose_on_are_in_no_test(chosen):
    root, manifest = chosen
    beyond = select_beyond(open_source(root), manifest)
    assert beyond.of("train") == manifest.of("train")
    assert [image.person for image in beyond.of("test")] == list(manifest.people)
    kept = {image.ref for image in manifest.of("test")}
    assert not kept & {image.ref for image in beyond.images}
    assert kept == {entry.ref for entry in beyond.replaced if entry.reason == "a test image, kept for the tests"}
    other = select(open_source(root), FEW.model_copy(update={"seed": 1}))
    with pytest.raises(InputError, match="other people or images"):
        select_beyond(open_source(root), other.model_copy(update={"selection": FEW}))


def test_what_cannot_be_used_is_replaced_and_listed(people, folder):
    clean = select(open_source(folder), FEW)
    broken, blank = [image.ref for image in clean.images if image.person == clean.people[0]][:2]
    gone, strip = [image.ref for image in clean.images if image.person == clean.people[1]][:2]
    (folder / broken).write_bytes(b"\xff\xd8\xff nothing")
    write_photo(folder / "blank.png", np.full((99, 99, 3), 120, np.uint8))
    (folder / blank).write_bytes((folder / "blank.png").read_bytes())
    (folder / gone).unlink()
    (folder / gone).mkdir()  # a folder by the name of an image
    write_photo(folder / "strip.png", np.full((16, 30_000, 3), 120, np.uint8))  # the detector's picture of it has no height
    (folder / strip).write_bytes((folder / "strip.png").read_bytes())
    manifest = select(open_source(folder), FEW)
    reasons = {entry.ref: entry.reason for entry in manifest.replaced}
    assert reasons.keys() == {broken, blank, gone, strip}
    assert reasons[broken].startswith(f"{broken}: damaged or unsupported JPEG")
    assert reasons[blank] == reasons[strip] == "no face found"
    assert reasons[gone] == f"{gone}: is a directory; name one image file in it"
    assert str(folder) not in manifest.text()  # no place of this machine: it is the same file elsewhere
    assert len(manifest.images) == len(clean.images)
    others = [image for image in clean.images if image.person == clean.people[2]]
    assert [image for image in manifest.images if image.person == clean.people[2]] == others


def test_a_person_who_runs_out_is_replaced_whole(people, folder):
    first = select(open_source(folder), FEW).people[0]
    for path in sorted((folder / first).iterdir())[1:]:
        path.write_bytes(b"no image")
    manifest = select(open_source(folder), FEW)
    assert first not in manifest.people
    assert len(manifest.people) == 3
    assert [entry.person for entry in manifest.replaced if entry.ref is None] == [first]


class Counting:
    """A source that says what is read, and stops the program at a wanted place."""

    kind = "folder"

    def __init__(self, source, stop_after=None):
        self.source, self.stop_after, self.read_refs = source, stop_after, []

    def identities(self):
        return self.source.identities()

    def read(self, ref):
        if len(self.read_refs) == self.stop_after:
            raise KeyboardInterrupt
        self.read_refs.append(ref)
        return self.source.read(ref)


def test_only_what_is_chosen_is_read(chosen):
    root, manifest = chosen
    source = Counting(open_source(root))
    assert select(source, FEW) == manifest
    assert sorted(source.read_refs) == sorted(image.ref for image in manifest.images)


@pytest.mark.parametrize("change", [{"people": 9}, {"minimum": 9}])
def test_too_few_people_are_known_before_anything_is_read(chosen, change):
    source = Counting(open_source(chosen[0]))
    with pytest.raises(InputError, match="ask for fewer people or images"):
        select(source, FEW.model_copy(update=change))
    assert source.read_refs == []


def test_a_person_with_fewer_images_than_wanted_is_passed_over_unread(chosen):
    source = Counting(open_source(chosen[0]))
    with pytest.raises(InputError, match="of 4, 4 have at least 5 images and 0 of them enough usable ones"):
        select(source, FEW.model_copy(update={"train": 6}))
    assert source.read_refs == []


def test_an_interruption_leaves_nothing_half(chosen, tmp_path):
    root, manifest = chosen
    with pytest.raises(KeyboardInterrupt):
        aligned_crops(manifest, Counting(open_source(root), stop_after=len(manifest.images) + 3), tmp_path / "cache", 64)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(aligned_crops(manifest, open_source(root), tmp_path / "cache", 64)) == len(manifest.images)


def test_a_cache_that_cannot_serve_is_one_line(chosen, tmp_path):
    root, manifest = chosen
    source = open_source(root)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file: crops cannot be kept there"):
        aligned_crops(manifest, source, tmp_path / "file", 64)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(SettingError, match="at least 1"):
        aligned_crops(manifest, source, tmp_path, 0)
    aligned_crops(manifest, source, tmp_path / "cache", 64)
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    for damaged in (b"", whole[:500], whole[:-1], b"other" * 99):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged; delete it"):
            aligned_crops(manifest, source, tmp_path / "cache", 64)


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
    write_photo(tmp_path / "crops" / "a" / manifest.images[0].ref[2:], np.full((112, 90, 3), 7, np.uint8))
    write_photo(tmp_path / "crops" / "a" / "more.png", np.full((112, 112, 3), 7, np.uint8))
    (entry,) = (r for r in select(source, manifest.selection).replaced if r.ref == manifest.images[0].ref)
    assert entry.reason == "an aligned crop is square, this image is 90 x 112"


def test_aligned_images_are_enlarged_smoothly(tmp_path):
    (tmp_path / "crops" / "a").mkdir(parents=True)
    ramp = np.broadcast_to(np.linspace(20, 220, 26).astype(np.uint8)[None, :, None], (26, 26, 3))
    write_photo(tmp_path / "crops" / "a" / "0.png", np.ascontiguousarray(ramp))
    source = open_source(tmp_path / "crops")
    manifest = select(source, Selection(minimum=1, people=1, train=1, test=0, aligned=True))
    (crop,) = aligned_crops(manifest, source, tmp_path, 52)
    wanted = np.interp((np.arange(52) + 0.5) / 2 - 0.5, np.arange(26), ramp[0, :, 0])  # pixel centres
    assert np.abs(crop[26, :, 0] - wanted).max() <= 1


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not a manifest"), ("{}", "not a manifest: source"), ('{"source": 1}', "not a manifest")]
)
def test_a_file_that_is_no_manifest_is_one_line(tmp_path, text, said):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=said):
        load_manifest(tmp_path / "m.json")


@pytest.mark.parametrize(
    "landmarks", ["[[1.0, 2.0]]", "[[1, 2], [1, 2], [1, 2], [1, 2], [1, NaN]]", "[[1, 2], [1, 2], [1, 2], [1, 2], [1, 2, 3]]"]
)
def test_landmarks_are_five_points(chosen, tmp_path, landmarks):
    lines = chosen[1].text().splitlines()
    before, after = lines[1].split('"landmarks": ')
    lines[1] = f'{before}"landmarks": {landmarks}' + "}" + ("," if after.endswith(",") else "")
    (tmp_path / "m.json").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"not a manifest: images.0.landmarks"):
        load_manifest(tmp_path / "m.json")


EXPERIMENTS = Path(__file__).parents[2] / "experiments"
IDENTITIES = Path(__file__).parents[3] / "shared" / "data" / "identities"


def as_they_were_found(photo):
    """The landmarks of the largest face by OpenCV's YuNet at two sizes, upright, without a second look: the manifests are of
    that search, and stay so, since figures are compared on the same crops.
    """
    net = cv2.FaceDetectorYN.create(str(FOLDER / FILE), "", (320, 320), 0.7, 0.3, 5000)
    longest, rows = max(photo.shape[:2]), []
    for scale in sorted({min(longest, side) / longest for side in (480, 1440)}):
        size = [round(side * scale) for side in photo.shape[1::-1]]
        small = photo if scale == 1 else cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
        margin = max(size) // 4
        framed = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
        net.setInputSize(framed.shape[1::-1])
        _, found = net.detect(cv2.cvtColor(framed, cv2.COLOR_RGB2BGR))
        for row in [] if found is None else found.astype(float):
            ratio = np.array(size) / photo.shape[1::-1]
            points = (row[4:14].reshape(5, 2) - margin + 0.5) / ratio - 0.5
            rows.append(((row[:2] - margin + 0.5) / ratio - 0.5, row[2:4] / ratio, points, row[14]))
    kept = cv2.dnn.NMSBoxes([[*corner, *sides] for corner, sides, _, _ in rows], [row[3] for row in rows], 0.0, 0.4)
    return max((rows[number] for number in kept), key=lambda row: row[1].prod())[2]


@pytest.mark.skipif(not IDENTITIES.exists(), reason="the development photographs are not here")
@pytest.mark.parametrize("name", ["identities-105", "tuning-105"])
def test_the_shipped_manifests_name_the_development_photographs_and_their_faces(name):
    """Of two people, each file by its hash and the largest face by its landmarks, as the search that made them found them.

    The photographs at hand are those of the two manifests alone, so which of more would be chosen cannot be told from them.
    """
    shipped, source = load_manifest(EXPERIMENTS / f"{name}.json"), open_source(IDENTITIES)
    theirs = [image for image in shipped.images if image.person in shipped.people[:2]]
    assert len(theirs) == 2 * (shipped.selection.train + shipped.selection.test)
    for image in theirs:
        data = source.read(image.ref)
        assert sha256_of(data) == image.sha256
        found = as_they_were_found(read_photo(data))
        np.testing.assert_allclose(image.landmarks, found, atol=0.05)  # pixels; processors differ


def test_the_manifest_to_test_on_is_of_the_protocol_and_shares_no_photograph_with_that_to_choose_on():
    shipped, choosing = (load_manifest(EXPERIMENTS / f"{name}-105.json") for name in ("identities", "tuning"))
    assert shipped.selection == read_selection(EXPERIMENTS / "identities-105.toml", {})
    assert not {image.ref for image in shipped.of("test")} & {image.ref for image in choosing.of("test")}


def test_the_published_protocol_is_what_was_published():
    assert read_selection(EXPERIMENTS / "casia-webface.toml", {}) == Selection()
    assert Selection().model_dump() == {"minimum": 44, "people": 1000, "train": 40, "test": 4, "seed": 0, "aligned": False}


def test_a_file_that_is_there_twice_is_chosen_once(people, tmp_path):
    name, other = list(people)[:2]
    folder = tmp_path / "twice"
    write_folders(folder, {name: people[name][:3], other: people[other][:3]})
    for person in (name, other):
        for number, path in enumerate(sorted((folder / person).iterdir())):
            for copy in range(2):
                (folder / person / f"copy-{number}-{copy}.jpg").write_bytes(path.read_bytes())
    manifest = select(open_source(folder), Selection(minimum=3, people=2, train=2, test=1))
    hashes = [image.sha256 for image in manifest.images]
    assert len(set(hashes)) == len(hashes) == 6
    for entry in manifest.replaced:
        twin = entry.reason.removeprefix(f"{entry.ref}: ").removeprefix("the same file as ")
        assert (folder / entry.ref).read_bytes() == (folder / twin).read_bytes()
    with pytest.raises(InputError, match="the same file as"):
        select(open_source(folder), Selection(minimum=3, people=2, train=3, test=1))
