"""Micro-batching, without HTTP: a stand-in runtime remembers its batches; its answer is known in closed form."""

import asyncio
import threading
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from serving import Gate, quick_shield

from facesieve.purify import preset
from facesieve.runtime import Trace, TraceStep
from facesieve.service.batcher import Admission, BusyError, Limits
from facesieve.service.batcher_local import LocalBatcher
from facesieve.service.metrics import Metrics
from facesieve.shield import load_shield


def crops(count, seed=0):
    return np.random.default_rng(seed).random((count, 3, 4, 4), np.float32)


def run(gate, scenario, **limits):
    async def main():
        batcher = LocalBatcher(gate, Limits(**limits))
        await batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher), 30)
        finally:
            gate.open.set()
            await batcher.stop()

    return asyncio.run(main())


async def begun(gate):
    assert await asyncio.to_thread(gate.begun.wait, 10)


def test_the_faces_of_two_clients_share_a_batch_and_each_gets_its_own():
    gate, one, two = Gate(), crops(1, 1), crops(2, 2)

    async def scenario(batcher):
        return await asyncio.gather(batcher.purify(one, [10]), batcher.purify(two, [20, 21]))

    first, second = run(gate, scenario, max_batch=3, batch_wait=10)
    assert gate.batches == [[10, 20, 21]]
    assert [step.name for step in first.steps] == ["inverted"]
    assert np.array_equal(first.crops, 1 - one)
    assert np.array_equal(second.crops, 1 - two)


def test_a_full_batch_does_not_wait_and_a_lone_face_waits_no_longer_than_it_should():
    gate = Gate()

    async def scenario(batcher):
        await asyncio.wait_for(batcher.purify(crops(2), [1, 2]), 5)  # batch_wait is 60 s

    run(gate, scenario, max_batch=2, batch_wait=60)

    async def alone(batcher):
        begin = asyncio.get_running_loop().time()
        await batcher.purify(crops(1), [1])
        return asyncio.get_running_loop().time() - begin

    assert 0.1 <= run(gate, alone, max_batch=2, batch_wait=0.1) < 5


