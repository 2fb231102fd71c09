"""What hardware the machine has, and what the networks will run on."""

from __future__ import annotations

import functools
import platform
import time
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from facesieve.errors import SettingError
from facesieve.machine import keep, kept, processor

Precision = Literal["auto", "fp32", "bf16"]
WORTH_IT = 1.2  # times as fast as fp32: from here on `auto` takes bf16


@dataclass(frozen=True)
class Hardware:
    """Where and in which number format the networks run, and why."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def __str__(self) -> str:
        return f"{self.device.type} {'bf16' if self.dtype == torch.bfloat16 else 'fp32'} ({self.reason})"


def choose_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """The hardware for the wanted device ("auto", "cpu", "cuda", ...) and precision.

    bf16 is used on CUDA, and on a processor that multiplies it where it is faster than fp32. That was
    measured once on this machine (``bf16_gain``), since the instruction set does not tell: with one
    version of PyTorch AVX512-BF16 was slower than fp32, with another almost twice as fast.
    Raises ``SettingError`` for a device that is not there or a precision that does not exist.
    """
    if precision not in get_args(Precision):
        raise SettingError(f"precision {precision!r} is not one of {', '.join(get_args(Precision))}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device {device!r} cannot be used here", advice="'cpu' always can") from error
    unit = bf16_unit(chosen)
    if precision == "fp32":
        return Hardware(chosen, torch.float32, "asked for")
    if precision == "bf16":
        return Hardware(chosen, torch.bfloat16, f"asked for; {unit or 'no bf16 unit'}")
    if unit is None:
        return Hardware(chosen, torch.float32, "no bf16 unit found")
    if chosen.type == "cuda":
        return Hardware(chosen, torch.bfloat16, f"{unit} found")
    gain = bf16_gain()
    dtype = torch.bfloat16 if gain >= WORTH_IT else torch.float32
    return Hardware(chosen, dtype, f"{unit}: bf16 was {gain:.1f} times as fast as fp32 when measured")


def bf16_unit(device: torch.device) -> str | None:
    """The name of the hardware that multiplies bf16 on ``device``, or None."""
    if device.type == "cuda":
        return "CUDA bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type != "cpu":
        return None
    flags = cpu_flags()
    return "AMX" if "amx_bf16" in flags else "AVX512-BF16" if "avx512_bf16" in flags else None


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets that matter here, as torch sees them."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    wanted = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "neon", "sve")
    return frozenset(name for name in wanted if capabilities.get(name))


@functools.cache
def bf16_gain() -> float:
    """How many times as fast as in fp32 a convolution of the prior's size runs in bf16 on this processor.

    Measured once in about 0.1 s and kept in the user's cache folder, by the processor's name and PyTorch's version;
    where nothing can be kept, once a process.
    """
    key = f"{processor()}, {', '.join(sorted(cpu_flags()))}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    gain = kept("bf16").get(key)
    if gain is None:
        gain = round(_measured_gain(), 2)
        keep("bf16", key, gain)
    return gain


def _measured_gain(rounds: int = 5) -> float:
    """In turn, so that whatever else runs meets both; the shortest time of each counts."""
    with torch.device("cpu"):  # whatever the default device
        return _gain_on_this_device(rounds)


def _gain_on_this_device(rounds: int) -> float:
    formats = (torch.float32, torch.bfloat16)
    layers = [torch.nn.Conv2d(64, 64, 3, padding=1).to(dtype, memory_format=torch.channels_last) for dtype in formats]  # type: ignore[call-overload]
    images = [torch.rand(4, 64, 64, 64).to(dtype, memory_format=torch.channels_last) for dtype in formats]
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for layer, image, taken in zip(layers, images, times, strict=True):
                begin = time.process_time()
                layer(image)
                taken.append(time.process_time() - begin)
    fp32, bf16 = (min(taken[1:]) for taken in times)  # the first of each sets up
    return fp32 / bf16


def summary() -> dict[str, str]:
    """What ``facesieve info`` prints about the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{torch.get_num_threads()} threads; {', '.join(sorted(cpu_flags())) or 'no vector units known'}",
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "path": str(choose_hardware()),
    }
