"""Foreign checkpoints become priors that give what the original networks give, or are refused in a line.

The originals are written down in ``reference_unets``; the numbers of parameters are the published ones.
"""

import json
import re
from collections import Counter

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from reference_unets import DdimModel, GuidedModel, randomised
from torch.testing import assert_close

import facesieve.priors.importing as importing_module
from canary import Canary
from facesieve.errors import PriorError
from facesieve.priors import Schedule
from facesieve.priors.families import ddim as ddim_keys
from facesieve.priors.families import guided_diffusion as guided_keys
from facesieve.priors.folder import build_network, load_prior, prior_hash, read_card, save_prior
from facesieve.priors.importing import import_prior
from facesieve.weights import file_hash

# Attention at 16 x 16 of 64 x 64 images; at 32, 16 and 8 x 8, with one and two heads.
DDIM = {"ch": 32, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "attended": [2]}
GUIDED = {"channels": 32, "mults": (1, 2, 4, 4), "num_res_blocks": 2, "attended": [1, 2, 3]}
CONVERTERS = {"ddim": ddim_keys, "guided": guided_keys}
STEPS = [0, 1, 37, 500, 999]


@pytest.fixture(scope="module")
def references():
    return {"ddim": randomised(DdimModel(**DDIM)), "guided": randomised(GuidedModel(**GUIDED))}