def test_a_request_larger_than_a_batch_is_split_and_comes_back_in_order():
    gate, many, one = Gate(), crops(5, 1), crops(1, 2)

    async def scenario(batcher):
        return await asyncio.gather(batcher.purify(many, [0, 1, 2, 3, 4]), batcher.purify(one, [9]))

    first, second = run(gate, scenario, max_batch=2)
    assert gate.batches == [[0, 1], [2, 3], [4, 9]]
    assert np.array_equal(first.crops, 1 - many)
    assert np.array_equal(second.crops, 1 - one)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    gate = Gate(opened=False)

    async def scenario(batcher):
        running = asyncio.create_task(batcher.purify(crops(1), [1]))
        await begun(gate)  # this one is no longer in the queue
        waiting = asyncio.create_task(batcher.purify(crops(3), [2, 3, 4]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as refused:
            await batcher.purify(crops(2), [5, 6])
        fits = asyncio.create_task(batcher.purify(crops(1), [7]))
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        gate.open.set()
        await asyncio.gather(running, waiting, fits)
        await batcher.purify(crops(2), [8, 9])
        return refused.value

    refused = run(gate, scenario, max_batch=8, batch_wait=0, queue_faces=4)
    assert 1 <= refused.retry_after <= 60
    assert [seed for batch in gate.batches for seed in batch] == [1, 2, 3, 4, 7, 8, 9]


@pytest.mark.parametrize(("seconds", "taken"), [(0.0, 5), (0.5, 2)])
def test_who_would_wait_too_long_is_refused_and_a_slow_model_refuses_sooner(seconds, taken):
    slow = Gate(seconds=seconds)

    async def scenario(batcher):
        for _ in range(3):  # the batcher learns the pace
            await batcher.purify(crops(1), [0])
        calls = [asyncio.create_task(batcher.purify(crops(1), [seed])) for seed in range(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, BusyError) for answer in answers[taken:])
        return sum(isinstance(answer, Trace) for answer in answers)

    assert run(slow, scenario, max_batch=1, batch_wait=0, max_wait=0.65) == taken


def test_a_crowd_may_wait_and_a_queue_that_does_not_empty_is_held_short(monkeypatch):
    """At 0.1 s a face, 2 s hold 20 faces. After 2 s without a break only a quarter of that, and all of it once nobody waited."""
    clock = [100.0]
    monkeypatch.setattr("facesieve.service.batcher.time", SimpleNamespace(monotonic=lambda: clock[0]))
    admission = Admission(Limits(max_batch=2, max_wait=2, queue_faces=99), Metrics(), pace=0.1)

    def fill():
        taken = 0
        with suppress(BusyError):
            while True:
                admission.enter(1)
                taken += 1
        return taken

    assert fill() == 21
    admission.leave(11)
    clock[0] += 1.9
    admission.check()
    clock[0] += 0.2  # nobody has seen it empty for 2.1 s
    with pytest.raises(BusyError, match=r"longer than 0\.5 s"):
        admission.check()
    admission.leave(8)
    assert fill() == 4  # behind 2 to 5
    admission.leave(6)
    assert fill() == 21


def test_few_photographs_that_take_long_are_no_queue(monkeypatch):
    """Two readers take 1.6 s a photograph: four callers, one after the other all the time, are all read."""
    clock = [100.0]
    monkeypatch.setattr("facesieve.service.batcher.time", SimpleNamespace(monotonic=lambda: clock[0]))
    admission = Admission(Limits(max_wait=5, readers=2), Metrics(), pace=0.05)
    for _ in range(50):  # learns the pace
        admission.begin_reading()
        admission.end_reading(1.6)
    for _ in range(3):
        admission.begin_reading()
    for _ in range(20):
        admission.begin_reading()
        clock[0] += 0.8
        admission.end_reading(1.6)


def test_a_client_that_goes_away_frees_its_place_and_its_faces_are_not_purified():
    gate = Gate(opened=False)

    async def scenario(batcher):
        running = asyncio.create_task(batcher.purify(crops(1), [1]))
        await begun(gate)
        gone = asyncio.create_task(batcher.purify(crops(4), [2, 3, 4, 5]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.waiting == 0
        stays = asyncio.create_task(batcher.purify(crops(4), [6, 7, 8, 9]))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(running, stays)

    run(gate, scenario, max_batch=8, batch_wait=0, queue_faces=4)
    assert gate.batches == [[1], [6, 7, 8, 9]]


def test_one_that_leaves_after_some_of_its_faces_were_taken_takes_nothing_from_others():
    gate, stays = Gate(opened=False), crops(2, 3)

    async def scenario(batcher):
        gone = asyncio.create_task(batcher.purify(crops(3), [1, 2, 3]))
        await begun(gate)  # two of its three faces are in the batch that runs
        other = asyncio.create_task(batcher.purify(stays, [4, 5]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.waiting == 2
        gate.open.set()
        return await other

    result = run(gate, scenario, max_batch=2, batch_wait=0)
    assert gate.batches == [[1, 2], [4, 5]]
    assert np.array_equal(result.crops, 1 - stays)


def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest():
    gate = Gate(opened=False)

    async def main():
        batcher = LocalBatcher(gate, Limits(max_batch=2, batch_wait=60))
        assert not batcher.ready
        await batcher.start()
        assert batcher.ready
        accepted = [asyncio.create_task(batcher.purify(crops(1, n), [n])) for n in range(3)]
        await begun(gate)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        assert not batcher.ready
        with pytest.raises(BusyError, match="stopping"):
            await batcher.purify(crops(1), [9])
        gate.open.set()
        results = await asyncio.gather(*accepted)
        await stopping
        return results

    results = asyncio.run(asyncio.wait_for(main(), 30))
    assert all(np.array_equal(result.crops, 1 - crops(1, n)) for n, result in enumerate(results))
    assert gate.batches == [[0, 1], [2]]  # the last did not wait a minute for company


def test_a_face_that_breaks_the_model_does_not_break_its_neighbours():
    class Runtime:
        def purify(self, faces, seeds):
            if 13 in seeds:
                raise ArithmeticError("thirteen")
            return Trace((TraceStep("same", faces),))

    async def main():
        batcher = LocalBatcher(Runtime(), Limits(max_batch=3, batch_wait=10))
        await batcher.start()
        good = [crops(1, 1), crops(1, 2)]
        tasks = [batcher.purify(good[0], [1]), batcher.purify(crops(1), [13]), batcher.purify(good[1], [2])]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        after = await batcher.purify(crops(3, 5), [1, 2, 3])
        await batcher.stop()
        return found, good, after

    (first, broken, second), good, after = asyncio.run(asyncio.wait_for(main(), 30))
    assert isinstance(broken, ArithmeticError)
    assert np.array_equal(first.crops, good[0])
    assert np.array_equal(second.crops, good[1])
    assert np.array_equal(after.crops, crops(3, 5))


def test_who_waits_beyond_the_deadline_is_told_so_and_leaves():
    gate = Gate(opened=False)

    async def scenario(batcher):
        running = asyncio.create_task(batcher.purify(crops(1), [1]))
        await begun(gate)
        with pytest.raises(BusyError, match="within"):
            await batcher.purify(crops(1), [2])
        assert batcher.waiting == 0
        with pytest.raises(BusyError):
            await running
        gate.open.set()

    run(gate, scenario, max_batch=1, batch_wait=0, deadline=0.2)
    assert gate.batches == [[1]]


def test_the_model_is_called_by_one_thread_that_is_not_the_event_loops():
    gate = Gate()

    async def scenario(batcher):
        for n in range(3):
            await asyncio.gather(*(batcher.purify(crops(1), [n]) for _ in range(3)))

    run(gate, scenario, max_batch=2, batch_wait=0)
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads


def in_a_batch_and_alone(runtime):
    faces = np.random.default_rng(5).random((3, 3, runtime.card.size, runtime.card.size), np.float32)

    async def main():
        batcher = LocalBatcher(runtime, Limits(max_batch=3, batch_wait=10))
        await batcher.start()
        parts = await asyncio.gather(batcher.purify(faces[:1], [1]), batcher.purify(faces[1:], [2, 3]))
        await batcher.stop()
        return Trace.joined(parts).crops

    alone = np.concatenate([runtime.purify(faces[n : n + 1], [n + 1]).crops for n in range(3)])
    return asyncio.run(main()), alone


def test_with_the_exact_denoiser_a_batch_gives_each_face_what_it_gets_alone():
    together, alone = in_a_batch_and_alone(quick_shield().runtime)
    assert np.array_equal(together, alone)


def test_with_the_prior_that_ships_a_batch_gives_each_face_what_it_gets_alone_to_rounding():
    together, alone = in_a_batch_and_alone(load_shield(preset("robust").changed(samples=1)).runtime)
    np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)
