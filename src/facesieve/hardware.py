"""What hardware the machine has, and what the networks will run on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from facesieve.errors import SettingError

Precision = Literal["auto", "fp32", "bf16"]
FAST_BF16 = ("AMX", "CUDA bf16")


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

    bf16 is used where it is faster than fp32: with AMX and on CUDA. AVX512-BF16 alone does not
    count: convolutions of these sizes ran 1.5 times slower on it than in fp32 (benchmarks/purify.py).
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
    if unit in FAST_BF16:
        return Hardware(chosen, torch.bfloat16, f"{unit} found")
    return Hardware(chosen, torch.float32, f"{unit} found, slower than fp32" if unit else "no bf16 unit found")


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


def summary() -> dict[str, str]:
    """What ``facesieve info`` prints about the machine."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{torch.get_num_threads()} threads; {', '.join(sorted(cpu_flags())) or 'no vector units known'}",
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "path": str(choose_hardware()),
    }
