"""On a real Ray with two worker processes: the same files as without it, also if a worker dies; and the service on it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from ray_here import QuickRecipe, ask, free_port, small_ray, until, workers, writer_of

from facesieve.errors import InputError, PriorError, SettingError
from facesieve.files import sha256_of
from facesieve.images import read_photo
from facesieve.jobs.cluster import Recipe, purify_units_on
from facesieve.jobs.plan import plan
from facesieve.jobs.run import Options, purify_units
from facesieve.noise import derive_seed
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.purify import preset
from facesieve.ray_cluster import joined
from facesieve.service.settings import Settings
from facesieve.shield import load_shield
from shard_making import BAD, noise, read_tar, shard, small, write_parquet, write_tar

pytestmark = pytest.mark.ray

REAL = Recipe(preset("robust").changed(steps=1))
ALIGNED = Options(aligned=True, seed=3)


@pytest.fixture(scope="module", autouse=True)
def ray():
    with small_ray() as running:
        yield running


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("recipe", [QuickRecipe(), pytest.param(REAL, marks=pytest.mark.slow)], ids=["quick", "real network"])
def test_a_worker_is_killed_in_the_middle_and_every_photograph_is_there_once(tmp_path, recipe):
    """The files are those of one process alone, byte for byte."""
    sources = [write_tar(tmp_path / f"{n}.tar", [(f"{k}.jpg", noise(10 * n + k)) for k in range(10)]) for n in range(4)]
    sources.append(write_parquet(tmp_path / "4.parquet", [noise(n) for n in range(10)]))
    shards, out = [shard(source, tmp_path / "out") for source in sources], tmp_path / "out"
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(purify_units_on, "auto", out, shards, recipe, ALIGNED)
        found = []
        until(lambda: job.done() or found.extend(filter(None, [writer_of(out)])) or found)
        (victim,) = found
        victim.kill()
        result = job.result(300)
    assert not victim.is_running()
    assert result.failures == []
    assert result.units + result.skipped == 5
    alone = [shard(source, tmp_path / "alone") for source in sources]
    assert purify_units(alone, recipe.load(), ALIGNED).photographs == 50
    assert tree(out) == tree(tmp_path / "alone")


@pytest.mark.slow  # three workers must die before it is given up
def test_a_photograph_that_kills_its_workers_is_listed_and_the_rest_goes_on(tmp_path, sample_paths):
    photos = [small(path, 160) for path in sample_paths[:3]]
    poisoned = write_tar(tmp_path / "a.tar", [("0.jpg", photos[0]), ("bad.jpg", BAD), ("1.jpg", noise(1)), ("2.jpg", photos[1])])
    other = write_tar(tmp_path / "b.tar", [("3.jpg", photos[2])])
    shards = [shard(source, tmp_path / "out") for source in (poisoned, other)]
    result = purify_units_on("auto", tmp_path / "out", shards, QuickRecipe(deadly=True), Options(seed=3), workers=1)
    reasons = {failure.key: failure.reason for failure in result.failures}
    assert set(reasons) == {"bad", "1"}
    assert reasons["1"] == "1: 3 workers died while they read it; it is left out"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.tar", "a.tar.json", "b.tar", "b.tar.json"]
    clean = write_tar(tmp_path / "clean" / "a.tar", [("0.jpg", photos[0]), ("2.jpg", photos[1])])
    purify_units([shard(clean, tmp_path / "alone")], QuickRecipe().load(), Options(seed=3))
    assert read_tar(tmp_path / "out" / "a.tar") == read_tar(tmp_path / "alone" / "a.tar")


def test_a_folder_of_photographs_gives_the_same_pictures(tmp_path, sample_paths):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for number, path in enumerate(sample_paths[:3]):
        (folder / "deep" / f"{number}.jpg").write_bytes(small(path, 160))
    (folder / "bad.jpg").write_bytes(BAD)
    items = plan([folder], tmp_path / "out")
    result = purify_units_on("auto", tmp_path / "out", items, QuickRecipe(), Options(seed=3), workers=1)
    assert (result.photographs, result.faces) == (3, 3)
    (failure,) = result.failures
    assert failure.source == str(folder / "bad.jpg")
    assert "not a JPEG" in failure.reason
    purify_units(plan([folder], tmp_path / "alone"), QuickRecipe().load(), Options(seed=3))
    made, alone = tree(tmp_path / "out"), tree(tmp_path / "alone")
    assert {n: d for n, d in made.items() if n.endswith(".png")} == {n: d for n, d in alone.items() if n.endswith(".png")}
    assert made.keys() == alone.keys()
    records = [json.loads(tree_["deep/0.face1.json"]) for tree_ in (made, alone)]
    for record in records:
        del record["seconds"]
    assert records[0] == records[1]


@pytest.mark.parametrize(("address", "message"), [("127.0.0.1:1", "nobody answers there"), ("somewhere", "give local, auto")])
def test_an_address_without_a_ray_is_one_line(monkeypatch, address, message):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray would try for minutes"))
    with pytest.raises(InputError, match=f"^cluster {address}: {message}"), joined(address):
        pass


@pytest.fixture
def prior(tmp_path):
    return shutil.copytree(embedded_prior_folder("prior-128"), tmp_path / "prior")


def test_a_prior_that_goes_in_the_middle_ends_the_job_in_one_line_and_the_next_run_does_the_rest(tmp_path, sample_paths, prior):
    """A worker that dies then cannot be replaced; Ray would wait for it without an end."""
    photo, folder, out = small(sample_paths[0], 160), tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number}.jpg").write_bytes(photo + bytes([number]))
    recipe = Recipe(preset("gentle"), prior)
    job = lambda: purify_units_on("auto", out, plan([folder], out), recipe, Options(seed=3), workers=1)  # noqa: E731
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(job)
        until(lambda: first.done() or list(out.glob("*.png")))
        prior.rename(tmp_path / "away")
        for worker in workers():
            worker.kill()
        with pytest.raises(InputError, match=r"^a worker has no shield \(.*prior: not a folder[^\n]*$"):
            first.result(60)
    done = len(list(out.glob("*.png")))
    assert done < 60
    (tmp_path / "away").rename(prior)
    again = job()
    assert (again.photographs, again.skipped, again.failures) == (60 - done, done, [])


# --- the service -------------------------------------------------------------------------------


def test_the_service_answers_on_ray_as_it_does_alone(sample_paths):
    from facesieve.service.ray_serve import deployed

    photos = [small(path, 240) for path in sample_paths[:3]]
    shield = load_shield("robust")
    settings = Settings(port=free_port(), allow_seeds=True, preset="robust")
    with deployed(settings, "auto"):
        ready = httpx.get(f"http://127.0.0.1:{settings.port}/readyz", timeout=60)
        assert ready.json() == {"status": "ready"}
        with ThreadPoolExecutor(3) as clients:
            answers = list(clients.map(lambda photo: ask(settings, photo), photos))
        problem = ask(settings, noise(1))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    for photo, answer in zip(photos, answers, strict=True):  # batched together: equal but for rounding
        expected = shield.purify(read_photo(photo), seeds=[derive_seed(5, sha256_of(photo), 0)])[0]
        assert abs(read_photo(answer.content).astype(int) - expected.astype(int)).max() <= 1
    assert (problem.status_code, problem.json()["type"]) == (422, "urn:facesieve:problem:no-face")
    assert not workers("ServeReplica")


def test_a_service_whose_prior_is_gone_answers_until_its_model_dies_then_503_and_again_when_it_is_back(
    sample_paths, prior, tmp_path
):
    from facesieve.service.ray_serve import _model, deployed

    photo = small(sample_paths[0], 240)
    settings = Settings(port=free_port(), allow_seeds=True, preset="gentle", prior=prior, deadline_s=2)
    with deployed(settings, "auto"):
        before = read_photo(ask(settings, photo).content).astype(int)
        prior.rename(tmp_path / "away")
        assert ask(settings, photo).status_code == 200
        (model,) = workers("ServeReplica:facesieve:model")
        model.kill()
        refused = ask(settings, photo)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:facesieve:problem:busy")
        (tmp_path / "away").rename(prior)
        until(lambda: ask(settings, photo).status_code == 200)
        after = read_photo(ask(settings, photo).content).astype(int)
        with pytest.raises(PriorError, match="is another one than the service began with"):
            _model(settings, "gentle-of-before").func_or_class()
    assert abs(before - after).max() <= 1  # it may run on another runtime than before
    with (
        pytest.raises(PriorError, match="gone: not a folder"),
        deployed(settings.model_copy(update={"prior": prior / "gone"}), "auto"),
    ):
        pass


def test_what_a_cluster_does_not_do_is_refused_in_one_line():
    from facesieve.service.ray_serve import serve_on

    refused = [
        (Settings(page=True), "page: it is not served"),
        (Settings(max_wait_s=2), "max_wait_s: a cluster"),
        (Settings(presets="paper"), "presets: a cluster"),
    ]
    for settings, message in refused:
        with pytest.raises(SettingError, match=f"^{message}"):
            serve_on(settings, "auto")


@pytest.mark.slow
def test_the_service_answers_again_after_its_model_was_killed(sample_paths):
    from facesieve.service.ray_serve import deployed

    photo = small(sample_paths[0], 240)
    settings = Settings(port=free_port(), allow_seeds=True)
    with deployed(settings, "auto"):
        before = ask(settings, photo)
        (model,) = workers("ServeReplica:facesieve:model")
        model.kill()
        until(lambda: ask(settings, photo).content == before.content)
    assert before.status_code == 200
