"""What the sweep is made of must be able to fail: wrong values, forms, devices, side effects and random numbers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from . import checks, compare, items
from . import pool as pool_module
from .compare import Difference
from .pool import Pool
from .samples import Mirror


def sample(*args: Any, **kwargs: Any) -> Any:
    return SimpleNamespace(input=args[0], args=args[1:], kwargs=kwargs)


def judged(body: Callable[..., Any], *args: Any) -> bool:
    return checks.judge(sample(*args), lambda mirror, *a: body(a[0], *a[1], **a[2]), checks.Tally())


def on_mps(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "mps"


def test_a_mirror_keeps_strides_aliasing_and_bits() -> None:
    base = torch.arange(24.0).to(torch.complex64).reshape(4, 6)
    views = [base.t()[1:, ::2], base[0].expand(5, 6), base.conj(), base.conj().imag, base[:0]]
    copies = Mirror("mps")(views)
    for original, copy in zip(views, copies):
        compare.check_form("", original, copy, autograd=False, moved=True)
        assert torch.equal(copy.cpu(), original)
    copies[0].zero_()
    views[0].zero_()
    assert all(torch.equal(copy.cpu(), original) for original, copy in zip(views, copies))


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_a_mirror_keeps_sparse_layouts(layout: torch.layout) -> None:
    original = torch.eye(4).to_sparse(layout=layout)
    copy = Mirror("mps")(original)
    assert copy.layout == layout and copy.device.type == "mps"
    assert torch.equal(copy.cpu().to_dense(), original.to_dense())


WRONG: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "value": (lambda x: x + on_mps(x), "not close"),
    "dtype": (lambda x: x.double() if on_mps(x) else x.float(), "dtype"),
    "shape": (lambda x: x[None] if on_mps(x) else x.clone(), "shape"),
    "strides": (lambda x: x.t().contiguous().t() if on_mps(x) else x.clone(), "strides"),
    "device": (lambda x: x.cpu(), "lies on"),
    "scalar": (lambda x: 1.0 if on_mps(x) else 2.0, "1.0 on mps"),
    "kind": (lambda x: 1 if on_mps(x) else 1.0, "int on mps"),
    "number of results": (lambda x: (x, x) if on_mps(x) else (x,), "2 results"),
    "operand changed": (lambda x: (x.add_(1) if on_mps(x) else x, None)[1], "version|not close"),
    "operand changed to another value": (lambda x: x.add_(2 if on_mps(x) else 1)[:0].clone(), "not close"),
    "a copy instead of a view": (lambda x: x.t().clone(memory_format=torch.preserve_format) if on_mps(x) else x.t(),
                                 "share memory"),
    "an error of another type": (lambda x: x[99] if on_mps(x) else x.view(-1, 99), "raises"),
    "no error": (lambda x: x.clone() if on_mps(x) else x.view(-1, 99), "raises"),
    "not random": (lambda x: torch.ones_like(x) if on_mps(x) else torch.rand_like(x), "draws from the CPU's generator"),
    "the CPU's numbers": (lambda x: torch.rand(x.shape).to(x.device), "draws from the CPU's generator"),
    "another distribution": (lambda x: torch.rand_like(x).mul_(1.3 if on_mps(x) else 1), "distributions"),
    "one number for every seed": (lambda x: torch.rand_like(x) * (0 if on_mps(x) else 1), "seeds give the same"),
    "numbers without a seed": (lambda x: torch.rand_like(x) + (id(object()) % 977 if on_mps(x) else 0), "one seed"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_difference_is_found(name: str) -> None:
    body, words = WRONG[name]
    with pytest.raises(Difference, match=words):
        judged(body, torch.rand(6, 5))


def test_what_is_alike_passes() -> None:
    assert judged(lambda x: (x @ x.t()).tanh(), torch.rand(6, 5))
    assert not judged(lambda x: x.view(-1, 99), torch.rand(6, 5)), "an error on both sides counts as no result"


def test_random_numbers_pass_where_they_are_distributed_alike() -> None:
    tally = checks.Tally()
    checks.judge(sample(torch.rand(6, 5)), lambda mirror, x, a, k: torch.randn_like(x), tally)
    checks.judge(sample(torch.rand(40)), lambda mirror, x, a, k: torch.nn.functional.dropout(x), tally)
    assert tally.random == 2


def test_subnormal_draws_may_be_zero_and_normal_ones_may_not() -> None:
    draws = torch.arange(1.0, 129.0, dtype=torch.double).unsqueeze(1)
    assert compare.distributions_differ(draws * 1e-41, draws * 0) is None
    assert "value 0" in (compare.distributions_differ(draws * 1e-37, draws * 0) or "")


def test_gradients_differ_where_the_gradient_is_cut() -> None:
    op = SimpleNamespace(
        name="cut",
        sample_inputs=lambda *a, **k: [
            SimpleNamespace(
                input=torch.rand(4, requires_grad=True), args=(), kwargs={}, output_process_fn_grad=lambda x: x
            )
        ],
    )
    for body, failed in ((lambda x: x.detach() * 2 if on_mps(x) else x * 2, 1), (lambda x: x * 2, 0)):
        tally = checks.Tally()
        checks.gradients(_callable(op, body), torch.float32, tally)
        assert (tally.samples, tally.failed) == (1, failed), tally.errors


def _callable(op: SimpleNamespace, body: Callable[..., Any]) -> Any:
    class Entry:
        name = op.name
        sample_inputs = staticmethod(op.sample_inputs)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

    return Entry()


def test_a_worker_that_dies_costs_its_item_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    good = items.select(pattern="abs", tasks="forward:float32")
    # There is no such entry: the worker ends with an error that it does not answer.
    bad = items.Item("nowhere", 0, "bad", "forward:float32")
    pool = Pool([*good, bad], workers=1)
    try:
        assert pool.result(good[0])["passed"] == pool.result(good[0])["samples"] > 0
        assert "exit code 1" in pool.result(bad)["errors"][0]
    finally:
        pool.close()


def test_a_pool_closes_while_its_workers_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """Ends its item some time after it is killed, each later than the one before."""

        count = 0

        def __init__(self, env: dict[str, str]) -> None:
            Slow.count += 1
            self.seconds = 0.3 * Slow.count
            self.killed = threading.Event()
            self.process = SimpleNamespace(kill=self.killed.set)

        def run(self, item: items.Item) -> dict[str, Any]:
            self.killed.wait()
            time.sleep(self.seconds)
            return {}

        def close(self) -> None: ...

    monkeypatch.setattr(pool_module, "Worker", Slow)
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    pool = Pool([items.Item("op", n, "abs", f"task {n}") for n in range(4)], workers=2)
    while Slow.count < 2:
        time.sleep(0.01)
    pool.close()
    assert not raised
    assert sorted(future.cancelled() for future in pool.futures.values()) == [False, False, True, True]


def test_every_shard_together_is_everything() -> None:
    everything = items.select()
    shards = [items.select(f"{index}/7") for index in range(7)]
    assert sorted(map(repr, everything)) == sorted(repr(item) for shard in shards for item in shard)
    assert all(shards)


@pytest.mark.parametrize("bad", ["", "3", "7/7", "-1/3", "a/b"])
def test_a_bad_shard_is_refused_by_name(bad: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        items.select(bad)


def test_the_verdict_on_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [{"entry": "known*", "tasks": ["forward:*"], "reason": "for this test"}]
    monkeypatch.setattr(items, "expected_failures", lambda: known)

    def verdict(entry: str, samples: int, passed: int, raised_alike: int = 0) -> str:
        item = items.Item("op", 0, entry, "forward:float32")
        return items.status(item, {"samples": samples, "passed": passed, "raised_alike": raised_alike})

    assert verdict("abs", 3, 3) == "pass"
    assert verdict("abs", 3, 3, 2) == "pass"
    assert verdict("abs", 3, 3, 3) == "not on cpu"
    assert verdict("abs", 3, 2) == "fail"
    assert verdict("abs", 0, 0) == "no samples"
    assert verdict("known.one", 3, 2) == "expected failure"
    assert verdict("known.one", 3, 3) == "unexpected pass"
