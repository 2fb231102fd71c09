"""Everything that an installation holds is listed with its terms."""

import hashlib
import json
import re
import tomllib
from email.message import Message
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from facesieve.cli.licences import licence_of, package_terms, weight_terms

WEIGHTS = files("facesieve") / "weights"


def test_every_weight_file_that_ships_is_listed_with_terms():
    shipped = {path.name for path in WEIGHTS.rglob("*") if path.suffix in {".safetensors", ".onnx"}}
    cards = [json.loads(path.read_text()) for path in [*WEIGHTS.glob("*.card.json"), *WEIGHTS.glob("*/card.json")]]
    found = list(weight_terms())
    assert len(found) == len(cards)
    listed = sorted(file for terms in found for file in terms.files)
    wanted = (path for path in WEIGHTS.rglob("*") if path.suffix in {".safetensors", ".onnx"})
    assert listed == sorted(str(path.relative_to(WEIGHTS)) for path in wanted)  # each once
    assert shipped
    assert all(terms.terms != "not stated" for terms in found)
    attributed = next(terms for terms in found if "free photographs" in terms.name)
    assert any("CNCF" in line for line in attributed.attribution)


def test_the_packages_own_licence_names_those_of_its_weights():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(project["license"].split(" AND ")) == {re.split("[ ,]", terms.terms)[0] for terms in weight_terms()}


def test_each_is_named_with_its_file():
    files = {file for terms in weight_terms() for file in terms.files}
    assert {"sface-2021dec.safetensors", "prior-128/diffusion_pytorch_model.safetensors"} <= files
    assert all((WEIGHTS / file).is_file() for file in files)


def test_weights_elsewhere_are_listed_from_their_cards(facesieve, tmp_path):
    for name, card in (("a/w.safetensors", '{"name": "A", "terms": "research only"}'), ("b.onnx", None), ("c/unet/d.bin", "{}")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        if card:
            place = (tmp_path / name).parent
            (place.parent if place.name == "unet" else place).joinpath("card.json").write_text(card)
    (tmp_path / "b.card.json").write_text('{"name": "B", "licence": "MIT", "attribution": ["Bea"]}')
    found = {str(Path(terms.files[0]).relative_to(tmp_path)): (terms.name, terms.terms) for terms in weight_terms(tmp_path)}
    wanted = {"a/w.safetensors": ("A", "research only"), "b.onnx": ("B", "MIT"), "c/unet/d.bin": ("d.bin", "not stated")}
    assert found == wanted
    listed = json.loads(facesieve("licences", "--json", tmp_path / "a", tmp_path / "b.onnx").out)
    assert [entry["name"] for entry in listed if entry["kind"] == "weights"][-2:] == ["A", "B"]
    assert {"torch", "sface-2021dec"} <= {entry["name"] for entry in listed}


def test_what_cannot_be_listed_is_one_line(facesieve, tmp_path):
    for name in ("empty", "broken"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken" / "w.safetensors").write_bytes(b"")
    (tmp_path / "broken" / "card.json").write_text("{")
    for name, said in (("none", "no such file or folder"), ("empty", "no weights there"), ("broken", "not a readable JSON file")):
        done = facesieve("licences", tmp_path / name)
        assert (done.code, said in done.err, len(done.err.splitlines())) == (2, True, 1)


def test_dependencies_are_followed_and_named_once():
    found = {terms.name: terms.terms for terms in package_terms()}
    assert {"torch", "numpy", "sympy", "mpmath"} <= found.keys()  # mpmath is sympy's, sympy torch's
    assert found["pillow"] == "MIT-CMU"
    assert "facesieve" not in found
    assert all(found.values())


def test_a_licence_is_one_line_whatever_the_package_says():
    assert licence_of(_about({"License-Expression": "MIT", "License": "something"})) == "MIT"
    assert licence_of(
        _about({"License": "BSD\nRedistribution and use ...", "Classifier": "License :: OSI Approved :: BSD License"})
    ) == ("BSD License")
    assert licence_of(_about({"License": "\nApache 2\nand more"})) == "Apache 2"
    assert licence_of(_about({})) == "not stated"


def _about(fields):
    about = Message()
    for name, value in fields.items():
        about[name] = value
    return about


def test_a_bill_of_materials_has_versions_and_the_hash_of_each_file(facesieve, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    (tmp_path / "w.card.json").write_text('{"name": "W", "terms": "research only"}')
    text = facesieve("licences", "--cyclonedx", tmp_path).out
    assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(text) is None
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "1.5", "facesieve")
    packages = {part["name"]: part for part in bill["components"] if part["type"] == "library"}
    assert packages["numpy"]["purl"] == f"pkg:pypi/numpy@{metadata.version('numpy')}"
    assert packages["numpy"]["licenses"][0]["license"]["name"]
    models = {part["name"]: part for part in bill["components"] if part["type"] == "machine-learning-model"}
    files = {file["name"]: file["hashes"][0]["content"] for model in models.values() for file in model["components"]}
    wanted = {path for path in WEIGHTS.rglob("*") if path.suffix in {".safetensors", ".onnx"}}
    assert {name: files[name] for name in files if not Path(name).is_absolute()} == {
        str(path.relative_to(WEIGHTS)): hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted
    }
    assert files[str(tmp_path / "w.safetensors")] == hashlib.sha256(b"weights").hexdigest()
    assert models["W"]["licenses"] == [{"license": {"name": "research only"}}]


def test_the_command_prints_both(facesieve):
    table = facesieve("licences")
    assert (table.code, "sface-2021dec" in table.out, "pillow" in table.out) == (0, True, True)
    found = json.loads(facesieve("licences", "--json").out)
    assert {entry["kind"] for entry in found} == {"weights", "package"}
