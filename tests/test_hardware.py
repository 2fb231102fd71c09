"""The choice of device and number format is made once, and says why."""

import pytest
import torch

from facesieve import hardware
from facesieve.errors import SettingError


@pytest.mark.parametrize(
    ("flags", "precision", "dtype", "reason"),
    [
        ({"amx_bf16", "avx512_bf16"}, "auto", torch.bfloat16, "AMX found"),
        ({"avx512_bf16"}, "auto", torch.float32, "AVX512-BF16 found, slower than fp32"),
        ({"avx2"}, "auto", torch.float32, "no bf16 unit found"),
        ({"amx_bf16"}, "fp32", torch.float32, "asked for"),
        ({"avx2"}, "bf16", torch.bfloat16, "asked for; no bf16 unit"),
    ],
)
def test_the_number_format_follows_the_processor(monkeypatch, flags, precision, dtype, reason):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    chosen = hardware.choose_hardware("cpu", precision)
    assert (chosen.dtype, chosen.reason) == (dtype, reason)
    assert str(chosen) == f"cpu {'bf16' if dtype == torch.bfloat16 else 'fp32'} ({reason})"


def test_a_precision_that_does_not_exist():
    with pytest.raises(SettingError, match="precision 'fp8' is not one of auto, fp32, bf16"):
        hardware.choose_hardware("cpu", "fp8")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(SettingError, match=f"device '{device}' cannot be used here"):
        hardware.choose_hardware(device)


def test_the_summary_names_what_is_chosen():
    assert hardware.summary()["path"] == str(hardware.choose_hardware())
