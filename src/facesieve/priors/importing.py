"""Public checkpoints as priors: what is recognised is converted, checked and written to a folder.

Three kinds are known: a folder of ``diffusers`` (google/ddpm-celebahq-256), a checkpoint of the
code of DDPM and DDIM (``celeba_hq.ckpt``), one of OpenAI's guided-diffusion
(``256x256_diffusion_uncond.pt``). Nothing in a checkpoint but tensors is ever read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve.errors import PriorError
from facesieve.priors.families import ddim as ddim_keys
from facesieve.priors.families import guided_diffusion as guided_keys
from facesieve.priors.folder import assemble, file_hash, load_prior, read_pickled, save_prior, weights_file
from facesieve.priors.network import NetworkPrior
from facesieve.priors.schedule import Schedule

# Under which names training programs wrap a network's weights, the averaged ones first.
_WRAPPERS = ("ema", "ema_state_dict", "model_ema", "state_dict", "model_state_dict", "model")


def import_prior(source: Path, destination: Path) -> NetworkPrior:
    """Convert a folder or a checkpoint into a prior's folder at ``destination``, which must not exist; returns it loaded.

    The weights are written in float32, twice the size of float16: the converted network gives what
    the original one gives, to rounding (1e-4). Checkpoints carry neither betas nor a training
    target; both codes' published networks have the linear schedule of DDPM and predict the noise.
    Of several networks in a checkpoint the moving average is taken. What was written is loaded
    again and compared with the network in memory. Raises ``PriorError`` for a destination that
    exists, a source that is missing, damaged, holds code or is of another kind, and for any key of
    the source that is not used or of the network that is not filled.
    """
    if destination.exists() or destination.is_symlink():
        raise PriorError(f"{destination}: exists already; choose another folder, or move this one away")
    if not source.exists():
        raise PriorError(f"{source}: no such file or folder")
    if source.is_dir():
        kind, prior = "diffusers", load_prior(source)
    else:
        kind, prior = _from_checkpoint(source)
    card: dict[str, object] = {
        "name": source.stem if source.is_file() else source.resolve().name,
        "what": f"an unconditional diffusion prior, images in [-1, 1]; converted from a checkpoint of {kind}",
        "source_file": source.name if source.is_file() else weights_file(source).name,
        "source_sha256": file_hash(source if source.is_file() else weights_file(source)),
        "terms": "those of the publisher of the source",
    }
    save_prior(prior, destination, card=card, dtype=torch.float32)
    return _verified(prior, destination)


def _from_checkpoint(source: Path) -> tuple[str, NetworkPrior]:
    state = _network_state(read_pickled(source), str(source))
    try:
        if ddim_keys.recognises(state):
            kind, (config, weights) = "the code of DDPM and DDIM", ddim_keys.convert(state)
        else:
            kind, (config, weights) = "guided-diffusion", guided_keys.convert(state)
    except PriorError as error:
        raise PriorError(f"{source}: {error}") from error
    return kind, assemble(config, weights, Schedule.linear(), "epsilon", where=str(source))


def _network_state(loaded: object, where: str) -> dict[str, Tensor]:
    """The first state dict of a known network among all that a checkpoint holds."""
    states = list(_states(loaded))
    for state in states:
        if ddim_keys.recognises(state) or guided_keys.recognises(state):
            return state
    raise PriorError(f"{where}: {_of_another_kind(loaded, states)}")


def _states(loaded: object) -> Iterator[dict[str, Tensor]]:
    """Every state dict in a checkpoint, the likeliest to be a moving average first.

    The code of DDIM saves ``[network, optimizer, epoch, step, average]``: the last comes first.
    """
    if isinstance(loaded, list | tuple):
        for item in reversed(loaded):
            yield from _states(item)
    elif isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        parallel = all(str(key).startswith("module.") for key in loaded)  # as DataParallel names it
        yield {str(key).removeprefix("module.") if parallel else str(key): value for key, value in loaded.items()}
    elif isinstance(loaded, dict):
        for name in _WRAPPERS:
            yield from _states(loaded.get(name))


def _of_another_kind(loaded: object, states: list[dict[str, Tensor]]) -> str:
    keys = [key for state in states for key in state]
    if any(key.startswith(("model.diffusion_model.", "first_stage_model.")) for key in keys):
        return "a latent diffusion model, whose network does not work on images; it cannot be a prior"
    if any(key.startswith("down_blocks.") for key in keys):
        return "weights in the format of diffusers; give the folder that holds them with their config.json"
    if "input_blocks.0.0.weight" in keys:
        return "a classifier of guided-diffusion; a prior is made of its diffusion network"
    if isinstance(loaded, dict) and "param_groups" in loaded:
        return "the state of an optimizer; a prior is made of the network's weights"
    known = "neither of the code of DDPM and DDIM nor of guided-diffusion"
    return f"{known}; it begins with {', '.join(keys[:3])}" if keys else f"{known}; it holds no network's weights"


@torch.no_grad()
def _verified(prior: NetworkPrior, folder: Path) -> NetworkPrior:
    """The prior as it was written, if it gives what the one in memory gives; else the folder is taken away again."""
    config: Any = prior.network.config
    side = prior.patch * 2 ** len(config.block_out_channels)  # 2 x 2 at the coarsest level
    x, time = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    try:
        written = load_prior(folder)
        if not torch.allclose(prior.output(x, time), written.output(x, time), rtol=1e-4, atol=1e-4):
            raise PriorError(f"{folder}: not kept, the network does not give again what it gave in memory")
    except PriorError:
        shutil.rmtree(folder)
        raise
    return written
