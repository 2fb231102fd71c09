"""Ray Serve adds a replica of the model under load, and every answer stays right while it does."""

import threading
import time

import httpx
import pytest
from ray_here import ask, free_port, small_ray, workers

from facesieve.service.settings import Settings
from shard_making import small

pytestmark = pytest.mark.ray

PATIENCE = 240.0  # s; Ray waits for half a minute of load before it starts a replica, which then loads the model


@pytest.mark.slow
def test_load_brings_a_second_model(sample_paths):
    from facesieve.service.ray_serve import deployed

    photo, codes, stop = small(sample_paths[0], 240), [], threading.Event()
    settings = Settings(port=free_port(), allow_seeds=True, max_batch=4, max_requests=64)

    def client():
        while not stop.is_set():
            codes.append(ask(settings, photo).status_code)

    with small_ray(cpus=4), deployed(settings, "auto"):
        expected = ask(settings, photo)
        assert len(workers("ServeReplica:facesieve:model")) == 1
        clients = [threading.Thread(target=client) for _ in range(24)]
        for one in clients:
            one.start()
        end = time.monotonic() + PATIENCE
        most = 1
        while most < 2 and time.monotonic() < end:
            time.sleep(1)
            most = max(most, len(workers("ServeReplica:facesieve:model")))
        stop.set()
        for one in clients:
            one.join()
        assert httpx.get(f"http://127.0.0.1:{settings.port}/readyz", timeout=60).status_code == 200
        again = ask(settings, photo)
    assert most >= 2
    assert len(codes) > 24
    assert set(codes) <= {200, 503}
    assert 200 in codes
    assert again.content == expected.content
