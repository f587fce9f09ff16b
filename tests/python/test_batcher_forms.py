"""`rivulet.Batcher` as futures and in asyncio, from many threads at random, and at a program's end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import queue
import random
import sys
import threading
import time
import weakref

import pytest
import rivulet
import torch
from batch_support import LONG, Gated, held, outcomes, rows, until


def test_submitted_calls_are_joined_with_others_and_can_be_cancelled():
    model = Gated()
    batcher = rivulet.Batcher(model)
    model.hold()
    first = batcher.submit(rows(1, -1))
    assert model.entered.acquire(timeout=LONG)
    futures = [batcher.submit(rows(1, k)) for k in range(4)]
    assert futures[0].cancel() and futures[2].cancel() and not first.cancel()
    done, pending = concurrent.futures.wait([futures[0], futures[2]], timeout=LONG)
    assert not pending
    model.batches.clear()
    model.go()
    assert [futures[k].result(LONG)[0, 0].item() for k in (1, 3)] == [3, 7]
    assert model.batches == [[(2, 4)]]
    with pytest.raises(concurrent.futures.CancelledError):
        futures[0].result(LONG)
    assert first.result(LONG)[0, 0].item() == -1
    batcher.close()
    assert batcher.stats()["cancelled"] == 2


def test_a_submitted_call_that_does_not_begin_in_time_is_not_run():
    model = Gated()
    batcher = rivulet.Batcher(model)
    model.hold()
    first = batcher.submit(rows(1, 0))
    assert model.entered.acquire(timeout=LONG)
    late = batcher.submit(rows(1, 1), timeout=0.01)
    other = batcher.submit(rows(1, 2))
    time.sleep(0.05)
    model.batches.clear()
    model.go()
    with pytest.raises(TimeoutError, match="had not begun"):
        late.result(LONG)
    assert first.result(LONG) is not None and other.result(LONG)[0, 0].item() == 5
    assert model.batches == [[(1, 4)]]


def test_asyncio_tasks_are_joined_and_a_cancelled_one_hurts_nobody():
    model = Gated()
    batcher = rivulet.Batcher(model, max_queue=3)

    async def main():
        model.hold()
        first = asyncio.create_task(batcher.acall(rows(1, -1)))
        await asyncio.to_thread(model.entered.acquire)
        model.batches.clear()
        tasks = [asyncio.create_task(batcher.acall(rows(1, k))) for k in range(5)]
        late = asyncio.create_task(batcher.acall(rows(1, 7), timeout=0.02))
        while batcher.stats()["queued"] < 6:
            await asyncio.sleep(0)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        with pytest.raises(TimeoutError):
            await late
        assert batcher.stats()["queued"] == 4
        model.go()
        results = [(await tasks[k])[0, 0].item() for k in (0, 2, 3, 4)]
        await first
        return results

    assert asyncio.run(main()) == [1, 5, 7, 9]
    assert sum(shapes[0][0] for shapes in model.batches) == 4


def test_close_serves_what_was_submitted_and_refuses_what_comes():
    model = Gated()
    with rivulet.Batcher(model) as batcher:
        futures = [batcher.submit(rows(1, k)) for k in range(10)]
    assert [future.result(0)[0, 0].item() for future in futures] == [2 * k + 1 for k in range(10)]
    for call in (batcher, batcher.submit):
        with pytest.raises(RuntimeError, match="Batcher is closed"):
            call(rows(1, 1))
    batcher.close()

    batcher = rivulet.Batcher(model)
    model.hold()
    first = batcher.submit(rows(1, 1))
    until(lambda: batcher.stats()["running"] == 1 and first.running())
    pending = [batcher.submit(rows(1, 1)) for _ in range(3)]
    threading.Timer(0.05, model.go).start()
    batcher.close(cancel=True)
    assert first.result(0) is not None and all(future.cancelled() for future in pending)


def test_a_dropped_batcher_serves_what_was_submitted_and_its_workers_end():
    before = threading.active_count()
    futures = [rivulet.Batcher(lambda x: x + 1).submit(rows(1, k)) for k in range(3)]
    assert [future.result(LONG)[0, 0].item() for future in futures] == [1, 2, 3]
    del futures
    until(lambda: threading.active_count() <= before)


def test_inputs_are_let_go_when_a_call_is_done():
    batcher = rivulet.Batcher(lambda x: x + 1)
    gc.collect()
    gc.disable()
    try:
        inputs = [rows(1, 1) for _ in range(3)]
        alive = [weakref.ref(x) for x in inputs]
        future = batcher.submit(inputs[0])
        assert future.result(LONG) is not None and batcher(inputs[1]) is not None
        asyncio.run(batcher.acall(inputs[2]))
        batcher.close()
        del inputs
        assert [x() for x in alive] == [None] * 3
    finally:
        gc.enable()


# --- many at once ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_batch": 3, "max_in_flight": 2},
        {"max_queue": 2},
        {"max_queue": 2, "when_full": "raise"},
        {"max_wait_us": 300},
        {"pad": "longest"},
    ],
    ids=str,
)
def test_random_calls_from_many_threads_never_get_somebody_elses_rows(in_threads, options):
    """Each caller's rows hold its number; errors, timeouts and cancellations come in between."""
    broken = 13.0

    def model(x, attention_mask=None):
        if (x == broken).any():
            raise ArithmeticError("broken")
        return {"same": x, "sum": x.sum(1) if attention_mask is None else (x * attention_mask[..., None]).sum(1)}

    batcher = rivulet.Batcher(model, **options)

    def body(me):
        chance = random.Random(f"{me} {options}")
        for turn in range(40):
            number = me * 1000.0 + turn if chance.random() > 0.1 else broken
            count, length = chance.randint(1, 3), chance.randint(1, 4)
            x = torch.full((count, length, 2), number, device="mps")
            timeout = chance.choice([None, None, None, 0.0005, 5.0])
            try:
                kind = chance.random()
                if kind < 0.6:
                    result = batcher(x, timeout=timeout)
                elif kind < 0.8:
                    result = batcher.submit(x).result(LONG)
                elif kind < 0.9:
                    future = batcher.submit(x)
                    time.sleep(chance.random() * 1e-3)
                    if future.cancel():
                        continue
                    result = future.result(LONG)
                else:
                    result = asyncio.run(batcher.acall(x, timeout=timeout))
            except ArithmeticError:
                assert number == broken
                continue
            except TimeoutError:
                assert timeout is not None
                continue
            except queue.Full:
                assert options.get("when_full") == "raise"
                continue
            assert number != broken
            assert torch.equal(result["same"], x)
            assert torch.equal(result["sum"], x.sum(1))

    in_threads(6, body)
    batcher.close()
    stats = batcher.stats()
    assert stats["queued"] == stats["running"] == 0
    assert stats["latency"]["count"] == stats["requests"] == sum(size * n for size, n in stats["sizes"].items())
    assert not batcher._core.pending


