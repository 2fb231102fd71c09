"""Who is it: the sample people, enrolled and looked up, with and without the shield."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import PushAway
from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.faces import one_face
from facesieve.galleries import create_gallery
from facesieve.galleries.base import RAW, Calibration
from facesieve.identification import CROP, Identifier, stacked
from facesieve.images import read_photo
from facesieve.recognition import thresholds
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.sface import load_sface
from facesieve.recognition.tampering import tamper_scores
from facesieve.shield import load_shield
from facesieve.specs import DEFAULT_PRESET

ENROLLED = {"Biden": ["biden-1.jpg"], "Collins": ["collins-1.jpg"], "Hopper": ["hopper-1.jpg"], "Obama": ["obama-1.jpg"]}


@pytest.fixture(scope="module")
def shield():
    return load_shield("robust")


@pytest.fixture(scope="module")
def photos(sample_paths, shield):
    """The faces in the samples, by name."""
    return {path.name: shield.cut(read_photo(path)) for path in sample_paths}


@pytest.fixture(scope="module")
def guard(shield):
    return Identifier(load_sface(), shield.card.label)


@pytest.fixture(scope="module")
def bare(guard):
    return Identifier(guard.embedder)


@pytest.fixture(scope="module")
def restored(photos, shield):
    """A photograph's faces behind the shield, by name and seed; each is made once."""
    made = {}

    def restore(name, seed=0):
        if (name, seed) not in made:
            made[name, seed] = shield.restore(photos[name], [seed])
        return made[name, seed]

    return restore


@pytest.fixture
def gallery(tmp_path, bare, photos):
    store = create_gallery(str(tmp_path / "gallery"), embedder="sface-2021dec", dimensions=128)
    for person, names in ENROLLED.items():
        store.enrol(person, stacked([bare.templates(photos[name]) for name in names]))
    yield store
    store.close()


def test_an_enrolled_person_is_named_from_another_photograph(gallery, guard, bare, photos, restored):
    for identifier, after in ((bare, None), (guard, restored("obama-2.jpg"))):
        (found,) = identifier.identify(gallery, photos["obama-2.jpg"], after, count=4)
        assert found.matches[0].person == "Obama"
        assert [match.score for match in found.matches] == sorted((m.score for m in found.matches), reverse=True)
        assert {match.person for match in found.matches} == set(ENROLLED)


def test_scores_are_the_cosines_of_the_embeddings(gallery, bare, photos):
    (found,) = bare.identify(gallery, photos["obama-2.jpg"])
    (own,) = bare.templates(photos["obama-1.jpg"])[RAW]
    (probe,) = bare.templates(photos["obama-2.jpg"])[RAW]
    assert found.matches[0].score == pytest.approx(float(own.astype(np.float64) @ probe), abs=1e-5)


def test_without_a_threshold_nobody_is_called_known_or_unknown(gallery, guard, bare, photos, restored):
    """Where none is wanted, and for a shield that has no default."""
    for identifier, after, wanted in ((bare, None, "none"), (guard, restored("obama-2.jpg"), None)):
        (found,) = identifier.identify(gallery, photos["obama-2.jpg"], after, threshold=wanted)
        assert (found.threshold, found.origin, found.person) == (None, None, None)
        verified = identifier.verify(gallery, "Obama", photos["obama-2.jpg"], after, threshold=wanted)
        assert (verified.same, verified.origin) == (None, None)


def test_by_default_a_stranger_is_unknown_and_the_same_person_named(tmp_path, gallery, bare, photos):
    """As the photographs come, and behind the default preset; by each recogniser that ships."""
    gallery.remove("Collins")
    shield = load_shield(DEFAULT_PRESET)
    after = {name: shield.restore(faces, [1]) for name, faces in photos.items()}
    for number, embedder in enumerate((bare.embedder, load_embedder("dlib"))):
        store = create_gallery(str(tmp_path / str(number)), embedder=embedder.name, dimensions=embedder.dimensions)
        behind, plain = Identifier(embedder, shield.card.label), Identifier(embedder)
        for kinds in ("raw", "both"):
            for person, (name,) in ENROLLED.items():
                if person != "Collins":
                    store.enrol(person, behind.templates(photos[name], after[name], kinds))
            for identifier in (plain, behind):
                for name, person in (("collins-1.jpg", None), ("obama-2.jpg", "Obama"), ("obama-3.jpg", "Obama")):
                    (found,) = identifier.identify(store, photos[name], after[name])
                    assert (found.person, found.origin) == (person, "default"), (embedder.name, identifier.purifier, name)
                assert identifier.verify(store, "Obama", photos["obama-2.jpg"], after["obama-2.jpg"]).same
                assert not identifier.verify(store, "Obama", photos["collins-1.jpg"], after["collins-1.jpg"]).same
                pair, made = ("obama-2.jpg", "collins-1.jpg"), [after["obama-2.jpg"], after["collins-1.jpg"]]
                assert identifier.compare(*(photos[name] for name in pair), after=made).same is False
            for person in ("Biden", "Hopper", "Obama"):
                store.remove(person)
        store.close()


