"""The preprocessors in a real estimator of the Adversarial Robustness Toolbox. Its gradients are checked by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from facesieve.errors import InputError
from facesieve.hardware import choose_hardware
from facesieve.integrations.crops import whole
from facesieve.purify import preset
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from white_prior import WhitePrior

SIZE = 16


@pytest.fixture(scope="module")
def toolbox():
    from facesieve.integrations import art as toolbox

    return toolbox


@pytest.fixture(scope="module")
def shield():
    chosen = preset("robust").changed(samples=1)
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior(SIZE)), SIZE, "0" * 64, choose_hardware("cpu", "fp32")))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4))


def estimator(model, preprocessor):
    from art.estimators.classification import PyTorchClassifier

    defences = [] if preprocessor is None else [preprocessor]
    return PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, SIZE, SIZE), 4, clip_values=(0, 1), preprocessing_defences=defences, device_type="cpu"
    )


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0.3, 0.7, (2, 3, SIZE, SIZE)).astype(np.float32)


def purified(shield, x, seed):
    return shield.purifier(x, seeds=[one.seeds(seed)[0] for one in whole(x, SIZE)])


def test_predictions_are_those_of_what_was_purified(toolbox, shield, model, images):
    shielded = estimator(model, toolbox.ShieldPreprocessor(shield, seed=7)).predict(images)
    wanted = estimator(model, None).predict(purified(shield, torch.from_numpy(images), 7).numpy())
    assert_close(torch.from_numpy(shielded), torch.from_numpy(wanted), rtol=1e-5, atol=1e-5)
    assert not np.allclose(shielded, estimator(model, None).predict(images))


def test_gradients_go_through_the_restoration_or_around_it(toolbox, shield, model, images):
    labels = np.eye(4, dtype=np.float32)[[0, 1]]
    x = torch.from_numpy(images).requires_grad_()
    loss = nn.functional.cross_entropy(model(purified(shield, x, 7)), torch.tensor([0, 1]), reduction="sum")
    (exact,) = torch.autograd.grad(loss, x)
    found = estimator(model, toolbox.ShieldPreprocessor(shield, seed=7)).loss_gradient(images, labels)
    ratio = found / exact.numpy()  # the toolbox may average over the batch
    assert np.allclose(ratio, np.median(ratio), rtol=1e-3)
    assert np.median(ratio) in (pytest.approx(1, rel=1e-3), pytest.approx(0.5, rel=1e-3))

    at = purified(shield, torch.from_numpy(images), 7).requires_grad_()
    loss = nn.functional.cross_entropy(model(at), torch.tensor([0, 1]), reduction="sum")
    (around,) = torch.autograd.grad(loss, at)
    found = estimator(model, toolbox.ShieldPreprocessorBPDA(shield, seed=7)).loss_gradient(images, labels)
    ratio = found / around.numpy()
    assert np.allclose(ratio, np.median(ratio), rtol=1e-3)
    assert np.median(ratio) > 0


def test_an_attack_of_the_toolbox_runs_against_it(toolbox, shield, model, images):
    from art.attacks.evasion import ProjectedGradientDescent

    shielded = estimator(model, toolbox.ShieldPreprocessor(shield, seed=7))
    labels = np.eye(4, dtype=np.float32)[shielded.predict(images).argmax(1)]
    attack = ProjectedGradientDescent(shielded, eps=0.2, eps_step=0.05, max_iter=10, verbose=False)
    made = attack.generate(images, labels)
    assert np.abs(made - images).max() <= 0.2 + 1e-6

    def loss(x):  # seeds depend on the image, so that an attacked one gets other noise: the mean over the classes' own
        scores = torch.from_numpy(shielded.predict(x))
        return float(nn.functional.cross_entropy(scores, torch.from_numpy(labels)))

    assert loss(made) > loss(images)


def test_other_images_are_refused(toolbox, shield):
    with pytest.raises(InputError, match="255"):
        toolbox.ShieldPreprocessor(shield)(np.full((1, 3, SIZE, SIZE), 255, np.float32))
