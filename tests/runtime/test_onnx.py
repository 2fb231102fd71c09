"""The runtime on ONNX Runtime, held against PyTorch, and alone where there is no PyTorch."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from facesieve.errors import PriorError, SettingError
from facesieve.images import read_photo, write_photo
from facesieve.noise import derive_seed, seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.purify import PRESETS, preset
from facesieve.recognition.onnx_embedder import load_sface_graph
from facesieve.recognition.sface import load_sface
from facesieve.runtime import RUNTIMES
from facesieve.runtime.auto import choose
from facesieve.runtime.known_answer import is_known, smooth_crops
from facesieve.shield import load_shield

QUICK = [name for name, chosen in PRESETS.items() if chosen.evaluations == 1]


def load(name, **changed):
    return RUNTIMES["onnx"](preset(name).changed(**changed), prior=None, device="cpu", precision="auto")


@pytest.fixture(scope="module")
def faces(sample_photo):
    """Crops (N, 3, 128, 128) of a photograph and made-up ones, and a seed for each."""
    crops = np.concatenate([load_shield("robust").cut(sample_photo).crops, smooth_crops(4, 128)])
    return crops, [derive_seed(3, number) for number in range(len(crops))]


# --- the same as PyTorch ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
def test_it_gives_what_pytorch_gives(name, faces):
    crops, seeds = faces
    light, torch = load(name), load_shield(name, runtime="torch", precision="fp32").runtime
    found, wanted = light.purify(crops, seeds), torch.purify(crops, seeds)
    assert light.card.label == torch.card.label
    assert light.card.made_from == torch.card.made_from
    (step,), (as_torch,) = found.steps, wanted.steps
    assert (step.name, step.caption) == (as_torch.name, as_torch.caption)
    assert np.abs(step.crops - as_torch.crops).max() <= 1e-4
    assert np.abs(step.observed - as_torch.observed).max() <= 1e-5
    assert np.abs(step.crops - crops).max() > 0.01  # something was done


def test_a_batch_gives_each_face_what_it_gets_alone(faces):
    crops, seeds = faces
    together = load("robust").purify(crops, seeds).crops
    alone = load("robust").purify(crops[1:2], seeds[1:2]).crops
    assert np.abs(together[1:2] - alone).max() <= 1e-5
    other = load("robust").purify(crops[1:2], [7]).crops
    assert np.abs(other - alone).max() > 1e-3


def test_sface_gives_the_rows_that_pytorch_gives(sample_photo):
    light, torch, before = load_sface_graph(), load_sface(), load_shield("robust").cut(sample_photo)
    assert (light.name, light.dimensions) == (torch.name, torch.dimensions)
    for size in (112, 128, 160):
        crops = before.at(size).crops
        assert np.abs(light.rows(crops) - torch.rows(crops)).max() <= 1e-5


def test_the_purifier_in_torch_is_the_same_one(faces):
    import torch

    crops, seeds = faces
    shield = load_shield("robust", runtime="onnx")
    images = torch.from_numpy(crops).requires_grad_(True)
    purified = shield.purifier(images, seeds=seeds)
    purified.sum().backward()
    assert float(images.grad.abs().max()) > 0
    difference = np.abs(purified.detach().float().numpy() - shield.runtime.purify(crops, seeds).crops)
    assert difference.mean() < 2 / 255  # bf16, where the processor is faster in it
    exact = load_shield("robust", runtime="onnx", precision="fp32")  # what was asked of the graph holds for PyTorch
    with torch.inference_mode():
        purified = exact.purifier(torch.from_numpy(crops), seeds=seeds).numpy()
    assert np.abs(purified - exact.runtime.purify(crops, seeds).crops).max() <= 1e-4


def test_a_fault_inside_a_runtime_is_not_taken_for_one_that_it_lacks(monkeypatch):
    shield = load_shield("robust", runtime="onnx")
    monkeypatch.setattr(type(shield.runtime), "in_torch", lambda _: None.nothing)
    with pytest.raises(AttributeError, match="nothing"):
        _ = shield.purifier


@pytest.mark.parametrize(("precision", "mean", "most"), [("fp32", 1e-5, 1e-4), ("bf16", 1 / 510, 0.05)])
def test_openvino_gives_it_too(precision, mean, most, faces):
    pytest.importorskip("openvino")
    crops, seeds = faces
    light = RUNTIMES["openvino"](preset("robust"), prior=None, device="auto", precision=precision)
    difference = np.abs(light.purify(crops, seeds).crops - load("robust").purify(crops, seeds).crops)
    assert (difference.mean() <= mean, difference.max() <= most) == (True, True)
    assert light.card.ran_on == f"openvino CPU {precision}"
    alone = light.purify(crops[1:2], seeds[1:2]).crops
    assert np.abs(alone - light.purify(crops, seeds).crops[1:2]).max() <= most


# --- which runtime ----------------------------------------------------------------------------------


def test_other_settings_than_the_graphs_run_on_pytorch():
    changed = preset("robust").changed(scale=4)
    assert choose(changed).runtime == "torch"
    assert load_shield(changed).card.ran_on.startswith("cpu")
    assert choose(preset("robust").changed(scale=2)).runtime == "onnx"  # as it was


@pytest.mark.parametrize(
    ("name", "settings", "runtime", "reason"),
    [
        ("robust", {}, "onnx", "has a graph"),
        ("gentle", {"device": "cpu", "precision": "fp32"}, "onnx", "has a graph"),
        ("paper", {}, "torch", "asks its prior 200 times"),
        ("robust", {"precision": "bf16"}, "torch", "does not offer bf16"),
        ("robust", {"device": "cuda"}, "torch", "does not offer cuda"),
        ("robust", {"prior": "elsewhere"}, "torch", "no graph of preset 'robust' with this prior"),
    ],
)
def test_what_runs_is_chosen_by_what_is_asked_for(name, settings, runtime, reason):
    choice = choose(preset(name), **settings)
    assert choice.runtime == runtime
    assert reason in choice.reason


# --- what is refused --------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path):
    """A copy of the purifier's folder, to be damaged."""
    return shutil.copytree(embedded_prior_folder("purifier-128"), tmp_path / "purifier")


