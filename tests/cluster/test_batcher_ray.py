"""The batcher in front of a cluster, before replicas that are stand-ins: their answers are known in closed form."""

import asyncio

import numpy as np
import pytest

from facesieve.runtime import Trace, TraceStep
from facesieve.service.batcher import BusyError, Limits
from facesieve.service.batcher_ray import TRIES, RayBatcher
from facesieve.service.metrics import Metrics

pytestmark = pytest.mark.ray


class Replicas:
    """A handle whose replica inverts a crop, once it is let; ``fails`` are raised first, one a call."""

    def __init__(self, *fails, opened=True):
        self.purify = self
        self.fails = list(fails)
        self.open = asyncio.Event()
        self.seeds = []
        if opened:
            self.open.set()

    async def remote(self, crop, seed):
        self.seeds.append(seed)
        await self.open.wait()
        if self.fails:
            raise self.fails.pop(0)
        return Trace((TraceStep("inverted", 1 - crop[None]),))


def crops(count):
    return np.random.default_rng(count).random((count, 3, 4, 4), np.float32)


def run(replicas, scenario, **limits):
    async def main():
        batcher = RayBatcher(replicas, Limits(**limits), Metrics())
        assert not batcher.ready
        await batcher.start()
        assert batcher.ready
        return await asyncio.wait_for(scenario(batcher), 30)

    return asyncio.run(main())


def test_each_face_goes_to_a_replica_and_the_results_come_back_in_order():
    replicas, faces = Replicas(), crops(3)
    trace = run(replicas, lambda batcher: batcher.purify(faces, [1, 2, 3]))
    assert [step.name for step in trace.steps] == ["inverted"]
    assert np.array_equal(trace.crops, 1 - faces)
    assert replicas.seeds == [1, 2, 3]


def test_a_face_whose_replica_dies_goes_to_another_but_not_for_ever():
    from ray.exceptions import RayActorError as Died

    replicas = Replicas(*(Died() for _ in range(TRIES - 1)))
    assert len(run(replicas, lambda batcher: batcher.purify(crops(1), [5]))) == 1
    assert replicas.seeds == [5] * TRIES
    with pytest.raises(Died):
        run(Replicas(*(Died() for _ in range(TRIES))), lambda batcher: batcher.purify(crops(1), [5]))


def test_without_a_replica_the_caller_is_told_when_to_ask_again():
    from ray.serve._private.common import DeploymentID
    from ray.serve.exceptions import DeploymentUnavailableError

    replicas = Replicas(DeploymentUnavailableError(DeploymentID(name="model")))
    with pytest.raises(BusyError, match="no replica of the model") as caught:
        run(replicas, lambda batcher: batcher.purify(crops(1), [5]))
    assert caught.value.retry_after == 10


def test_a_full_queue_refuses_and_one_that_leaves_frees_its_places():
    replicas = Replicas(opened=False)

    async def scenario(batcher):
        first = asyncio.create_task(batcher.purify(crops(3), [1, 2, 3]))
        await asyncio.sleep(0)
        assert batcher.waiting == 3
        with pytest.raises(BusyError, match="the queue is full: 3 of 4 places taken") as refused:
            await batcher.purify(crops(2), [4, 5])
        first.cancel()
        await asyncio.wait([first])
        assert batcher.waiting == 0
        replicas.open.set()
        await batcher.purify(crops(2), [4, 5])
        return refused.value

    assert run(replicas, scenario, queue_faces=4, max_wait=1e-9).retry_after == 1  # time refuses nobody


def test_who_waits_beyond_the_deadline_is_told_so_and_leaves():
    async def scenario(batcher):
        with pytest.raises(BusyError, match="within"):
            await batcher.purify(crops(1), [1])
        assert batcher.waiting == 0

    run(Replicas(opened=False), scenario, deadline=0.1)


def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest():
    replicas = Replicas(opened=False)

    async def scenario(batcher):
        accepted = asyncio.create_task(batcher.purify(crops(2), [1, 2]))
        await asyncio.sleep(0)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        assert not batcher.ready
        with pytest.raises(BusyError, match="stopping"):
            await batcher.purify(crops(1), [9])
        assert not stopping.done()
        replicas.open.set()
        await stopping
        return await accepted

    assert np.array_equal(run(replicas, scenario).crops, 1 - crops(2))
