"""The service is what its OpenAPI document says, with all checks of schemathesis, with and without keys.

A few minutes: ``pytest -m slow tests/service/test_description.py``. What an image shows and what a name may hold is beyond the
document, so 422 is an answer to what the document allows, too.
"""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serving import handlers_of, service

from facesieve.service.keys import Keys, add_key
from facesieve.service.schemas import problem_responses

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from availability import AUTH, EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [False, True])
def test_schemathesis_finds_nothing(tmp_path, with_keys):
    path, key = tmp_path / "keys.json", ""
    if with_keys:
        key = add_key(path, "all", ["purify", "identify", "gallery"])
    config = tmp_path / "schemathesis.toml"
    config.write_text(EXPECTED + (AUTH.format(key=key) if with_keys else ""))
    settings = {"gallery": str(tmp_path / "gallery"), "keys": path if with_keys else None}
    with service(handlers_of(**settings), Keys(path) if with_keys else None) as url:
        words = ["run", f"{url}/openapi.json", "--checks", "all", "--max-examples", "50", "--seed", "1"]
        script = "from schemathesis.cli import schemathesis; schemathesis()"
        command = [sys.executable, "-c", script, "--config-file", str(config), *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 500


def test_the_description_says_of_keys_what_is_true(tmp_path):
    path = tmp_path / "keys.json"
    add_key(path, "all", ["purify"])
    with service(handlers_of()) as url:
        plain = httpx.get(url + "/openapi.json").json()
        assert "securitySchemes" not in plain["components"]
        assert all("security" not in operation for one in plain["paths"].values() for operation in one.values())
    with service(handlers_of(keys=path), Keys(path)) as url:
        guarded = httpx.get(url + "/openapi.json").json()
        assert set(guarded["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
        assert guarded["paths"]["/v1/info"]["get"]["security"]
        assert "security" not in guarded["paths"]["/healthz"]["get"]


def test_every_refusal_is_described_as_problem_json():
    with service(handlers_of()) as url:
        described = httpx.get(url + "/openapi.json").json()
    shape = problem_responses(422)[422]["content"]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            refusals = {code: answer for code, answer in operation["responses"].items() if code[0] in "45"}
            assert all(answer["content"] == shape for answer in refusals.values()), (method, path)
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_a_method_that_is_not_there_is_told_those_that_are():
    with service(handlers_of()) as url:
        answer = httpx.patch(url + "/v1/gallery/Ada")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, POST, PUT")
        assert httpx.get(url + "/v1/purify").headers["allow"] == "POST"
