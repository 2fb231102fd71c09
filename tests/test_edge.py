"""The programs of docs/edge.md, run: they need no facesieve, and give what it gives for the same noise."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from facesieve.faces import TEMPLATE
from facesieve.images import read_photo, to_photo, write_photo
from facesieve.noise import derive_seed, seeded_draws
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.purify import preset
from facesieve.recognition.onnx_embedder import load_sface_graph
from facesieve.runtime import RUNTIMES
from facesieve.shield import load_shield
from facesieve.weights import shipped

PAGE = (Path(__file__).parent.parent / "docs" / "edge.md").read_text(encoding="utf-8")
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"  # `make setup` installs onnxruntime-node there
COSINE = re.compile(r"^cosine (\d\.\d{4})$")


def program(language):
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return block


@pytest.fixture(scope="module")
def faces(sample_paths):
    """Two aligned faces of one person: (2, 3, 128, 128), in levels of 255."""
    same = [path for path in sample_paths if path.name in ("obama-1.jpg", "obama-2.jpg")]
    photos = [to_photo(load_shield("robust").cut(read_photo(path)).crops[0]) for path in same]
    return np.stack([photo.transpose(2, 0, 1) for photo in photos]).astype(np.float32) / 255


@pytest.fixture(scope="module")
def wanted(faces):
    """The noise of two seeds, and what facesieve makes of the faces with them: purified, and embedded."""
    seeds = [3, 4]
    purified = RUNTIMES["onnx"](preset("gentle"), prior=None, device="cpu", precision="fp32").purify(faces, seeds).crops
    noise = seeded_draws([derive_seed(seed, 0) for seed in seeds], faces.shape[1:])().astype(np.float32)
    return noise, purified, load_sface_graph().rows(purified)


@pytest.fixture
def folder(faces, tmp_path):
    """What the programs read. The graphs are those of the package with their weights in them, as exported ones have them."""
    graphs = {"gentle.onnx": embedded_prior_folder("prior-128") / "gentle.onnx"}
    graphs["sface.onnx"] = shipped("sface-2021dec").with_suffix(".onnx")
    for name, graph in graphs.items():
        onnx.save(onnx.load(graph), tmp_path / name)
    for name, face in zip(("enrolled", "probe"), faces, strict=True):
        photo = to_photo(face)
        write_photo(tmp_path / f"{name}.png", photo)
        (tmp_path / f"{name}.rgb").write_bytes(photo.tobytes())
    return tmp_path


def check(purified, rows, wanted, printed):
    _, wanted_purified, wanted_rows = wanted
    assert np.abs(purified - wanted_purified).max() <= 1e-4
    assert np.abs(rows - wanted_rows).max() <= 1e-4
    found = COSINE.match(printed.strip())
    assert found, printed
    assert abs(float(found[1]) - wanted_rows[0] @ wanted_rows[1]) < 0.1  # with fresh noise


def test_the_python_program_gives_what_facesieve_gives(folder, wanted, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before, namespace = set(sys.modules), {"__name__": "page"}
    exec(compile(program("python"), "edge.md", "exec", dont_inherit=True), namespace)
    assert not [name for name in set(sys.modules) - before if name.startswith("facesieve")]
    crops = np.concatenate([namespace["read"](f"{name}.png") for name in ("enrolled", "probe")])
    purified = namespace["purify"](crops, wanted[0])
    check(purified, namespace["embed"](purified), wanted, capsys.readouterr().out)
    assert np.abs(namespace["purify"](crops) - namespace["purify"](crops)).max() > 1e-3  # the noise is fresh
    noise = namespace["fresh_noise"](2)
    assert (abs(noise.mean()) < 0.02, abs(noise.std() - 1) < 0.02) == (True, True)


HARNESS = """
main().then(async () => {
  const shield = await ort.InferenceSession.create("gentle.onnx");
  const recogniser = await ort.InferenceSession.create("sface.onnx");
  for (const name of ["enrolled", "probe"]) {
    const bytes = fs.readFileSync(`${name}.noise`);
    const noise = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const purified = await purify(shield, read(`${name}.rgb`), noise);
    fs.writeFileSync(`${name}.purified`, Buffer.from(purified.slice().buffer));
    fs.writeFileSync(`${name}.rows`, Buffer.from((await embed(recogniser, purified)).slice().buffer));
  }
  fs.writeFileSync("fresh", Buffer.from(freshNoise().buffer));
});
"""


def test_the_javascript_program_gives_what_facesieve_gives(folder, wanted):
    node = shutil.which("node")
    if node is None or not (NODE_MODULES / "onnxruntime-node").is_dir():
        pytest.skip("needs Node.js and onnxruntime-node, which `make setup` installs where npm is")
    script, noise = program("js"), wanted[0]
    assert script.rstrip().endswith("\nmain();")
    (folder / "shield.js").write_text(script.rstrip().removesuffix("main();") + HARNESS)
    for name, each in zip(("enrolled", "probe"), noise, strict=True):
        (folder / f"{name}.noise").write_bytes(each.tobytes())
    env = {"PATH": os.environ["PATH"], "NODE_PATH": str(NODE_MODULES)}
    done = subprocess.run([node, "shield.js"], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    def numbers(kind, shape):
        return np.stack(
            [np.frombuffer((folder / f"{n}.{kind}").read_bytes(), np.float32) for n in ("enrolled", "probe")]
        ).reshape(shape)

    check(numbers("purified", (2, 3, 128, 128)), numbers("rows", (2, 128)), wanted, done.stdout)
    fresh = np.frombuffer((folder / "fresh").read_bytes(), np.float32)
    assert (abs(fresh.mean()) < 0.02, abs(fresh.std() - 1) < 0.02) == (True, True)
    assert abs((fresh**4).mean() - 3) < 0.2  # Gaussian


def test_the_template_of_the_page_is_that_of_the_code():
    for axis, name in enumerate("xy"):
        (row,) = re.findall(rf"^\| {name}, pixels of 128 \|(.*)\|$", PAGE, re.M)
        assert [float(cell) for cell in row.split("|")] == [round(float(value), 2) for value in TEMPLATE[:, axis] * 128 - 0.5]
