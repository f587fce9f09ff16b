"""`rivulet.Batcher`: each caller gets its own rows and its own error, whatever the others do."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import threading
from typing import Any, NamedTuple

import pytest
import rivulet
import torch
from batch_support import LONG, Gated, held, outcomes, rows, until


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


# --- errors ---


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