def test_a_model_gives_what_it_gives_alone(in_threads):
    torch.manual_seed(1)
    layers = [torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.LayerNorm(64), torch.nn.Linear(64, 8)]
    model = torch.nn.Sequential(*layers).to("mps").eval()
    batcher = rivulet.Batcher(model)
    inputs = torch.randn(6, 30, 1, 32, device="mps")
    with torch.no_grad():
        wanted = model(inputs)

    def body(me):
        for x, y in zip(inputs[me], wanted[me]):
            torch.testing.assert_close(batcher(x), y, rtol=1e-4, atol=1e-5)

    in_threads(6, body)
    assert batcher.stats()["requests"] == 180


def test_no_caller_starves_and_order_is_that_of_arrival():
    order = []
    model = Gated(lambda x: (order.extend(x[:, 0].int().tolist()), x)[1])
    batcher = rivulet.Batcher(model, max_batch=3)
    with held(batcher, model, [lambda k=k: batcher(rows(1, k)) for k in range(10)]) as futures:
        order.clear()
        model.go()
        outcomes(futures)
    assert order[-10:] == list(range(10))


# --- the interpreter ---

EXIT = """
import atexit, threading
done = []
# The last to run: such functions run in the reverse order of their registration.
atexit.register(lambda: print("done", len(done)))
import torch, rivulet
go = threading.Event()
batcher = rivulet.Batcher(lambda x: (go.wait(20), x + 1)[1], max_batch=2)
futures = [batcher.submit(torch.ones(1, 2, device="mps")) for _ in range(5)]
for future in futures:
    future.add_done_callback(lambda f: done.append(f.result().sum().item()))
# Threads that wait in a call, and one that runs.
slow = rivulet.Batcher(lambda x: (threading.Event().wait(0.3), x)[1])
for _ in range(3):
    threading.Thread(target=slow, args=(torch.ones(1, 2, device="mps"),), daemon=True).start()
while slow.stats()["queued"] < 2:
    pass
threading.Timer(0.1, go.set).start()
"""


