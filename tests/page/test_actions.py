"""What the page does, without a browser."""

import numpy as np
import pytest
import torch

from facesieve.attacks.objectives import PushAway
from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.galleries import create_gallery
from facesieve.galleries.base import RAW, Calibration
from facesieve.hardware import choose_hardware
from facesieve.identification import CROP, Identifier
from facesieve.images import read_photo, write_photo
from facesieve.page.actions import Actions, Attack, Settings
from facesieve.page.run import opened, photographs
from facesieve.page.text import message, mistake
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.recognition.templates import mean_template
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from white_prior import WhitePrior


@pytest.fixture(scope="module")
def shield():
    return shield_of(preset("robust"))


def shield_of(chosen):
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


@pytest.fixture(scope="module")
def actions(shield, sample_paths):
    embedder = load_sface()
    with opened(embedder, None, sample_paths[0].parent) as gallery:
        yield Actions(embedder, shield, gallery)


def quiet(progress):
    assert 0 <= progress.done <= progress.total
    assert progress.what


def test_the_sample_people_are_known_and_named_as_identification_names_them(actions, shield, sample_paths):
    assert actions.people == ["Biden", "Collins", "Hopper", "Obama"]
    (probe,) = [path for path in sample_paths if path.name == "obama-3.jpg"]
    shown = actions.purify(probe, Settings("robust", None, 3), quiet)
    assert shown.shortfall.startswith("nobody has templates behind this shield (robust-")
    (alone,) = Identifier(actions.embedder).identify(actions.gallery, shield.cut(read_photo(probe)))
    first, last = shown.names[0]
    assert (first.what, first.person, last.what) == ("as it came", "Obama", "purified")
    assert first.score == pytest.approx(alone.matches[0].score, abs=1e-5)
    assert shown.before.shape == shown.after.shape
    assert not np.array_equal(shown.before, shown.after)
    again = actions.purify(probe, Settings("robust", None, 3), quiet)
    assert np.array_equal(shown.after, again.after)
    assert not np.array_equal(actions.purify(probe, Settings("robust"), quiet).after, again.after)
    assert not np.array_equal(actions.purify(probe, Settings("robust", 4, 3), quiet).after, again.after)


def test_the_attack_stays_in_its_ball_and_reaches_its_victim(actions, sample_paths):
    (probe,) = [path for path in sample_paths if path.name == "obama-3.jpg"]
    nothing = Attack(0.1, 1)  # less than a level
    clean = actions.attack(probe, nothing, Settings("robust", None, 1), quiet).before.astype(int)
    heard = []
    shown = actions.attack(probe, Attack(8, 15, "Hopper"), Settings("robust", None, 1), heard.append)
    assert "attacking, step 15 of 15" in [progress.what for progress in heard]
    assert [progress.done for progress in heard] == sorted(progress.done for progress in heard)
    assert 0 < np.abs(shown.before.astype(int) - clean).max() <= 8
    first, attacked, _ = shown.names[0]
    assert (first.person, attacked.person) == ("Obama", "Hopper")
    away = actions.attack(probe, Attack(8, 15), Settings("robust", None, 1), quiet)
    assert away.names[0][1].person != "Obama"
    assert -1e-6 <= away.tamper[0] <= 2


def test_without_a_gallery_nobody_is_named_and_the_attack_goes_away_from_the_face_itself(shield, sample_paths):
    alone = Actions(load_sface(), shield, None)
    assert alone.people == []
    shown = alone.attack(sample_paths[0], Attack(8, 10), Settings("robust", None, 1), quiet)
    assert [one.person for one in shown.names[0]] == [None, None, None]
    assert isinstance(alone._objective(np.eye(1, 128, dtype=np.float32), None, RAW), PushAway)
    with pytest.raises(InputError, match="nobody to be taken for"):
        alone.attack(sample_paths[0], Attack(8, 1, "Hopper"), Settings("robust", None, 1), quiet)


def test_mistakes_are_one_clear_error_each(actions, shield, tmp_path, sample_paths):
    with pytest.raises(InputError, match="no photograph chosen"):
        actions.purify(None, Settings("robust"), quiet)
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"^broken\.jpg: not a"):  # where it lies on the server is nobody's business
        actions.purify(tmp_path / "broken.jpg", Settings("robust"), quiet)
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "dark.png")
    with pytest.raises(NoFaceError) as refused:
        actions.attack(tmp_path / "dark.png", Attack(8, 1), Settings("robust", None, 1), quiet)
    assert mistake(refused.value).startswith("**no face found; choose a photograph")
    for eps, steps in ((0, 1), (17, 1), (float("nan"), 1), (1, 0), (1, 41)):
        with pytest.raises(SettingError, match="levels of 255|1 to 40"):
            actions.attack(sample_paths[0], Attack(eps, steps), Settings("robust", None, 1), quiet)
    with pytest.raises(SettingError, match="unknown preset"):
        actions.purify(sample_paths[0], Settings("settings.toml"), quiet)
    with pytest.raises(GalleryError, match="Nobody"):
        actions.attack(sample_paths[0], Attack(8, 1, "Nobody"), Settings("robust", None, 1), quiet)
    other = create_gallery(str(tmp_path / "g"), embedder="another", dimensions=128)
    with pytest.raises(GalleryError, match="another"):
        Actions(actions.embedder, shield, other)
    with pytest.raises(InputError, match="no photographs"):
        photographs(tmp_path / "g")
    with pytest.raises(InputError, match="no such folder"):
        photographs(tmp_path / "nowhere")
    assert photographs(None) == []
    assert len(photographs(sample_paths[0].parent)) == 6


