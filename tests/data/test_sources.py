"""Three ways in which people's photographs are passed round; what is in them is the same."""

import builtins
import hashlib
import os

import pytest

from facesieve.data.crops import verify
from facesieve.data.manifest import Selection
from facesieve.data.select import select
from facesieve.data.sources import open_source
from facesieve.errors import InputError, MissingExtraError
from make_people import write_datasets, write_folders, write_records


def hashes(manifest):
    return [image.sha256 for image in manifest.images]


@pytest.mark.parametrize("kind", ["recordio", "recordio without contents", "datasets"])
def test_the_same_is_chosen_from_every_kind(people, tmp_path, kind):
    if kind == "datasets":
        write_datasets(tmp_path / "other", people)
    else:
        people = {f"{number:06d}": people[name] for number, name in enumerate(people)}  # names are not passed on
        write_records(tmp_path / "other", people, contents="without" not in kind)
    write_folders(tmp_path / "folder", people)
    source, plain = open_source(tmp_path / "other"), open_source(tmp_path / "folder")
    assert kind.startswith(source.kind)
    found = source.identities()
    assert {name: [source.read(ref) for ref in refs] for name, refs in found.items()} == people
    few = Selection(minimum=5, people=2, train=2, test=1)
    manifest = select(source, few)
    ours = select(plain, few)
    assert hashes(manifest) == hashes(ours)
    assert [image.landmarks for image in manifest.images] == [image.landmarks for image in ours.images]
    verify(manifest, source)
    with pytest.raises(InputError, match=f"of kind {source.kind}, this one is folder; give that one"):
        verify(manifest, plain)
    with pytest.raises(InputError, match="is missing"):  # a manifest of more rows than there are
        verify(manifest.model_copy(update={"images": (manifest.images[0].model_copy(update={"ref": "999999"}),)}), source)
    with pytest.raises(InputError, match="a/b.jpg: not a record's or row's number"):
        source.read("a/b.jpg")


def test_a_record_file_itself_may_be_given(tmp_path):
    write_records(tmp_path / "r", {"a": [b"1"]})
    assert open_source(tmp_path / "r" / "train.rec").identities() == {"000000": ["1"]}


def test_a_name_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "ada").mkdir()
    try:
        (tmp_path / "ada" / os.fsdecode(b"\xff.jpg")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(InputError, match=r"the name 'ada/\\udcff.jpg' is not UTF-8; rename it"):
        open_source(tmp_path).identities()


def test_what_cannot_be_told_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.jpg").write_bytes(b"x")
    for name, said in (("nowhere", "no such file"), ("empty", "expected a folder"), ("flat", "expected a folder")):
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / name)


# --- Hugging Face -------------------------------------------------------------------------------


def table(root, images, labels, **columns):
    import datasets

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a"])}
    features |= {name: datasets.Value("string") for name in columns}
    values = {"image": images, "label": labels, **columns}
    made = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    made.save_to_disk(str(root))
    return made


def test_an_image_that_is_none_is_replaced(people, tmp_path):
    first = next(iter(people.values()))
    table(tmp_path / "d", [None, *({"bytes": data, "path": None} for data in first[:2])], [0, 0, 0])
    manifest = select(open_source(tmp_path / "d"), Selection(minimum=3, people=1, train=1, test=1, seed=1))
    assert {image.sha256 for image in manifest.images} == {hashlib.sha256(data).hexdigest() for data in first[:2]}
    with pytest.raises(InputError, match="row 0 has no image that can be read"):
        open_source(tmp_path / "d").read("0")


def test_images_may_lie_beside_the_table(tmp_path):
    (tmp_path / "p.jpg").write_bytes(b"picture")
    table(tmp_path / "d", [{"bytes": None, "path": str(tmp_path / "p.jpg")}], [0])
    assert open_source(tmp_path / "d").read("0") == b"picture"


@pytest.mark.parametrize("label", [None, -1])
def test_a_row_without_label_is_one_line(tmp_path, label):
    table(tmp_path / "d", [{"bytes": b"x", "path": None}] * 2, [0, label])
    with pytest.raises(InputError, match="row 1 has no label"):
        open_source(tmp_path / "d").identities()


