"""Weights from anywhere: tampered, cut off, not finite, of other shapes, with code or foreign operations in them.

Each door refuses them in one line, and runs nothing of them.
"""

import shutil

import numpy as np
import onnx
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

import second_arcface
from canary import Canary
from facesieve.errors import FacesieveError
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior
from facesieve.priors.importing import import_prior
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.facenet import FaceNet
from facesieve.recognition.facenet_file import load_facenet, save_facenet
from facesieve.shield import load_shield
from facesieve.weights.graphs import metadata_of

PURIFIER = embedded_prior_folder("purifier-128")


def facenet_file(root):
    torch.manual_seed(0)
    torch.save(FaceNet(None).state_dict(), root / "facenet.pt")
    return root / "facenet.pt", lambda: load_facenet(root / "facenet.pt")


def facenet_folder(root):
    torch.manual_seed(0)
    save_facenet(FaceNet(None), root / "net", {"name": "x"})
    return root / "net" / "facenet.safetensors", lambda: load_embedder(str(root / "net"))


def pickled_prior(root):
    network = UNet2DModel(
        16, block_out_channels=(32,), layers_per_block=1, down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"]
    )
    network.save_pretrained(root / "prior", safe_serialization=False)
    DDPMScheduler().save_pretrained(root / "prior")
    (root / "prior" / "scheduler_config.json").touch()
    return root / "prior" / "diffusion_pytorch_model.bin", lambda: load_prior(root / "prior")


def imported_prior(root):
    file, _ = pickled_prior(root)
    return file, lambda: import_prior(root / "prior", root / "imported")


def purifier_of_ours(root):
    shutil.copytree(PURIFIER, root / "prior")
    return root / "prior" / "diffusion_pytorch_model.safetensors", lambda: load_prior(root / "prior")


def graph_of_ours(root):
    shutil.copytree(PURIFIER, root / "prior")
    return root / "prior" / "robust.onnx", lambda: load_shield("robust", prior=root / "prior", runtime="onnx")


def onnx_recogniser(root):
    write_graph(root / "recogniser.onnx")
    return root / "recogniser.onnx", lambda: load_embedder(str(root / "recogniser.onnx"))


def arcface_file(root):
    torch.save(second_arcface.iresnet_state(), root / "backbone.pth")
    return root / "backbone.pth", lambda: load_embedder(str(root / "backbone.pth"))


