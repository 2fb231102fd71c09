"""Public checkpoints as priors: what is recognised is converted, checked and written to a folder.

Known are folders of ``diffusers`` (google/ddpm-celebahq-256) and the families of checkpoints in
``facesieve.priors.families``, such as the code of DDPM and DDIM (``celeba_hq.ckpt``) and OpenAI's
guided-diffusion (``256x256_diffusion_uncond.pt``). Nothing in a checkpoint but tensors is ever read.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve.errors import PriorError
from facesieve.priors.families import FAMILIES, Family
from facesieve.priors.folder import assemble, load_prior, require_new, save_prior, weights_file
from facesieve.priors.network import NetworkPrior
from facesieve.weights import file_hash, read_pickled, unwrapped

SIDES, LONGEST = 8, 1024  # pixels: what a side is a multiple of, since each resolution scale divides it; the longest one

# Under which names training programs wrap a network's weights, the averaged ones first.
_WRAPPERS = ("ema", "ema_state_dict", "model_ema", "state_dict", "model_state_dict", "model")


def import_prior(source: Path, destination: Path) -> NetworkPrior:
    """Convert a folder or a checkpoint into a prior's folder at ``destination``, which must not exist; returns it loaded.

    The weights are written in float32, twice the size of float16: the converted network gives the
    same output as the original, to rounding (1e-4). Of several networks in a checkpoint the moving
    average is taken. What a checkpoint cannot tell is taken as in the networks that its program published, and the card lists
    it under ``assumed``. What was written is loaded again and compared with the network in memory.
    Raises ``PriorError`` for a destination that exists, a source that is missing, damaged, holds code,
    is of another kind or of a size that cannot be used, and for any key of the source that is not used or of the network that is
    not filled.
    """
    require_new(destination)
    if not source.exists():
        raise PriorError("no such file or folder", source)
    assumed: tuple[str, ...] = ()
    if source.is_dir():
        kind, prior = "diffusers", load_prior(source)
    else:
        family, prior = _from_checkpoint(source)
        kind, assumed = family.program, family.assumed
    _check_side(prior, source)
    card: dict[str, object] = {
        "name": source.stem if source.is_file() else source.resolve().name,
        "what": f"an unconditional diffusion prior, images in [-1, 1]; converted from a checkpoint of {kind}",
        "source_file": source.name if source.is_file() else weights_file(source).name,
        "source_sha256": file_hash(source if source.is_file() else weights_file(source), PriorError),
        "terms": "those of the publisher of the source",
    }
    if assumed:
        card["assumed"] = [*assumed, f"images of {prior.shape[-1]} x {prior.shape[-2]} pixels"]
    save_prior(prior, destination, card=card, dtype=torch.float32)
    return _verified(prior, destination)


def _check_side(prior: NetworkPrior, source: Path) -> None:
    """Raise ``PriorError`` for a size that no purifier can have: crops are square, and each resolution scale divides them."""
    height, width = prior.shape[1:]
    if height != width or height % SIDES or not SIDES <= height <= LONGEST:
        what = f"a prior of {width} x {height} pixels"
        raise PriorError(f"{what}; faces are purified in squares of a multiple of {SIDES}, at most {LONGEST} pixels", source)


def _from_checkpoint(source: Path) -> tuple[Family, NetworkPrior]:
    loaded = read_pickled(source, PriorError)
    states = list(_states(loaded))
    for state in states:
        for family in (FAMILIES[name] for name in FAMILIES):
            if family.recognises(state):
                return family, _converted(state, family, source)
    raise PriorError(_of_another_kind(loaded, states), source)


def _converted(state: dict[str, Tensor], family: Family, source: Path) -> NetworkPrior:
    try:
        config, weights = family.convert(state)
    except PriorError as error:
        raise error.at(source) from error
    return assemble(config, weights, family.schedule(), family.prediction, where=source)


def _states(loaded: object) -> Iterator[dict[str, Tensor]]:
    """Every state dict in a checkpoint, the likeliest to be a moving average first.

    The code of DDIM saves ``[network, optimizer, epoch, step, average]``: the last comes first.
    """
    if isinstance(loaded, list | tuple):
        for item in reversed(loaded):
            yield from _states(item)
    elif isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        yield unwrapped({str(key): value for key, value in loaded.items()})
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
    known = f"neither of {' nor of '.join(FAMILIES[name].program for name in FAMILIES)}"
    return f"{known}; it begins with {', '.join(keys[:3])}" if keys else f"{known}; it holds no network's weights"


@torch.no_grad()
def _verified(prior: NetworkPrior, folder: Path) -> NetworkPrior:
    """The prior as it was written, if it gives the same as the one in memory; otherwise the folder is removed again."""
    config: Any = prior.network.config
    side = prior.patch * 2 ** len(config.block_out_channels)  # 2 x 2 at the coarsest level
    x, time = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0])
    try:
        written = load_prior(folder)
        if not torch.allclose(prior.output(x, time), written.output(x, time), rtol=1e-4, atol=1e-4):
            raise PriorError("not kept, the network does not give again what it gave in memory", folder)
    except PriorError:
        shutil.rmtree(folder)
        raise
    return written
