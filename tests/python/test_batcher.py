"""`rivulet.Batcher`: each caller gets its own rows, its own error and its own timeout, whatever the others do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import queue
import random
import sys
import threading
import time
from typing import Any, NamedTuple

import pytest
import rivulet
import torch
from test_vulkan import needs_llvmpipe

LONG = 30.0


class Gated:
    """A model that can be held; what it was called with is noted."""

    def __init__(self, model=None):
        self.model = model or (lambda x: x * 2 + 1)
        self.batches = []
        self.entered = threading.Semaphore(0)
        self._permits = None

    def hold(self):
        self._permits = threading.Semaphore(0)

    def let(self, runs):
        self._permits.release(runs)

    def go(self):
        permits, self._permits = self._permits, None
        if permits is not None:
            permits.release(1000)

    def __call__(self, *args, **kwargs):
        permits = self._permits
        self.batches.append([tuple(x.shape) for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)])
        self.entered.release()
        assert permits is None or permits.acquire(timeout=LONG)
        return self.model(*args, **kwargs)


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def rows(count, value, *shape, device="mps"):
    """Rows that all hold one number, by which they are known."""
    return torch.full((count, *(shape or (4,))), float(value), device=device)


@contextlib.contextmanager
def held(batcher, model, calls, first=None):
    """Runs the calls, as functions without arguments, such that all are queued, in their order, while one runs. Yields
    futures of them."""
    model.hold()
    with concurrent.futures.ThreadPoolExecutor(len(calls) + 1) as pool:
        inputs = rows(1, -1) if first is None else first
        before = pool.submit(lambda: batcher(*inputs) if isinstance(inputs, tuple) else batcher(inputs))
        assert model.entered.acquire(timeout=LONG)
        futures = []
        for call in calls:
            waiting = batcher.stats()["queued"]
            futures.append(pool.submit(call))
            until(lambda waiting=waiting: batcher.stats()["queued"] > waiting)
        model.batches.clear()
        try:
            yield futures
        finally:
            model.go()
            before.result(LONG)


def outcomes(futures):
    return [future.exception(LONG) or future.result() for future in futures]


# --- who gets what ----------------------------------------------------------------------------------------------


def test_calls_are_joined_in_order_and_everybody_gets_its_own_rows():
    model = Gated()
    batcher = rivulet.Batcher(model)
    counts = [1, 3, 2, 1]
    calls = [lambda c=c, k=k: batcher(rows(c, k)) for k, c in enumerate(counts)]
    with held(batcher, model, calls) as futures:
        model.go()
        for k, (count, future) in enumerate(zip(counts, futures)):
            result = future.result(LONG)
            assert result.device.type == "mps" and torch.equal(result, rows(count, 2 * k + 1))
    assert model.batches == [[(7, 4)]]
    stats = batcher.stats()
    assert (stats["requests"], stats["batches"], stats["rows"]) == (5, 2, 8)
    assert stats["sizes"] == {1: 1, 4: 1}


def test_a_lone_caller_starts_at_once_and_is_passed_on_untouched():
    seen = []

    def model(x, *, flag):
        seen.append(x)
        return x

    batcher = rivulet.Batcher(model)
    for _ in range(20):
        x = rows(1, 1)
        assert batcher(x, flag=1) is x
        assert seen.pop() is x
    stats = batcher.stats()
    assert (stats["requests"], stats["batches"], stats["at_once"]) == (20, 20, 20)
    assert stats["regrouped"] == [0, 0] and stats["queued"] == stats["running"] == 0


def test_results_are_views_of_one_batch_that_do_not_disturb_one_another():
    model = Gated()
    batcher = rivulet.Batcher(model)
    with held(batcher, model, [lambda k=k: batcher(rows(1, k)) for k in range(3)]) as futures:
        model.go()
        a, b, c = (future.result(LONG) for future in futures)
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    # What one caller writes into its rows must not spoil what another has saved for its backward.
    weight = torch.ones(4, device="mps", requires_grad=True)
    loss = (weight * b).sum()
    a.add_(100)
    loss.backward()
    assert torch.equal(weight.grad, rows(1, 3)[0]) and torch.equal(c, rows(1, 5))


def test_more_rows_than_a_batch_may_have_are_run_in_several():
    model = Gated()
    batcher = rivulet.Batcher(model, max_batch=4)
    counts = [2, 2, 1, 9, 3]
    with held(batcher, model, [lambda c=c: batcher(rows(c, c)) for c in counts]) as futures:
        model.go()
        assert [future.result(LONG).shape[0] for future in futures] == counts
    assert model.batches == [[(4, 4)], [(1, 4)], [(9, 4)], [(3, 4)]]


def test_only_what_fits_is_joined_and_the_oldest_goes_first():
    model = Gated(lambda x: x)
    batcher = rivulet.Batcher(model)
    inputs = [rows(1, 1), rows(1, 2, 5), rows(1, 3).half(), rows(1, 4), rows(1, 5, 5), rows(1, 6, device="cpu")]
    with held(batcher, model, [lambda x=x: batcher(x) for x in inputs]) as futures:
        model.go()
        for x, future in zip(inputs, futures):
            y = future.result(LONG)
            assert y.dtype == x.dtype and y.device == x.device and torch.equal(x, y)
    assert model.batches == [[(2, 4)], [(2, 5)], [(1, 4)], [(1, 4)]]


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    states: tuple
    name: str = "none"


def test_nested_inputs_and_outputs_keep_their_structure():
    def model(pair, extra=None, scale=1, many=None):
        if not isinstance(pair, Pair):
            return pair
        total = pair.a + pair.b["x"] + many[0]
        return Output(total * scale, (total, {"twice": 2 * total}), "out"), None, Pair(extra, "text")

    def call(k):
        many = [rows(1, k), 7]
        return batcher(Pair(rows(1, k), {"x": rows(1, 10 * k)}), rows(1, k, 2), many=many, scale=3)

    gated = Gated(model)
    batcher = rivulet.Batcher(gated)
    with held(batcher, gated, [lambda k=k: call(k) for k in (1, 2, 3)]) as futures:
        gated.go()
        for k, future in zip((1, 2, 3), futures):
            output, nothing, pair = future.result(LONG)
            assert type(output) is Output and output.name == "out" and nothing is None
            assert torch.equal(output.logits, rows(1, 36 * k)) and type(pair) is Pair and pair.b == "text"
            assert torch.equal(output.states[1]["twice"], rows(1, 24 * k)) and torch.equal(pair.a, rows(1, k, 2))
    assert gated.batches == [[(3, 2)]]


def test_values_that_are_no_tensors_have_to_be_equal():
    model = Gated(lambda x, scale=1: x * scale)
    batcher = rivulet.Batcher(model)
    scales = [2, 3, 2, 2.0, True]
    with held(batcher, model, [lambda s=s: batcher(rows(1, 1), scale=s) for s in scales]) as futures:
        model.go()
        assert [future.result(LONG)[0, 0].item() for future in futures] == scales
    assert model.batches == [[(2, 4)], [(1, 4)], [(1, 4)], [(1, 4)]]


@pytest.mark.parametrize("output", ["scalar", "other rows", "an object"])
def test_outputs_that_cannot_be_told_apart_are_not_joined(output):
    class Opaque:
        def __init__(self, x):
            self.x = x

    make = {"scalar": lambda x: x.sum(), "other rows": lambda x: x.t(), "an object": Opaque}[output]
    model = Gated(make)
    batcher = rivulet.Batcher(model)
    for _ in range(2):
        with held(batcher, model, [lambda k=k: batcher(rows(1, k)) for k in (1, 2)]) as futures:
            model.go()
            for k, future in zip((1, 2), futures):
                result = future.result(LONG)
                result = result.x if output == "an object" else result
                assert result.sum().item() == 4 * k
    # The second time nothing is tried in vain.
    assert model.batches == [[(1, 4)], [(1, 4)]]


# --- errors ------------------------------------------------------------------------------------------------------


def test_an_error_reaches_its_cause_alone():
    def model(x):
        if (x == 3).any():
            raise KeyError("three")
        return x

    gated = Gated(model)
    batcher = rivulet.Batcher(gated)
    with held(batcher, gated, [lambda k=k: batcher(rows(1, k)) for k in range(5)]) as futures:
        gated.go()
        results = outcomes(futures)
    assert isinstance(results.pop(3), KeyError)
    assert [result[0, 0].item() for result in results] == [0, 1, 2, 4]
    assert batcher.stats()["retried"] == 5


def test_who_runs_out_of_time_leaves_and_hurts_nobody():
    model = Gated()
    batcher = rivulet.Batcher(model)
    calls = [
        lambda: batcher(rows(1, 0), timeout=0.05),
        lambda: batcher(rows(1, 1)),
        lambda: batcher(rows(1, 2), timeout=0.05),
        lambda: batcher(rows(1, 3), timeout=LONG),
    ]
    model.hold()
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        first = pool.submit(lambda: batcher(rows(1, -1)))
        assert model.entered.acquire(timeout=LONG)
        futures = [pool.submit(call) for call in calls]
        for place in (0, 2):
            with pytest.raises(TimeoutError, match="not done within 0.05 s"):
                futures[place].result(LONG)
        until(lambda: batcher.stats()["queued"] == 2)
        model.go()
        assert sorted(futures[place].result(LONG)[0, 0].item() for place in (1, 3)) == [3, 7]
        first.result(LONG)
    assert batcher.stats()["timed_out"] == 2 and batcher.stats()["running"] == 0


def test_who_runs_out_of_time_while_its_batch_runs_leaves_that_batch_to_the_others():
    model = Gated()
    batcher = rivulet.Batcher(model)
    model.hold()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(lambda: batcher(rows(1, 0)))
        assert model.entered.acquire(timeout=LONG)
        runner = pool.submit(lambda: batcher(rows(1, 1)))
        until(lambda: batcher.stats()["queued"] == 1)
        late = pool.submit(lambda: batcher(rows(1, 2), timeout=0.3))
        until(lambda: batcher.stats()["queued"] == 2)
        model.let(1)
        assert model.entered.acquire(timeout=LONG)
        assert model.batches[-1] == [(2, 4)]
        with pytest.raises(TimeoutError):
            late.result(LONG)
        model.go()
        assert runner.result(LONG)[0, 0].item() == 3 and first.result(LONG)[0, 0].item() == 1


def test_a_full_queue_raises_or_blocks_as_asked():
    model = Gated()
    batcher = rivulet.Batcher(model, max_queue=2, when_full="raise")
    with held(batcher, model, [lambda k=k: batcher(rows(1, k)) for k in range(2)]) as futures:
        for call in (batcher, batcher.submit):
            with pytest.raises(queue.Full, match=r"2 calls wait already \(max_queue=2\)"):
                call(rows(1, 9))
        model.go()
        assert [future.result(LONG)[0, 0].item() for future in futures] == [1, 3]
    assert batcher.stats()["refused"] == 2

    model = Gated()
    batcher = rivulet.Batcher(model, max_queue=2, max_batch=1)
    with held(batcher, model, [lambda k=k: batcher(rows(1, k)) for k in range(5)]) as futures:
        blocked = threading.Thread(target=lambda: futures.append(batcher.submit(rows(1, 5))))
        blocked.start()
        until(lambda: batcher.stats()["queued"] == 6)
        assert len(futures) == 5  # submit waits for room
        model.go()
        blocked.join(LONG)
        assert [future.result(LONG)[0, 0].item() for future in futures] == [1, 3, 5, 7, 9, 11]


def test_a_call_from_inside_the_model_is_refused():
    def model(x):
        return batcher(x)

    batcher = rivulet.Batcher(model)
    with pytest.raises(RuntimeError, match="inside its own model"):
        batcher(rows(1, 1))


def test_inputs_that_cannot_be_rows_are_refused_before_they_are_queued():
    batcher = rivulet.Batcher(lambda x, y=None: x)
    with pytest.raises(ValueError, match="2 and 3 rows in dim 0"):
        batcher(rows(2, 1), rows(3, 1))
    with pytest.raises(ValueError, match="requires a gradient"):
        batcher(rows(1, 1).requires_grad_())
    with torch.no_grad():
        assert batcher(rows(1, 1).requires_grad_()).shape == (1, 4)
    assert batcher.stats()["requests"] == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_batch": 0}, "max_batch must be an integer > 0, got 0"),
        ({"max_in_flight": -1}, "max_in_flight must be an integer > 0, got -1"),
        ({"max_queue": 0}, "max_queue must be an integer > 0, got 0"),
        ({"max_wait_us": -5}, "max_wait_us must be >= 0"),
        ({"when_full": "wait"}, "'block' or 'raise', got 'wait'"),
        ({"pad": "left"}, "None or 'longest', got 'left'"),
    ],
)
def test_options_that_cannot_be_are_named(options, text):
    with pytest.raises(ValueError, match=text):
        rivulet.Batcher(lambda x: x, **options)


def test_a_model_in_training_mode_is_refused():
    model = torch.nn.Linear(4, 4).to("mps")
    with pytest.raises(ValueError, match="training mode"):
        rivulet.Batcher(model)
    batcher = rivulet.Batcher(model.eval())
    assert batcher(rows(1, 1)).requires_grad is False
    model.train()
    with pytest.raises(RuntimeError, match="training mode"):
        batcher(rows(1, 1))


def test_the_modes_of_the_calling_thread_are_those_of_the_run():
    model = torch.nn.Linear(4, 4).to("mps").eval()
    gated = Gated(model)
    batcher = rivulet.Batcher(gated)

    def cast():
        with torch.autocast("mps", dtype=torch.float16):
            return batcher(rows(1, 1))

    def infer():
        with torch.inference_mode():
            return batcher(rows(1, 1))

    with held(batcher, gated, [infer, lambda: batcher(rows(1, 1)), cast, cast]) as futures:
        gated.go()
        results = [future.result(LONG) for future in futures]
    assert [result.dtype for result in results] == [torch.float32] * 2 + [torch.float16] * 2
    assert gated.batches == [[(2, 4)], [(2, 4)]]
    assert not any(result.is_inference() for result in results)


# --- futures and asyncio -----------------------------------------------------------------------------------------


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
    until(lambda: threading.active_count() == before)


# --- many at once ------------------------------------------------------------------------------------------------


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


# --- the interpreter ---------------------------------------------------------------------------------------------

EXIT = """
import threading, torch, rivulet
inside = threading.Event()
def model(x):
    inside.set()
    return x + 1
