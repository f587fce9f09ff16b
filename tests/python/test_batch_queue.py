"""`torch.mps.BatchQueue`, `batch_inference` and `configure_batch_queue`: the reference project's names, really joined."""

from __future__ import annotations

import concurrent.futures
import random
import threading

import pytest
import torch

LONG = 30.0


def rows(count, value, *shape):
    return torch.full((count, *(shape or (4,))), float(value), device="mps")


def model_of(size=16):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(size, 32), torch.nn.ReLU(), torch.nn.Linear(32, size)]
    return torch.nn.Sequential(*layers).to("mps").eval()


class Counted:
    """An operation that notes the rows of each of its calls."""

    def __init__(self, operation):
        self.operation = operation
        self.calls = []

    def __call__(self, x):
        self.calls.append(x.shape[0])
        return self.operation(x)


def test_a_future_gives_the_result_of_its_own_inputs():
    queue = torch.mps.BatchQueue(batch_size=4)
    queue.start()
    future = queue.submit(rows(2, 3), lambda x: x * 2)
    assert torch.equal(future.result(timeout=LONG), rows(2, 6)) and future.done()
    queue.stop()


def test_threads_requests_are_joined():
    model = Counted(model_of())
    inputs = torch.randn(32, 1, 16, device="mps")
    with torch.no_grad():
        wanted = model.operation(inputs)
    with torch.mps.BatchQueue(batch_size=8, batch_timeout_ms=1000) as queue:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            futures = list(pool.map(lambda x: queue.submit(x, model), inputs))
        for future, y in zip(futures, wanted):
            torch.testing.assert_close(future.result(LONG), y, rtol=1e-4, atol=1e-5)
        assert queue.stats()["sizes"] == {8: 4}
    # One joined run that was compared with single ones, and three more.
    assert model.calls == [8, *[1] * 8, 8, 8, 8]


def test_functions_that_are_made_for_each_request_are_the_same_operation():
    model = Counted(model_of())
    with torch.mps.BatchQueue(batch_size=4, batch_timeout_ms=1000) as queue:
        for _ in range(2):
            futures = [queue.submit(rows(1, k, 16), lambda x: model(x)) for k in range(4)]
            concurrent.futures.wait(futures, LONG)
        assert [future.exception() for future in futures] == [None] * 4
    assert model.calls == [4, 1, 1, 1, 1, 4]


def test_functions_that_refer_to_other_values_are_other_operations():
    def times(factor):
        return lambda x: x * factor

    with torch.mps.BatchQueue(batch_size=6, batch_timeout_ms=5) as queue:
        futures = [queue.submit(rows(1, k), times(k)) for k in range(6)]
        futures += [queue.submit(rows(1, k), lambda x, k=k: x * k) for k in range(6)]
        assert [f.result(LONG)[0, 0].item() for f in futures] == [0, 1, 4, 9, 16, 25] * 2


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x - x.mean(),
        lambda x: x.softmax(0),
        lambda x: x.sum(),
        lambda x: x @ x.mT,
        lambda x: x.flip(0),
        lambda x: x.cumsum(0),
    ],
    ids=["mean", "softmax", "sum", "product", "flip", "cumsum"],
)
def test_operations_that_mix_rows_give_what_they_give_alone(operation):
    inputs = torch.randn(8, 3, 5, device="mps")
    with torch.mps.BatchQueue(batch_size=4, batch_timeout_ms=1000) as queue:
        for _ in range(2):
            futures = [queue.submit(x, operation) for x in inputs]
            for x, future in zip(inputs, futures):
                torch.testing.assert_close(future.result(LONG), operation(x))


def test_equal_inputs_do_not_pass_for_a_proof_that_rows_are_apart():
    same = rows(2, 1)
    with torch.mps.BatchQueue(batch_size=4, batch_timeout_ms=1000) as queue:
        for _ in range(3):
            futures = [queue.submit(same.clone(), _centred) for _ in range(4)]
            assert all(torch.equal(future.result(LONG), same * 0) for future in futures)
        futures = [queue.submit(rows(2, k), _centred) for k in range(4)]
        assert all(torch.equal(future.result(LONG), same * 0) for future in futures)


def _centred(x):
    return x - x.mean()


