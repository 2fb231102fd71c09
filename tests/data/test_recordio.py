"""RecordIO, read back from files that an independent little writer made; and files that are damaged."""

import struct

import numpy as np
import pytest

from facesieve.data.recordio import RecordFile
from facesieve.errors import InputError
from make_people import MAGIC, write_record_file, write_records


def labelled(label, data=b"x", flag=0):
    return struct.pack("<IfQQ", flag, label, 0, 0) + data


@pytest.mark.parametrize("contents", [True, False])
def test_images_and_labels_come_back(tmp_path, contents):
    people = {"a": [b"1", b"22", b"333"], "b": [b"4444", b"55555"]}
    write_records(tmp_path / "r", people, contents=contents)
    records = RecordFile(tmp_path / "r" / "train.rec")
    found = list(records.labels())
    assert [label for _, label in found] == [0, 0, 0, 1, 1]  # and not the people's ranges of keys at the end
    assert [records.image(key) for key, _ in found] == [*people["a"], *people["b"]]


@pytest.mark.parametrize("data", [MAGIC, b"ab" + MAGIC + b"cdefg" + MAGIC, MAGIC + MAGIC + b"z", b"abcd" * 3 + MAGIC + b"e"])
def test_a_record_with_a_magic_number_inside_is_read_whole(tmp_path, data):
    write_records(tmp_path / "r", {"one": [data, b"x"]})
    records = RecordFile(tmp_path / "r" / "train.rec")
    assert list(records.labels()) == [(1, 0), (2, 0)]
    assert records.image(1) == data
    assert records.image(2) == b"x"


def test_of_many_labels_the_first_is_the_person(tmp_path):
    """As in files that carry landmarks or ages behind the label."""
    write_record_file(tmp_path / "r", [struct.pack("<IfQQ3f", 3, 0, 0, 0, 7, 0.25, 0.5) + b"picture"])
    records = RecordFile(tmp_path / "r" / "train.rec")
    assert list(records.labels()) == [(0, 7)]
    assert records.image(0) == b"picture"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (labelled(float("nan")), "record 0 has the label nan"),
        (labelled(float("inf")), "record 0 has the label inf"),
        (labelled(1.5), "record 0 has the label 1.5"),
        (labelled(1, flag=2**32 - 1), "record 0 is damaged"),
        (b"short", "record 0 is damaged"),
    ],
    ids=["nan", "infinite", "fraction", "labels without end", "no header"],
)
def test_a_label_that_is_none_is_one_line(tmp_path, record, said):
    write_record_file(tmp_path / "r", [record])
    with pytest.raises(InputError, match=said):
        list(RecordFile(tmp_path / "r" / "train.rec").labels())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: whole[:40], "ends before|do not belong together"),
        (lambda whole: struct.pack("<I", 1) + whole[4:], "do not belong together"),
        (lambda whole: whole[:4] + struct.pack("<I", 1 << 29 | len(whole) - 8) + whole[8:], "ends before"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, change, said):
    write_record_file(tmp_path / "r", [labelled(0, b"abcd" * 10)])
    path = tmp_path / "r" / "train.rec"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=said):
        RecordFile(path).image(0)


@pytest.mark.parametrize("offset", [-5, 10**9, 2**63, 10**30])
def test_an_index_that_points_elsewhere_is_one_line(tmp_path, offset):
    write_record_file(tmp_path / "r", [labelled(0)])
    (tmp_path / "r" / "train.idx").write_text(f"0\t{offset}\n")
    with pytest.raises(InputError, match="train.rec"):
        RecordFile(tmp_path / "r" / "train.rec").image(0)


def lines_of(root):
    return (root / "train.idx").read_text().splitlines(keepends=True)


@pytest.mark.parametrize("contents", [True, False])
def test_a_record_that_the_index_lacks_or_names_twice_is_told(tmp_path, contents):
    """Otherwise a person would lose photographs without a word."""
    write_records(tmp_path / "r", {"a": [b"1", MAGIC + b"22"], "b": [b"333", b"4444", b"55555"]}, contents=contents)
    path, lines = tmp_path / "r" / "train.rec", lines_of(tmp_path / "r")
    assert len(list(RecordFile(path).labels())) == 5
    for left_out in range(len(lines)):
        (tmp_path / "r" / "train.idx").write_text("".join(lines[:left_out] + lines[left_out + 1 :]))
        with pytest.raises(InputError, match="lacks the records from|no record"):
            list(RecordFile(path).labels())
    (tmp_path / "r" / "train.idx").write_text("".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=r"train.idx: a key comes twice"):
        RecordFile(path)
    (tmp_path / "r" / "train.idx").write_text("".join([*lines, "99\t" + lines[1].split("\t")[1]]))
    with pytest.raises(InputError, match="no record begins there"):
        list(RecordFile(path).labels())


def test_a_table_of_contents_of_another_count_is_told(tmp_path):
    table = struct.pack("<IfQQff", 2, 0, 0, 0, 9, 9)
    write_record_file(tmp_path / "r", [table, labelled(0), labelled(1)])
    with pytest.raises(InputError, match="its table of contents says 8 images, its index has 2"):
        list(RecordFile(tmp_path / "r" / "train.rec").labels())


def test_files_that_are_missing_empty_or_something_else_are_one_line(tmp_path):
    write_record_file(tmp_path / "r", [labelled(0)])
    path = tmp_path / "r" / "train.rec"
    with pytest.raises(InputError, match="has no record 3"):
        RecordFile(path).image(3)
    path.with_suffix(".idx").write_text("nonsense\n")
    with pytest.raises(InputError, match="train.idx: not an index"):
        RecordFile(path)
    path.with_suffix(".idx").unlink()
    with pytest.raises(InputError, match="train.idx: cannot be read"):
        RecordFile(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="train.rec: empty"):
        RecordFile(path)


def test_any_changed_byte_ends_in_a_record_or_in_one_line(tmp_path):
    write_records(tmp_path / "r", {"a": [b"abc" * 5, MAGIC * 2], "b": [b"defg"]})
    path = tmp_path / "r" / "train.rec"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            records = RecordFile(path)
            for key, _ in records.labels():
                records.image(key)
        except InputError:  # and nothing else
            pass