def test_a_program_ends_with_live_batchers_and_has_served_what_was_submitted(run_python):
    done = run_python(EXIT)
    assert "done 5" in done.stdout and done.stderr == ""


FORK = """
import os, torch, rivulet
batcher = rivulet.Batcher(lambda x: x + 1)
x = torch.ones(1, 2)
assert batcher(x).sum() == 4 and batcher.submit(x).result().sum() == 4
pid = os.fork()
if pid == 0:
    code = 1
    try:
        batcher(x)
    except RuntimeError as error:
        code = 0 if "before this process was forked" in str(error) else 2
    try:
        fresh = rivulet.Batcher(lambda x: x + 1)
        assert fresh(x).sum() == 4 and fresh.submit(x).result(20).sum() == 4
        batcher.close()
        fresh.close()
    except BaseException as error:
        print(error)
        code = 3
    os._exit(code)
assert os.waitpid(pid, 0)[1] == 0
assert batcher(x).sum() == 4
batcher.close()
print("ok")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_is_told_and_can_make_its_own(run_python):
    assert run_python(FORK).stdout.strip().endswith("ok")


CTRL_C = """
import os, signal, sys, threading, time, torch, rivulet
signal.signal(signal.SIGINT, signal.default_int_handler)
inside, go = threading.Event(), threading.Event()
def model(x):
    inside.set()
    assert go.wait(20)
    return x * 2
batcher = rivulet.Batcher(model)
x = torch.ones(1, 2, device="mps")
where = sys.argv[1]
results = []
def other():
    results.append(batcher(x))
threads = [threading.Thread(target=other) for _ in range(3)]
def interrupt():
    inside.wait()
    while batcher.stats()["queued"] < (3 if where == "runner" else 1):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
killer = threading.Thread(target=interrupt)
if where == "waiter":
    threads[0].start()
    inside.wait()
    killer.start()
else:
    killer.start()
    def later():
        inside.wait()
        for t in threads: t.start()
    threading.Thread(target=later).start()
try:
    batcher(x)
    print("no interrupt")
except KeyboardInterrupt:
    go.set()
    if where == "waiter":
        for t in threads[1:]: t.start()
    for t in threads: t.join(20)
    assert len(results) == 3 and all(r.sum() == 4 for r in results), results
    assert batcher(x).sum() == 4
    assert batcher.stats()["running"] == batcher.stats()["queued"] == 0
    print("ok")
"""


@pytest.mark.parametrize("where", ["waiter", "runner"])
def test_ctrl_c_ends_a_call_and_the_others_go_on(run_python, where):
    assert run_python(CTRL_C, where).stdout.strip() == "ok"
