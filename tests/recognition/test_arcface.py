"""ArcFace's networks, small and with random weights, against a second writing and against ONNX Runtime on what was exported."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.testing import assert_close

import second_arcface as second
from canary import Canary
from facesieve.errors import EmbedderError
from facesieve.recognition.arcface_file import arcface_of, load_arcface
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.iresnet import IResNet
from facesieve.recognition.mobilefacenet import MobileFaceNet

FAMILIES = {
    "iresnet": (second.iresnet_state, second.iresnet, IResNet, (1, 2, 1, 1)),
    "mobilefacenet": (second.mobilefacenet_state, second.mobilefacenet, MobileFaceNet, (1, 2, 1, 1)),
    "large mobilefacenet": (
        lambda **more: second.mobilefacenet_state((2, 1, 2, 1), **more),
        second.mobilefacenet,
        MobileFaceNet,
        (2, 1, 2, 1),
    ),
}
OUTPUT, GRADIENT = 1e-5, 1e-4  # the largest differences, of unit rows and relative of gradients


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return FAMILIES[request.param]


def crops(batch=2, size=112, dtype=torch.float32):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size), dtype=dtype)


def unit(rows):
    return nn.functional.normalize(rows)


class View(nn.Module):
    """How InsightFace's MobileFaceNet flattens: the exporter makes a chain of nodes of it."""

    def forward(self, x):
        return x.view(x.size(0), -1)


class Unfolded(nn.Module):
    """A network as it is trained, for the exporter: standardised pixels in, vectors out."""

    def __init__(self, kind, state):
        super().__init__()
        self.network = kind.sized_for(state)
        self.network.load_state_dict(state)
        if kind is MobileFaceNet:
            self.network.features.layers[1] = View()

    def forward(self, data):
        return self.network.trunk(data)


def exported(path, kind, state, *, how="folded", nameless=False):
    """The ONNX file as InsightFace makes it; ``how`` of "as it is" leaves normalisations alone, "dynamo" is today's exporter."""
    module, example = Unfolded(kind, state).eval(), torch.zeros(1, 3, 112, 112)
    more = {
        "folded": {"dynamo": False, "opset_version": 11},
        "as it is": {
            "dynamo": False,
            "opset_version": 13,
            "training": torch.onnx.TrainingMode.PRESERVE,
            "do_constant_folding": False,
        },
        "dynamo": {"dynamo": True, "opset_version": 18},
    }[how]
    torch.onnx.export(module, (example,), path, input_names=["data"], verbose=False, **more)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "None"
    for number, tensor in enumerate(model.graph.initializer):
        if nameless:
            old, tensor.name = tensor.name, str(1000 + number)
            for node in model.graph.node:
                node.input[:] = [tensor.name if name == old else name for name in node.input]
    onnx.save(model, path)
    return path


def by_runtime(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.concatenate([session.run(None, {"data": image[None].numpy()})[0] for image in images]))


# --- state dicts --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_against_the_second_writing(family, prefix, tmp_path):
    make, write, kind, blocks = family
    state, path = make(), tmp_path / "backbone.pth"
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, path)
    embedder = load_embedder(str(path))
    assert isinstance(embedder, kind)
    assert embedder.dimensions == 16
    assert embedder.name.startswith("backbone-")
    wanted = unit(write(state, (crops() - 0.5) / 0.5, blocks))
    assert_close(torch.from_numpy(embedder.rows(crops().numpy())), wanted, atol=OUTPUT, rtol=0)


def test_the_gradient_against_the_second_writings(family):
    make, write, _, blocks = family
    state = make()
    direction = torch.randn(2, 16, generator=torch.Generator().manual_seed(5))
    ours, theirs = crops().requires_grad_(), crops().requires_grad_()
    (arcface_of(state, "here").embed(ours) * direction).sum().backward()
    (unit(write(state, (theirs - 0.5) / 0.5, blocks)) * direction).sum().backward()
    assert theirs.grad.abs().max() > 0
    assert (ours.grad - theirs.grad).abs().max() <= GRADIENT * theirs.grad.abs().max()


def test_the_gradient_against_finite_differences(family):
    embed = arcface_of(family[0](), "here", dtype=torch.float64).embed
    assert torch.autograd.gradcheck(embed, crops(1, 112, torch.float64).requires_grad_(), fast_mode=True)


@pytest.mark.parametrize(
    ("blocks", "millions"), [((2, 2, 2, 2), 24.0), ((3, 4, 6, 3), 34.1), ((3, 4, 14, 3), 43.6), ((3, 13, 30, 3), 65.2)]
)
def test_the_published_sizes(blocks, millions):
    """InsightFace states these numbers of weights for 18, 34, 50 and 100 layers."""
    with torch.device("meta"):
        network = IResNet(blocks)
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 1) == millions


def test_a_network_is_frozen_and_in_evaluation_mode(family):
    network = arcface_of(family[0](), "here")
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"layer1.0.conv1.weight": Canary(tmp_path / "run")}, tmp_path / "backbone.pth")
    with pytest.raises(EmbedderError, match="not run"):
        load_embedder(str(tmp_path / "backbone.pth"))
    assert not (tmp_path / "run").exists()