batcher = rivulet.Batcher(model)
futures = [batcher.submit(torch.ones(1, 2, device="mps")) for _ in range(5)]
done = []
for future in futures:
    future.add_done_callback(lambda f: done.append(f.result().sum().item()))
import atexit
atexit.register(lambda: None)
class Last:
    def __del__(self, print=print, done=done):
        print("done", len(done))
last = Last()
hang = threading.Event()
slow = rivulet.Batcher(lambda x: (hang.wait(0.2), x)[1])
for _ in range(3):
    threading.Thread(target=slow, args=(torch.ones(1, 2, device="mps"),), daemon=True).start()
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


# --- a device with kernels ---------------------------------------------------------------------------------------

ON_KERNELS = """
import threading, torch, rivulet
torch.manual_seed(2)
model = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.GELU(), torch.nn.Linear(48, 6)).to("mps").eval()
attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).to("mps").eval()
inputs = torch.randn(5, 20, 1, 24, device="mps")
tokens = torch.randn(5, 6, 1, 9, 16, device="mps")
def encode(x, attention_mask=None):
    blocked = None if attention_mask is None else attention_mask == 0
    return attention(x, x, x, key_padding_mask=blocked, need_weights=False)[0]
with torch.no_grad():
    wanted = model(inputs).cpu()
batchers = rivulet.Batcher(model), rivulet.Batcher(encode, pad="longest")
errors, start = [], threading.Barrier(5)
def body(me):
    try:
        start.wait()
        for k in range(20):
            y = batchers[0](inputs[me, k])
            # Complete, and of this caller's row: its own stream needs no wait.
            torch.testing.assert_close(y.cpu()[0], wanted[me, k, 0], rtol=1e-4, atol=1e-5)
        for k in range(6):
            x = tokens[me, k, :, : 3 + (me + k) % 7]
            with torch.no_grad():
                direct = encode(x)
            torch.testing.assert_close(batchers[1](x), direct, rtol=1e-4, atol=1e-5)
        future = batchers[0].submit(inputs[me, 0])
        torch.testing.assert_close(future.result(60).cpu()[0], wanted[me, 0, 0], rtol=1e-4, atol=1e-5)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=body, args=(me,)) for me in range(5)]
for t in threads: t.start()
for t in threads: t.join()
if errors:
    raise errors[0]
stats = batchers[0].stats()
assert stats["requests"] == 105 and stats["batches"] < 105, stats
print("ok")
"""