def write_graph(path, *, op="Identity", domain="", location=None):
    """A recogniser that gives the mean of each channel times three numbers; those may lie in another file."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    if location is not None:
        scale = TensorProto(data_type=TensorProto.FLOAT, dims=[3], name="scale", data_location=TensorProto.EXTERNAL)
        scale.external_data.add(key="location", value=location)
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "scale"], ["s"]),
        helper.make_node(op, ["s"], ["y"], domain=domain),
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], [scale, axes]), opset_imports=opsets, ir_version=9)
    path.write_bytes(model.SerializeToString())


DOORS = [facenet_file, pickled_prior, imported_prior, purifier_of_ours, graph_of_ours, onnx_recogniser, arcface_file]
PICKLED = [facenet_file, pickled_prior, imported_prior]


def refused(load):
    with pytest.raises(FacesieveError) as error:
        load()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_cut_off_empty_or_something_else_is_one_line(door, tmp_path):
    file, load = door(tmp_path)
    load()
    whole = file.read_bytes()
    shutil.rmtree(tmp_path / "imported", ignore_errors=True)
    for data in (b"", whole[:1], whole[:100], whole[: len(whole) // 2], whole[:-1], b"PK\x03\x04" + whole[4:200], b"\0" * 500):
        file.write_bytes(data)
        refused(load)
    file.unlink()
    refused(load)
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("door", [facenet_folder, purifier_of_ours, graph_of_ours])
def test_a_changed_bit_of_what_has_a_card_is_refused(door, tmp_path):
    file, load = door(tmp_path)
    whole = bytearray(file.read_bytes())
    for place in np.random.default_rng(0).integers(len(whole), size=5):
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        assert "SHA-256" in refused(load)


@pytest.mark.parametrize("door", [*PICKLED, arcface_file])
def test_code_in_weights_is_never_run(door, tmp_path):
    file, load = door(tmp_path)
    state, touched = torch.load(file, weights_only=True), tmp_path / "touched"
    for evil in ({**state, "evil": Canary(touched)}, Canary(touched), [state, Canary(touched)]):
        for legacy in (False, True):
            torch.save(evil, file, _use_new_zipfile_serialization=not legacy)
            refused(load)
            assert not touched.exists()
    torch.load(file, weights_only=False)
    assert touched.exists()  # it would have run


@pytest.mark.parametrize("door", [*PICKLED, purifier_of_ours])
def test_weights_that_are_not_finite_or_of_other_shapes_are_named(door, tmp_path):
    file, load = door(tmp_path)
    (file.parent / "card.json").unlink(missing_ok=True)  # who tampers writes the hash anew
    safe = file.suffix == ".safetensors"
    state = load_file(file) if safe else torch.load(file, weights_only=True)
    name = next(name for name, value in state.items() if value.ndim == 4)
    for other, said in (
        (state[name] * float("nan"), "not finite"),
        (torch.full_like(state[name], float("-inf")), "not finite"),
        (state[name][:1].clone(), name),
        (torch.zeros(0), name),
    ):
        changed = {**state, name: other}
        save_file(changed, file) if safe else torch.save(changed, file)
        assert said in refused(load)


@pytest.mark.parametrize("door", [*PICKLED, arcface_file])
def test_weights_of_data_parallel_are_taken(door, tmp_path):
    file, load = door(tmp_path)
    state = torch.load(file, weights_only=True)
    torch.save({f"module.{name}": value for name, value in state.items()}, file)
    load()
    torch.save({f"module.{name}" if number else name: value for number, (name, value) in enumerate(state.items())}, file)
    shutil.rmtree(tmp_path / "imported", ignore_errors=True)
    refused(load)


def test_sizes_that_no_network_has_are_refused(tmp_path):
    file, load = arcface_file(tmp_path)
    state = torch.load(file, weights_only=True)
    for name in ("conv1.weight", "layer2.0.conv1.weight", "fc.weight"):
        for other in (torch.tensor(1.0), torch.zeros(0), torch.zeros(0, 3, 3, 3), state[name][:1].clone()):
            torch.save({**state, name: other}, file)
            refused(load)


# --- graphs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "domain"), [("Evil", "evil.example"), ("PythonOp", "com.microsoft"), ("PyOp", "ai.onnx.contrib")])
def test_operations_that_are_not_the_runtimes_own_are_refused(op, domain, tmp_path):
    file, load = onnx_recogniser(tmp_path)
    assert load().dimensions == 3
    write_graph(file, op=op, domain=domain)
    assert "not a registered function/op" in refused(load)


@pytest.mark.parametrize("location", ["scale.bin", "../scale.bin", "/etc/hostname", "sub/../../scale.bin"])
def test_weights_in_another_file_are_never_read(location, tmp_path):
    for place in (tmp_path / "a" / "scale.bin", tmp_path / "scale.bin"):
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(np.float32([1, 2, 3]).tobytes())
    write_graph(tmp_path / "a" / "recogniser.onnx", location=location)
    refused(lambda: load_embedder(str(tmp_path / "a" / "recogniser.onnx")))


@pytest.mark.parametrize("location", ["../outside.safetensors", "/etc/passwd"])
def test_a_purifiers_graph_takes_no_weights_from_outside_its_folder(location, tmp_path):
    """Its card's hash is written anew, as who tampers would; the weights beside it are the true ones."""
    file, load = graph_of_ours(tmp_path)
    shutil.copy(tmp_path / "prior" / "diffusion_pytorch_model.safetensors", tmp_path / "outside.safetensors")
    (tmp_path / "prior" / "card.json").unlink()
    load()
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    file.write_bytes(model.SerializeToString())
    assert metadata_of(file.read_bytes())
    refused(load)
