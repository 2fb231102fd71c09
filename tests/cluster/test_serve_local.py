"""The command itself: a Ray of its own, the service on it, and the end in order."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest
from ray_here import is_ray, until

pytestmark = pytest.mark.ray


@pytest.mark.slow
def test_serve_on_a_ray_of_its_own_ends_in_order_and_leaves_nothing(tmp_path):
    before = {process.pid for process in psutil.process_iter()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "facesieve.cli", "serve", "--cluster", "local", "--port", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "RAY_worker_niceness": "0"})

    def ready():
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    until(ready, 240)
    until(lambda: '"event": "listening"' in (tmp_path / "log").read_text(), 240)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert '"event": "stopped"' in (tmp_path / "log").read_text()
    until(lambda: not [p for p in psutil.process_iter() if p.pid not in before and is_ray(p)], 30)