def test_the_preset_that_the_page_was_started_with_keeps_its_settings(actions, sample_paths):
    probe = sample_paths[0]
    coarse = Actions(actions.embedder, shield_of(preset("robust").changed(scale=4)), actions.gallery)
    wanted = actions.purify(probe, Settings("robust", 4, 3), quiet).after
    assert np.array_equal(coarse.purify(probe, Settings("robust", None, 3), quiet).after, wanted)
    coarse.purify(probe, Settings("stage1", None, 3), quiet)
    assert np.array_equal(coarse.purify(probe, Settings("robust", None, 3), quiet).after, wanted)


def test_the_templates_behind_the_shield_are_searched_and_attacked_where_everybody_has_them(shield, sample_paths):
    embedder, (probe,) = load_sface(), [path for path in sample_paths if path.name == "obama-3.jpg"]
    label = shield.card.label
    with opened(embedder, None, sample_paths[0].parent, shield) as gallery:
        actions = Actions(embedder, shield, gallery)
        shown = actions.purify(probe, Settings("robust", None, 3), quiet)
        assert [one.templates for one in shown.names[0]] == [RAW, label]
        assert shown.shortfall is None
        clean = shield.cut(read_photo(probe)).at(CROP)
        goal = actions._objective(actions._raw(clean), "Hopper", label)(torch.from_numpy(clean.crops))
        wanted = mean_template(gallery.templates_of("Hopper", kind=label)) @ embedder.rows(clean.crops)[0]
        assert float(goal.detach()) == pytest.approx(float(wanted), abs=1e-5)
        other = actions.purify(probe, Settings("robust", 4, 3), quiet)  # another setting of the shield: nobody has those
        assert [one.templates for one in other.names[0]] == [RAW, RAW]
        assert other.shortfall.startswith("nobody has templates behind this shield (robust-")


def test_below_the_threshold_of_a_calibrated_gallery_nobody_is_known(actions, shield, sample_paths):
    with opened(actions.embedder, None, sample_paths[0].parent) as gallery:
        gallery.calibrate(Calibration(0.99, 0.001, RAW, 1000))
        strict = Actions(actions.embedder, shield, gallery)
        (probe,) = [path for path in sample_paths if path.name == "obama-3.jpg"]
        first, last = strict.purify(probe, Settings("robust", None, 3), quiet).names[0]
    assert (first.person, first.known) == ("Obama", False)
    assert last.known is None  # for purified faces no threshold was chosen


def test_a_purification_says_at_each_evaluation_of_the_prior_how_far_it_is(actions, sample_paths):
    for name, evaluations in [("robust", 1), ("fused", 100)]:
        said = []
        actions.purify(sample_paths[0], Settings(name, None, 3), said.append)
        counted = [progress.what.split(", ")[1] for progress in said if "evaluation" in progress.what]
        assert counted == [f"evaluation {n} of {evaluations}" for n in range(1, evaluations + 1)]
        shares = [progress.done / progress.total for progress in said]
        assert shares == sorted(shares)


def test_what_is_not_purified_is_said(actions, sample_paths):
    (path,) = [path for path in sample_paths if path.name == "obama-2.jpg"]
    shown = actions.purify(path, Settings("robust", None, 3), quiet)
    assert shown.left == "1 possible face at 356,291"
    assert message(shown).endswith(" **Not purified: 1 possible face at 356,291.**")
    _, failures, doubts = actions.purify_all(sample_paths[-3:], Settings("robust"), quiet)
    assert (failures, doubts) == ([], ["obama-2.jpg: 1 possible face at 356,291"])


def test_of_many_faces_those_that_are_left_are_said(actions, sample_paths, monkeypatch, tmp_path):
    monkeypatch.setattr("facesieve.page.actions.MAX_FACES", 1)
    photo = read_photo(sample_paths[0])
    write_photo(tmp_path / "two.png", np.concatenate([photo, photo], axis=1))
    assert actions.purify(tmp_path / "two.png", Settings("robust"), quiet).left == "1 smaller face"