def load_copy(folder, **settings):
    return RUNTIMES["onnx"](preset("robust"), prior=folder, device="cpu", precision="auto", **settings)


def with_metadata(graph, **changed):
    """The graph with other metadata, and no hash of it in the card."""
    model = onnx.load(graph, load_external_data=False)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **changed})
    graph.write_bytes(model.SerializeToString())
    card = graph.parent / "card.json"
    card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items() if k != "graphs"}))


def test_a_copy_loads(copied, faces):
    crops, seeds = faces
    assert np.array_equal(load_copy(copied).purify(crops, seeds).crops, load("robust").purify(crops, seeds).crops)


def test_a_graph_that_does_not_know_the_answer_is_refused(copied):
    with_metadata(copied / "robust.onnx", answer=[0.5] * 192)
    with pytest.raises(PriorError, match="wrong answer to a known question"):
        load_copy(copied)


def test_a_wrong_accelerator_is_left_for_the_processor(monkeypatch, faces):
    """CUDA's session gives zeros, as broken drivers do; TensorRT's does not open at all."""
    from facesieve.runtime import onnx as runtime

    opened, cpu = runtime._opened, runtime.CPU

    def broken(file, provider):
        if provider.startswith("Tensorrt"):
            raise RuntimeError("no kernel image is available")
        run = opened(file, cpu)
        return run if provider == cpu else lambda crops, _: (0 * crops, crops)

    monkeypatch.setattr(runtime, "_opened", broken)
    monkeypatch.setattr(runtime, "providers_of", lambda _: list(runtime.FASTEST_FIRST))
    light = load("robust")
    assert light.card.ran_on == (
        "onnx CPU fp32 (onnx Tensorrt failed: no kernel image is available; onnx CUDA gave a wrong answer to a known question)"
    )
    crops, seeds = faces
    assert light.purify(crops, seeds).crops.max() > 0


def test_the_processor_is_asked_once(monkeypatch, copied, tmp_path):
    """Until the graph, the processor or what was kept is another."""
    from facesieve.runtime import onnx as runtime

    asked = []
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(runtime, "is_known", lambda *words: asked.append(1) or is_known(*words))
    for _ in range(2):
        load_copy(copied)
    assert len(asked) == 1
    with monkeypatch.context() as another:
        another.setattr(runtime, "processor", lambda: "another")
        load_copy(copied)
    assert len(asked) == 2
    (tmp_path / "facesieve" / "answers.json").write_text("{")
    load_copy(copied)
    assert len(asked) == 3
    with_metadata(copied / "robust.onnx", answer=[0.5] * 192)
    with pytest.raises(PriorError, match="wrong answer to a known question"):
        load_copy(copied)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "robust.onnx").unlink(), "there is no graph of preset 'robust'"),
        (lambda f: (f / "robust.onnx").write_bytes(b"no graph"), "not a graph of a preset"),
        (lambda f: with_metadata(f / "robust.onnx", prior_sha256="0" * 64), "of another prior than the one beside it"),
        (lambda f: with_metadata(f / "robust.onnx", format=2), "of another version"),
        (lambda f: (f / "robust.onnx").write_bytes((f / "robust.onnx").read_bytes() + b"\x00"), "not the graph|not a graph"),
        (lambda f: _flip(f / "diffusion_pytorch_model.safetensors"), "not the weights that the card names"),
    ],
    ids=["missing", "no graph", "another prior", "another version", "another byte", "another weight"],
)
def test_a_damaged_folder_is_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(PriorError, match=message):
        load_copy(copied)


