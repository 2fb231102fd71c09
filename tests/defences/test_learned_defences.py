"""The weights that ship, on real photographs; and weights files that must not be used."""

import json
import shutil

import numpy as np
import pytest
import scipy.special
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from facesieve.defences.ddsa import Ddsa, SparseAutoencoder, sparsity
from facesieve.defences.faceguard import BOUND, FaceGuard, Guard, seen
from facesieve.errors import InputError
from facesieve.faces import Detector, align
from facesieve.recognition.sface import load_sface
from facesieve.weights import card_path, load_network, read_card, save_weights, shipped

KINDS = (Ddsa, FaceGuard)


def no_noise():
    raise AssertionError("these defences draw no noise")


@pytest.fixture(scope="module")
def faces(sample_photos):
    """The people of the sample photographs: (6, 3, 128, 128)."""
    detector = Detector()
    return torch.stack([torch.from_numpy(align(photo, detector.detect(photo)[0], 128)) for photo in sample_photos.values()])


@pytest.fixture(scope="module")
def sface():
    return load_sface()


def attacked_by_gradient(sface, faces, eps):
    """One signed step away from the face's own embedding, begun beside the face: at the face itself the gradient is 0."""
    beside = (faces + 0.3 * eps * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0)).sign()).requires_grad_()
    (sface.embed(beside) * sface.embed(faces)).sum().backward()
    return (faces - eps * beside.grad.sign()).clamp(0, 1)


@pytest.fixture(scope="module")
def attacked(sface, faces):
    return attacked_by_gradient(sface, faces, 6 / 255)


def test_the_autoencoder_brings_noised_faces_nearer_to_clean_ones(faces):
    noised = (faces + 0.05 * torch.randn(faces.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    before, after = ((each - faces).square().mean((1, 2, 3)) for each in (noised, Ddsa()(noised, no_noise)))
    assert float(after.mean()) < 0.75 * float(before.mean())
    assert int((after < before).sum()) >= 5  # one has several times the fine detail of the others: too much for the code


def test_the_code_of_the_autoencoder_is_sparse(faces):
    """Its mean is near what training wanted, 0.05; most of it is smaller still."""
    code = Ddsa()._network.encode(faces)
    assert float(code.mean()) < 0.1
    assert float((code < 0.05).float().mean()) > 0.5


@pytest.mark.parametrize(("defence", "gain"), [(Ddsa(), 0.08), (FaceGuard(), 0.008), (FaceGuard(threshold=0.0), 0.008)], ids=str)
def test_attacked_faces_come_nearer_to_who_they_are(defence, gain, sface, faces, attacked):
    """FaceGuard by little: this attack is not the generator's that it was taught with."""
    rows = sface.embed(faces)
    before, after = ((sface.embed(each) * rows).sum(1) for each in (attacked, defence(attacked, no_noise)))
    assert float(after.mean()) > float(before.mean()) + gain


@pytest.mark.parametrize(("defence", "price"), [(Ddsa(), 0.08), (FaceGuard(), 0.03), (FaceGuard(threshold=0.0), 0.03)], ids=str)
def test_clean_faces_stay_near_who_they_are(defence, price, sface, faces):
    cosines = (sface.embed(defence(faces, no_noise)) * sface.embed(faces)).sum(1)
    assert float(cosines.min()) > 1 - price


def test_the_detector_tells_attacked_from_clean(sface, faces):
    """On photographs of as few pixels as those that it was taught with; all but the one of most fine detail at 0.5, too."""
    few = functional.interpolate(faces, (80, 80), mode="bilinear", antialias=True)
    soft = functional.interpolate(few, (128, 128), mode="bilinear")
    guard = FaceGuard()
    clean, perturbed = guard.detect(soft), guard.detect(attacked_by_gradient(sface, soft, 6 / 255))
    assert bool((perturbed > clean).all())
    assert float(perturbed.min()) > 0.5
    assert int((clean < 0.5).sum()) >= 5


def test_the_detector_suspects_attacked_sharp_photographs_though_it_suspects_some_clean_ones_too(faces, attacked):
    """Its known limit, which card and documentation state."""
    guard = FaceGuard()
    clean, perturbed = guard.detect(faces), guard.detect(attacked)
    assert float(perturbed.logit().mean()) > float(clean.logit().mean())
    assert bool((perturbed > clean).all())
    assert float(perturbed.min()) > 0.5
    assert int((clean > 0.5).sum()) == 3


def test_only_what_is_judged_perturbed_is_purified(faces, attacked):
    images = torch.cat([faces[:2], attacked[:2]])
    everything = FaceGuard(threshold=0.0)(images, no_noise)
    nothing = FaceGuard(threshold=1.0)(images, no_noise)
    assert torch.equal(nothing, images)
    scores = FaceGuard().detect(images)
    order = scores.sort().values
    between = float((order[1] + order[2]) / 2)
    some = FaceGuard(threshold=between)(images, no_noise)
    assert torch.equal(some, torch.where((scores > between)[:, None, None, None], everything, images))
    assert not torch.equal(some, images)


def test_the_purifier_takes_off_no_more_than_its_bound(faces):
    generator = torch.Generator().manual_seed(0)
    changed = FaceGuard(threshold=0.0)(torch.cat([faces, torch.rand(2, 3, 128, 128, generator=generator)])[:8], no_noise)
    assert float((changed[:6] - faces).abs().max()) <= BOUND + 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 97, 130), (3, 16, 16)])
