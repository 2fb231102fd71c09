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

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from facesieve.errors import PriorError, one_line
from facesieve.priors.network import NetworkPrior, Prediction
from facesieve.priors.schedule import Schedule
from facesieve.weights import CARD, checked_hash, empty, file_hash, fill, json_text, read_json, read_state, state_to_write

CONFIG, SCHEDULER = "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLED_WEIGHTS = "diffusion_pytorch_model.bin"

_OTHER_WEIGHTS = "diffusion_pytorch_model[.-]*"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")

# How diffusers once called the parts of its attention; public checkpoints still do.
_OLD_ATTENTION = re.compile(r"(.*attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# --- reading -----------------------------------------------------------------------------------


def load_prior(folder: Path | str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> NetworkPrior:
    """The prior in a folder, on ``device``, its weights in ``dtype`` and fixed; its ``shape`` is (3, H, W).

    A ``sha256`` in ``card.json`` is compared with the weights. Raises ``PriorError`` for a file
    that is missing or damaged, a network or a schedule that is not a denoiser of colour images over
    betas, and weights that do not fit the network or are not finite.
    """
    folder = Path(folder)
    file = weights_file(folder)
    config = read_json(_first(folder, CONFIG, f"unet/{CONFIG}"), PriorError)
    schedule, prediction = _read_schedule(_first(folder, SCHEDULER, f"scheduler/{SCHEDULER}"))
    card = read_card(folder) if (folder / CARD).exists() else {}
    sha256 = file_hash(file, PriorError) if card.get("sha256") is None else checked_hash(file, card, PriorError)
    prior = assemble(config, _read_weights(file), schedule, prediction, where=folder)
    prior.sha256 = sha256
    return prior.to(device=device, dtype=dtype)


def read_card(folder: Path) -> dict[str, Any]:
    """What a prior's ``card.json`` says. Raises ``PriorError`` if there is none."""
    return read_json(_first(folder, CARD), PriorError, "card")


def prior_hash(folder: Path) -> str:
    """The SHA-256 of a prior's weights file, in hexadecimal. Raises ``PriorError`` if there is none."""
    return file_hash(weights_file(folder), PriorError)


def weights_file(folder: Path) -> Path:
    """Where a folder keeps its weights, safetensors before pickled ones. Raises ``PriorError`` if nowhere."""
    try:
        return _first(folder, WEIGHTS, f"unet/{WEIGHTS}", PICKLED_WEIGHTS, f"unet/{PICKLED_WEIGHTS}")
    except PriorError as error:
        raise _other_weights(folder) or error from None


def _other_weights(folder: Path) -> PriorError | None:
    """What to do with weights that ``diffusers`` saved otherwise: in shards, or as a variant such as fp16."""
    there = (*folder.glob(_OTHER_WEIGHTS), *folder.glob(f"unet/{_OTHER_WEIGHTS}"))
    found = sorted(file.name for file in there if file.suffix in {".safetensors", ".bin"})
    shards = [name for name in found if _SHARD.search(name)]
    if shards:
        again = "save them in one file: save_pretrained(..., max_shard_size='100GB')"
        return PriorError(f"the weights are in {len(shards)} shards, such as {shards[0]}", folder, again)
    if found:
        advice = f"rename it {WEIGHTS} if it is what you want; its weights are used in float32"
        return PriorError(f"has no {WEIGHTS}, but the variant {found[0]}", folder, advice)
    return None


def _first(folder: Path, *names: str) -> Path:
    if not folder.is_dir():
        raise PriorError("not a folder; a prior is a folder in the format of diffusers", folder)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise PriorError(f"has no {names[0]}; a prior is a folder with {CONFIG}, {SCHEDULER} and {WEIGHTS}", folder)


def _read_weights(file: Path) -> dict[str, Tensor]:
    """A state dict, attention under its current names unless two keys would share one."""
    try:
        state = read_state(file, PriorError)
    except PriorError as error:
        raise error.advised("checkpoints of other programs have to be imported first") from error
    named = {_present_name(key): value for key, value in state.items()}
    return named if len(named) == len(state) else state


def _present_name(key: str) -> str:
    old = _OLD_ATTENTION.fullmatch(key)
    return f"{old[1]}.{_NEW_ATTENTION[old[2]]}.{old[3]}" if old else key


def _read_schedule(path: Path) -> tuple[Schedule, Prediction]:
    """The schedule and the training target in a scheduler's config; a target that is not named is the noise."""
    from diffusers import DDPMScheduler

    config = read_json(path, PriorError)
    if not {"beta_schedule", "beta_start", "trained_betas"} & set(config):
        kind = config.get("_class_name", "the scheduler")
        raise PriorError(f"{kind} has no betas; only DDPM's schedules are supported", path)
    try:
        betas = DDPMScheduler.from_config(config).betas
        schedule = Schedule(torch.cumprod(1 - betas.double(), 0))
    except PriorError as error:
        raise error.at(path) from error
    except Exception as error:  # diffusers checks nothing
        raise PriorError(f"{type(error).__name__}: {one_line(error)}", path) from error
    old_target: Prediction = "epsilon" if config.get("predict_epsilon", True) else "sample"
    return schedule, config.get("prediction_type") or old_target


def assemble(
    config: Mapping[str, Any], state: Mapping[str, Tensor], schedule: Schedule, prediction: Prediction, *, where: Path
) -> NetworkPrior:
    """A prior, in evaluation mode, fixed and channels last, from a config and weights; ``where`` they come from is for errors."""
    network = build_network(config, where=where)
    fill(network, state, where, PriorError)
    sides = config.get("sample_size")
    height, width = sides if isinstance(sides, list | tuple) and len(sides) == 2 else (sides, sides)
    if not isinstance(height, int) or not isinstance(width, int) or min(height, width) < 1:
        raise PriorError(f"{CONFIG} must give the side of the images as sample_size, not {sides!r}", where)
    try:
        prior = NetworkPrior(network, schedule, prediction, (3, height, width))
    except PriorError as error:
        raise error.at(where) from error
    prior.shape = (3, height * prior.patch, width * prior.patch)  # sample_size counts folded pixels
    prior.eval()
    prior.requires_grad_(False)
    prior.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prior


def build_network(config: Mapping[str, Any], *, where: Path) -> nn.Module:
    """The ``UNet2DModel`` of a config, on the meta device: shapes without memory. Raises ``PriorError``."""
    from diffusers import UNet2DModel

    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise PriorError(f"the network is a {kind}; only UNet2DModel is supported", where)
    if config.get("time_embedding_type", "positional") != "positional":
        raise PriorError(f"{config['time_embedding_type']} time embeddings are not supported, only positional ones", where)
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise PriorError("the network wants class labels; a prior is unconditional", where)
    try:
        network: nn.Module = empty(lambda: UNet2DModel.from_config(dict(config)))
    except Exception as error:  # diffusers checks little: whatever its constructor stumbles over
        what = f"{type(error).__name__}: {one_line(error)}"
        raise PriorError(f"no network can be built as it is described ({what})", where) from error
    return network


# --- writing -----------------------------------------------------------------------------------


def save_prior(prior: NetworkPrior, folder: Path, *, card: Mapping[str, object], dtype: torch.dtype = torch.float16) -> None:
    """Write a prior to a new folder, atomically, its weights in ``dtype``.

    ``card.json`` holds ``card``, the SHA-256 of the weights and the number of parameters. Raises
    ``PriorError`` for a folder that exists, a network that is not a ``UNet2DModel``, and weights
    that are not finite or too large for ``dtype``.
    """
    from safetensors import SafetensorError

    require_new(folder)
    config, scheduler = _network_config(prior), _scheduler_config(prior)
    state = state_to_write(prior.network, folder, PriorError, dtype=dtype)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    try:
        _write(partial, config, scheduler, state, card)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter where the disk is full in the middle of the weights
        raise PriorError(f"cannot be written: {one_line(error)}", folder, "make room, or choose another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(folder: Path) -> None:
    """Raises ``PriorError`` where a folder exists already: priors are never overwritten."""
    if folder.exists() or folder.is_symlink():
        raise PriorError("exists already", folder, "choose another folder, or move this one away")


def _write(
    folder: Path, config: dict[str, Any], scheduler: dict[str, Any], state: dict[str, Tensor], card: Mapping[str, object]
) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder.stat().st_mode & 0o666) | 0o600)  # safetensors lets only the owner read
    full_card = {**card, "sha256": file_hash(folder / WEIGHTS), "parameters": sum(value.numel() for value in state.values())}
    for name, content in ((CONFIG, config), (SCHEDULER, scheduler), (CARD, full_card)):
        (folder / name).write_bytes(json_text(content))


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
