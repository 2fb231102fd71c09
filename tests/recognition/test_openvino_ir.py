"""OpenVINO's IR read without it: a small network of the kinds of steps that face-reidentification-retail-0095 has.

The oracle is OpenVINO itself, which writes the files and runs them.
"""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.errors import EmbedderError
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.embedders import load_embedder

openvino = pytest.importorskip("openvino")
from openvino import opset8 as ops  # noqa: E402

SIDE = 128


def bottleneck(x, draw, width, wide, stride):
    """An inverted residual block with squeeze and excitation, as that network has it."""
    y = ops.prelu(ops.add(convolution(x, draw(wide, width, 1, 1)), draw(1, wide, 1, 1)), draw(1))
    y = ops.group_convolution(y, draw(wide, 1, 1, 3, 3), [stride, stride], [1, 1], [1, 1], [1, 1])
    y = ops.prelu(ops.add(y, draw(1, wide, 1, 1)), np.abs(draw(wide)))
    y = ops.add(convolution(y, draw(width, wide, 1, 1)), draw(1, width, 1, 1))
    side = y.get_output_partial_shape(0)[-1].get_length()
    s = ops.avg_pool(y, [side, side], [0, 0], [0, 0], [side, side], False)
    s = ops.prelu(ops.add(convolution(s, draw(2, width, 1, 1)), draw(1, 2, 1, 1)), draw(1))
    s = ops.sigmoid(ops.add(convolution(s, draw(width, 2, 1, 1)), draw(1, width, 1, 1)))
    y = ops.multiply(y, s)
    return ops.add(x, y) if stride == 1 else y


def convolution(x, weight, stride=1, padding=0):
    return ops.convolution(x, weight, [stride, stride], [padding, padding], [padding, padding], [1, 1])


def written(folder, *, halves=False, last=None, dynamic=False):
    """A small recogniser as an IR: the path of its .xml."""
    generator = np.random.default_rng(0)

    def draw(*shape):
        return (generator.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 4))).astype(np.float32)

    data = ops.parameter([-1 if dynamic else 1, 3, SIDE, SIDE], np.float32, name="data")
    x = ops.add(ops.multiply(data, np.full((1, 3, 1, 1), 1 / 128, np.float32)), np.float32([-1, -0.9, -1.1]).reshape(1, 3, 1, 1))
    x = ops.prelu(ops.add(convolution(x, draw(6, 3, 3, 3), 2, 1), draw(1, 6, 1, 1)), draw(1))
    for stride in (2, 1, 2, 2, 1):
        x = bottleneck(x, draw, 6, 8, stride)
    x = ops.prelu(ops.add(convolution(x, draw(16, 6, 1, 1)), draw(1, 16, 1, 1)), draw(1))
    x = ops.add(ops.group_convolution(x, draw(16, 1, 1, 8, 8), [1, 1], [0, 0], [0, 0], [1, 1]), draw(1, 16, 1, 1))
    x = convolution(x, draw(12, 16, 1, 1))
    x = x if last is None else last(x)
    openvino.save_model(openvino.Model([x], [data], "small"), folder / "small.xml", compress_to_fp16=halves)
    return folder / "small.xml"


@pytest.fixture
def path(tmp_path):
    return written(tmp_path)


def images(count=2):
    return np.random.default_rng(1).uniform(0, 1, (count, 3, SIDE, SIDE)).astype(np.float32)


def by_openvino(path, images):
    """OpenVINO's numbers, of pixels 0..255, blue first."""
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return np.concatenate([model(255 * image[None, ::-1])[0].reshape(1, -1) for image in images])


@pytest.mark.parametrize("halves", [False, True])
def test_the_network_against_openvino(tmp_path, halves):
    path = written(tmp_path, halves=halves)
    found = load_embedder(str(path)).descriptors(torch.from_numpy(images())).numpy()
    wanted = by_openvino(path, images())
    assert np.abs(wanted).max() > 0.1
    assert np.abs(found - wanted).max() <= 1e-5 * max(1, np.abs(wanted).max())


def test_a_batch_that_is_left_open(tmp_path):
    path = written(tmp_path, dynamic=True)
    assert_close(
        load_embedder(str(path)).descriptors(torch.from_numpy(images())).numpy(),
        by_openvino(path, images()),
        atol=1e-5,
        rtol=1e-5,
    )


def test_unit_rows_of_crops_of_any_size_under_one_name(path):
    embedder = load_embedder(str(path))
    for size in (112, 128, 300):
        rows = embedder.rows(np.full((2, 3, size, size), 0.5, np.float32))
        assert rows.shape == (2, 12)
        assert_close(np.linalg.norm(rows, axis=1), np.ones(2), atol=1e-5, rtol=0, check_dtype=False)
    assert embedder.name.startswith("small-")
    assert load_embedder(str(path)).name == embedder.name


def test_what_it_sees_of_an_aligned_crop(path, monkeypatch):
    """Its own template's points, of its documentation, lie in what it sees where ours lie in the crop."""
    from facesieve.faces import TEMPLATE

    documented = np.array([(0.31557, 0.46157), (0.68262, 0.46157), (0.50026, 0.64051), (0.34947, 0.82469), (0.65344, 0.82469)])
    size, seen = 448, []
    crop = np.zeros((5, 3, size, size), np.float32)
    for number, (x, y) in enumerate(TEMPLATE - 0.5 / 112):  # their points count from the middle of the first pixel
        rows, columns = np.mgrid[:size, :size]
        crop[number] = np.exp(-((columns - x * size) ** 2 + (rows - y * size) ** 2) / (2 * 12**2))
    embedder = load_embedder(str(path))
    monkeypatch.setattr(embedder, "descriptors", lambda images: seen.append(images) or torch.ones(5, 2))
    embedder.embed(torch.from_numpy(crop))
    spots = seen[0][:, 0].numpy()
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    for spot, (x, y) in zip(spots, documented, strict=True):
        centre = (spot * columns).sum() / spot.sum() / SIDE, (spot * rows).sum() / spot.sum() / SIDE
        assert np.abs(np.array(centre) - (x, y)).max() < 0.006


def test_gradients_against_finite_differences(path):
    embedder = differentiable(load_embedder(str(path))).double()
    crop = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(embedder.embed, crop, fast_mode=True)


# --- refused ------------------------------------------------------------------------------------


def refused(path, reason):
    with pytest.raises(EmbedderError, match=reason) as caught:
        load_embedder(str(path))
    assert "\n" not in str(caught.value)


def test_a_step_of_another_kind(tmp_path):
    refused(written(tmp_path, last=ops.tanh), "steps of the kind Tanh")


def test_settings(path):
    refused(f"{path}?mean=0", "go with .onnx")


def test_a_file_that_is_missing_or_cut_off(path):
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(data[:-8])
    refused(path, "does not belong|belongs to its .xml")
    path.with_suffix(".bin").unlink()
    refused(path, "an .xml with its .bin beside it")


def test_weights_that_are_not_finite(path):
    data = bytearray(path.with_suffix(".bin").read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.with_suffix(".bin").write_bytes(data)
    refused(path, "not finite")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"<net", b"<", "not XML"),
        (b"<net", b'<!DOCTYPE x [<!ENTITY a "aaaa">]><net', "declarations"),
        (b"128,128", b"128,64", "not images"),
        (b'from-layer="2"', b'from-layer="9999"', "not an IR that can be run"),
        (b'type="Sigmoid"', b'type="Result"', "one input and one output"),
    ],
)
def test_damage(path, old, new, reason):
    path.write_bytes(path.read_bytes().replace(b"128, 128", b"128,128").replace(old, new))
    refused(path, reason)
