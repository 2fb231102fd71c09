"""What a shield takes for a photograph, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from facesieve.errors import InputError, SettingError
from facesieve.hardware import choose_hardware
from facesieve.images import read_photo
from facesieve.purify import preset
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from white_prior import WhitePrior


@pytest.fixture(scope="module")
def shield():
    chosen = preset("robust")
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


def test_whatever_people_hold_a_photograph_in_gives_one_result(shield, sample_paths, tmp_path):
    photo = read_photo(sample_paths[1])
    wanted, faces = shield.purify(photo, seeds=[1])
    assert not np.array_equal(wanted, photo)
    alpha = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for thing in (
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        Image.fromarray(photo),
        Image.fromarray(alpha),
        alpha,
        photo.copy(),
    ):
        made, found = shield.purify(thing, seeds=[1])
        assert np.array_equal(made, wanted)
        assert found[0].box == faces[0].box
    grey = np.asarray(Image.fromarray(photo).convert("L"))
    of_two, of_three = (shield.purify(each, seeds=[1])[0] for each in (grey, grey[..., None]))
    assert of_two.shape == photo.shape
    assert np.array_equal(of_two, of_three)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda photo: photo.astype(np.uint16) * 257, r"shape \(512, 512, 3\) and type uint16"),
        (lambda photo: photo.astype(np.float32) / 255, r"type float32"),
        (lambda photo: photo.transpose(2, 0, 1), r"shape \(3, 512, 512\)"),
        (lambda photo: photo[None], r"shape \(1, 512, 512, 3\)"),
        (lambda photo: photo.tolist(), "a list"),
        (lambda photo: {"photo": photo}, "a dict"),
    ],
)
def test_anything_else_is_refused_with_its_shape_and_type(shield, sample_paths, change, said):
    wrong = change(read_photo(sample_paths[1]))
    for call in (shield.purify, shield.cut):
        with pytest.raises(InputError, match=said):
            call(wrong)


def test_another_finish_is_refused_before_any_work(shield):
    with pytest.raises(SettingError, match="secure or as detail"):
        shield.purify("no such file.jpg", finish="nice")
