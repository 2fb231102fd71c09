"""How much of a GPU a replica of the model takes, without a GPU and without a running Ray."""

import pytest
import ray

from facesieve.errors import SettingError
from facesieve.ray_cluster import models_that_fit
from facesieve.service.ray_serve import _model
from facesieve.service.settings import Settings

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster(monkeypatch):
    """``cluster(GPU=2)`` is what Ray says there is."""
    return lambda **resources: monkeypatch.setattr(ray, "cluster_resources", lambda: resources)


@pytest.mark.parametrize(("share", "models"), [(1, 2), (0.5, 4), (0.25, 8), (0.3, 6)])
def test_so_many_replicas_as_shares_fit_and_each_asks_for_its_share(cluster, share, models):
    cluster(GPU=2.0, CPU=16.0)
    deployment = _model(Settings(gpu_share=share), "robust")
    assert deployment.ray_actor_options["num_gpus"] == share
    assert deployment._deployment_config.autoscaling_config.max_replicas == models
    assert models_that_fit("auto", gpu_share=share) == (models, {"num_gpus": share})


def test_without_a_gpu_or_on_processors_the_share_counts_for_nothing(cluster):
    cluster(CPU=3.0)
    assert models_that_fit("auto", gpu_share=0.5) == (3, {"num_cpus": 1})
    with pytest.raises(SettingError, match="no GPU"):
        _model(Settings(device="cuda"), "robust")
    cluster(GPU=1.0, CPU=3.0)
    assert _model(Settings(device="cpu", gpu_share=0.5), "robust").ray_actor_options == {"num_cpus": 1}
