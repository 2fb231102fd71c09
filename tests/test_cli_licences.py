"""Everything that an installation holds is listed with its terms."""

import json
from email.message import Message
from importlib.resources import files

from facesieve.cli.licences import licence_of, package_terms, weight_terms

WEIGHTS = files("facesieve") / "weights"


def test_every_weight_file_that_ships_is_listed_with_terms():
    shipped = {path.name for path in WEIGHTS.rglob("*") if path.suffix in {".safetensors", ".onnx"}}
    cards = [json.loads(path.read_text()) for path in [*WEIGHTS.glob("*.card.json"), *WEIGHTS.glob("*/card.json")]]
    found = list(weight_terms())
    assert len(found) == len(cards) == sum(1 for path in WEIGHTS.rglob("*") if path.suffix in {".safetensors", ".onnx"})
    assert shipped
    assert all(terms.terms != "not stated" for terms in found)
    attributed = next(terms for terms in found if "free photographs" in terms.name)
    assert any("CNCF" in line for line in attributed.attribution)


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


def test_the_command_prints_both(facesieve):
    table = facesieve("licences")
    assert (table.code, "sface-2021dec" in table.out, "pillow" in table.out) == (0, True, True)
    found = json.loads(facesieve("licences", "--json").out)
    assert {entry["kind"] for entry in found} == {"weights", "package"}
