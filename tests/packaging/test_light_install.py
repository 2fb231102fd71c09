"""The small install, in an empty environment: what comes with it, what works, and what says which extra it needs."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent.parent
HEAVY = {"torch", "diffusers", "safetensors", "scipy", "lancedb", "pyarrow", "onnx", "fastapi", "pydantic_settings"}
TOOLS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")  # are not ours
LARGEST = 470e6  # bytes; more than half of them are OpenCV, ONNX Runtime and NumPy


def install(python, package):
    words = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", package]
    done = subprocess.run(words, cwd=python.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def light(built, tmp_path_factory):
    """The Python of an environment with the wheel and what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("light")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    (wheel,) = built.glob("*.whl")
    install(python, wheel)
    return python


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where commands run; later tests find what earlier ones made."""
    return tmp_path_factory.mktemp("work")


def environment():
    return {"PATH": os.environ["PATH"], "HOME": "/nowhere", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}


def run(python, folder, *words, code=0):
    """A command's standard output; or its standard error, where it shall fail."""
    command = [python.with_name("facesieve"), *words]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def sample(name):
    return ROOT / "samples" / f"{name}.jpg"


def site_packages(python):
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    return site


def test_it_is_small(light, record_property):
    site = site_packages(light)
    came = {path.name.partition("-")[0] for path in site.iterdir()}
    assert {"facesieve", "numpy", "onnxruntime"} <= came
    assert not HEAVY & came
    files = [f for part in site.iterdir() if not part.name.startswith(TOOLS) for f in (part, *part.rglob("*")) if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    record_property("bytes", size)
    assert size <= LARGEST, f"{size / 1e6:.0f} MB"


def test_it_purifies(light, folder):
    printed = run(light, folder, "purify", sample("collins-1"), "-o", "out", "--grid", "--seed", "1")
    assert "1 face purified" in printed
    assert "gentle on onnx CPU fp32" in printed
    assert {path.name for path in (folder / "out").iterdir()} == {"collins-1.png", "collins-1.face1.json", "grid.png"}


def test_it_identifies(light, folder):
    run(light, folder, "enrol", "Obama", sample("obama-1"), sample("obama-2"), "--gallery", "people")
    run(light, folder, "enrol", "Hopper", sample("hopper-1"), "--gallery", "people")
    found = json.loads(run(light, folder, "identify", sample("obama-3"), "--gallery", "people", "--threshold", "0.4", "--json"))
    assert "Obama" in json.dumps(found)
    assert "Obama" in run(light, folder, "gallery", "list", "--gallery", "people")


def test_it_says_what_it_is(light, folder):
    assert "torch      not installed" in (info := run(light, folder, "info"))
    assert "runtime    onnx" in info
    licences = run(light, folder, "licences")
    assert "onnxruntime" in licences
    assert not re.search(r"│ torch ", licences)
    assert "robust" in run(light, folder, "presets")


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["purify", sample("collins-1"), "-o", "none", "--preset", "paper"], "torch"),
        (["purify", sample("collins-1"), "-o", "none", "--scale", "4"], "torch"),
        (["purify", sample("collins-1"), "-o", "none", "--runtime", "torch"], "torch"),
        (["purify", sample("collins-1"), "-o", "none", "--runtime", "openvino"], "openvino"),
        (["train", "prior", "--data", ROOT / "samples", "--output", "none"], "torch"),
        (["export", "none.onnx"], "export"),
        (["evaluate", ROOT / "experiments" / "gentle.toml", "--source", ".", "-o", "none"], "evaluate"),
        (["ui"], "page"),
        (["serve"], "serve"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, (value[0], *value[-1:]))),
)
def test_what_needs_more_says_so_in_one_line(light, folder, words, extra):
    said = run(light, folder, *words, code=2)
    assert re.fullmatch(rf"error: .* needs an optional extra: pip install 'facesieve\[{extra}\]'\n", said), said
    assert not (folder / "none").exists()


# --- the service ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(light, built, folder):
    """The address of a service with the gallery of the tests above, on the small install with the extra ``serve``."""
    (wheel,) = built.glob("*.whl")
    install(light, f"{wheel}[serve]")
    words = [light.with_name("facesieve"), "serve", "--port", "0", "--gallery", "people", "--log-level", "info"]
    with subprocess.Popen(words, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert '"listening"' in line, line + process.stderr.read()
            yield f"http://127.0.0.1:{json.loads(line)['port']}"
        finally:
            process.terminate()
            process.stderr.read()
    assert process.returncode == 0


def post(url, name):
    return httpx.post(url, content=sample(name).read_bytes(), headers={"Content-Type": "image/jpeg"}, timeout=60)


def test_the_service_runs_without_torch(url, light):
    assert not HEAVY - {"fastapi", "pydantic_settings"} & {path.name.partition("-")[0] for path in site_packages(light).iterdir()}
    for _ in range(100):
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.HTTPError:  # it says that it listens a moment before it does
            pass
        time.sleep(0.2)
    assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
    purified = post(f"{url}/v1/purify", "collins-1")
    assert purified.status_code == 200
    assert purified.content.startswith(b"\x89PNG")


def test_the_service_identifies_without_torch(url):
    answer = post(f"{url}/v1/identify", "obama-3")
    assert answer.status_code == 200
    (face,) = answer.json()["faces"]
    assert face["matches"][0]["person"] == "Obama"
