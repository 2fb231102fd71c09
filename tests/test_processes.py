"""Shields and recognisers in several threads, pickled, copied, and in forked processes."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from facesieve import load_shield
from facesieve.errors import SettingError
from facesieve.recognition.embedders import load_embedder
from facesieve.shield import TOGETHER, Shield

SAMPLES = Path(__file__).parent.parent / "samples"
RUNTIMES = ["onnx", "torch", "openvino"]


@pytest.fixture(scope="module", params=RUNTIMES)
def shield(request):
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return load_shield("robust", runtime=request.param, precision="fp32")


def test_one_shield_serves_many_threads(shield, sample_photos):
    photos = list(sample_photos.values())[:3]
    expected = [shield.purify(photo, seeds=[5])[0] for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: shield.purify(photos[n % 3], seeds=[5])[0], range(6)))
    assert all(np.array_equal(photo, expected[n % 3]) for n, photo in enumerate(found))


@pytest.mark.parametrize("again", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["copied", "pickled"])
def test_a_shield_in_use_can_be_copied_and_pickled(shield, sample_photo, again):
    expected = shield.purify(sample_photo, seeds=[3])[0]
    copied = again(shield)
    assert copied.card == shield.card
    np.testing.assert_array_equal(copied.purify(sample_photo, seeds=[3])[0], expected)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_recogniser_can_be_copied_and_pickled(gradients):
    embedder, crops = load_embedder("sface", gradients=gradients), np.full((2, 3, 112, 112), 0.25, np.float32)
    expected = embedder.rows(crops)
    for copied in (copy.deepcopy(embedder), pickle.loads(pickle.dumps(embedder))):
        np.testing.assert_array_equal(copied.rows(crops), expected)


def test_a_graph_that_has_changed_since_is_not_opened_again(tmp_path):
    from facesieve.weights import FOLDER
    from facesieve.weights.graphs import Session

    path = tmp_path / "graph.onnx"
    path.write_bytes((FOLDER / "yunet-2023mar.onnx").read_bytes())
    session = pickle.dumps(Session(path, feature="a test"))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(SettingError, match="changed"):
        _ = pickle.loads(session).session


# --- processes ---------------------------------------------------------------------------------------

FORKED = """
import multiprocessing, sys
import numpy as np, torch
from facesieve import load_shield, read_photo
from facesieve.recognition.embedders import load_embedder

torch.set_num_threads(2)  # with one there is nothing to wait for
what, photo = sys.argv[1], read_photo(sys.argv[2])
if what.startswith("embedder"):
    embedder, crops = load_embedder(what.split()[1]), np.full((32, 3, 112, 112), 0.5, np.float32)
    work = lambda: float(embedder.rows(crops).sum())
else:
    shield = load_shield("robust", runtime=what)
    work = lambda: float(shield.purify(photo, seeds=[1])[0].mean())

def in_worker(_):
    return work()

here = work()
with multiprocessing.get_context("fork").Pool(1) as pool:
    there = pool.map_async(in_worker, [0]).get(60)[0]
assert abs(here - there) < 0.01, (here, there)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("what", [*RUNTIMES, "embedder sface", "embedder dlib"])
def test_a_forked_worker_does_what_its_parent_did(what):
    if what == "openvino":
        pytest.importorskip("openvino")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    words = [sys.executable, "-c", FORKED, what, SAMPLES / "collins-1.jpg"]
    done = subprocess.run(words, env=environment, timeout=180, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- many faces --------------------------------------------------------------------------------------


class Counting:
    """A runtime that notes how many faces come together, and returns each crop with its seed as its first value."""

    def __init__(self, runtime):
        self.card, self.counts = runtime.card, []

    def purify(self, crops, seeds, report=None):
        from facesieve.runtime import Trace, TraceStep

        self.counts.append(len(crops))
        made = crops.copy()
        made[:, 0, 0, 0] = np.array(list(seeds)) / 100
        return Trace((TraceStep("counted", made),))


def test_many_faces_go_through_in_batches_of_bounded_size(sample_photo):
    shield = Shield(Counting(load_shield("robust", runtime="onnx").runtime))
    one = shield.cut(sample_photo)
    count = 2 * TOGETHER + 3
    many = replace(one, faces=one.faces[:1] * count, crops=np.repeat(one.crops[:1], count, axis=0))
    after = shield.restore(many, list(range(count)))
    assert shield.runtime.counts == [TOGETHER, TOGETHER, 3]
    np.testing.assert_allclose(after.crops[:, 0, 0, 0], np.arange(count) / 100, rtol=1e-6)
    with pytest.raises(SettingError, match="one a face"):
        shield.restore(many, [1, 2])
