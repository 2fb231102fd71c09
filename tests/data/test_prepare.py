"""Protocols that come as a table: who is enrolled and who is probed is read, not drawn."""

import pytest

from facesieve.data.crops import aligned_crops, of_role
from facesieve.data.manifest import load_manifest
from facesieve.data.prepare import prepare
from facesieve.data.sources import open_source
from facesieve.errors import InputError


@pytest.fixture
def table(people, tmp_path):
    """Two parts, each with three people, and the table."""
    root, lines = tmp_path / "people", ["file,person,role"]
    for part in ("one", "two"):
        (root / part).mkdir(parents=True)
        for number, photographs in enumerate(list(people.values())[:3]):
            for role, data in zip(("probe", "gallery"), photographs, strict=False):
                name = f"{part}/{number}-{role}.png"
                (root / name).write_bytes(data)
                lines.append(f"{name},{part}-{number},{role}")
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def test_each_folder_is_a_protocol_of_its_own(table, tmp_path):
    found = prepare(table)
    assert list(found) == ["one", "two"]
    manifest = found["two"]
    assert [(i.person, i.role, i.ref) for i in manifest.images] == [
        (f"two-{number}", role, f"two/{number}-{name}.png")
        for number in range(3)
        for role, name in (("train", "gallery"), ("test", "probe"))
    ]
    assert (manifest.selection.people, manifest.selection.train, manifest.selection.test) == (3, 1, 1)
    assert not manifest.replaced
    crops = aligned_crops(manifest, open_source(table), tmp_path / "cache", 32)
    assert of_role(manifest, crops, "train").labels.tolist() == [0, 1, 2]


def test_someone_whose_photograph_cannot_be_used_is_left_out_and_listed(table):
    (table / "one" / "1-probe.png").write_bytes(b"no image")
    manifest = prepare(table)["one"]
    assert manifest.people == ("one-0", "one-2")
    assert manifest.selection.people == 2
    [entry] = manifest.replaced
    assert (entry.person, entry.ref) == ("one-1", None)
    assert "1-probe.png" in entry.reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,person\none/0-probe.png,a\n", "expected columns file, person and role"),
        ("file,person,role\none/0-probe.png,a,star\n", "expected columns file, person and role"),
        ("file,person,role\none/0-probe.png,a,probe\none/0-gallery.png,b,gallery\n", "different numbers of photographs"),
    ],
)
def test_a_table_that_does_not_fit(table, text, said):
    (table / "index.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        prepare(table)


def test_the_command(table, facesieve, tmp_path):
    done = facesieve("data", "prepare", table, "-o", tmp_path / "manifests")
    assert done.code == 0, done.err
    assert load_manifest(tmp_path / "manifests" / "one.json") == prepare(table)["one"]
    assert done.out.count("3 people: manifest") == 2
    done = facesieve("data", "prepare", tmp_path, "-o", tmp_path / "manifests")
    assert done.code == 2
    assert "index.csv: cannot be read" in done.err