@needs_llvmpipe
@pytest.mark.parametrize("mirror", ["0", "1"], ids=["shared memory", "memory of its own"])
def test_joined_calls_on_kernels_are_those_of_the_model_alone(run_python, mirror):
    env = {"RIVULET_ADAPTER": "llvmpipe", "RIVULET_MIRROR": mirror, "LP_NUM_THREADS": "0"}
    assert run_python(ON_KERNELS, env=env, timeout=300).stdout.strip() == "ok"


# --- padding -----------------------------------------------------------------------------------------------------


def pooled(x, attention_mask=None):
    """Means over the sequence, which padding would change."""
    weight = torch.ones(x.shape[:2], device=x.device) if attention_mask is None else attention_mask.to(x.dtype)
    return (x * weight[..., None]).sum(1) / weight.sum(1, keepdim=True), x * 2


@pytest.mark.parametrize("own_mask", ["none", "keyword", "positional", "bool"])
def test_sequences_are_padded_with_a_mask_and_cut_back(own_mask):
    model = Gated(pooled)
    batcher = rivulet.Batcher(gated_signature(model), pad="longest")
    inputs = [torch.randn(1 + k % 2, 3 + k, 2, device="mps") for k in range(4)]

    def call(x):
        mask = torch.ones(x.shape[:2], dtype=torch.bool if own_mask == "bool" else torch.int64, device="mps")
        mask[:, -1] = 0
        if own_mask == "none":
            return batcher(x)
        return batcher(x, mask) if own_mask == "positional" else batcher(x, attention_mask=mask)

    with held(batcher, model, [lambda x=x: call(x) for x in inputs], first=torch.zeros(1, 1, 2, device="mps")) as futures:
        model.go()
        for x, future in zip(inputs, futures):
            kept = x if own_mask == "none" else x[:, :-1]
            mean, twice = future.result(LONG)
            torch.testing.assert_close(mean, kept.mean(1))
            assert torch.equal(twice, 2 * x)
    assert model.batches == [[(6, 6, 2), (6, 6)]]