def test_other_state_dicts_are_one_clear_line(family, tmp_path):
    state = family[0]()
    first = next(iter(state))
    damaged = {
        "missing": {name: value for name, value in state.items() if name != first.replace("weight", "running_mean")},
        "not finite": {**state, first: torch.full_like(state[first], torch.nan)},
        "unknown": {**state, "head.weight": torch.zeros(2)},
        "neither": {"weight": torch.zeros(2)},
    }
    del damaged["missing"]["layers.0.layers.1.bias" if "layers.0.layers.1.bias" in state else "bn1.bias"]
    for reason, other in damaged.items():
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(EmbedderError, match=reason) as caught:
            load_arcface(tmp_path / "other.pth")
        assert "\n" not in str(caught.value)


def test_facenets_weights_are_still_facenets(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(EmbedderError, match="Inception-ResNet-v1"):
        load_embedder(str(tmp_path / "other.pt"))


# --- ONNX files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "how", "nameless"),
    [*((name, how, how == "folded") for name in FAMILIES for how in ("folded", "as it is")), ("iresnet", "dynamo", False)],
    indirect=["family"],
)
def test_an_onnx_file_against_onnx_runtime_and_the_second_writing(family, how, nameless, tmp_path):
    make, write, kind, blocks = family
    state = make(seed=3)
    path = exported(tmp_path / "w600k.onnx", kind, state, how=how, nameless=nameless)
    embedder, plain = load_embedder(str(path)), load_embedder(str(path), gradients=False)
    assert isinstance(differentiable(embedder), kind)
    assert embedder.name == plain.name
    found = torch.from_numpy(embedder.rows(crops().numpy()))
    assert_close(found, unit(by_runtime(path, (crops() - 0.5) / 0.5)), atol=OUTPUT, rtol=0)
    assert_close(found, unit(write(state, (crops() - 0.5) / 0.5, blocks)), atol=OUTPUT, rtol=0)
    assert_close(found, torch.from_numpy(plain.rows(crops().numpy())), atol=OUTPUT, rtol=0)


def test_the_gradient_of_an_onnx_file_is_the_state_dicts(family, tmp_path):
    make, write, kind, blocks = family
    state = make(seed=4)
    embedder = load_embedder(str(exported(tmp_path / "w600k.onnx", kind, state)))
    ours, theirs = crops().requires_grad_(), crops().requires_grad_()
    embedder.embed(ours)[:, 0].sum().backward()
    unit(write(state, (theirs - 0.5) / 0.5, blocks))[:, 0].sum().backward()
    assert (ours.grad - theirs.grad).abs().max() <= GRADIENT * theirs.grad.abs().max()


def with_front(path, mean, std):
    """As MXNet's files begin: the graph itself subtracts and multiplies."""
    model = onnx.load(path)
    for tensor in (
        numpy_helper.from_array(np.array([mean], np.float32), "m"),
        numpy_helper.from_array(np.array([1 / std], np.float32), "s"),
    ):
        model.graph.initializer.append(tensor)
    for node in model.graph.node:
        node.input[:] = ["scaled" if name == "data" else name for name in node.input]
    nodes = [
        onnx.helper.make_node("Sub", ["data", "m"], ["centred"]),
        onnx.helper.make_node("Mul", ["centred", "s"], ["scaled"]),
        *model.graph.node,
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)
    return path


def test_a_graph_that_standardises_itself_and_takes_blue_first(tmp_path):
    state = second.iresnet_state()
    path = with_front(exported(tmp_path / "mx.onnx", IResNet, state), 127.5, 128)
    embedder = load_embedder(f"{path}?mean=0&std=1&channels=bgr")
    wanted = unit(second.iresnet(state, (255 * crops().flip(1) - 127.5) / 128, (1, 2, 1, 1)))
    assert isinstance(embedder, IResNet)
    assert_close(torch.from_numpy(embedder.rows(crops().numpy())), wanted, atol=OUTPUT, rtol=0)


def test_a_graph_of_another_network_has_no_gradients_and_says_why(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.onnx.export(module.eval(), (torch.zeros(1, 3, 112, 112),), tmp_path / "x.onnx", dynamo=False)
    embedder = load_embedder(str(tmp_path / "x.onnx"))
    assert embedder.rows(crops(1).numpy()).shape == (1, 4)
    with pytest.raises(EmbedderError, match="no gradients: a step Relu, which no known network has"):
        differentiable(embedder)


def test_the_same_steps_put_together_in_another_way_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("facesieve.recognition.iresnet._Block.forward", _without_shortcut)
    path = exported(tmp_path / "x.onnx", IResNet, second.iresnet_state((1, 2, 1, 1)))
    monkeypatch.undo()
    with pytest.raises(EmbedderError, match="other embeddings"):
        differentiable(load_embedder(str(path)))


def _without_shortcut(block, x):
    branch = block.bn3(block.conv2(block.prelu(block.bn2(block.conv1(block.bn1(x))))))
    return branch + (branch if block.downsample is None else block.downsample(x))


def test_a_graph_that_makes_many_numbers_of_few_is_not_computed(tmp_path):
    path = exported(tmp_path / "x.onnx", IResNet, second.iresnet_state())
    model = onnx.load(path)
    model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["many"], ["large"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "many"))
    onnx.save(model, path)
    with pytest.raises(EmbedderError, match="a step ConstantOfShape of constants"):
        differentiable(load_embedder(str(path)))
