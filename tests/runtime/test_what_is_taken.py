"""Crops that are none are refused wherever crops are purified, and what is switched on around a purifier changes nothing."""

import numpy as np
import pytest
import torch

from facesieve.errors import InputError
from facesieve.hardware import choose_hardware
from facesieve.purify import preset
from facesieve.runtime import RUNTIMES
from facesieve.runtime.torch import TorchRuntime, load_runtime
from facesieve.shield import Shield
from white_prior import WhitePrior

CROPS = np.random.default_rng(0).random((2, 3, 128, 128), np.float32)
WRONG = {
    "in [-1, 1]": (2 * CROPS - 1, r"from -1 to 1"),
    "in 0 to 255": (255 * CROPS, r"from .* to 255"),
    "NaN": (np.where(CROPS > 0.999, np.nan, CROPS).astype(np.float32), "nan"),
    "infinite": (np.where(CROPS > 0.999, np.inf, CROPS).astype(np.float32), "inf"),
    "112 x 112": (CROPS[..., :112, :112], r"128 x 128 pixels here, these are 112 x 112"),
    "wide": (CROPS[..., :96, :], r"these are 128 x 96"),
    "grey": (CROPS[:, :1], r"\(2, 1, 128, 128\)"),
    "channels last": (np.ascontiguousarray(CROPS.transpose(0, 2, 3, 1)), r"\(2, 128, 128, 3\)"),
    "bytes": ((255 * CROPS).astype(np.uint8), "uint8"),
    "integers": (CROPS.astype(np.int64), "int64"),
}


@pytest.fixture(scope="module")
def runtime():
    chosen = preset("robust")
    return TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32"))


@pytest.fixture(scope="module")
def graphs():
    return [RUNTIMES.load(name)(preset("gentle"), prior=None, device="cpu", precision="fp32") for name in ("onnx", "openvino")]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_crop_is_refused_by_every_runtime(runtime, graphs, name):
    wrong, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        runtime.purifier(torch.from_numpy(wrong), seeds=[1, 2])
    for each in (runtime, *graphs):
        with pytest.raises(InputError, match=message):
            each.purify(wrong, [1, 2])


def test_a_single_crop_and_a_list_are_refused_with_their_kind(runtime):
    with pytest.raises(InputError, match="list"):
        runtime.purify([CROPS[0]], [1])
    with pytest.raises(InputError, match=r"float32 of shape \(3, 128, 128\)"):
        runtime.purify(CROPS[0], [1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_crops_of_every_floating_type_with_rounding_errors_are_taken_and_gradients_pass(runtime, dtype):
    crops = torch.from_numpy(CROPS).clamp(1e-3, 1).to(dtype)
    crops[0, 0, 0, 0], crops[0, 0, 0, 1] = -1e-6, 1 + 1e-6
    crops.requires_grad_(True)
    made = runtime.purifier(crops, seeds=[1, 2])
    made.float().sum().backward()
    assert made.dtype == dtype
    assert bool((crops.grad != 0).any(dim=(1, 2, 3)).all())
    assert runtime.purifier(crops[:0], seeds=[]).shape == (0, 3, 128, 128)


# --- the surroundings ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """The default preset with its own network; a quarter of a second a face."""
    return load_runtime(preset("robust"), hardware=choose_hardware("cpu", "fp32"))


@pytest.fixture(scope="module")
def wanted(real):
    return real.purifier(torch.from_numpy(CROPS[:1]), seeds=[7])


def test_autocast_around_it_changes_nothing(real, wanted):
    with torch.autocast("cpu", torch.bfloat16):
        made = real.purifier(torch.from_numpy(CROPS[:1]), seeds=[7])
    assert made.dtype == torch.float32
    assert torch.equal(made, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        assert np.array_equal(real.purify(CROPS[:1], [7]).crops, wanted.numpy())


def test_an_attackers_purifier_follows_the_autocast_that_it_asked_for(real, wanted):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        made = real.purifier.for_attacker(128)(torch.from_numpy(CROPS[:1]), seeds=[7])
    assert 0 < float((made - wanted).abs().max()) < 0.05


def test_a_default_device_around_it_changes_nothing(wanted):
    """The device ``meta`` holds no numbers: whatever was made there without a need would be seen."""
    torch.set_default_device("meta")
    try:
        loaded = load_runtime(preset("robust"), hardware=choose_hardware("cpu", "fp32"))
        made = loaded.purifier(torch.from_numpy(CROPS[:1]), seeds=[7])
        traced = loaded.purify(CROPS[:1], [7]).crops
    finally:
        torch.set_default_device(None)
    assert torch.equal(made, wanted)
    assert np.array_equal(traced, wanted.numpy())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_was_first_used_in_inference_mode_can_be_trained_through_afterwards(precision):
    crops = torch.from_numpy(CROPS[:1])
    with torch.inference_mode():
        loaded = load_runtime(preset("robust"), hardware=choose_hardware("cpu", precision))
        shown = loaded.purifier(crops, seeds=[7]).clone()
    before = torch.nn.Conv2d(3, 3, 1)
    made = loaded.purifier(before(crops).sigmoid(), seeds=[7])
    made.mean().backward()
    assert float(before.weight.grad.abs().sum()) > 0
    loaded.prior.requires_grad_(True)  # and the network itself
    again = loaded.purifier(crops, seeds=[7])
    again.mean().backward()
    assert torch.equal(again.detach(), shown)
    assert all(weights.grad is not None for weights in loaded.prior.parameters())


def test_a_shield_is_one_line(runtime):
    line = str(Shield(runtime))
    assert line == repr(Shield(runtime)) == "<Shield " + runtime.card.label + ": 128 x 128 pixels, on cpu fp32 (asked for)>"
