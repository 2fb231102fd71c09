"""Who is it: the sample people, enrolled and looked up, with and without the shield."""

import numpy as np
import pytest
import torch

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import PushAway
from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.galleries import create_gallery
from facesieve.galleries.base import RAW, Calibration
from facesieve.identification import Identifier, tamper_score
from facesieve.images import read_photo
from facesieve.recognition.sface import load_sface
from facesieve.shield import load_shield

ENROLLED = {"Biden": ["biden-1.jpg"], "Collins": ["collins-1.jpg"], "Hopper": ["hopper-1.jpg"], "Obama": ["obama-1.jpg"]}


@pytest.fixture(scope="module")
def photos(sample_paths):
    return {path.name: read_photo(path) for path in sample_paths}


@pytest.fixture(scope="module")
def guard():
    return Identifier(load_sface(), load_shield("fast"))


@pytest.fixture(scope="module")
def bare(guard):
    return Identifier(guard.embedder)


@pytest.fixture
def gallery(tmp_path, guard, photos):
    store = create_gallery(str(tmp_path / "gallery"), embedder="sface-2021dec", dimensions=128)
    for person, names in ENROLLED.items():
        store.enrol(person, guard.templates([photos[name] for name in names]))
    yield store
    store.close()


def test_an_enrolled_person_is_named_from_another_photograph(gallery, guard, bare, photos):
    for identifier, seeds in ((bare, None), (guard, [0])):
        (found,) = identifier.identify(gallery, photos["obama-2.jpg"], count=4, seeds=seeds)
        assert found.matches[0].person == "Obama"
        assert [match.score for match in found.matches] == sorted((m.score for m in found.matches), reverse=True)
        assert {match.person for match in found.matches} == set(ENROLLED)


def test_scores_are_the_cosines_of_the_embeddings(gallery, bare, photos):
    (found,) = bare.identify(gallery, photos["obama-2.jpg"])
    (own,) = bare.templates([photos["obama-1.jpg"]])[RAW]
    (probe,) = bare.templates([photos["obama-2.jpg"]])[RAW]
    assert found.matches[0].score == pytest.approx(float(own.astype(np.float64) @ probe), abs=1e-5)


def test_without_a_threshold_nobody_is_called_known_or_unknown(gallery, bare, photos):
    (found,) = bare.identify(gallery, photos["obama-2.jpg"])
    assert found.threshold is None
    assert found.person is None
    verified = bare.verify(gallery, photos["obama-2.jpg"], "Obama")
    assert verified.same is None


def test_the_calibrated_threshold_of_the_same_shield_decides(gallery, guard, bare, photos):
    (score,) = [found.matches[0].score for found in bare.identify(gallery, photos["obama-2.jpg"])]
    gallery.calibrate(Calibration(score - 0.01, 0.01, RAW, 100))
    assert bare.identify(gallery, photos["obama-2.jpg"])[0].person == "Obama"
    assert guard.identify(gallery, photos["obama-2.jpg"], seeds=[0])[0].threshold is None  # another way of treating probes
    gallery.calibrate(Calibration(score + 0.01, 0.001, RAW, 100))
    assert bare.identify(gallery, photos["obama-2.jpg"])[0].person is None
    assert bare.identify(gallery, photos["obama-2.jpg"], threshold=0.1)[0].person == "Obama"  # given by hand


def test_verification_is_against_the_one_person(gallery, bare, photos):
    same = bare.verify(gallery, photos["obama-2.jpg"], "Obama", threshold=0.4)
    other = bare.verify(gallery, photos["obama-2.jpg"], "Hopper", threshold=0.4)
    assert same.same
    assert not other.same
    assert bare.compare(photos["obama-1.jpg"], photos["obama-2.jpg"], threshold=0.4).score == pytest.approx(same.score, abs=1e-5)
    with pytest.raises(GalleryError, match="Nobody"):
        bare.verify(gallery, photos["obama-2.jpg"], "Nobody")


def test_the_shield_says_what_it_changed(gallery, guard, bare, photos):
    (shielded,) = guard.identify(gallery, photos["obama-2.jpg"], seeds=[0])
    (alone,) = bare.identify(gallery, photos["obama-2.jpg"])
    assert shielded.unshielded.person == alone.matches[0].person
    assert shielded.unshielded.score == pytest.approx(alone.matches[0].score, abs=1e-6)
    face = guard.one_face(photos["obama-2.jpg"])
    crop = guard.shield.crop(photos["obama-2.jpg"], face)[None]
    change = (guard.shield.trace(crop, [0])[-1][1] - crop).abs().mean()
    assert shielded.change == pytest.approx(float(change), abs=1e-6)
    assert (alone.change, alone.unshielded, alone.tamper) == (None, None, None)
    before, after = guard.raw_rows(photos["obama-2.jpg"], [face]), guard.rows(photos["obama-2.jpg"], [face], [0])
    assert shielded.tamper == pytest.approx(1 - float((before * after).sum()), abs=1e-6)