@pytest.fixture(scope="module", params=CONVERTERS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def reference(references, kind):
    return references[kind]


@pytest.fixture(scope="module")
def imported(reference, kind, tmp_path_factory):
    """The checkpoint of a reference network, the folder it was imported to, and the prior."""
    folder = tmp_path_factory.mktemp(kind)
    torch.save(reference.state_dict(), folder / "checkpoint.pt")
    prior = import_prior(folder / "checkpoint.pt", folder / "prior")
    return folder / "checkpoint.pt", folder / "prior", prior


def small():
    """The least network of the code of DDIM that can be imported: one level, attended, images of 16 x 16."""
    return randomised(DdimModel(ch=32, ch_mult=(1,), num_res_blocks=1, attended=[0]))


def noise(side, dtype=torch.float32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=dtype)


# --- the converted network is the original one -------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@torch.no_grad()
def test_every_output_is_the_originals(step, reference, imported):
    x, time = noise(64), torch.tensor([step, 999 - step])
    expected = reference(x, time)
    assert 0.1 < expected.std() < 10
    assert_close(imported[2].network(x, time).sample, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_in_double_precision_no_detail_is_left_out(reference, kind, imported):
    """At step 0, whose embedding is exact: an epsilon of 1e-5 for 1e-6 in a norm would be seen."""
    x, time = noise(32, torch.float64), torch.zeros(2)
    prior = load_prior(imported[1], dtype=torch.float64)
    original = type(reference)(**{"ddim": DDIM, "guided": GUIDED}[kind]).double().eval()
    original.load_state_dict(reference.state_dict())
    assert_close(prior.network(x, time).sample, original(x, time), rtol=0, atol=1e-10)


@torch.no_grad()
def test_as_a_prior_it_solves_the_originals_noise(reference, imported):
    """x0 = u - sigma eps, of the first three channels: a learned variance is not looked at."""
    prior, sigmas = imported[2], Schedule.linear().sigmas
    u, sigma = noise(32), float(sigmas[500])
    eps = reference(u / (1 + sigma**2) ** 0.5, torch.tensor([500, 500]))[:, :3]
    assert_close(prior(u, sigma), u - sigma * eps, rtol=0, atol=1e-3)
    assert prior.prediction == "epsilon"
    assert_close(prior.schedule.sigmas, sigmas, rtol=1e-5, atol=0)


def test_the_side_of_the_images_is_inferred(imported):
    assert imported[2].shape == (3, 64, 64)


def test_every_key_is_used_once(reference, kind):
    """Each tensor filled with its own number, each number found where it belongs: query, key and value three times."""
    state = {key: torch.full_like(value, number) for number, (key, value) in enumerate(reference.state_dict().items())}
    _, converted = CONVERTERS[kind].convert(state)
    assert all(bool((value == value.flatten()[0]).all()) for value in converted.values())
    found = Counter(int(value.flatten()[0]) for value in converted.values())
    assert found == Counter({number: 3 if ".qkv." in key else 1 for number, key in enumerate(state)})
    assert sum(value.numel() for value in converted.values()) == sum(value.numel() for value in state.values())


PLACES = {
    "ddim": {
        "temb.dense.1.weight": "time_embedding.linear_2.weight",
        "conv_in.bias": "conv_in.bias",
        "down.0.block.1.norm2.weight": "down_blocks.0.resnets.1.norm2.weight",
        "down.1.block.0.nin_shortcut.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
        "down.1.downsample.conv.weight": "down_blocks.1.downsamplers.0.conv.weight",
        "down.2.attn.1.norm.bias": "down_blocks.2.attentions.1.group_norm.bias",
        "mid.attn_1.k.bias": "mid_block.attentions.0.to_k.bias",
        "mid.block_2.temb_proj.weight": "mid_block.resnets.1.time_emb_proj.weight",
        "up.2.attn.2.proj_out.bias": "up_blocks.0.attentions.2.to_out.0.bias",
        "up.0.block.2.conv1.weight": "up_blocks.2.resnets.2.conv1.weight",
        "up.1.upsample.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
        "norm_out.weight": "conv_norm_out.weight",
    },
    "guided": {
        "time_embed.2.bias": "time_embedding.linear_2.bias",
        "input_blocks.0.0.weight": "conv_in.weight",
        "input_blocks.1.0.in_layers.2.weight": "down_blocks.0.resnets.0.conv1.weight",
        "input_blocks.3.0.out_layers.3.weight": "down_blocks.0.downsamplers.0.conv2.weight",
        "input_blocks.4.0.skip_connection.weight": "down_blocks.1.resnets.0.conv_shortcut.weight",
        "input_blocks.11.0.emb_layers.1.weight": "down_blocks.3.resnets.1.time_emb_proj.weight",
        "input_blocks.11.1.norm.weight": "down_blocks.3.attentions.1.group_norm.weight",
        "middle_block.2.in_layers.0.weight": "mid_block.resnets.1.norm1.weight",
        "output_blocks.2.2.in_layers.2.weight": "up_blocks.0.upsamplers.0.conv1.weight",
        "output_blocks.8.1.proj_out.bias": "up_blocks.2.attentions.2.to_out.0.bias",
        "output_blocks.11.0.out_layers.0.weight": "up_blocks.3.resnets.2.norm2.weight",
        "out.2.bias": "conv_out.bias",
    },
}


def test_keys_go_to_their_places(reference, kind, imported):
    theirs, ours = reference.state_dict(), imported[2].network.state_dict()
    for key, place in PLACES[kind].items():
        assert torch.equal(theirs[key], ours[place]), key


@pytest.mark.parametrize("head", [0, 1])
def test_query_key_and_value_are_unpacked_head_by_head(head, references, kind):
    state = references["guided"].state_dict()
    _, converted = guided_keys.convert(state)
    rows = state["middle_block.1.qkv.weight"][:, :, 0].split(64)  # q0 k0 v0 q1 k1 v1
    for index, name in enumerate(("to_q", "to_k", "to_v")):
        ours = converted[f"mid_block.attentions.0.{name}.weight"]
        assert torch.equal(ours[64 * head : 64 * head + 64], rows[3 * head + index])


# --- the published networks, by their shapes alone ---------------------------------------------

SIX = (1, 1, 2, 2, 4, 4)
PUBLISHED = {
    "celeba_hq": (DdimModel, (128, SIX, 2, [4]), ddim_keys, 256, 113_673_219),
    "256x256_diffusion_uncond": (GuidedModel, (256, SIX, 2, [3, 4, 5]), guided_keys, 256, 552_814_086),
    "ffhq_10m": (GuidedModel, (128, SIX, 1, [4]), guided_keys, 256, None),
    "64 x 64, as guided-diffusion shrinks it": (GuidedModel, (192, (1, 2, 3, 4), 3, [1, 2, 3]), guided_keys, 64, None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_fit_key_by_key_and_shape_by_shape(name):
    model, settings, converter, side, parameters = PUBLISHED[name]
    with torch.device("meta"):
        state = model(*settings).state_dict()
    assert converter.recognises(state)
    config, converted = converter.convert(state)
    network = build_network(config, where=name)
    assert {key: value.shape for key, value in network.state_dict().items()} == {k: v.shape for k, v in converted.items()}
    assert config["sample_size"] == side
    assert sum(value.numel() for value in network.parameters()) == (parameters or sum(value.numel() for value in state.values()))


# --- what is written ---------------------------------------------------------------------------


def test_the_folder_is_a_prior_in_single_precision(imported):
    source, destination, prior = imported
    loaded = load_prior(destination)
    assert all(torch.equal(a, b) for a, b in zip(prior.parameters(), loaded.parameters(), strict=True))
    card = read_card(destination)
    assert card["name"] == "checkpoint"
    assert card["source_sha256"] == file_hash(source)
    assert card["sha256"] == prior_hash(destination)
    assert card["parameters"] == sum(value.numel() for value in prior.parameters())
    assert str(source.parent) not in json.dumps(card)
    assert {path.name for path in destination.parent.iterdir()} == {"checkpoint.pt", "prior"}


def prefixed(state):
    return {f"module.{key}": value for key, value in state.items()}


def others(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
WRAPPED = {
    "trained in parallel": prefixed,
    "as the code of DDIM saves it": lambda state: [prefixed(state), OPTIMIZER, 3, 1000],
    "with its moving average last": lambda state: [prefixed(others(state)), OPTIMIZER, 3, 1000, state],
    "in a tuple": lambda state: (state,),
    "by name": lambda state: {"model": others(state), "ema": state, "step": 3},
    "by name, in parallel": lambda state: {"state_dict": prefixed(state), "epoch": 1},
    "in half precision": lambda state: {key: value.half() for key, value in state.items()},
    "in double precision": lambda state: {key: value.double() for key, value in state.items()},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_network_is_found_in_what_programs_save(name, tmp_path):
    state = small().state_dict()
    torch.save(WRAPPED[name](state), tmp_path / "checkpoint.pth")
    prior = import_prior(tmp_path / "checkpoint.pth", tmp_path / "prior")
    expected = state["conv_in.weight"].half().float() if "half" in name else state["conv_in.weight"]
    assert torch.equal(prior.network.conv_in.weight, expected)
    assert prior.network.conv_in.weight.dtype == torch.float32
    assert prior.shape == (3, 16, 16)


def test_files_from_before_the_zip_format_are_read(tmp_path):
    torch.save(small().state_dict(), tmp_path / "checkpoint.ckpt", _use_new_zipfile_serialization=False)
    import_prior(tmp_path / "checkpoint.ckpt", tmp_path / "prior")


# --- folders of diffusers ----------------------------------------------------------------------

OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def old_name(key):
    for new, old in OLD_NAMES.items():
        key = key.replace(new, old)
    return key


@torch.no_grad()
def test_a_folder_of_diffusers_with_its_old_names_is_imported(references, tmp_path):
    """As google/ddpm-celebahq-256 is: one network, converted once by diffusers and once here."""
    config, converted = ddim_keys.convert(references["ddim"].state_dict())
    source = tmp_path / "ddpm-faces"
    UNet2DModel.from_config(config).save_config(source)
    DDPMScheduler().save_pretrained(source)
    torch.save({old_name(key): value for key, value in converted.items()}, source / "diffusion_pytorch_model.bin")
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    prior = import_prior(source, tmp_path / "prior")
    x, time = noise(64), torch.tensor([37, 999])
    assert_close(prior.network(x, time).sample, references["ddim"](x, time), rtol=0, atol=1e-4)
    assert (tmp_path / "prior" / "diffusion_pytorch_model.safetensors").exists()
    assert read_card(tmp_path / "prior")["name"] == "ddpm-faces"
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_a_prior_of_our_own_is_imported_as_it_is(imported, tmp_path):
    prior = import_prior(imported[1], tmp_path / "again")
    assert prior_hash(tmp_path / "again") == prior_hash(imported[1])
    assert prior.shape == imported[2].shape


def test_what_a_checkpoint_cannot_tell_is_in_the_card_and_said(imported, kind, tmp_path, facesieve):
    assumed = read_card(imported[1])["assumed"]
    said = {"ddim": "one head", "guided": "use_new_attention_order off"}[kind]
    assert any(said in line for line in assumed)
    assert "images of 64 x 64 pixels" in assumed
    told = facesieve("prior", "import", imported[0], tmp_path / "again")
    assert told.code == 0
    assert said in " ".join(told.out.split())
    assert "assumed" not in read_card(load_and_import(imported[1], tmp_path / "folder"))  # a folder says everything itself


def load_and_import(folder, destination):
    import_prior(folder, destination)
    return destination


@pytest.mark.parametrize(("size", "said"), [((20, 20), "20 x 20"), ((32, 64), "64 x 32"), (2048, "2048 x 2048"), (4, "4 x 4")])
def test_a_prior_of_a_size_that_no_purifier_can_have_is_refused(size, said, imported, tmp_path):
    folder = load_and_import(imported[1], tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sample_size": size}))
    with pytest.raises(PriorError, match=f"a prior of {said} pixels; faces are purified in squares of a multiple of 8"):
        import_prior(folder, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# --- what is refused ---------------------------------------------------------------------------


def refused(source, tmp_path, match):
    """One line, and no trace of a destination."""
    before = set(tmp_path.iterdir())
    with pytest.raises(PriorError, match=match) as caught:
        import_prior(source, tmp_path / "prior")
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def without(key):
    return lambda state: state.pop(key)


def put(key, value):
    return lambda state: state.update({key: value})


def wider(key):
    return lambda state: state.update({key: torch.cat([state[key], state[key]])})


@pytest.mark.parametrize(
    ("changed", "change", "match"),
    [
        ("ddim", without("down.1.block.0.nin_shortcut.bias"), "missing: down_blocks.1.resnets.0.conv_shortcut.bias"),
        ("ddim", without("up.2.upsample.conv.weight"), "missing: up_blocks.0.upsamplers.0.conv.weight"),
        ("ddim", without("conv_out.weight"), "lacks conv_out.weight"),
        ("ddim", put("logvar", torch.zeros(3)), "unknown: logvar"),
        ("ddim", put("down.0.attn.0.norm.weight", torch.zeros(32)), "unknown: down.0.attn.0.norm.weight"),
        ("ddim", put("time_embedding.linear_1.bias", torch.zeros(128)), "there twice"),
        ("ddim", put("down.0.attn.0.q.weight", torch.zeros(32, 32, 1, 1)), "attends at 2 levels"),
        ("ddim", without("down.2.attn.0.q.weight"), "attends at 0 levels"),
        ("ddim", put("conv_in.weight", torch.zeros(32, 4, 3, 3)), "4 input channels"),
        ("ddim", put("conv_in.weight", torch.zeros(64, 3, 3, 3)), "widens at its finest level"),
        ("ddim", put("conv_in.weight", torch.zeros(32)), "damaged"),
        ("ddim", wider("conv_out.weight"), "of another shape: conv_out.bias"),
        ("ddim", wider("norm_out.weight"), "of another shape: conv_norm_out.weight"),
        ("ddim", put("norm_out.bias", torch.full((32,), torch.nan)), "not finite numbers, in conv_norm_out.bias"),
        ("guided", without("middle_block.0.in_layers.0.bias"), "missing: mid_block.resnets.0.norm1.bias"),
        ("guided", without("output_blocks.2.2.in_layers.2.weight"), "not joined by residual blocks|do not fit"),
        ("guided", without("input_blocks.4.0.in_layers.2.weight"), "lacks input_blocks.4.0.in_layers.2.weight"),
        ("guided", put("input_blocks.3.0.op.weight", torch.zeros(3)), "unknown: input_blocks.3.0.op.weight"),
        ("guided", put("label_emb.weight", torch.zeros(1000, 128)), "class labels"),
        ("guided", put("input_blocks.0.0.weight", torch.zeros(32, 6, 3, 3)), "6 input channels"),
        ("guided", put("time_embed.0.weight", torch.zeros(128, 64)), "does not keep its base width"),
        ("guided", put("input_blocks.1.0.emb_layers.1.weight", torch.zeros(32, 128)), "does not scale and shift"),
        ("guided", put("middle_block.1.qkv.weight", torch.zeros(96, 32, 1)), "96 rows"),
        ("guided", put("middle_block.1.qkv.weight", torch.zeros(0, 32, 1)), "0 rows"),
        ("guided", put("out.2.weight", torch.zeros(4, 32, 3, 3)), "of another shape: conv_out.bias|not a colour image's"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(changed, change, match, references, tmp_path):
    state = dict(references[changed].state_dict())
    change(state)
    torch.save(state, tmp_path / "checkpoint.pt")
    refused(tmp_path / "checkpoint.pt", tmp_path, match)


def test_a_guided_network_whose_levels_are_joined_otherwise_is_refused(references, tmp_path):
    upsampling = re.compile(r"output_blocks\.\d+\.[12]\.(in|emb|out)_layers\.")
    state = {key: value for key, value in references["guided"].state_dict().items() if not upsampling.match(key)}
    torch.save(state, tmp_path / "checkpoint.pt")
    refused(tmp_path / "checkpoint.pt", tmp_path, "not joined by residual blocks")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (OPTIMIZER, "state of an optimizer"),
        ({"state_dict": {"model.diffusion_model.out.0.weight": torch.ones(1)}}, "latent diffusion"),
        ({"first_stage_model.encoder.conv_in.weight": torch.ones(1)}, "latent diffusion"),
        ({"time_embed.0.weight": torch.ones(1), "input_blocks.0.0.weight": torch.ones(1)}, "classifier"),
        ({"down_blocks.0.resnets.0.norm1.weight": torch.ones(1)}, "give the folder"),
        ({"layer1.weight": torch.ones(1), "layer2.weight": torch.ones(1)}, "neither .* begins with layer1.weight, layer2.weight"),
        ({}, "no network's weights"),
        ([], "no network's weights"),
        (torch.ones(3), "no network's weights"),
        ({"epoch": 3}, "no network's weights"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(content, match, tmp_path):
    torch.save(content, tmp_path / "checkpoint.pt")
    refused(tmp_path / "checkpoint.pt", tmp_path, match)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"PK\x03\x04", bytes(range(256)) * 4])
def test_a_file_that_is_no_checkpoint_is_refused(content, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(content)
    refused(tmp_path / "checkpoint.pt", tmp_path, "not a PyTorch file of tensors alone")


def test_a_truncated_checkpoint_is_refused(imported, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(imported[0].read_bytes()[:-1000])
    refused(tmp_path / "checkpoint.pt", tmp_path, "not a PyTorch file of tensors alone")


def test_a_source_that_is_not_there_is_named(tmp_path):
    refused(tmp_path / "nothing.pt", tmp_path, "no such file")


def test_a_folder_without_a_prior_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, "has no diffusion_pytorch_model.safetensors")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    (tmp_path / "in").mkdir()
    touched = tmp_path / "in" / "touched"
    torch.save({**small().state_dict(), "evil": Canary(touched)}, tmp_path / "in" / "checkpoint.pt")
    refused(tmp_path / "in" / "checkpoint.pt", tmp_path, "code in it, which is not run")
    assert not touched.exists()
    torch.load(tmp_path / "in" / "checkpoint.pt", weights_only=False)
    assert touched.exists()  # it would have run


@pytest.mark.parametrize("taken", ["folder", "file", "dangling link"])
def test_a_destination_that_exists_is_left_alone(taken, imported, tmp_path):
    destination = tmp_path / "prior"
    if taken == "folder":
        destination.mkdir()
        (destination / "precious").write_text("kept")
    elif taken == "file":
        destination.write_text("kept")
    else:
        destination.symlink_to(tmp_path / "nowhere")
    with pytest.raises(PriorError, match="exists already"):
        import_prior(imported[0], destination)
    if taken == "dangling link":
        assert destination.is_symlink()
    else:
        assert (destination / "precious" if taken == "folder" else destination).read_text() == "kept"


def test_a_folder_that_gives_something_else_is_not_kept(tmp_path, monkeypatch):
    def writes_another(prior, folder, **settings):
        prior.network.conv_out.bias.data += 1e-3
        save_prior(prior, folder, **settings)
        prior.network.conv_out.bias.data -= 1e-3

    monkeypatch.setattr(importing_module, "save_prior", writes_another)
    torch.save(small().state_dict(), tmp_path / "checkpoint.pt")
    with pytest.raises(PriorError, match="not kept"):
        import_prior(tmp_path / "checkpoint.pt", tmp_path / "prior")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