def test_any_size_goes_through(kind, shape):
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert kind()(images, no_noise).shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_images_though_it_was_made_in_inference_mode(kind):
    with torch.inference_mode():
        defence = kind()
        defence(torch.full((1, 3, 16, 16), 0.5), no_noise)
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    defence(images, no_noise).square().sum().backward()
    assert float(images.grad.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_that_ships_belongs_to_the_weights(kind):
    card = read_card(shipped(kind.name))
    assert kind().sha256 == card["sha256"]
    assert shipped(kind.name).stat().st_size < 5e6
    assert all(
        card[part] for part in ("name", "what", "data", "terms", "training", "training_hours", "held_out", "limits", "source")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda weights: weights.unlink(), "cannot be read"),
        (lambda weights: card_path(weights).unlink(), "card.json: cannot be read"),
        (lambda weights: card_path(weights).write_text("[]"), "not a card"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-1] + b"x"), "SHA-256"),
        (lambda weights: save_weights(nn.Linear(2, 2), weights, {}), "another network"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(kind, damage, said, tmp_path):
    for path in (shipped(kind.name), card_path(shipped(kind.name))):
        shutil.copy(path, tmp_path)
    weights = tmp_path / f"{kind.name}.safetensors"
    assert kind(weights=str(weights)).sha256 == kind().sha256
    damage(weights)
    with pytest.raises(InputError, match=said) as raised:
        kind(weights=str(weights))
    assert "\n" not in str(raised.value)


def test_saved_weights_come_back_rounded_to_half(tmp_path):
    torch.manual_seed(0)
    network = Guard(8)
    save_weights(network, tmp_path / "g.safetensors", {"name": "g"})
    loaded, digest = load_network(lambda _: Guard(8), tmp_path / "g.safetensors")
    for name, value in network.state_dict().items():
        assert_close(loaded.state_dict()[name], value.half().float(), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    card = json.loads((tmp_path / "g.card.json").read_text())
    assert (card["sha256"], card["file"], card["parameters"]) == (
        digest,
        "g.safetensors",
        sum(p.numel() for p in network.parameters()),
    )


def test_sparsity_is_the_relative_entropy_of_bernoulli_laws():
    code = torch.tensor([0.05, 0.3, 0.9])[None, :, None, None].expand(2, 3, 4, 4)
    p, q = 0.05, np.array([0.05, 0.3, 0.9])
    expected = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    assert float(sparsity(code, 0.05)) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert float(sparsity(code[:, :1], 0.05)) == pytest.approx(0, abs=1e-6)


def test_the_code_is_the_only_way_through():
    """Two images with the same code would give the same result: nothing but the code reaches the decoder."""
    torch.manual_seed(0)
    network = SparseAutoencoder().requires_grad_(False)
    images = torch.rand(1, 3, 16, 16)
    code = network.encode(images)
    assert code.shape == (1, 192, 4, 4)
    assert 0 < float(code.min()) < float(code.max()) < 1
    assert torch.equal(network.decode(code), network(images))


def test_fine_detail_is_what_a_mean_of_three_by_three_leaves():
    images = torch.zeros(1, 3, 5, 5)
    images[..., 2, 2] = 0.9
    detail = seen(images)[0, 3]
    assert_close(detail[2, 2], torch.tensor(16 * (0.9 - 0.1)))
    assert_close(detail[1, 1], torch.tensor(-16 * 0.1))
    assert float(detail[0, 0]) == 0
