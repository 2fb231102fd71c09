"""A prior on disk: the folder format of ``diffusers``, with a card.

    folder/
        config.json                            the network, a UNet2DModel
        scheduler_config.json                  its betas and its training target
        diffusion_pytorch_model.safetensors    its weights
        card.json                              what it is, and the SHA-256 of the weights

A pipeline's folder, which has the first three under ``unet/`` and ``scheduler/``, is read as well,
and so are weights in ``diffusion_pytorch_model.bin``: tensors alone, never code.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from facesieve.errors import PriorError
from facesieve.priors.network import NetworkPrior, Prediction
from facesieve.priors.schedule import Schedule

CONFIG, SCHEDULER, CARD = "config.json", "scheduler_config.json", "card.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED_WEIGHTS = "diffusion_pytorch_model.bin"

# How diffusers once called the parts of its attention; public checkpoints still do.
_OLD_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# --- reading -----------------------------------------------------------------------------------


def load_prior(folder: Path | str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NetworkPrior:
    """The prior in a folder, on ``device``, its weights in ``dtype`` and fixed; its ``shape`` is (3, H, W).

    A ``card.json`` with a ``sha256`` is held against the weights. Raises ``PriorError`` for a file
    that is missing or damaged, a network or a schedule that is not a denoiser of colour images over
    betas, and weights that do not fit the network or are not finite.
    """
    folder = Path(folder)
    weights = weights_file(folder)
    config = _json(_first(folder, CONFIG, f"unet/{CONFIG}"))
    schedule, prediction = _read_schedule(_first(folder, SCHEDULER, f"scheduler/{SCHEDULER}"))
    named_hash = read_card(folder).get("sha256") if (folder / CARD).exists() else None
    sha256 = file_hash(weights)
    if named_hash is not None and named_hash != sha256:
        raise PriorError(f"{weights}: not the weights that {CARD} names by their SHA-256; get the folder again")
    prior = assemble(config, read_weights(weights), schedule, prediction, where=str(folder))
    prior.sha256 = sha256
    return prior.to(device=device, dtype=dtype)


def read_card(folder: Path) -> dict[str, Any]:
    """What a prior's ``card.json`` says. Raises ``PriorError`` if there is none."""
    return _json(_first(folder, CARD))


def prior_hash(folder: Path) -> str:
    """The SHA-256 of a prior's weights file, in hexadecimal. Raises ``PriorError`` if there is none."""
    return file_hash(weights_file(folder))


def file_hash(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises ``PriorError`` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PriorError(f"{path}: cannot be read: {error.strerror}") from error


def weights_file(folder: Path) -> Path:
    """Where a folder keeps its weights, safetensors before pickled ones. Raises ``PriorError`` if nowhere."""
    return _first(folder, WEIGHTS, f"unet/{WEIGHTS}", PICKLED_WEIGHTS, f"unet/{PICKLED_WEIGHTS}")


def _first(folder: Path, *names: str) -> Path:
    if not folder.is_dir():
        raise PriorError(f"{folder}: not a folder; a prior is a folder in the format of diffusers")
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise PriorError(f"{folder}: has no {names[0]}; a prior is a folder with {CONFIG}, {SCHEDULER} and {WEIGHTS}")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PriorError(f"{path}: not a readable JSON file; get it again") from error
    if not isinstance(content, dict):
        raise PriorError(f"{path}: holds no JSON object; get it again")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a ``.safetensors`` file or a pickled one, attention under its present names."""
    state = _read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PriorError(
            f"{path}: holds more than named tensors; `facesieve prior import` converts checkpoints of other programs"
        )
    named = {_present_name(str(key)): value for key, value in state.items()}
    return named if len(named) == len(state) else {str(key): value for key, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PriorError(f"{path}: damaged, or not a safetensors file; get it again") from error


def read_pickled(path: Path) -> object:
    """What a PyTorch checkpoint holds, on the CPU; code in it is never run. Raises ``PriorError`` if unreadable."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise PriorError(
            f"{path}: not a PyTorch file of tensors alone (damaged, of another kind, or with code in it, which is not run)"
        ) from error


def _present_name(key: str) -> str:
    old = _OLD_ATTENTION.fullmatch(key)
    return f"{old[1]}.{_NEW_ATTENTION[old[2]]}.{old[3]}" if old else key


def _read_schedule(path: Path) -> tuple[Schedule, Prediction]:
    """The schedule and the training target in a scheduler's config; a target that is not named is the noise."""
    from diffusers import DDPMScheduler

    config = _json(path)
    if not {"beta_schedule", "beta_start", "trained_betas"} & set(config):
        raise PriorError(
            f"{path}: {config.get('_class_name', 'the scheduler')} has no betas; only DDPM's schedules are supported"
        )
    try:
        betas = DDPMScheduler.from_config(config).betas
        schedule = Schedule(torch.cumprod(1 - betas.double(), 0))
    except Exception as error:  # diffusers checks nothing; Schedule says what is wrong in a line
        raise PriorError(f"{path}: {_line(error)}") from error
    old_target: Prediction = "epsilon" if config.get("predict_epsilon", True) else "sample"
    return schedule, config.get("prediction_type") or old_target


def assemble(
    config: Mapping[str, Any], state: Mapping[str, Tensor], schedule: Schedule, prediction: Prediction, *, where: str
) -> NetworkPrior:
    """A prior, in evaluation mode, fixed and channels last, from a config and weights; ``where`` opens every error."""
    network = build_network(config, where=where)
    fill(network, state, where=where)
    sides = config.get("sample_size")
    height, width = sides if isinstance(sides, list | tuple) and len(sides) == 2 else (sides, sides)
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise PriorError(f"{where}: {CONFIG} must give the side of the images as sample_size, not {sides!r}")
    try:
        prior = NetworkPrior(network, schedule, prediction, (3, height, width))
    except PriorError as error:
        raise PriorError(f"{where}: {error}") from error
    prior.shape = (3, height * prior.patch, width * prior.patch)  # sample_size counts folded pixels
    prior.eval()
    prior.requires_grad_(False)
    prior.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


