"""The folder of a prior: what is written comes back, what others wrote is read, what does not fit is refused in a line."""

import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import facesieve.priors.folder as folder_module
from canary import Canary
from facesieve.errors import PriorError
from facesieve.priors import Schedule
from facesieve.priors.folder import load_prior, prior_hash, read_card, save_prior
from facesieve.priors.network import NetworkPrior

WEIGHTS, PICKLED = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def unet(**changes):
    """Two levels, attention at the coarser one and in the middle."""
    settings = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(**{**settings, **changes}).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def network():
    return unet()


def prior_of(network, prediction="epsilon", schedule=None, shape=(3, 8, 8)):
    return NetworkPrior(network, schedule or Schedule.linear(), prediction, shape)


@pytest.fixture
def saved(network, tmp_path):
    """A prior's folder, float32."""
    save_prior(prior_of(network), tmp_path / "prior", card={"name": "a test"}, dtype=torch.float32)
    return tmp_path / "prior"


def agree(prior, other, **tolerance):
    shape = prior.shape
    u = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.05, 1.0, 50.0):
        assert_close(prior(u, sigma), other(u, sigma), **tolerance)


# --- round trips -------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_what_is_written_comes_back(network, prediction, tmp_path):
    prior = prior_of(network, prediction)
    save_prior(prior, tmp_path / "prior", card={}, dtype=torch.float32)
    loaded = load_prior(tmp_path / "prior")
    assert (loaded.prediction, loaded.shape) == (prediction, (3, 8, 8))
    assert all(torch.equal(value, loaded.network.state_dict()[key]) for key, value in network.state_dict().items())
    agree(prior, loaded, rtol=1e-4, atol=1e-4)


