"""An exercise: checkpoints of another program as priors, by one new file such as this one."""

import pytest
import torch
from diffusers import UNet2DModel

from facesieve.errors import PriorError
from facesieve.priors.families import FAMILIES, Family
from facesieve.priors.folder import read_card
from facesieve.priors.importing import import_prior

# --- the new file --------------------------------------------------------------------------------

CONFIG = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}


def recognises(state):
    return "denoiser.conv_in.weight" in state


def convert(state):
    return CONFIG, {key.removeprefix("denoiser."): value for key, value in state.items()}


ANOTHER = Family("another program", recognises, convert, prediction="v_prediction")


# --- what it can do then -------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    len(FAMILIES)  # the room's own files come first, as they do outside of tests
    monkeypatch.setattr(FAMILIES, "_things", dict(FAMILIES._things))
    FAMILIES.register("another", ANOTHER)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    network = UNet2DModel(**CONFIG).eval()
    torch.save({"ema": {f"denoiser.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "their.pt")
    return network


@torch.no_grad()
def test_its_checkpoints_are_imported(registered, checkpoint, tmp_path):
    prior = import_prior(tmp_path / "their.pt", tmp_path / "prior")
    assert (prior.shape, prior.prediction) == ((3, 16, 16), "v_prediction")
    x, time = torch.randn(1, 3, 16, 16), torch.tensor([400.0])
    torch.testing.assert_close(prior.output(x, time), checkpoint(x, time).sample, rtol=1e-4, atol=1e-4)
    assert read_card(tmp_path / "prior")["what"].endswith("converted from a checkpoint of another program")


def test_without_it_they_are_not_known(checkpoint, tmp_path):
    with pytest.raises(PriorError, match="neither of the code of DDPM and DDIM nor of guided-diffusion"):
        import_prior(tmp_path / "their.pt", tmp_path / "prior")


def test_a_message_names_it(registered, tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "their.pt")
    with pytest.raises(PriorError, match="nor of another program; it begins with weight"):
        import_prior(tmp_path / "their.pt", tmp_path / "prior")