def test_the_defaults_say_what_they_are_of_and_how_they_were_made():
    stored = json.loads(thresholds.FILE.read_text())
    assert stored["source"].startswith("experiments/tuning-105.json")
    assert stored["command"].startswith("python experiments/thresholds.py")
    label = load_shield(DEFAULT_PRESET).card.label  # a preset of other weights has no default: choose them anew
    kinds = {(RAW, RAW), (label, label), (label, RAW)}
    names = (load_sface().name, load_embedder("dlib").name)
    assert {(one["embedder"], one["purifier"], one["templates"]) for one in stored["thresholds"]} == {
        (name, *kind) for name in names for kind in kinds
    }
    assert stored["false_accept_rate"] == 0.01
    for one in stored["thresholds"]:
        of = partial(thresholds.default_threshold, one["embedder"], one["purifier"], one["templates"])
        assert one["people"][0] == 1
        assert one["threshold"] == sorted(one["threshold"])  # more people, more who resemble a stranger
        for people, value, (low, high) in zip(one["people"], one["threshold"], one["interval"], strict=True):
            assert -1 < low <= value <= high < 1
            assert of(people) == pytest.approx(value)
        assert of(1) < of(2) < of(3)
        assert of(100_000) == of(one["people"][-1])


def test_the_calibrated_threshold_of_the_same_shield_decides(gallery, guard, bare, photos, restored):
    (score,) = [found.matches[0].score for found in bare.identify(gallery, photos["obama-2.jpg"])]
    gallery.calibrate(Calibration(score - 0.01, 0.01, RAW, 100))
    assert bare.identify(gallery, photos["obama-2.jpg"])[0].person == "Obama"
    assert (
        guard.identify(gallery, photos["obama-2.jpg"], restored("obama-2.jpg"))[0].threshold is None
    )  # another way of treating probes
    gallery.calibrate(Calibration(score + 0.01, 0.001, RAW, 100))
    assert bare.identify(gallery, photos["obama-2.jpg"])[0].person is None
    (given,) = bare.identify(gallery, photos["obama-2.jpg"], threshold=0.1)
    assert (given.person, given.threshold, given.origin) == ("Obama", 0.1, "given")
    assert bare.identify(gallery, photos["obama-2.jpg"])[0].origin == "gallery"


def test_verification_is_against_the_one_person(gallery, bare, photos):
    same = bare.verify(gallery, "Obama", photos["obama-2.jpg"], threshold=0.4)
    other = bare.verify(gallery, "Hopper", photos["obama-2.jpg"], threshold=0.4)
    assert same.same
    assert not other.same
    assert bare.compare(photos["obama-1.jpg"], photos["obama-2.jpg"], threshold=0.4).score == pytest.approx(same.score, abs=1e-5)
    with pytest.raises(GalleryError, match="Nobody"):
        bare.verify(gallery, "Nobody", photos["obama-2.jpg"])


def test_the_shield_says_what_it_changed(gallery, guard, bare, photos, restored):
    (shielded,) = guard.identify(gallery, photos["obama-2.jpg"], restored("obama-2.jpg"))
    (alone,) = bare.identify(gallery, photos["obama-2.jpg"])
    assert shielded.unshielded.person == alone.matches[0].person
    assert shielded.unshielded.score == pytest.approx(alone.matches[0].score, abs=1e-6)
    before, after = photos["obama-2.jpg"], restored("obama-2.jpg")
    assert shielded.change == pytest.approx(float(np.abs(after.crops - before.crops).mean()), abs=1e-6)
    assert (alone.change, alone.unshielded, alone.tamper) == (None, None, None)
    raw, purified = guard.embedder.rows(before.at(CROP).crops), guard.embedder.rows(after.crops)
    assert shielded.tamper == pytest.approx(1 - float((raw * purified).sum()), abs=1e-6)


