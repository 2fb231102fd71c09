"""FaceNet against facenet-pytorch's own network, key by key and output by output; and its files."""

import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from facesieve.errors import EmbedderError
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.facenet import FaceNet
from facesieve.recognition.facenet_file import load_facenet, save_facenet


@pytest.fixture(scope="module")
def reference():
    """The published package's network with random weights and statistics: its one file, without what the package drags in."""
    found = importlib.util.find_spec("facenet_pytorch")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("facenet-pytorch is not installed: pip install --no-deps facenet-pytorch==2.6.0")
    folder = Path(next(iter(found.submodule_search_locations)))
    for name in ("", ".models", ".models.utils"):  # stand-ins: the real ones import torchvision
        module = types.ModuleType(f"facenet_pytorch{name}")
        module.__path__ = [str(folder / name.strip(".").replace(".", "/"))]
        sys.modules.setdefault(module.__name__, module)
    from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1

    torch.manual_seed(0)
    network = InceptionResnetV1(pretrained=None, classify=True, num_classes=7)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def published(reference, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "20180402-114759-vggface2.pt"
    torch.save(reference.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(1)
    network = FaceNet(3, name="facenet-test").eval()
    network.people = ("ann", "bo", "çiğdem")
    return network


def test_a_published_state_dict_loads_key_by_key(reference, published):
    ours = load_facenet(published)
    theirs = reference.state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert_close(dict(ours.state_dict()), dict(theirs), rtol=0, atol=0)


def test_embeddings_and_logits_are_the_references(reference, published):
    ours = load_facenet(published)
    crops = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    standardised = (255 * crops - 127.5) / 128  # the publishers' fixed_image_standardization
    reference.classify = True
    with torch.inference_mode():
        assert_close(ours.classify(crops), reference(standardised), rtol=1e-4, atol=1e-5)
        reference.classify = False
        assert_close(ours.embed(crops), reference(standardised), rtol=1e-4, atol=1e-5)


def test_old_published_files_without_batch_counters_load(reference, tmp_path):
    state = {name: value for name, value in reference.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    assert load_facenet(tmp_path / "old.pt").logits.out_features == 7


def test_rows_are_unit_whatever_the_size_of_the_crops(small):
    with torch.inference_mode():
        for size in (112, 160, 200):
            rows = small.embed(torch.rand(2, 3, size, size))
            assert rows.shape == (2, 512)
            assert_close(rows.norm(dim=1), torch.ones(2))


def test_is_differentiable(small):
    crops = torch.rand(1, 3, 160, 160, requires_grad=True)
    small.embed(crops)[0, 0].backward()
    assert crops.grad.abs().sum() > 0


def test_other_shapes_are_refused(small):
    with pytest.raises(ValueError, match=r"\(B, 3, S, S\)"):
        small.embed(torch.rand(1, 3, 160, 120))


def test_without_a_classifier_there_are_no_logits():
    with pytest.raises(EmbedderError, match="no classifier"):
        FaceNet().classify(torch.rand(1, 3, 160, 160))


def test_a_saved_folder_is_read_back(small, tmp_path):
    save_facenet(small, tmp_path / "net", {"name": "facenet-test"})
    again = load_embedder(str(tmp_path / "net"))
    crops = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        assert_close(again.embed(crops), small.embed(crops), rtol=0, atol=5e-3)  # fp16 on disk
    card = json.loads((tmp_path / "net" / "card.json").read_text())
    # the weights' hash is in the name: two trainings of as many people are two recognisers to a gallery
    digits = hashlib.sha256((tmp_path / "net" / "facenet.safetensors").read_bytes()).hexdigest()[:8]
    assert (again.name, again.people, again.dimensions) == (f"facenet-test-{digits}", ("ann", "bo", "çiğdem"), 512)
    assert card["people"] == ["ann", "bo", "çiğdem"]


def test_two_state_dicts_have_two_names(reference, published, tmp_path):
    state = reference.state_dict()
    other = tmp_path / published.name
    torch.save({**state, "last_bn.bias": state["last_bn.bias"] + 1}, other)
    assert load_facenet(other).name != load_facenet(published).name


def _break(folder, how):
    weights, card = folder / "facenet.safetensors", folder / "card.json"
    if how == "weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    elif how == "no weights":
        weights.unlink()
    elif how == "no card":
        card.unlink()
    else:
        card.write_text("{")


@pytest.mark.parametrize(
    ("how", "said"), [("weights", "SHA-256"), ("no weights", "safetensors"), ("no card", "card.json"), ("card", "card.json")]
)
def test_a_damaged_folder_is_one_clear_line(small, tmp_path, how, said):
    save_facenet(small, tmp_path / "net", {"name": "facenet-test"})
    _break(tmp_path / "net", how)
    with pytest.raises(EmbedderError, match=said) as error:
        load_facenet(tmp_path / "net")
    assert "\n" not in str(error.value)


def test_foreign_files_are_one_clear_line(small, tmp_path):
    torch.save({"w": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(EmbedderError, match="not an Inception-ResNet-v1"):
        load_facenet(tmp_path / "other.pt")
    state = small.state_dict()
    torch.save({**state, "last_linear.weight": torch.zeros(512, 3)}, tmp_path / "shape.pt")
    with pytest.raises(EmbedderError, match=r"last_linear.weight has shape \(512, 3\)"):
        load_facenet(tmp_path / "shape.pt")
    torch.save(small, tmp_path / "pickle.pt")
    with pytest.raises(EmbedderError, match="safely"):
        load_facenet(tmp_path / "pickle.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(EmbedderError, match="text.pt"):
        load_facenet(tmp_path / "text.pt")


@pytest.mark.parametrize(
    ("spec", "said"),
    [("nowhere", "no embedder 'nowhere'"), ("{net}?mean=0", "go with .onnx"), ("{onnx}?median=1", "no setting 'median'")],
)
def test_an_embedder_that_is_none_is_one_clear_line(small, tmp_path, spec, said):
    save_facenet(small, tmp_path / "net", {"name": "x"})
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(EmbedderError, match=said):
        load_embedder(spec.format(net=tmp_path / "net", onnx=tmp_path / "a.onnx"))
