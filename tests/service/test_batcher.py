"""Micro-batching, without HTTP: a stand-in model remembers its batches; its answer is known in closed form."""

import asyncio
import threading

import pytest
import torch
from serving import Gate, quick_shield

from facesieve.purify import preset
from facesieve.service.batcher_local import BusyError, Engine, Limits
from facesieve.shield import load_shield


def crops(count, seed=0):
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def run(gate, scenario, **limits):
    async def main():
        engine = Engine(gate, Limits(**limits))
        await engine.start()
        try:
            return await asyncio.wait_for(scenario(engine), 30)
        finally:
            gate.open.set()
            await engine.stop()

    return asyncio.run(main())


async def begun(gate):
    assert await asyncio.to_thread(gate.begun.wait, 10)


def test_the_faces_of_two_clients_share_a_batch_and_each_gets_its_own():
    gate, one, two = Gate(), crops(1, 1), crops(2, 2)

    async def scenario(engine):
        return await asyncio.gather(engine.purify(one, [10]), engine.purify(two, [20, 21]))

    [(name, first)], [(_, second)] = run(gate, scenario, max_batch=3, batch_wait=10)
    assert gate.batches == [[10, 20, 21]]
    assert name == "inverted"
    assert torch.equal(first, 1 - one)
    assert torch.equal(second, 1 - two)


def test_a_full_batch_does_not_wait_and_a_lone_face_waits_no_longer_than_it_should():
    gate = Gate()

    async def scenario(engine):
        await asyncio.wait_for(engine.purify(crops(2), [1, 2]), 5)  # batch_wait is 60 s

    run(gate, scenario, max_batch=2, batch_wait=60)

    async def alone(engine):
        begin = asyncio.get_running_loop().time()
        await engine.purify(crops(1), [1])
        return asyncio.get_running_loop().time() - begin

    assert 0.1 <= run(gate, alone, max_batch=2, batch_wait=0.1) < 5


def test_a_request_larger_than_a_batch_is_split_and_comes_back_in_order():
    gate, many, one = Gate(), crops(5, 1), crops(1, 2)

    async def scenario(engine):
        return await asyncio.gather(engine.purify(many, [0, 1, 2, 3, 4]), engine.purify(one, [9]))

    [(_, first)], [(_, second)] = run(gate, scenario, max_batch=2)
    assert gate.batches == [[0, 1], [2, 3], [4, 9]]
    assert torch.equal(first, 1 - many)
    assert torch.equal(second, 1 - one)


def test_a_full_queue_refuses_and_takes_again_when_there_is_room():
    gate = Gate(opened=False)

    async def scenario(engine):
        running = asyncio.create_task(engine.purify(crops(1), [1]))
        await begun(gate)  # this one is no longer in the queue
        waiting = asyncio.create_task(engine.purify(crops(3), [2, 3, 4]))
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as refused:
            await engine.purify(crops(2), [5, 6])
        fits = asyncio.create_task(engine.purify(crops(1), [7]))
        await asyncio.sleep(0)
        assert engine.waiting == 4
        gate.open.set()
        await asyncio.gather(running, waiting, fits)
        await engine.purify(crops(2), [8, 9])
        return refused.value

    refused = run(gate, scenario, max_batch=8, batch_wait=0, queue_faces=4)
    assert 1 <= refused.retry_after <= 60
    assert [seed for batch in gate.batches for seed in batch] == [1, 2, 3, 4, 7, 8, 9]


@pytest.mark.parametrize(("seconds", "taken"), [(0.0, 5), (0.5, 2)])
def test_who_would_wait_too_long_is_refused_and_a_slow_model_refuses_sooner(seconds, taken):
    slow = Gate(seconds=seconds)

    async def scenario(engine):
        for _ in range(3):  # the engine learns the pace
            await engine.purify(crops(1), [0])
        calls = [asyncio.create_task(engine.purify(crops(1), [seed])) for seed in range(5)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, BusyError) for answer in answers[taken:])
        return sum(isinstance(answer, list) for answer in answers)

    assert run(slow, scenario, max_batch=1, batch_wait=0, max_wait=0.65) == taken


