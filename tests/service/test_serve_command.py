"""``facesieve serve``: its settings, its keys, and a real process that is told to stop."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from serving import until
from typer.testing import CliRunner

from facesieve.cli import serve as command
from facesieve.errors import InputError, SettingError
from facesieve.service.keys import SCOPES, Keys, hash_of
from facesieve.service.run import begin_log, serve
from facesieve.service.settings import Settings, load_settings


@pytest.fixture
def told(monkeypatch):
    """Run ``facesieve serve`` with these arguments up to where the server would start: its settings."""

    def run(*arguments, environment=None):
        found = []
        monkeypatch.setattr("facesieve.service.run.serve", found.append)
        result = CliRunner().invoke(command.serve_app, list(arguments), env=environment or {})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return found[0]

    return run


def keys(*arguments):
    result = CliRunner().invoke(command.serve_app, ["keys", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


# --- settings ---------------------------------------------------------------------------------


def test_help_lists_every_setting_with_its_variable():
    text = CliRunner().invoke(command.serve_app, ["--help"], env={"COLUMNS": "200"}).output
    options, variables = set(re.findall(r"--[a-z][a-z-]+", text)), set(re.findall(r"FACESIEVE_[A-Z_]+", text))
    assert len(Settings.model_fields) > 20
    for name in Settings.model_fields:
        assert "--" + name.replace("_", "-") in options
        assert f"FACESIEVE_{name.upper()}" in variables


def test_an_option_comes_before_the_environment_and_that_before_the_file(told, tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nmax_batch = 2\nqueue_faces = 33\nallow_seeds = true\nscale = 4\ngallery = "people"\n')
    environment = {"FACESIEVE_PORT": "3", "FACESIEVE_MAX_BATCH": "4", "FACESIEVE_CONFIG": str(file)}
    settings = told("--port", "5", "--no-allow-seeds", environment=environment)
    assert (settings.port, settings.max_batch, settings.queue_faces) == (5, 4, 33)
    assert (settings.allow_seeds, settings.scale, settings.gallery) == (False, 4, "people")
    assert settings.max_faces == Settings().max_faces


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--max-batch", "0"], "max_batch"),
        (["--host", "0.0.0.0"], "give a file of keys"),
        (["--host", "example.org"], "give a file of keys"),
        (["--host", "0.0.0.0", "--upstream", "http://x"], "give a file of keys"),
        (["--max-faces", "65"], "queue_faces"),
        (["--upstream", "x:80"], "http://"),
        (["--no-face", "maybe"], "no_face"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(told, arguments, says):
    with pytest.raises(SettingError, match=says) as error:
        told(*arguments)
    assert "\n" not in str(error.value)


def test_a_mistake_in_the_environment_is_one_line_and_an_empty_variable_is_none(told):
    with pytest.raises(SettingError, match=r"^max_batch: .*; `facesieve serve --help`"):
        told(environment={"FACESIEVE_MAX_BATCH": "many"})
    assert told(environment={"FACESIEVE_SCALE": "", "FACESIEVE_PAGE": "yes"}).page
    assert told(environment={"FACESIEVE_NONE_OF_OURS": "1"}) == Settings()


def test_the_port_that_kubernetes_injects_for_a_service_of_this_name_is_no_setting(told, monkeypatch, caplog):
    injected = {"FACESIEVE_PORT": "tcp://10.0.0.1:8000", "FACESIEVE_PORT_8000_TCP": "x", "FACESIEVE_SERVICE_HOST": "10.0.0.1"}
    assert told(environment=injected) == Settings()
    assert told("--port", "9", environment=injected).port == 9
    monkeypatch.setattr("facesieve.service.run.log_to_stderr", lambda _: None)
    monkeypatch.setenv("FACESIEVE_PORT", injected["FACESIEVE_PORT"])
    begin_log(Settings())
    [record] = caplog.records
    assert (record.levelname, record.getMessage(), record.fields["variable"]) == ("WARNING", "ignored", "FACESIEVE_PORT")


def test_off_loopback_a_file_of_keys_or_a_server_that_checks_its_callers_is_enough(told, tmp_path):
    assert told("--host", "0.0.0.0", "--keys", str(tmp_path / "k")).host == "0.0.0.0"
    assert told("--host", "0.0.0.0", "--upstream", "http://x", "--open-proxy").open_proxy
    assert told("--host", "::1").host == "::1"


def test_a_file_of_settings_with_a_mistake_is_one_line(tmp_path):
    file = tmp_path / "serve.toml"
    with pytest.raises(InputError, match="cannot be read"):
        load_settings(file, {})
    file.write_text("port = ")
    with pytest.raises(InputError, match="not a TOML file"):
        load_settings(file, {})
    file.write_text("prot = 1")
    with pytest.raises(SettingError, match="prot: unknown key"):
        load_settings(file, {})


def test_a_port_that_is_taken_and_a_file_of_keys_that_is_not_there_are_said_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen"):
        serve(Settings(port=taken.getsockname()[1]))
    with pytest.raises(InputError, match="no file of keys"):
        Keys(tmp_path / "none.json")


# --- keys -------------------------------------------------------------------------------------


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path):
    file = tmp_path / "keys.json"
    key = keys("add", "shop", "--keys", file, "--scope", "purify", "--scope", "identify").strip()
    other = keys("add", "office", "--keys", file, "--scope", "gallery").strip()
    assert re.fullmatch(r"fs_[\w-]{43}", key)
    assert key != other
    assert key[3:] not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert keys("list", "--keys", file).split("\n")[:2] == ["shop: purify, identify", "office: gallery"]
    store = Keys(file)
    assert store.find(key).scopes == ("purify", "identify")
    assert store.find(key + "x") is None
    assert store.find(hash_of(key)) is None
    keys("remove", "shop", "--keys", file)
    assert store.find(key) is None
    assert store.find(other).name == "office"


def test_mistakes_with_keys_are_one_line_and_change_nothing(tmp_path):
    file = tmp_path / "keys.json"
    keys("add", "shop", "--keys", file, "--scope", "purify")
    before = file.read_bytes()
    for arguments in (
        ["add", "shop", "--scope", SCOPES[0]],
        ["add", "b", "--scope", "all"],
        ["add", " ", "--scope", "purify"],
        ["remove", "x"],
    ):
        with pytest.raises(InputError):
            keys(*arguments, "--keys", file)
    assert file.read_bytes() == before
    file.write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        Keys(file)


# --- a real process ---------------------------------------------------------------------------


@pytest.mark.kills
def test_a_process_that_is_told_to_stop_finishes_what_it_accepted(tmp_path, collins):
    script = "from facesieve.cli.serve import serve_app; serve_app()"
    arguments = ["--port", "0", "--batch-wait-ms", "1500", "--gallery", str(tmp_path / "gallery"), "--stop-timeout-s", "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        first = json.loads(process.stderr.readline())
        assert first["event"] == "listening"
        url = f"http://127.0.0.1:{first['port']}"
        until(lambda: answers(url + "/readyz"))
        results = []
        ask = threading.Thread(target=lambda: results.append(httpx.post(url + "/v1/purify", files={"file": collins}, timeout=60)))
        ask.start()
        until(lambda: "facesieve_queue_faces 1.0" in httpx.get(url + "/metrics").text)
        process.send_signal(signal.SIGTERM)
        until(lambda: not answers(url + "/healthz"))
        ask.join(60)
        [answer] = results
        assert answer.status_code == 200
        assert answer.content[:4] == b"\x89PNG"
        assert process.wait(30) == 0
        rest = [json.loads(line) for line in process.stderr.read().splitlines()]
    finally:
        process.kill()
        process.wait()
    assert rest[-1]["event"] == "stopped"
    assert {"event", "time", "level"} <= set.intersection(*(set(line) for line in rest))
    [purified] = [line for line in rest if line.get("route") == "/v1/purify"]
    assert (purified["status"], purified["faces"]) == (200, 1)
    assert purified["request_id"] == answer.headers["x-request-id"]


def answers(url):
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