def gated_signature(model):
    def forward(x, attention_mask=None):
        return model(x) if attention_mask is None else model(x, attention_mask)

    return forward


def test_padding_has_the_value_that_was_asked_for_by_name():
    seen = []

    def model(ids, other, flat):
        seen.append((ids.clone(), other.clone()))
        return ids

    gated = Gated(model)
    batcher = rivulet.Batcher(
        lambda ids, other, flat: gated(ids, other, flat), pad="longest", pad_value={"ids": 7, "nobody": 9}
    )
    calls = [
        lambda n=n: batcher(torch.ones(1, n, device="mps"), torch.ones(1, n, 2, device="mps"), rows(1, 1, 5))
        for n in (2, 3)
    ]
    first = (torch.ones(1, 1, device="mps"), torch.ones(1, 1, 2, device="mps"), rows(1, 1, 9))
    with held(batcher, gated, calls, first=first) as futures:
        seen.clear()
        gated.go()
        assert [future.result(LONG).tolist() for future in futures] == [[[1.0, 1.0]], [[1.0, 1.0, 1.0]]]
    ids, other = seen[-1]
    assert ids.tolist() == [[1, 1, 7], [1, 1, 1]] and other[0].tolist() == [[1, 1], [1, 1], [0, 0]]


def test_masks_that_cannot_be_extended_are_refused():
    batcher = rivulet.Batcher(pooled, pad="longest")
    x = torch.ones(2, 3, 4, device="mps")
    with pytest.raises(ValueError, match="float32 tensor of shape .* it must be of integers or bools"):
        batcher(x, torch.zeros(2, 3, device="mps"))
    with pytest.raises(ValueError, match=r"of shape \[2, 3\]"):
        batcher(x, attention_mask=torch.ones(2, 4, dtype=torch.int64, device="mps"))


def test_calls_of_one_length_are_joined_without_a_mask():
    model = Gated(pooled)
    batcher = rivulet.Batcher(gated_signature(model), pad="longest")
    inputs = [torch.randn(1, 3, 2, device="mps") for _ in range(2)]
    with held(batcher, model, [lambda x=x: batcher(x) for x in inputs], first=torch.zeros(1, 1, 2, device="mps")) as futures:
        model.go()
        for x, future in zip(inputs, futures):
            assert torch.equal(future.result(LONG)[1], 2 * x)
    assert model.batches == [[(2, 3, 2)]]
