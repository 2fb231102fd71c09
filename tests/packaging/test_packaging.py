"""What is handed out: the wheel and sdist, installed away from the repository, and the files that deploy them."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path, PurePosixPath

import httpx
import pytest
import yaml

import facesieve
from facesieve.service.settings import Settings

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "docs" / "deploy"
FREE = {"cncf", "us-government", "canada", "ropensci", "asyncapi", "interfaces"}  # the parts of the photographs


def test_the_wheel_has_what_it_needs_and_no_more(built):
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < 100e6
    names = zipfile.ZipFile(wheel).namelist()
    assert "facesieve/py.typed" in names
    for wanted in (r"weights/.*\.safetensors$", r"weights/.*\.onnx$", r"weights/.*\.LICENSE$", r"dist-info/licenses/LICENSE$"):
        assert any(re.search(wanted, name) for name in names), wanted
    assert any(name.endswith("dist-info/licenses/NOTICE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "models", "samples", "experiments", "benchmarks"))]


def test_every_weight_file_in_the_wheel_has_a_card_with_terms_that_allow_its_use(built):
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    weights = [PurePosixPath(name) for name in archive.namelist() if name.endswith((".safetensors", ".onnx"))]
    notice = archive.read(next(name for name in archive.namelist() if name.endswith("/NOTICE"))).decode()
    assert len(weights) >= 6
    for file in weights:
        own, folders = file.with_suffix(".card.json"), file.with_name("card.json")
        card = archive.read(str(own if str(own) in archive.namelist() else folders)).decode()
        assert not re.search(r"research|non-commercial|not stated", card, re.I), file
        terms = json.loads(card)
        assert terms.get("licence") or terms["terms"], file
        if "training" in terms:  # ours
            assert {part["name"] for part in terms["parts"]} == FREE, file
            assert all(line in " ".join(notice.split()) for line in terms["attribution"]), file


def test_the_sdist_has_the_notice(built):
    (sdist,) = built.glob("*.tar.gz")
    assert any(name.endswith("/NOTICE") for name in _members(sdist))


def _members(sdist):
    with tarfile.open(sdist) as archive:
        return archive.getnames()


def test_the_sdist_has_source_tests_and_samples_and_no_large_models(built):
    (sdist,) = built.glob("*.tar.gz")
    assert sdist.stat().st_size < 100e6
    names = {name.partition("/")[2] for name in _members(sdist)}
    assert {"pyproject.toml", "Makefile", "LICENSE", "src/facesieve/__init__.py", "tests/conftest.py"} <= names
    assert any(name.startswith("samples/") and name.endswith(".jpg") for name in names)
    assert not any(name.startswith("models/") for name in names)


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel in a folder of its own, before the repository's on the path; its libraries are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(words, check=True)
    for path in (folder, folder.parent):  # pytest's folders are for their owner alone
        path.chmod(0o755)
    return folder


def run(installed, cwd, *words):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, *words]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_wheel_works_away_from_the_repository(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import facesieve; print(facesieve.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed), where.stderr
    shutil.copy(ROOT / "samples" / "collins-1.jpg", tmp_path / "photo.jpg")
    done = run(installed, tmp_path, "-m", "facesieve.cli", "purify", "photo.jpg", "-o", "out", "--grid")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"photo.png", "photo.face1.json", "grid.png"}


@pytest.mark.slow  # every dependency is installed, twice
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_into_an_empty_environment_and_the_demo_runs_from_there(built, tmp_path, kind):
    (package,) = built.glob(kind)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    constraints = ROOT / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    for words in (["torch==2.13.0"], [f"{package}[torch]"]):  # torch first, as in the Makefile: a plain one may be of gigabytes
        done = subprocess.run([*install, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    shutil.rmtree(source / "src")  # what runs is what was installed
    env = {"PATH": os.environ["PATH"]}
    demo = [python, source / "examples" / "demo.py", "--output", tmp_path / "out", "--photos", "2", "--paper-steps", "2"]
    done = subprocess.run(demo, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "stages.png").exists(), done.stdout
    bare = subprocess.run([python.with_name("facesieve"), "info"], env=env, capture_output=True, text=True, check=False)
    assert bare.returncode == 0, bare.stderr


def test_the_service_runs_as_in_the_container(installed, tmp_path):
    """As another user, in a folder that is not theirs, with nothing to write to but /tmp, as in a read-only image."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(installed),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "FACESIEVE_PORT": "0",
    }
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    words = [*become, sys.executable, "-m", "facesieve.cli", "serve", "--log-level", "info"]
    with subprocess.Popen(words, cwd="/", env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert '"listening"' in line, line + process.stderr.read()
            port = re.search(r'"port": ?(\d+)', line)[1]
            url = f"http://127.0.0.1:{port}"
            for _ in range(100):
                try:
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                except httpx.HTTPError:
                    time.sleep(0.2)
            assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
            photo = (ROOT / "samples" / "collins-1.jpg").read_bytes()
            answer = httpx.post(f"{url}/v1/purify", content=photo, headers={"Content-Type": "image/jpeg"}, timeout=60)
            assert answer.status_code == 200
            assert answer.content.startswith(b"\x89PNG")
        finally:
            process.terminate()
            process.stderr.read()
    assert process.returncode == 0


# --- the files that deploy it -----------------------------------------------------------------


def test_the_containerfile_passes_its_linter():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert hadolint, "hadolint is one of the development dependencies"
    done = subprocess.run([hadolint, str(ROOT / "Containerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    broken = subprocess.run([hadolint, "-"], input="FROM debian:latest\nRUN cd /tmp", capture_output=True, text=True, check=False)
    assert broken.returncode != 0  # the linter does find what is wrong


@pytest.mark.parametrize("target", ["light", "cpu", "cuda"])
def test_each_image_is_unprivileged_and_says_how_it_is(target):
    stages = re.split(r"^FROM ", (ROOT / "Containerfile").read_text(), flags=re.M)
    named = {match[1]: stage for stage in stages if (match := re.match(r"\S+ AS (\S+)", stage))}
    image = named[target]
    assert image.startswith(f"runtime AS {target}")
    assert re.search(r"^USER 10001:10001$", image, re.M)
    assert f"COPY --from={target}-packages" in image
    assert "HEALTHCHECK" in named["runtime"]
    assert "/healthz" in named["runtime"]
    assert (ROOT / ".containerignore").read_text().splitlines()[0] == "*"


def test_the_image_that_is_made_by_default_has_no_pytorch():
    stages = re.split(r"^FROM ", (ROOT / "Containerfile").read_text(), flags=re.M)
    assert stages[-1].startswith("runtime AS light")
    (packages,) = [stage for stage in stages if re.match(r"\S+ AS light-packages", stage)]
    assert "torch" not in packages


@pytest.mark.parametrize(
    "path",
    [
        "docs/deploy/facesieve.service",
        "docs/deploy/kubernetes.yaml",
        "docs/deploy/compose.yaml",
        "docs/deploy/chart/templates/deployment.yaml",
        "docs/deploy/README.md",
        "Containerfile",
    ],
)
def test_every_variable_is_a_setting(path):
    found = set(re.findall(r"\bFACESIEVE_([A-Z_]+)\b", (ROOT / path).read_text()))
    assert found
    assert found <= {name.upper() for name in Settings.model_fields}


def test_the_unit_is_hardened_and_stops_gently():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(DEPLOY / "facesieve.service")
    service = unit["Service"]
    wanted = {
        "DynamicUser": "yes",
        "ProtectSystem": "strict",
        "NoNewPrivileges": "yes",
        "ProtectHome": "yes",
        "KillSignal": "SIGTERM",
    }
    assert {name: service[name] for name in wanted} == wanted
    assert int(service["TimeoutStopSec"]) > Settings().stop_timeout_s


def test_the_kubernetes_example_is_unprivileged_and_probed():
    documents = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["enableServiceLinks"] is False  # FACESIEVE_PORT would be the address of the Service
    assert pod["terminationGracePeriodSeconds"] > Settings().stop_timeout_s
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents["Service"]["spec"]["selector"] == labels
    assert documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == documents["Deployment"]["metadata"]["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def rendered(text, values, name="facesieve"):
    """A template of the chart with its values: all that it uses of Helm is ``{{ .Values.NAME }}`` and the release's name."""
    filled = re.sub(r"\{\{ \.Values\.(\w+) \}\}", lambda found: str(values[found[1]]).replace("True", "true"), text)
    filled = filled.replace("{{ .Release.Name }}", name)
    assert "{{" not in filled
    return yaml.safe_load(filled)


def test_the_chart_makes_what_the_kubernetes_example_shows():
    chart = DEPLOY / "chart"
    about, values = (yaml.safe_load((chart / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    assert about["appVersion"] == facesieve.__version__
    assert (about["apiVersion"], about["name"]) == ("v2", "facesieve")
    texts = [path.read_text() for path in sorted((chart / "templates").glob("*.yaml"))]
    made = {one["kind"]: one for one in (rendered(text, values) for text in texts)}
    shown = {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    assert made == shown
    assert set(re.findall(r"\.Values\.(\w+)", "".join(texts))) == set(values)  # each value is used
    other = rendered(texts[-1], values, "other")
    assert (other["kind"], other["metadata"]["name"]) == ("Service", "other")


def test_the_compose_file_is_unprivileged_and_reaches_its_parts():
    plain = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service, people = plain["services"]["facesieve"], plain["services"]["people"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().stop_timeout_s
    secrets = [one if isinstance(one, str) else one["source"] for each in (service, people) for one in each["secrets"]]
    assert set(secrets) == set(plain["secrets"])
    assert {volume.partition(":")[0] for volume in people["volumes"]} == set(plain["volumes"])
    assert service["environment"]["FACESIEVE_GALLERY"] == "postgresql://facesieve@people/facesieve"
    named = (ROOT / "Containerfile").read_text()
    assert "FACESIEVE_KEYS=/run/secrets/facesieve-keys.json" in named
    assert {"source": "keys", "target": "facesieve-keys.json"} in service["secrets"]


def test_one_file_describes_every_image():
    plain = json.loads((ROOT / "docker-bake.json").read_text())
    stages = set(re.findall(r"^FROM runtime AS (\w+)$", (ROOT / "Containerfile").read_text(), flags=re.M))
    targets = {name: one for name, one in plain["target"].items() if name != "common"}
    assert set(targets) == set(plain["group"]["default"]["targets"]) == stages == {one["target"] for one in targets.values()}
    assert plain["variable"]["VERSION"]["default"] == facesieve.__version__
    for name in ("light", "cpu"):
        assert targets[name]["platforms"] == ["linux/amd64", "linux/arm64"]
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(plain)))
    assert used == set(plain["variable"])