def test_splits_other_columns_and_damage_are_one_line(tmp_path):
    import datasets

    made = table(tmp_path / "d", [{"bytes": b"x", "path": None}], [0])
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(tmp_path / "splits"))
    made.remove_columns("label").save_to_disk(str(tmp_path / "bare"))
    for path in (tmp_path / "d").glob("*.arrow"):
        path.write_bytes(b"zz")
    for name, said in (
        ("splits", "holds the splits train, test"),
        ("bare", "expected one image and one label column, it has image"),
        ("d", "not a Hugging Face data set that can be read"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)


def faces(root, **columns):
    """A data set with these label columns beside the images: a list of values, or (names, values) of a ClassLabel."""
    import datasets

    rows = len(
        next(iter(columns.values()))[-1] if isinstance(next(iter(columns.values())), tuple) else next(iter(columns.values()))
    )
    features, values = {"image": datasets.Image()}, {"image": [{"bytes": b"%d" % n, "path": None} for n in range(rows)]}
    for name, given in columns.items():
        labels, values[name] = given if isinstance(given, tuple) else (None, given)
        kind = datasets.Value("int64" if isinstance(given[0], int) else "float64" if isinstance(given[0], float) else "string")
        features[name] = kind if labels is None else datasets.ClassLabel(names=labels)
    return datasets.Dataset.from_dict(values, features=datasets.Features(features))


def test_the_label_is_the_column_of_that_name_or_the_one_that_is_asked_for_and_never_just_a_class(tmp_path):
    faces(tmp_path / "a", gender=(["f", "m"], [0, 1, 0]), identity=["Ada", "Bob", "Ada"]).save_to_disk(str(tmp_path / "a"))
    faces(tmp_path / "b", emotion=(["glad", "sad"], [0, 1, 1]), celebrity=[7, 8, 7]).save_to_disk(str(tmp_path / "b"))
    faces(tmp_path / "c", label=[1, 2, 2], name=["x", "y", "z"]).save_to_disk(str(tmp_path / "c"))
    assert open_source(tmp_path / "a").identities() == {"Ada": ["0", "2"], "Bob": ["1"]}
    assert open_source(tmp_path / "b", label="celebrity").identities() == {"7": ["0", "2"], "8": ["1"]}
    assert open_source(tmp_path / "c", label="name").identities() == {"x": ["0"], "y": ["1"], "z": ["2"]}
    for name, label, said in (
        ("b", None, r"none of its columns \(emotion, celebrity\) says who is shown"),
        ("c", None, "the columns label, name may all say who is shown"),
        ("b", "person", "has no column 'person'; it has emotion, celebrity"),
    ):
        with pytest.raises(InputError, match=said):
            open_source(tmp_path / name, label=label).identities()
    assert open_source(tmp_path / "c").read("1") == b"1"  # to read a manifest's rows nothing has to be asked
    write_folders(tmp_path / "folders", {"a": [b"x"]})
    with pytest.raises(InputError, match="is of kind folder, which has no column 'name'"):
        open_source(tmp_path / "folders", label="name")


def test_labels_that_are_none_are_one_line(tmp_path):
    for place, values in (("a", [0.5, 1.5]), ("b", ["Ada", ""])):
        faces(tmp_path / place, label=values).save_to_disk(str(tmp_path / place))
        with pytest.raises(InputError, match=r"row \d has (no label|a label that is neither)"):
            open_source(tmp_path / place).identities()


def test_a_format_that_was_set_on_a_data_set_changes_nothing(tmp_path):
    made = faces(tmp_path / "d", identity=["Ada", "Bob"], age=[30, 40])
    for number, format in enumerate(({"type": "numpy"}, {"type": "torch", "columns": ["age"]}, {"type": "pandas"})):
        made.with_format(**format).save_to_disk(str(tmp_path / str(number)))
        source = open_source(tmp_path / str(number))
        assert source.identities() == {"Ada": ["0"], "Bob": ["1"]}
        assert [source.read("0"), source.read("1")] == [b"0", b"1"]


def test_without_the_extra_the_error_says_which(tmp_path, monkeypatch):
    (tmp_path / "state.json").write_text("{}")
    original = builtins.__import__

    def missing(name, *rest):
        if name == "datasets":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"facesieve\[evaluate\]"):
        open_source(tmp_path)