def test_half_precision_is_the_default_and_is_loaded_into_any_type(network, tmp_path):
    save_prior(prior_of(network), tmp_path / "prior", card={})
    stored = load_file(tmp_path / "prior" / WEIGHTS)
    assert {value.dtype for value in stored.values()} == {torch.float16}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        loaded = load_prior(tmp_path / "prior", dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
        assert_close(loaded.network.conv_in.weight, stored["conv_in.weight"].to(dtype))


def test_a_loaded_prior_is_fixed_and_laid_out_for_speed(saved):
    prior = load_prior(saved)
    assert not any(module.training for module in prior.modules())
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert prior.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_same_prior_gives_the_same_bytes(network, saved, tmp_path):
    save_prior(load_prior(saved), tmp_path / "again", card={"name": "a test"}, dtype=torch.float32)
    assert {path.name for path in saved.iterdir()} == {"config.json", "scheduler_config.json", WEIGHTS, "card.json"}
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_the_card_says_what_the_weights_are(network, saved):
    parameters = sum(value.numel() for value in network.parameters())
    assert read_card(saved) == {"name": "a test", "sha256": prior_hash(saved), "parameters": parameters}
    assert len(prior_hash(saved)) == 64


def test_folded_pixels_and_a_learned_variance_come_back(tmp_path):
    network = unet(sample_size=None, in_channels=12, out_channels=24)
    prior = prior_of(network, shape=(3, 16, 16))
    save_prior(prior, tmp_path / "prior", card={}, dtype=torch.float32)
    loaded = load_prior(tmp_path / "prior")
    assert (loaded.shape, loaded.patch) == ((3, 16, 16), 2)
    agree(prior, loaded, rtol=1e-4, atol=1e-4)


def test_images_need_not_be_square(network, tmp_path):
    save_prior(prior_of(network, shape=(3, 8, 16)), tmp_path / "prior", card={})
    assert load_prior(tmp_path / "prior").shape == (3, 8, 16)


def test_files_may_be_read_by_whoever_may_read_new_files(saved):
    mask = os.umask(0)
    os.umask(mask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~mask
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o666 & ~mask}


# --- schedules ---------------------------------------------------------------------------------

SCHEDULERS = {
    "linear": {"beta_schedule": "linear", "beta_start": 2e-4, "beta_end": 0.015},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "trained_betas": {"trained_betas": [0.001 * (step + 1) ** 1.5 for step in range(20)], "num_train_timesteps": 20},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_of_diffusers_is_read_and_written_again(name, saved, tmp_path):
    scheduler = DDPMScheduler(prediction_type="v_prediction", **SCHEDULERS[name])
    scheduler.save_pretrained(saved)
    prior = load_prior(saved)
    assert prior.prediction == "v_prediction"
    assert prior.schedule.alphas_bar.dtype == torch.float64
    assert_close(prior.schedule.alphas_bar, torch.cumprod(1 - scheduler.betas.double(), 0))
    save_prior(prior, tmp_path / "again", card={})
    written = json.loads((tmp_path / "again" / "scheduler_config.json").read_text())
    assert ("trained_betas" if written["trained_betas"] else written["beta_schedule"]) == name
    assert_close(load_prior(tmp_path / "again").schedule.sigmas, prior.schedule.sigmas, rtol=1e-6, atol=0)


def test_the_published_schedule_has_its_reference_values(saved):
    alphas_bar = load_prior(saved).schedule.alphas_bar
    expected = torch.tensor([0.9999, 0.99780649, 0.89514136, 0.52142304, 0.07779666, 4.8370e-5], dtype=torch.float64)
    assert_close(alphas_bar[[0, 10, 100, 250, 500, 990]], expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    ("old", "target"), [({}, "epsilon"), ({"predict_epsilon": True}, "epsilon"), ({"predict_epsilon": False}, "sample")]
)
def test_a_target_that_is_not_named_is_the_noise(old, target, saved):
    edit(saved / "scheduler_config.json", prediction_type=..., **old)
    assert load_prior(saved).prediction == target


# --- what others wrote -------------------------------------------------------------------------


def edit(path, **changes):
    """Change a JSON file; ``...`` takes the key out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def test_diffusers_reads_what_is_written(network, saved):
    theirs = UNet2DModel.from_pretrained(saved, local_files_only=True, low_cpu_mem_usage=False)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in network.state_dict().items())
    assert DDPMScheduler.from_pretrained(saved, local_files_only=True).config.prediction_type == "epsilon"


@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_and_a_pipeline_that_diffusers_wrote_are_read(network, safe, tmp_path):
    plain, pipeline = tmp_path / "plain", tmp_path / "pipeline"
    for unet_folder, scheduler_folder in ((plain, plain), (pipeline / "unet", pipeline / "scheduler")):
        network.save_pretrained(unet_folder, safe_serialization=safe)
        DDIMScheduler().save_pretrained(scheduler_folder)
    for folder in (plain, pipeline):
        agree(prior_of(network), load_prior(folder), rtol=1e-4, atol=1e-4)
    assert prior_hash(plain) == prior_hash(pipeline)


def old_named(state):
    """The attention of a state dict under the names that diffusers gave it at first."""
    renamed = {}
    for key, value in state.items():
        for new, old in OLD_NAMES.items():
            key = key.replace(f".{new}.", f".{old}.")  # noqa: PLW2901
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", [WEIGHTS, PICKLED])
def test_attention_under_its_old_names_is_read(network, name, saved):
    state = old_named(load_file(saved / WEIGHTS))
    assert sum(".proj_attn." in key for key in state) == 2 * 4  # down, middle, twice up
    for file in (saved / WEIGHTS, saved / "card.json"):
        file.unlink()
    torch.save(state, saved / name) if name == PICKLED else save_file(state, saved / name)
    agree(prior_of(network), load_prior(saved), rtol=1e-4, atol=1e-4)


# --- what does not fit -------------------------------------------------------------------------


def refused(folder, match):
    with pytest.raises(PriorError, match=match) as caught:
        load_prior(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", WEIGHTS])
def test_a_missing_file_is_named(name, saved):
    (saved / name).unlink()
    refused(saved, f"has no {name}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["diffusion_pytorch_model.fp16.safetensors"], "the variant diffusion_pytorch_model.fp16.safetensors; rename it"),
        (["diffusion_pytorch_model.non_ema.bin"], "the variant diffusion_pytorch_model.non_ema.bin"),
        (
            ["diffusion_pytorch_model-00001-of-00002.safetensors", "diffusion_pytorch_model-00002-of-00002.safetensors"],
            "in 2 shards, such as diffusion_pytorch_model-00001-of-00002.safetensors; save them in one file",
        ),
    ],
)
@pytest.mark.parametrize("below", ["", "unet"])
def test_weights_in_shards_or_of_a_variant_are_named(names, said, below, saved):
    (saved / WEIGHTS).unlink()
    (saved / below).mkdir(exist_ok=True)
    for name in [*names, "diffusion_pytorch_model.safetensors.index.json"]:
        (saved / below / name).write_bytes(b"x")
    refused(saved, said)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "nowhere", "nowhere: not a folder")


@pytest.mark.parametrize("name", ["config.json", "scheduler_config.json", "card.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_damaged_json_is_refused(name, text, saved):
    (saved / name).write_text(text)
    refused(saved, f"{name}: .*JSON")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"time_embedding_type": "fourier"}, "fourier time embeddings"),
        ({"num_class_embeds": 10}, "class labels"),
        ({"class_embed_type": "timestep"}, "class labels"),
        ({"down_block_types": ["NoBlock2D", "AttnDownBlock2D"]}, "no network can be built"),
        ({"down_block_types": ["DownBlock2D"]}, "no network can be built"),
        ({"block_out_channels": [7, 9]}, "no network can be built"),
        ({"block_out_channels": "many"}, "no network can be built"),
        ({"block_out_channels": [8, 32]}, "do not fit .* of another shape: .* and .* more"),
        ({"layers_per_block": 2}, "do not fit .* missing: down_blocks.0.resnets.1"),
        ({"add_attention": False}, "do not fit .* unknown: mid_block.attentions.0"),
        ({"sample_size": None}, "sample_size"),
        ({"sample_size": "8"}, "sample_size"),
        ({"sample_size": [8, 8, 8]}, "sample_size"),
        ({"sample_size": 0}, "sample_size"),
    ],
)
def test_another_architecture_is_refused(changes, match, saved):
    edit(saved / "config.json", **changes)
    refused(saved, match)


@pytest.mark.parametrize(("channels", "out_channels"), [(4, 4), (3, 9)])
def test_a_network_of_other_than_colour_images_is_refused(channels, out_channels, saved):
    network = unet(in_channels=channels, out_channels=out_channels)
    network.save_pretrained(saved)
    (saved / "card.json").unlink()
    refused(saved, "prior: .*channels are not a colour image's")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"beta_schedule": "no such"}, "NotImplementedError"),
        (
            {"beta_schedule": ..., "beta_start": ..., "trained_betas": ..., "_class_name": "FlowScheduler"},
            "FlowScheduler has no betas",
        ),
        ({"rescale_betas_zero_snr": True}, "zero-SNR"),
        ({"prediction_type": "flow"}, "'flow'"),
        ({"trained_betas": [0.1, "x"]}, "scheduler_config.json: "),
        ({"trained_betas": [0.1, -0.1]}, "do not rise"),
    ],
)
def test_another_schedule_is_refused(changes, match, saved):
    edit(saved / "scheduler_config.json", **changes)
    refused(saved, match)


def test_weights_of_another_hash_are_refused(saved):
    edit(saved / "card.json", sha256="0" * 64)
    refused(saved, f"{WEIGHTS}: .*SHA-256")


def test_a_card_without_a_hash_is_no_obstacle(saved):
    edit(saved / "card.json", sha256=...)
    load_prior(saved)


def test_a_folder_without_a_card_says_so(saved):
    (saved / "card.json").unlink()
    load_prior(saved)
    with pytest.raises(PriorError, match=r"has no card\.json"):
        read_card(saved)


def damaged(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path)
    path.with_name("card.json").unlink()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda state: state["conv_in.weight"].fill_(torch.nan), "not finite numbers, in conv_in.weight"),
        (lambda state: state["conv_out.bias"][0].fill_(torch.inf), "not finite numbers, in conv_out.bias"),
        (lambda state: state.update({"conv_in.bias": state["conv_in.bias"].int()}), "not finite numbers"),
        (lambda state: state.pop("conv_in.bias"), "missing: conv_in.bias"),
        (lambda state: state.update({"more": torch.ones(1)}), "unknown: more"),
        (lambda state: state.update({"conv_in.bias": torch.ones(9)}), "of another shape: conv_in.bias"),
        (
            lambda state: state.update({"mid_block.attentions.0.query.bias": state["mid_block.attentions.0.to_q.bias"].clone()}),
            "unknown: mid_block.attentions.0.query.bias",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(change, match, saved):
    damaged(saved / WEIGHTS, change)
    refused(saved, match)


@pytest.mark.parametrize("name", [WEIGHTS, PICKLED])
@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_weights_are_refused(name, kept, saved):
    if name == PICKLED:
        torch.save(load_file(saved / WEIGHTS), saved / PICKLED)
        (saved / WEIGHTS).unlink()
    (saved / "card.json").unlink()
    (saved / name).write_bytes((saved / name).read_bytes()[:kept])
    refused(saved, name)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_pickled_weights_is_not_run(protocol, saved, tmp_path):
    evil = {**load_file(saved / WEIGHTS), "evil": Canary(tmp_path / "touched")}
    for name in (WEIGHTS, "card.json"):
        (saved / name).unlink()
    if protocol == "torch":
        torch.save(evil, saved / PICKLED)
    else:
        (saved / PICKLED).write_bytes(pickle.dumps(evil, protocol=2))
    refused(saved, "code in it, which is not run")
    assert not (tmp_path / "touched").exists()
    pickle.loads(pickle.dumps(evil["evil"]))
    assert (tmp_path / "touched").exists()  # it would have run


@pytest.mark.parametrize("content", [[torch.ones(1)], {"step": 3}, torch.ones(1)])
def test_pickled_weights_that_are_no_state_dict_are_refused(content, saved):
    (saved / WEIGHTS).unlink()
    (saved / "card.json").unlink()
    torch.save(content, saved / PICKLED)
    refused(saved, "more than named tensors")


# --- writing whole or not at all ---------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on the size of files")
@pytest.mark.parametrize("bytes_", [100, 3000])
def test_without_room_for_the_weights_it_is_one_line_and_nothing_is_left(network, tmp_path, bytes_):
    """A limit on the size of a file stands for a full disk: writing fails in the middle in the same way."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        with pytest.raises(PriorError, match=r"cannot be written: .*; make room") as caught:
            save_prior(prior_of(network), tmp_path / "prior", card={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    save_prior(prior_of(network), tmp_path / "prior", card={})


def test_a_folder_that_exists_is_left_alone(network, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(PriorError, match="exists already"):
        save_prior(prior_of(network), saved, card={})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_folders_above_are_made(network, tmp_path):
    save_prior(prior_of(network), tmp_path / "a" / "b", card={})
    load_prior(tmp_path / "a" / "b")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_writing_that_fails_leaves_nothing(error, network, tmp_path, monkeypatch):
    written = folder_module.file_hash

    def fails(path):
        assert written(path)  # the weights are there already
        raise error

    monkeypatch.setattr(folder_module, "file_hash", fails)
    expected = PriorError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        save_prior(prior_of(network), tmp_path / "prior", card={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("value", "dtype"), [(torch.nan, torch.float32), (1e5, torch.float16)])
def test_weights_that_are_no_numbers_in_their_type_are_not_written(value, dtype, tmp_path):
    network = unet()
    network.conv_in.bias.data[0] = value
    with pytest.raises(PriorError, match=r"conv_in\.bias"):
        save_prior(prior_of(network), tmp_path / "prior", card={}, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_a_folder_format_is_not_written(network, tmp_path):
    class Another(torch.nn.Module):
        config = network.config

    with pytest.raises(PriorError, match="Another"):
        save_prior(prior_of(Another()), tmp_path / "prior", card={})


def test_a_copied_folder_is_the_same_prior(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    assert prior_hash(tmp_path / "copy") == prior_hash(saved)
    assert all(
        torch.equal(a, b) for a, b in zip(load_prior(saved).parameters(), load_prior(tmp_path / "copy").parameters(), strict=True)
    )