def test_the_tamper_score_is_one_minus_the_cosine():
    red, green = np.eye(2, 3, dtype=np.float32)
    purified = np.stack([red, green, (red + green) / 2**0.5])
    assert tamper_scores(np.stack([red, red, red]), purified) == pytest.approx([0, 1, 1 - 2**-0.5], abs=1e-6)


def test_an_attacked_face_has_a_higher_tamper_score(guard, bare, photos, shield):
    """The attack is made at the raw templates' size and pasted into the photograph, as a photograph arrives."""
    clean = photos["obama-2.jpg"]
    cut = clean.at(CROP)
    away = PushAway(bare.embedder, torch.from_numpy(bare.raw_rows(photos["obama-1.jpg"])))
    attacked = pgd(away, torch.from_numpy(cut.crops), eps=8 / 255, step=2 / 255, iterations=20)
    tampered = shield.cut(cut.with_crops(attacked.numpy()).paste())
    (before,), (after,) = (
        tamper_scores(guard.raw_rows(face), guard.rows(face, shield.restore(face, [0]))) for face in (clean, tampered)
    )
    assert after > before + 0.2


def test_same_seed_same_scores(gallery, guard, photos, shield, restored):
    before = photos["obama-2.jpg"]
    again = shield.restore(before, [1])
    first, second, other = (
        guard.identify(gallery, before, after)[0].matches
        for after in (restored("obama-2.jpg", 1), again, restored("obama-2.jpg", 2))
    )
    assert first == second
    assert first != other


def test_templates_of_both_kinds_carry_their_labels(guard, photos, restored):
    made = stacked([guard.templates(photos[name], restored(name, 1), "both") for name in ("obama-1.jpg", "obama-2.jpg")])
    assert set(made) == {RAW, guard.purifier}
    assert all(rows.shape == (2, 128) for rows in made.values())
    assert guard.purifier.startswith("robust-")


def test_purified_templates_are_no_use_behind_another_shield(tmp_path, guard, bare, photos, restored):
    store = create_gallery(str(tmp_path / "gallery"), embedder="sface-2021dec", dimensions=128)
    store.enrol("Obama", guard.templates(photos["obama-1.jpg"], restored("obama-1.jpg", 1), "purified"))
    (found,) = guard.identify(store, photos["obama-2.jpg"], restored("obama-2.jpg"))
    assert found.matches[0].person == "Obama"
    assert found.unshielded is None
    with pytest.raises(GalleryError, match=guard.purifier):
        bare.identify(store, photos["obama-2.jpg"])
    store.close()


@pytest.fixture
def both(tmp_path, guard, photos, restored):
    """A gallery in which everyone has both kinds of templates."""
    store = create_gallery(str(tmp_path / "both"), embedder="sface-2021dec", dimensions=128)
    for person, (name,) in ENROLLED.items():
        store.enrol(person, guard.templates(photos[name], restored(name, 1), "both"))
    yield store
    store.close()


def best_of(store, person, kind, probe):
    return pytest.approx(float((store.templates_of(person, kind=kind) @ probe).max()), abs=1e-5)


def test_where_everyone_has_templates_behind_the_shield_they_alone_are_searched(both, guard, bare, photos, restored):
    before, after = photos["obama-2.jpg"], restored("obama-2.jpg")
    (probe,), (raw,) = guard.rows(before, after), guard.raw_rows(before)
    assert (guard.kind(both), guard.shortfall(both)) == (guard.purifier, None)
    (found,) = guard.identify(both, before, after, count=4)
    assert found.templates == guard.purifier
    assert {m.person: m.score for m in found.matches} == {p: best_of(both, p, guard.purifier, probe) for p in ENROLLED}
    assert found.unshielded.score == best_of(both, "Obama", RAW, raw)
    for person in ("Obama", "Hopper"):
        verified = guard.verify(both, person, before, after)
        assert (verified.score, verified.templates) == (best_of(both, person, guard.purifier, probe), guard.purifier)
    (alone,) = bare.identify(both, before)
    assert (alone.templates, alone.matches[0].score) == (RAW, best_of(both, "Obama", RAW, raw))
    assert (bare.kind(both), bare.shortfall(both)) == (RAW, None)
    assert bare.compare(before, before).templates is None