def test_the_tamper_score_is_one_minus_the_cosine():
    class Means:  # an embedder whose cosines are known: the direction of the mean colour
        name, dimensions = "means", 3

        def embed(self, crops):
            return torch.nn.functional.normalize(crops.mean((2, 3)), dim=1)

    red, green = (torch.zeros(1, 3, 8, 8).index_fill(1, torch.tensor(channel), 0.7) for channel in (0, 1))
    before, after = torch.cat([red, red, red]), torch.cat([red, green, (red + green) / 2])
    assert tamper_score(Means(), before, after[:, :, :4]).tolist() == pytest.approx([0, 1, 1 - 2**-0.5], abs=1e-6)


def test_an_attacked_face_has_a_higher_tamper_score(guard, bare, photos):
    crop = guard.shield.crop(photos["obama-2.jpg"], guard.one_face(photos["obama-2.jpg"]))[None]
    own = torch.from_numpy(bare.raw_rows(photos["obama-1.jpg"], [guard.one_face(photos["obama-1.jpg"])]))
    away = PushAway(bare.embedder, own)
    attacked = pgd(away, crop, eps=8 / 255, step=2 / 255, iterations=5)
    clean, tampered = (tamper_score(bare.embedder, one, guard.shield.trace(one, [0])[-1][1]) for one in (crop, attacked))
    assert float(tampered) > float(clean) + 0.2


def test_same_seed_same_scores(gallery, guard, photos):
    first, second, other = (guard.identify(gallery, photos["obama-2.jpg"], seeds=[seed])[0].matches for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_templates_of_both_kinds_carry_their_labels(guard, photos):
    made = guard.templates([photos["obama-1.jpg"], photos["obama-2.jpg"]], "both", [1, 2])
    assert set(made) == {RAW, guard.purifier}
    assert all(rows.shape == (2, 128) for rows in made.values())
    assert guard.purifier.startswith("fast-")


def test_purified_templates_are_no_use_behind_another_shield(tmp_path, guard, bare, photos):
    store = create_gallery(str(tmp_path / "gallery"), embedder="sface-2021dec", dimensions=128)
    store.enrol("Obama", guard.templates([photos["obama-1.jpg"]], "purified", [1]))
    assert guard.identify(store, photos["obama-2.jpg"], seeds=[0])[0].matches[0].person == "Obama"
    assert guard.identify(store, photos["obama-2.jpg"], seeds=[0])[0].unshielded is None
    with pytest.raises(GalleryError, match=guard.purifier):
        bare.identify(store, photos["obama-2.jpg"])
    store.close()


def test_labels_tell_settings_apart(guard):
    other = load_shield(guard.shield.preset.changed(steps=4))
    assert other.label != guard.shield.label
    assert load_shield("fast").label == guard.shield.label


def test_another_embedder_is_refused(gallery, photos):
    class Other:
        name, dimensions = "other", 128

        def embed(self, crops):
            return torch.nn.functional.normalize(torch.ones(len(crops), 128))

    with pytest.raises(GalleryError, match="by sface-2021dec, not by other"):
        Identifier(Other()).identify(gallery, photos["obama-1.jpg"])


def test_mistakes_are_one_clear_error_each(guard, bare, photos, tmp_path):
    blank = np.full((200, 200, 3), 127, np.uint8)
    two = np.concatenate([photos["obama-1.jpg"][:400, :400], photos["obama-1.jpg"][:400, :400]], axis=1)
    with pytest.raises(NoFaceError, match="no face found"):
        bare.templates([blank])
    with pytest.raises(InputError, match="2 faces found where one is meant"):
        bare.templates([two])
    with pytest.raises(SettingError, match="need a shield"):
        bare.templates([photos["obama-1.jpg"]], "purified")
    with pytest.raises(SettingError, match="choose raw, purified or both"):
        guard.templates([photos["obama-1.jpg"]], "neither")
    empty = create_gallery(str(tmp_path / "empty"), embedder="sface-2021dec", dimensions=128)
    with pytest.raises(GalleryError, match="empty|nobody"):
        bare.identify(empty, photos["obama-1.jpg"])
    empty.close()
