"""Any torch module as an embedder: what it is fed and what becomes of it by plain arithmetic; every mistake is one line."""

import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from facesieve.errors import EmbedderError, SettingError
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder


class Means(nn.Module):
    """The mean of each quarter of each channel: (B, 12)."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return self.gain * nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


class Gives(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def fails(x):
    raise RuntimeError("no\nway")


def factory(pretrained=False, **more):
    return Means()


def three(a, b, c):
    return Means()


@pytest.fixture(autouse=True)
def theirs(monkeypatch):
    """A package of somebody's."""
    module = types.ModuleType("their_faces")
    module.Means, module.ready, module.number = Means, Means(), 5
    module.factory, module.three, module.broken = factory, three, lambda: fails(0)
    module.half = lambda: Means().half()
    module.image, module.pair = Gives(lambda x: x), Gives(lambda x: (x.mean((2, 3)), x))
    module.one, module.raises = Gives(lambda x: x.mean(0)), Gives(fails)
    module.pixels, module.nothing = Gives(lambda x: x.mean((2, 3), keepdim=True)), Gives(lambda x: 0 * x.mean((2, 3)))
    monkeypatch.setitem(sys.modules, "their_faces", module)
    return module


def crops(size=112):
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(size))


def wanted(images, mean, std, channels="rgb"):
    x = images if channels == "rgb" else images[:, [2, 1, 0]]
    x = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    rows = torch.stack([half.mean((2, 3)) for row in x.chunk(2, 2) for half in row.chunk(2, 3)], 2).flatten(1)
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("name", ["Means", "ready", "factory"])
def test_a_class_a_module_and_a_factory(name):
    embedder = load_embedder(f"their_faces:{name}?size=112&mean=0.5&std=0.5&channels=rgb")
    assert embedder.dimensions == 12
    assert embedder.people == ()
    assert_close(torch.from_numpy(embedder.rows(crops().numpy())), wanted(crops(), [0.5], [0.5]), atol=1e-5, rtol=0)
    assert load_embedder(f"their_faces:{name}").name == embedder.name


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_what_the_module_is_fed(theirs, channels):
    embedder = load_embedder(f"their_faces:ready?size=64&mean=0.1,0.2,0.3&std=0.5,0.25,2&channels={channels}")
    rows = embedder.embed(crops(64))
    assert_close(rows, wanted(crops(64), [0.1, 0.2, 0.3], [0.5, 0.25, 2.0], channels), atol=1e-5, rtol=0)
    embedder.embed(crops(112))
    assert set(theirs.ready.seen[-2:]) == {(3, 3, 64, 64)}


def test_it_gives_gradients_and_its_weights_are_frozen(theirs):
    embedder = differentiable(load_embedder("their_faces:ready"))
    faces = crops().double().requires_grad_()
    assert not theirs.ready.training
    assert not theirs.ready.gain.requires_grad
    theirs.ready.double()
    assert torch.autograd.gradcheck(embedder.embed, faces, fast_mode=True)


def test_the_name_tells_weights_and_settings(theirs):
    plain = load_embedder("their_faces:ready").name
    assert load_embedder("their_faces:ready?mean=0").name != plain
    theirs.ready.gain.data.fill_(3)
    assert load_embedder("their_faces:ready").name != plain
    assert plain.startswith("ready-")


def test_axes_of_one_pixel_and_halves(theirs):
    assert load_embedder("their_faces:pixels").dimensions == 3
    assert load_embedder("their_faces:half").rows(crops().numpy()).dtype == np.float32


def test_weights_from_a_file(tmp_path):
    torch.save({"gain": torch.tensor(-1.0)}, tmp_path / "w+1.pth")
    rows = load_embedder(f"their_faces:factory?weights={tmp_path / 'w+1.pth'}&std=5e-1").rows(crops().numpy())
    assert_close(torch.from_numpy(rows), -wanted(crops(), [0.5], [0.5]), atol=1e-5, rtol=0)
    torch.save({"loss": torch.tensor(-1.0)}, tmp_path / "w.pth")
    with pytest.raises(EmbedderError, match="missing: gain"):
        load_embedder(f"their_faces:factory?weights={tmp_path / 'w.pth'}")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nowhere.faces:factory", "cannot be imported .No module named 'nowhere'"),
        ("their_faces:nothing_there", "cannot be imported .*no attribute 'nothing_there'"),
        ("their_faces:number", "gives int, neither a torch module nor an Embedder"),
        ("their_faces:three", "fails: .*missing 2 required"),
        ("their_faces:broken", "fails: no; name a function"),
        ("their_faces:image", r"gives shape \(2, 3, 112, 112\) of 2 faces, not a vector for each, \(2, D\)"),
        ("their_faces:one", r"gives shape \(3, 112, 112\) of 2 faces"),
        ("their_faces:pair", "gives tuple of 2 faces"),
        ("their_faces:raises", r"cannot be run on images \(2, 3, 112, 112\): no"),
        ("their_faces:nothing", "zero or not finite"),
        ("their_faces:ready?sise=112", "no setting 'sise', did you mean 'size'. There are size, mean, std, channels, weights"),
        ("their_faces:ready?size=112&size=112", "size is given twice"),
        ("their_faces:ready?size=big", "size 'big' is not a number"),
        ("their_faces:ready?size=0", "size 0 must be between 1 and 2048"),
        ("their_faces:ready?mean=nan", "mean nan must be a finite number"),
        ("their_faces:ready?std=0", "std 0"),
        ("their_faces:ready?std=inf", "std inf must be a finite number"),
        ("their_faces:ready?mean=1,2", "mean has 2 numbers"),
        ("their_faces:ready?channels=hsv", "channels 'hsv' must be rgb or bgr"),
        ("their_faces:ready?weights=nowhere.pth", "nowhere.pth: cannot be read"),
    ],
)
def test_every_mistake_is_one_line(spec, reason):
    with pytest.raises((EmbedderError, SettingError), match=reason) as caught:
        load_embedder(spec)
    assert "\n" not in str(caught.value)


def test_frbench_where_it_is_installed():
    pytest.importorskip("frbench", exc_type=ImportError)
    embedder = load_embedder("frbench.backbones:MobileFaceNet_Plain?size=112&mean=0.5&std=0.5&channels=rgb")
    faces = crops(112).requires_grad_()
    differentiable(embedder).embed(faces).sum().backward()
    assert embedder.dimensions == 512
    assert faces.grad.abs().max() > 0