def test_a_client_that_goes_away_frees_its_place_and_its_faces_are_not_purified():
    gate = Gate(opened=False)

    async def scenario(engine):
        running = asyncio.create_task(engine.purify(crops(1), [1]))
        await begun(gate)
        gone = asyncio.create_task(engine.purify(crops(4), [2, 3, 4, 5]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert engine.waiting == 0
        stays = asyncio.create_task(engine.purify(crops(4), [6, 7, 8, 9]))
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(running, stays)

    run(gate, scenario, max_batch=8, batch_wait=0, queue_faces=4)
    assert gate.batches == [[1], [6, 7, 8, 9]]


def test_one_that_leaves_after_some_of_its_faces_were_taken_takes_nothing_from_others():
    gate, stays = Gate(opened=False), crops(2, 3)

    async def scenario(engine):
        gone = asyncio.create_task(engine.purify(crops(3), [1, 2, 3]))
        await begun(gate)  # two of its three faces are in the batch that runs
        other = asyncio.create_task(engine.purify(stays, [4, 5]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        assert engine.waiting == 2
        gate.open.set()
        return await other

    [(_, result)] = run(gate, scenario, max_batch=2, batch_wait=0)
    assert gate.batches == [[1, 2], [4, 5]]
    assert torch.equal(result, 1 - stays)


def test_a_stop_finishes_what_was_accepted_and_refuses_the_rest():
    gate = Gate(opened=False)

    async def main():
        engine = Engine(gate, Limits(max_batch=2, batch_wait=60))
        assert not engine.ready
        await engine.start()
        assert engine.ready
        accepted = [asyncio.create_task(engine.purify(crops(1, n), [n])) for n in range(3)]
        await begun(gate)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        assert not engine.ready
        with pytest.raises(BusyError, match="stopping"):
            await engine.purify(crops(1), [9])
        gate.open.set()
        results = await asyncio.gather(*accepted)
        await stopping
        return results

    results = asyncio.run(asyncio.wait_for(main(), 30))
    assert all(torch.equal(result[0][1], 1 - crops(1, n)) for n, result in enumerate(results))
    assert gate.batches == [[0, 1], [2]]  # the last did not wait a minute for company


def test_a_face_that_breaks_the_model_does_not_break_its_neighbours():
    def model(faces, seeds):
        if 13 in seeds:
            raise ArithmeticError("thirteen")
        return [("same", faces)]

    async def main():
        engine = Engine(model, Limits(max_batch=3, batch_wait=10))
        await engine.start()
        good = [crops(1, 1), crops(1, 2)]
        tasks = [engine.purify(good[0], [1]), engine.purify(crops(1), [13]), engine.purify(good[1], [2])]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        after = await engine.purify(crops(3, 5), [1, 2, 3])
        await engine.stop()
        return found, good, after

    (first, broken, second), good, after = asyncio.run(asyncio.wait_for(main(), 30))
    assert isinstance(broken, ArithmeticError)
    assert torch.equal(first[0][1], good[0])
    assert torch.equal(second[0][1], good[1])
    assert torch.equal(after[0][1], crops(3, 5))


def test_who_waits_beyond_the_deadline_is_told_so_and_leaves():
    gate = Gate(opened=False)

    async def scenario(engine):
        running = asyncio.create_task(engine.purify(crops(1), [1]))
        await begun(gate)
        with pytest.raises(BusyError, match="within"):
            await engine.purify(crops(1), [2])
        assert engine.waiting == 0
        with pytest.raises(BusyError):
            await running
        gate.open.set()

    run(gate, scenario, max_batch=1, batch_wait=0, deadline=0.2)
    assert gate.batches == [[1]]


def test_the_model_is_called_by_one_thread_that_is_not_the_event_loops():
    gate = Gate()

    async def scenario(engine):
        for n in range(3):
            await asyncio.gather(*(engine.purify(crops(1), [n]) for _ in range(3)))

    run(gate, scenario, max_batch=2, batch_wait=0)
    assert len(gate.threads) == 1
    assert threading.get_ident() not in gate.threads


def traced(shield):
    return lambda faces, seeds: [(stage.name, result) for stage, result in shield.trace(faces, seeds)]


def in_a_batch_and_alone(shield):
    faces = torch.rand(3, 3, shield.size, shield.size, generator=torch.Generator().manual_seed(5))

    async def main():
        engine = Engine(traced(shield), Limits(max_batch=3, batch_wait=10))
        await engine.start()
        parts = await asyncio.gather(engine.purify(faces[:1], [1]), engine.purify(faces[1:], [2, 3]))
        await engine.stop()
        return torch.cat([part[-1][1] for part in parts])

    alone = torch.cat([shield.trace(faces[n : n + 1], [n + 1])[-1][1] for n in range(3)])
    return asyncio.run(main()), alone


def test_with_the_exact_denoiser_a_batch_gives_each_face_what_it_gets_alone():
    together, alone = in_a_batch_and_alone(quick_shield())
    assert torch.equal(together, alone)


def test_with_the_prior_that_ships_a_batch_gives_each_face_what_it_gets_alone_to_rounding():
    together, alone = in_a_batch_and_alone(load_shield(preset("fast").changed(samples=1)))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
