"""The choice of device and number format is made once, and says why."""

import json

import pytest
import torch

from facesieve import hardware
from facesieve.errors import SettingError


@pytest.mark.parametrize(
    ("flags", "precision", "dtype", "reason"),
    [
        ({"amx_bf16", "avx512_bf16"}, "auto", torch.bfloat16, "AMX: bf16 was 1.8 times as fast as fp32 when measured"),
        ({"avx512_bf16"}, "auto", torch.bfloat16, "AVX512-BF16: bf16 was 1.8 times as fast as fp32 when measured"),
        ({"avx2"}, "auto", torch.float32, "no bf16 unit found"),
        ({"amx_bf16"}, "fp32", torch.float32, "asked for"),
        ({"avx2"}, "bf16", torch.bfloat16, "asked for; no bf16 unit"),
    ],
)
def test_the_number_format_follows_the_processor(monkeypatch, flags, precision, dtype, reason):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    monkeypatch.setattr(hardware, "bf16_gain", lambda: 1.8)
    chosen = hardware.choose_hardware("cpu", precision)
    assert (chosen.dtype, chosen.reason) == (dtype, reason)
    assert str(chosen) == f"cpu {'bf16' if dtype == torch.bfloat16 else 'fp32'} ({reason})"


def test_a_slow_bf16_unit_is_not_used(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(hardware, "bf16_gain", lambda: 0.7)
    chosen = hardware.choose_hardware("cpu")
    assert (chosen.dtype, chosen.reason) == (torch.float32, "AVX512-BF16: bf16 was 0.7 times as fast as fp32 when measured")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and the list of measurements that were made."""
    made: list[float] = []
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(hardware, "_measured_gain", lambda: made.append(1.5) or 1.5)
    hardware.bf16_gain.cache_clear()
    yield tmp_path / "facesieve" / "bf16.json", made
    hardware.bf16_gain.cache_clear()


def test_the_gain_of_bf16_is_measured_once_for_a_processor(cache, monkeypatch):
    file, made = cache
    for _ in range(2):  # two processes
        assert hardware.bf16_gain() == 1.5
        hardware.bf16_gain.cache_clear()
    assert made == [1.5]
    monkeypatch.setattr(hardware, "processor", lambda: "another")
    assert (hardware.bf16_gain(), made) == (1.5, [1.5, 1.5])
    assert len(json.loads(file.read_text())) == 2


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "fast"}'])
def test_a_damaged_cache_is_measured_anew(cache, text):
    file, made = cache
    file.parent.mkdir()
    file.write_text(text)
    assert (hardware.bf16_gain(), made) == (1.5, [1.5])
    assert list(json.loads(file.read_text()).values()) == [1.5]


def test_without_a_cache_folder_the_gain_is_measured_all_the_same(cache):
    file, made = cache
    file.parent.write_text("a file where the folder would be")
    assert (hardware.bf16_gain(), made) == (1.5, [1.5])


def test_the_measurement_gives_a_ratio():
    assert 0.05 < hardware._measured_gain(rounds=1) < 50


def test_a_precision_that_does_not_exist():
    with pytest.raises(SettingError, match="precision 'fp8' is not one of auto, fp32, bf16"):
        hardware.choose_hardware("cpu", "fp8")


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(SettingError, match=f"device '{device}' cannot be used here"):
        hardware.choose_hardware(device)


def test_the_summary_names_what_is_chosen():
    assert hardware.summary()["path"] == str(hardware.choose_hardware())