def test_an_operations_error_keeps_its_type_and_reaches_its_own_future():
    def operation(x):
        if (x == 2).any():
            raise KeyError("two")
        return x

    with torch.mps.BatchQueue(batch_size=4, batch_timeout_ms=1000) as queue:
        futures = [queue.submit(rows(1, k), operation) for k in range(4)]
        with pytest.raises(KeyError, match="two"):
            futures[2].result(LONG)
        assert [futures[k].result(LONG)[0, 0].item() for k in (0, 1, 3)] == [0, 1, 3]


def test_stop_runs_all_that_was_submitted_and_start_begins_anew():
    queue = torch.mps.BatchQueue(batch_size=3, num_workers=2, batch_timeout_ms=50)
    for _ in range(2):
        assert not queue.is_running
        queue.start()
        queue.start()
        futures = [queue.submit(rows(1, k), lambda x: x + 1) for k in range(20)]
        queue.stop()
        assert all(future.done() for future in futures)
        assert [future.result(0)[0, 0].item() for future in futures] == list(range(1, 21))
        queue.stop()
    assert (queue.submitted_requests, queue.completed_requests, queue.pending_requests) == (40, 40, 0)


def test_errors_have_the_texts_of_the_reference_project():
    queue = torch.mps.BatchQueue()
    stopped = r"BatchQueue: cannot submit to stopped queue\. Call start\(\) first\."
    with pytest.raises(RuntimeError, match=stopped):
        queue.submit(rows(1, 1), torch.neg)
    queue.start()
    queue.stop()
    with pytest.raises(RuntimeError, match=stopped):
        queue.submit(rows(1, 1), torch.neg)
    with pytest.raises(RuntimeError, match="BatchQueue: batch_size must be > 0, got 0"):
        torch.mps.BatchQueue(batch_size=0)
    with pytest.raises(RuntimeError, match="BatchQueue: num_workers must be > 0, got -1"):
        torch.mps.BatchQueue(num_workers=-1)
    with pytest.raises(RuntimeError, match="batch_timeout_ms must be >= 0"):
        torch.mps.BatchQueue(batch_timeout_ms=-1)
    # The reference project allows three workers at most.
    torch.mps.BatchQueue(num_workers=8)


def test_batch_inference_runs_a_queue_within_its_block():
    model = model_of()
    x = torch.randn(3, 16, device="mps")
    with torch.no_grad():
        wanted = model(x)
        with torch.mps.batch_inference(batch_size=4) as queue:
            assert queue.is_running and queue.batch_size == 4
            futures = [queue.submit(x[k : k + 1], model) for k in range(3)]
            # Direct calls run as ever.
            assert torch.equal(model(x), wanted)
        assert not queue.is_running
    torch.testing.assert_close(torch.cat([future.result(0) for future in futures]), wanted, rtol=1e-4, atol=1e-5)


def test_configure_batch_queue_replaces_the_old_one_and_sets_what_batch_inference_uses():
    old = torch.mps.configure_batch_queue(batch_size=5, num_workers=2, batch_timeout_ms=3)
    try:
        with torch.mps.batch_inference() as queue:
            assert (queue.batch_size, queue.num_workers, queue.batch_timeout_ms) == (5, 2, 3)
        future = old.start().submit(rows(1, 1), torch.neg)
        torch.mps.configure_batch_queue(batch_size=6)
        assert not old.is_running and future.result(0)[0, 0].item() == -1
    finally:
        torch.mps.configure_batch_queue()


@pytest.mark.parametrize("workers", [1, 3])
def test_random_requests_from_many_threads_never_get_somebody_elses_rows(in_threads, workers):
    operations = [lambda x: x + 0.5, lambda x: x - x.mean(), torch.neg]

    with torch.mps.BatchQueue(batch_size=4, num_workers=workers, batch_timeout_ms=0.2) as queue:

        def body(me):
            chance = random.Random(me)
            for turn in range(40):
                x = rows(chance.randint(1, 2), me * 1000 + turn)
                operation = chance.choice(operations)
                future = queue.submit(x, operation)
                if chance.random() < 0.1 and future.cancel():
                    continue
                torch.testing.assert_close(future.result(LONG), operation(x), rtol=0, atol=0)

        in_threads(6, body)
    assert queue.pending_requests == 0


def test_workers_are_gone_after_stop():
    before = threading.active_count()
    with torch.mps.BatchQueue(num_workers=3) as queue:
        queue.submit(rows(1, 1), torch.neg).result(LONG)
        assert threading.active_count() == before + 3
    assert threading.active_count() == before