def build_network(config: Mapping[str, Any], *, where: str) -> nn.Module:
    """The ``UNet2DModel`` of a config, on the meta device: shapes without memory. Raises ``PriorError``."""
    from diffusers import UNet2DModel

    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise PriorError(f"{where}: the network is a {kind}; only UNet2DModel is supported")
    if config.get("time_embedding_type", "positional") != "positional":
        raise PriorError(f"{where}: {config['time_embedding_type']} time embeddings are not supported, only positional ones")
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise PriorError(f"{where}: the network wants class labels; a prior is unconditional")
    try:
        with torch.device("meta"):
            network: nn.Module = UNet2DModel.from_config(dict(config))
    except Exception as error:  # diffusers checks little: whatever its constructor stumbles over
        raise PriorError(f"{where}: no network can be built as it is described: {_line(error)}") from error
    return network


def fill(network: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Give a network on the meta device its weights: every key, each once. Raises ``PriorError``."""
    wanted = network.state_dict()
    troubles = {
        "missing": [key for key in wanted if key not in state],
        "unknown": [key for key in state if key not in wanted],
        "of another shape": [key for key in wanted if key in state and state[key].shape != wanted[key].shape],
    }
    if any(troubles.values()):
        listed = "; ".join(f"{what}: {_some(keys)}" for what, keys in troubles.items() if keys)
        raise PriorError(f"{where}: the weights do not fit the network; {listed}")
    bad = [key for key, value in state.items() if not value.is_floating_point() or not bool(value.float().isfinite().all())]
    if bad:
        raise PriorError(f"{where}: weights that are not finite numbers, in {_some(bad)}; get the file again")
    network.load_state_dict(dict(state), assign=True)
    if any(buffer.is_meta for buffer in network.buffers()):
        raise PriorError(f"{where}: the network has blocks with fixed filters, which are not supported")


def _some(keys: list[str]) -> str:
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + rest


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0] if not isinstance(error, PriorError) else str(error)


# --- writing -----------------------------------------------------------------------------------


def save_prior(prior: NetworkPrior, folder: Path, *, card: dict[str, object], dtype: torch.dtype = torch.float16) -> None:
    """Write a prior to a new folder, whole or not at all, its weights in ``dtype``.

    ``card.json`` holds ``card``, the SHA-256 of the weights and the number of parameters. Raises
    ``PriorError`` for a folder that exists, a network that is not a ``UNet2DModel``, and weights
    that are not finite or too large for ``dtype``.
    """
    if folder.exists() or folder.is_symlink():
        raise PriorError(f"{folder}: exists already; choose another folder, or move this one away")
    config, scheduler = _network_config(prior), _scheduler_config(prior)
    state = {key: value.detach().to("cpu", dtype).contiguous() for key, value in prior.network.state_dict().items()}
    bad = [key for key, value in state.items() if not bool(value.isfinite().all())]
    if bad:
        raise PriorError(f"{folder}: not written, weights are not finite or too large for {dtype}, in {_some(bad)}")
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    try:
        _write(partial, config, scheduler, state, card)
        partial.rename(folder)
    except OSError as error:
        raise PriorError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(
    folder: Path, config: dict[str, Any], scheduler: dict[str, Any], state: dict[str, Tensor], card: dict[str, object]
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder.stat().st_mode & 0o666) | 0o600)  # safetensors lets only the owner read
    full_card = {**card, "sha256": file_hash(folder / WEIGHTS), "parameters": sum(value.numel() for value in state.values())}
    for name, content in ((CONFIG, config), (SCHEDULER, scheduler), (CARD, full_card)):
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _network_config(prior: NetworkPrior) -> dict[str, Any]:
    from diffusers import UNet2DModel

    if not isinstance(prior.network, UNet2DModel):
        raise PriorError(
            f"a network of type {type(prior.network).__name__} has no folder format; only UNet2DModel can be written"
        )
    config: dict[str, Any] = json.loads(prior.network.to_json_string())
    config.pop("_name_or_path", None)  # where it was once loaded from
    height, width = (side // prior.patch for side in prior.shape[1:])
    return {**config, "sample_size": height if height == width else [height, width]}


def _scheduler_config(prior: NetworkPrior) -> dict[str, Any]:
    """The schedule by its name in diffusers where it has one, else beta by beta."""
    from diffusers import DDPMScheduler

    alphas_bar = prior.schedule.alphas_bar
    betas = 1 - alphas_bar / torch.cat([alphas_bar.new_ones(1), alphas_bar[:-1]])
    start, end = (float(f"{float(beta):.6g}") for beta in (betas[0], betas[-1]))
    common: dict[str, Any] = {"num_train_timesteps": len(betas), "prediction_type": prior.prediction, "clip_sample": False}
    named = (("linear", start, end), ("scaled_linear", start, end), ("squaredcos_cap_v2", 1e-4, 0.02), ("sigmoid", 1e-4, 0.02))
    for name, first, last in named:
        scheduler = DDPMScheduler(beta_schedule=name, beta_start=first, beta_end=last, **common)
        if torch.allclose(scheduler.betas.double(), betas, rtol=1e-6, atol=0):
            break
    else:
        scheduler = DDPMScheduler(trained_betas=betas.tolist(), **common)
    config: dict[str, Any] = json.loads(scheduler.to_json_string())
    return config
