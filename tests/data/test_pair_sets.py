"""The field's verification sets: small ones as their authors' tools write them, damaged ones, and pickles with code."""

import collections
import pickle
import pickletools
import struct

import numpy as np
import pytest

from canary import Canary
from facesieve.data.pair_sets import open_pairs
from facesieve.errors import InputError

IMAGES = [b"first", b"second \xff\x00", b"third", b"\x80" * 300]
SAME = [True, False]


def bin_file(tmp_path, thing, protocol=None):
    path = tmp_path / "lfw.bin"
    path.write_bytes(thing if isinstance(thing, bytes) else pickle.dumps(thing, protocol))
    return path


def assert_read(path):
    found = open_pairs(path)
    assert found.name == "lfw"
    assert found.aligned
    assert list(found.images) == IMAGES
    assert found.first.tolist() == [0, 2]
    assert found.second.tolist() == [1, 3]
    assert found.same.tolist() == SAME
    assert found.names[1] == "lfw.bin, image 2"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_insightfaces_pickle_in_every_protocol(tmp_path, protocol):
    assert_read(bin_file(tmp_path, (IMAGES, SAME), protocol))


def test_a_pickle_of_python_two(tmp_path):
    """There bytes are text, of one byte a character; flags may be whole numbers."""
    short = b"".join(b"U" + struct.pack("<B", len(image)) + image for image in IMAGES[:3])
    long = b"T" + struct.pack("<i", len(IMAGES[3])) + IMAGES[3]
    assert_read(bin_file(tmp_path, b"\x80\x02](" + short + long + b"e](K\x01I00\ne\x86."))


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "thing",
    [
        (IMAGES, np.array(SAME)),
        (IMAGES, list(np.array(SAME))),
        (IMAGES, np.array(SAME, np.uint8)),
        ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME),
        ([np.frombuffer(image, np.uint8).reshape(-1, 1).copy() for image in IMAGES], tuple(SAME)),
        [tuple(IMAGES), SAME],
    ],
    ids=["flags", "scalars", "numbers", "images", "columns", "tuples"],
)
def test_arrays_of_numpy(tmp_path, thing, protocol):
    data = pickle.dumps(thing, protocol)
    assert_read(bin_file(tmp_path, data))
    if protocol == 2:
        assert_read(bin_file(tmp_path, data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")))  # of NumPy 1


# --- refused ------------------------------------------------------------------------------------


def refused(path, reason, pairs=None):
    with pytest.raises(InputError, match=reason) as caught:
        open_pairs(path, pairs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_not_run(tmp_path, protocol):
    canary = Canary(tmp_path / "run")
    for thing in (canary, (IMAGES, canary), (IMAGES, SAME, canary), ([canary], SAME)):
        refused(bin_file(tmp_path, thing, protocol), "system: code, which is not run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"c__builtin__\neval\n", "eval"),
        (b"cbuiltins\ngetattr\n", "getattr"),
        (b"cnumpy\nload\n", "numpy.load"),
        (b"c_codecs\ndecode\n", "_codecs.decode"),
        (b"cfacesieve.data.pair_sets\n_KNOWN\n", "_KNOWN"),
        (b"(X\x02\x00\x00\x00lsios\nsystem\n", "os.system"),
    ],
)
def test_any_other_name_is_refused(tmp_path, name, reason):
    refused(bin_file(tmp_path, b"\x80\x02" + name + b"."), f"{reason}: code, which is not run")


def test_what_stands_in_for_numpy_cannot_be_changed(tmp_path):
    state = b"}X\x08\x00\x00\x00__init__cnumpy\nndarray\ns"
    refused(bin_file(tmp_path, b"\x80\x02cnumpy\ndtype\nN" + state + b"\x86b."), "a state of something that has none")
    assert_read(bin_file(tmp_path, (IMAGES, np.array(SAME))))


def test_other_arrays_are_refused(tmp_path):
    refused(bin_file(tmp_path, (IMAGES, np.array([0.5, 1.0])), 2), "an array of")
    refused(bin_file(tmp_path, (IMAGES, np.array([Canary(tmp_path / "run")], object)), 2), "an array of|not run")
    assert not (tmp_path / "run").exists()


def test_a_large_number_takes_no_memory(tmp_path):
    refused(bin_file(tmp_path, b"\x80\x04\x8e" + b"\xff" * 7 + b"\x3f" + b"abc."), "pickle")
    path = bin_file(tmp_path, pickletools.optimize(pickle.dumps((IMAGES, SAME), 2))[:-1] + b"r\xff\xff\xff\x7f.")
    assert_read(path)


@pytest.mark.parametrize(
    "thing",
    [
        b"",
        b"no pickle",
        pickle.dumps((IMAGES, SAME))[:-20],
        (IMAGES,),
        (IMAGES, SAME, SAME),
        (["text"] * 4, SAME),
        (IMAGES, [True, 2]),
        (IMAGES, None),
        (IMAGES[:3], SAME),
        ([], []),
        collections.OrderedDict(),
        5,
    ],
    ids=str,
)
def test_what_is_no_such_file(tmp_path, thing):
    refused(bin_file(tmp_path, thing), "lfw.bin: (not InsightFace's pickle|has )")


def test_a_file_that_is_not_there(tmp_path):
    refused(tmp_path / "cfp_fp.bin", "cannot be read")


# --- LFW's folder -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for person, count in {"Ada_Lovelace": 2, "Grace_Hopper": 1, "Émilie": 1}.items():
        (tmp_path / "lfw" / person).mkdir(parents=True)
        for number in range(1, count + 1):
            (tmp_path / "lfw" / person / f"{person}_{number:04d}.jpg").write_bytes(person.encode())
    (tmp_path / "lfw" / "pairs.txt").write_text(
        "1\t1\nAda_Lovelace\t1\t2\nAda_Lovelace\t2\tÉmilie\t1\nGrace_Hopper 1 Ada_Lovelace 1\n", encoding="utf-8"
    )
    return tmp_path / "lfw"


def test_lfws_folder(folder):
    found = open_pairs(folder)
    assert not found.aligned
    names = [name.rpartition("/")[2] for name in found.names]
    assert names == ["Ada_Lovelace_0001.jpg", "Ada_Lovelace_0002.jpg", "Émilie_0001.jpg", "Grace_Hopper_0001.jpg"]
    assert found.first.tolist() == [0, 1, 3]
    assert found.second.tolist() == [1, 2, 0]
    assert found.same.tolist() == [True, False, False]


def test_a_list_elsewhere_and_pngs(folder, tmp_path):
    (folder / "Grace_Hopper" / "Grace_Hopper_0001.jpg").rename(folder / "Grace_Hopper" / "Grace_Hopper_0001.png")
    (folder / "pairs.txt").rename(tmp_path / "dev.txt")
    assert open_pairs(folder, tmp_path / "dev.txt").names[3] == "Grace_Hopper/Grace_Hopper_0001.png"
    refused(folder, "pairs.txt: cannot be read")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Ada_Lovelace\t1\t9", "Ada_Lovelace/Ada_Lovelace_0009.jpg is in the list and not in the folder"),
        ("Ada_Lovelace\tone\t2", "no person and number"),
        ("../lfw\t1\t2", "no person and number"),
        ("Ada_Lovelace", "line 5 is no pair"),
        ("a\t1\tb\t2\tc", "line 5 is no pair"),
    ],
)
def test_lines_that_are_no_pairs(folder, line, reason):
    with (folder / "pairs.txt").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    refused(folder, reason)


def test_an_empty_list_and_one_for_a_file(folder, tmp_path):
    (folder / "pairs.txt").write_text("10\t300\n")
    refused(folder, "no pairs in it")
    refused(bin_file(tmp_path, (IMAGES, SAME)), "goes with a folder", folder / "pairs.txt")