def _flip(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_settings_that_the_graph_does_not_have_are_refused():
    with pytest.raises(SettingError, match="with other settings"):
        load("robust", scale=4)
    with pytest.raises(SettingError, match="no precision 'bf16'"):
        RUNTIMES["onnx"](preset("robust"), prior=None, device="cpu", precision="bf16")
    with pytest.raises(SettingError, match="device 'toaster'"):
        RUNTIMES["onnx"](preset("robust"), prior=None, device="toaster", precision="auto")
    with pytest.raises(SettingError, match="1 seeds for crops"):
        load("robust").purify(smooth_crops(2, 128), [1])


# --- the export -------------------------------------------------------------------------------------


def test_an_exported_graph_is_the_preset(facesieve, tmp_path, faces):
    file = tmp_path / "robust.onnx"
    done = facesieve("export", file, "--preset", "robust")
    assert (done.code, done.err) == (0, "")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["facesieve"])
    assert about["preset"] == preset("robust").as_dict()
    assert about["terms"].startswith("Apache-2.0")
    crops, seeds = faces
    wanted = load("robust").purify(crops, seeds).crops
    noise = seeded_draws([derive_seed(seed, 0) for seed in seeds], (3, 128, 128))().astype(np.float32)
    for count in (1, 3, len(crops)):
        (found,) = session.run(["purified"], {"crops": crops[:count], "noise": noise[:count]})
        assert np.abs(found - wanted[:count]).max() <= 1e-5
    assert 14e6 < file.stat().st_size < 16e6  # fp16, in one file
    again = facesieve("export", file)
    assert (again.code, "exists already" in again.err) == (2, True)


def test_what_cannot_be_exported_leaves_no_file(facesieve, tmp_path):
    for arguments, message in [
        (("paper.onnx", "--preset", "paper"), "asks its prior 200 times"),
        (("graph.bin",), "a graph is an .onnx file"),
        (("nowhere/graph.onnx",), "there is no such folder; make it first"),  # said before the work
        (("x.onnx", "--embedder", "arcface"), "sface and dlib can"),
    ]:
        done = facesieve("export", tmp_path / arguments[0], *arguments[1:])
        assert done.code == 2
        assert message in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def portraits(tmp_path_factory, sample_paths):
    """Sixteen photographs with a face: the samples, and some of them mirrored."""
    folder = tmp_path_factory.mktemp("portraits")
    for number in range(16):
        photo = read_photo(sample_paths[number % len(sample_paths)])
        write_photo(folder / f"{number:02d}.png", photo[:, :: -1 if number >= len(sample_paths) else 1].copy())
    return folder


def test_a_graph_in_8_bits_is_near_and_can_be_used(facesieve, tmp_path, portraits, faces, sample_paths):
    file = tmp_path / "small.onnx"
    done = facesieve("export", file, "--preset", "robust", "--quantise", portraits)
    assert done.code == 0, done.err
    assert file.stat().st_size < 12e6
    light, exact = RUNTIMES["onnx"](preset("robust"), prior=file, device="cpu", precision="auto"), load("robust")
    assert (light.card.dtype, light.card.ran_on, light.card.label) == ("int8", "onnx CPU int8", exact.card.label)
    crops, seeds = faces
    difference = np.abs(light.purify(crops, seeds).crops - exact.purify(crops, seeds).crops)
    assert 0 < difference.mean() < 4 / 255
    done = facesieve("purify", sample_paths[0], "-o", tmp_path / "out", "--preset", "robust", "--prior", file)
    assert (done.code, "robust on onnx CPU int8" in done.out) == (0, True)


def test_too_few_faces_for_8_bits_are_said(facesieve, tmp_path):
    (tmp_path / "empty").mkdir()
    done = facesieve("export", tmp_path / "small.onnx", "--quantise", tmp_path / "empty")
    assert (done.code, "holds 0 photographs with a face, and 16 or more are needed" in done.err) == (2, True)
    assert not (tmp_path / "small.onnx").exists()


# --- without PyTorch --------------------------------------------------------------------------------

BLOCKED = """
import sys
for name in ("torch", "diffusers", "scipy", "onnx"):
    sys.modules[name] = None
from facesieve.cli import main
sys.argv = ["facesieve", *sys.argv[1:]]
main()
"""


def without_torch(*arguments):
    return subprocess.run([sys.executable, "-c", BLOCKED, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_a_photograph_is_purified_and_named_without_pytorch(sample_paths, tmp_path):
    done = without_torch("purify", sample_paths[0], "-o", tmp_path / "out", "--seed", 1)
    assert done.returncode == 0, done.stderr
    assert "gentle on onnx CPU fp32" in done.stdout
    assert list((tmp_path / "out").glob("*.png"))
    assert without_torch("enrol", "Ada", sample_paths[0], "--gallery", tmp_path / "people").returncode == 0
    done = without_torch("identify", sample_paths[0], "--gallery", tmp_path / "people", "--json")
    assert done.returncode == 0, done.stderr
    ((found,),) = json.loads(done.stdout).values()
    assert found["matches"][0]["person"] == "Ada"


def test_what_needs_pytorch_says_so_in_one_line(sample_paths, tmp_path):
    done = without_torch("purify", sample_paths[0], "-o", tmp_path / "out", "--preset", "paper")
    assert done.returncode == 2
    assert "pip install 'facesieve[torch]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
