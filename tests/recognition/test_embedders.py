"""Embedders by name, by file and from outside of the package."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from facesieve.errors import EmbedderError, SettingError
from facesieve.recognition.embedders import EMBEDDERS, load_embedder


class Means:
    """The direction of the mean colour."""

    name, dimensions, people = "means", 3, ()

    def rows(self, crops):
        means = crops.mean((2, 3))
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def load(spec):
    embedder = Means()
    embedder.spec = spec
    return embedder


def test_what_ships_is_known_by_name():
    assert load_embedder("sface").name == "sface-2021dec"
    assert load_embedder("dlib").name == "dlib-face-resnet-v1"
    assert {"sface", "dlib", ".onnx"} <= set(EMBEDDERS)


def test_an_embedder_of_ones_own_by_its_dotted_name():
    assert load_embedder(f"{__name__}:load?bins=3").spec == f"{__name__}:load?bins=3"
    with pytest.raises(SettingError, match="cannot be imported"):
        load_embedder(f"{__name__}:nothing")


def test_a_kind_of_file_can_be_registered(tmp_path):
    (tmp_path / "mine.means").touch()
    if ".means" not in EMBEDDERS:
        EMBEDDERS.register(".means", load)
    assert load_embedder(str(tmp_path / "mine.means")).name == "means"


@pytest.mark.parametrize("spec", ["arc", "sface?mean=0", "C:\\nowhere.onnx"])
def test_what_is_none_is_one_clear_line(spec):
    with pytest.raises((EmbedderError, SettingError)) as caught:
        load_embedder(spec)
    assert "\n" not in str(caught.value)


def test_an_onnx_file_needs_no_pytorch(tmp_path):
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *axes]) for name, axes in (("x", [3, 8, 8]), ("y", [192]))
    ]
    graph = helper.make_graph([helper.make_node("Flatten", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), tmp_path / "x.onnx")
    program = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "diffusers", "safetensors")))
from facesieve.recognition.embedders import load_embedder
for gradients in (False, True):
    print(load_embedder({str(tmp_path / "x.onnx")!r}, gradients=gradients).dimensions)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "192\n192\n", done.stderr