def test_where_one_person_lacks_them_the_raw_ones_of_all_are_searched(both, guard, bare, photos, restored):
    before, after = photos["obama-2.jpg"], restored("obama-2.jpg")
    both.enrol("Newcomer", bare.templates(photos["obama-3.jpg"]))
    (probe,) = guard.rows(before, after)
    (found,) = guard.identify(both, before, after, count=5)
    assert found.templates == RAW
    assert {m.person: m.score for m in found.matches} == {p: best_of(both, p, RAW, probe) for p in (*ENROLLED, "Newcomer")}
    verified = guard.verify(both, "Obama", before, after)  # who has both kinds
    assert (verified.score, verified.templates) == (best_of(both, "Obama", RAW, probe), RAW)
    assert guard.shortfall(both) == f"Newcomer has no templates behind this shield ({guard.purifier}), so raw ones are searched"
    both.remove("Newcomer")
    assert guard.identify(both, before, after)[0].templates == guard.purifier


def test_after_new_weights_or_another_preset_the_raw_templates_still_work(both, guard, photos, restored):
    renewed = Identifier(guard.embedder, "robust-of-new-weights")
    before, after = photos["obama-2.jpg"], restored("obama-2.jpg")
    both.calibrate(Calibration(0.3, 0.01, guard.purifier, 100))
    (found,) = renewed.identify(both, before, after)
    assert (found.templates, found.matches[0].person, found.threshold) == (RAW, "Obama", None)
    assert renewed.verify(both, "Obama", before, after).templates == RAW
    assert renewed.shortfall(both) == "nobody has templates behind this shield (robust-of-new-weights), so raw ones are searched"
    assert guard.identify(both, before, after)[0].threshold == 0.3  # the shield of before finds what it had


def test_a_threshold_counts_for_the_templates_that_it_was_chosen_on(both, guard, bare, photos, restored):
    before, after = photos["obama-2.jpg"], restored("obama-2.jpg")
    both.calibrate(Calibration(0.3, 0.01, guard.purifier, 100, guard.purifier))
    assert guard.identify(both, before, after)[0].threshold == 0.3
    both.enrol("Newcomer", bare.templates(photos["obama-3.jpg"]))  # from now on raw templates are searched
    assert guard.identify(both, before, after)[0].threshold is None
    both.calibrate(Calibration(0.4, 0.01, guard.purifier, 100, RAW))
    assert guard.identify(both, before, after)[0].threshold == 0.4
    both.remove("Newcomer")
    assert guard.identify(both, before, after)[0].threshold == 0.3


def test_a_person_of_purified_templates_alone_cannot_be_missed_in_silence(both, guard, bare, photos, restored):
    both.enrol("Raw", bare.templates(photos["obama-3.jpg"]))
    both.enrol("Purified", guard.templates(photos["obama-3.jpg"], restored("obama-3.jpg", 1), "purified"))
    for act in (guard.identify, lambda store, *faces: guard.verify(store, "Purified", *faces)):
        with pytest.raises(GalleryError, match=r"Purified has templates of robust-\w+ only, and those of raw are searched"):
            act(both, photos["obama-2.jpg"], restored("obama-2.jpg"))


def test_labels_tell_settings_apart(shield):
    other = load_shield(shield.runtime.preset.changed(steps=4))
    assert other.card.label != shield.card.label
    assert load_shield("robust").card.label == shield.card.label


def test_another_embedder_is_refused(gallery, photos):
    class Other:
        name, dimensions, people = "other", 128, ()

        def rows(self, crops):
            return np.full((len(crops), 128), 128**-0.5, np.float32)

    with pytest.raises(GalleryError, match="by sface-2021dec, not by other"):
        Identifier(Other()).identify(gallery, photos["obama-1.jpg"])


def test_mistakes_are_one_clear_error_each(guard, bare, photos, shield, tmp_path):
    photo = photos["obama-1.jpg"].photo
    two = shield.cut(np.concatenate([photo[:400, :400], photo[:400, :400]], axis=1))
    with pytest.raises(InputError, match="2 faces found where one is meant"):
        bare.templates(two)
    with pytest.raises(InputError, match="2 faces found where one is meant"):
        one_face(two)
    with pytest.raises(NoFaceError, match="no face found"):
        shield.cut(np.full((200, 200, 3), 127, np.uint8))
    with pytest.raises(SettingError, match="purified faces are needed"):
        guard.templates(photos["obama-1.jpg"], None, "purified")
    with pytest.raises(SettingError, match="choose raw, purified or both"):
        guard.templates(photos["obama-1.jpg"], None, "neither")
    empty = create_gallery(str(tmp_path / "empty"), embedder="sface-2021dec", dimensions=128)
    with pytest.raises(GalleryError, match="empty|nobody"):
        bare.identify(empty, photos["obama-1.jpg"])
    empty.close()
