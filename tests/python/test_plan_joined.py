"""Plans that join the calls of threads."""

from __future__ import annotations

import threading

import pytest
import rivulet
import torch
from test_vulkan import needs_llvmpipe
from torch import nn

THREADS = 8


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)).eval().to("mps")


@pytest.fixture
def model():
    return mlp()


def in_threads(count, work):
    failures = []

    def body(index):
        try:
            work(index)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=body, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_each_caller_gets_its_own_rows(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    # Each waits for others: calls this short would hardly meet.
    plan.coalesce(max_batch=2 * THREADS, max_wait_us=20_000)

    def work(index):
        generator = torch.Generator().manual_seed(index)
        for round in range(20):
            rows = 1 + (index + round) % 3
            x = torch.randn(rows, 8, generator=generator).to("mps")
            with torch.no_grad():
                direct = model(x)
            got = plan(x)
            assert got.shape == (rows, 6)
            torch.testing.assert_close(got.cpu(), direct.cpu(), rtol=1e-5, atol=1e-6)

    in_threads(THREADS, work)
    joined = plan.stats()["joined"]
    assert joined["requests"] == THREADS * 20 and joined["rows"] == sum(
        1 + (index + round) % 3 for index in range(THREADS) for round in range(20)
    )
    assert joined["batches"] * 2 <= joined["requests"], joined


def test_calls_that_come_together_run_together(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    # Long enough for all threads to be there, whatever the machine does.
    plan.coalesce(max_batch=THREADS, max_wait_us=5_000_000)
    xs = torch.randn(THREADS, 8).to("mps")
    with torch.no_grad():
        expected = model(xs).cpu()
    results = [None] * THREADS

    def work(index):
        results[index] = plan(xs[index : index + 1])

    in_threads(THREADS, work)
    sizes = plan.stats()["joined"]["sizes"]
    assert sizes == {str(THREADS): 1}
    torch.testing.assert_close(torch.cat([result.cpu() for result in results]), expected, rtol=1e-5, atol=1e-6)
    # Views of one batch: nothing was copied.
    assert len({result.untyped_storage().data_ptr() for result in results}) == 1


def test_a_batch_that_is_filled_up_gives_rows_to_nobody_else(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    plan.coalesce(max_batch=5, max_wait_us=5_000_000)
    xs = torch.randn(5, 8).to("mps")
    with torch.no_grad():
        expected = model(xs).cpu()
    results = [None] * 5

    def work(index):
        results[index] = plan(xs[index : index + 1])

    in_threads(5, work)
    assert plan.stats()["joined"]["sizes"] == {"5": 1}
    torch.testing.assert_close(torch.cat([result.cpu() for result in results]), expected, rtol=1e-5, atol=1e-6)


def test_a_lone_call_runs_at_once_and_alone(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), coalesce=True)
    x = torch.randn(4, 8).to("mps")
    with torch.no_grad():
        torch.testing.assert_close(plan(x).cpu(), model(x).cpu(), rtol=1e-5, atol=1e-6)
    joined = plan.stats()["joined"]
    assert joined["at_once"] == 1 and joined["sizes"] == {"1": 1} and joined["rows"] == 4


def test_more_rows_than_a_batch_run_by_themselves(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True).coalesce(max_batch=2)
    x = torch.randn(7, 8).to("mps")
    with torch.no_grad():
        torch.testing.assert_close(plan(x).cpu(), model(x).cpu(), rtol=1e-5, atol=1e-6)


def test_outputs_in_a_structure_are_shared_out():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 5)

        def forward(self, x):
            return {"a": self.a(x), "b": (self.b(x), x * 2)}

    torch.manual_seed(1)
    model = Two().eval().to("mps")
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    plan.coalesce(max_batch=4, max_wait_us=5_000_000)

    def work(index):
        x = torch.full((1, 8), float(index), device="mps")
        with torch.no_grad():
            direct = model(x)
        got = plan(x)
        torch.testing.assert_close(got["a"].cpu(), direct["a"].cpu(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(got["b"][0].cpu(), direct["b"][0].cpu(), rtol=1e-5, atol=1e-6)
        assert got["b"][1].cpu().eq(2 * index).all()

    in_threads(4, work)


def test_a_plan_of_one_batch_cannot_join(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"))
    with pytest.raises(ValueError, match="dynamic_batch=True"):
        plan.coalesce()


@pytest.mark.parametrize(("option", "value"), [("max_batch", 0), ("max_in_flight", -1), ("max_wait_us", -1.0)])
def test_settings_out_of_range_are_named(model, option, value):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    with pytest.raises(ValueError, match=option):
        plan.coalesce(**{option: value})


def test_a_plan_whose_calls_are_not_joined_has_nothing_to_warm_up(model):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    with pytest.raises(ValueError, match="call coalesce"):
        plan.warm_up()


@needs_llvmpipe
def test_after_a_warm_up_no_batch_compiles_a_kernel(run_python):
    run_python(
        """
import threading, rivulet, torch
from rivulet._load import native
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 6)).eval().to("mps")
compiled = lambda: {kernel["label"] for kernel in native().kernels()["compiled"]}

def together(plan, count):
    xs = torch.randn(count, 8)
    rows = [x.to("mps") for x in xs.split(1)]
    with torch.no_grad():
        want = [model(x).cpu() for x in rows]
    before, got = compiled(), [None] * count
    def call(index):
        got[index] = plan(rows[index])
    threads = [threading.Thread(target=call, args=(index,)) for index in range(count)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    for have, expected in zip(got, want):
        torch.testing.assert_close(have.cpu(), expected, rtol=1e-5, atol=1e-6)
    return compiled() - before

def made(most):
    plan = rivulet.capture(model, torch.zeros(1, 8, device="mps"), dynamic_batch=True)
    return plan.coalesce(max_batch=most, max_wait_us=5_000_000)

# Without it the first batch compiles what joins rows, at least.
assert together(made(2), 2)
for most in (5, 12):
    plan = made(most)
    assert plan.warm_up() is plan
    requests = plan.stats()["joined"]["requests"]
    assert requests == 0, "no call, and none is counted"
    more = together(plan, most)
    assert not more, (most, more)
    assert plan.stats()["joined"]["sizes"] == {str(most): 1}
""",
        env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"},
        timeout=200,
    )
