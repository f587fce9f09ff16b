"""Errors say what is wrong, lose nothing, and leave the next op to work."""

from __future__ import annotations

import gc
import os
import threading

import pytest
import torch
from threads_support import (
    Background,
    Gate,
    assert_same_bits,
    fresh_process,
    run_threads,
    used_slots,
)

TERABYTE = 10**12


@pytest.fixture(autouse=True)
def nothing_is_lost():
    """After each test: no slot is held, no memory is allocated that was not before, and an op works."""
    gc.collect()
    before = torch.mps.current_allocated_memory(), used_slots()
    yield
    gc.collect()
    assert (torch.mps.current_allocated_memory(), used_slots()) == before
    assert_works()
    assert Background(assert_works).result() is None


def assert_works():
    x = torch.arange(6.0, device="mps")
    assert (x * 2 + 1).tolist() == [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]


# --- out of memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda: torch.empty(100 * TERABYTE, dtype=torch.uint8, device="mps"), id="empty"),
        pytest.param(lambda: torch.zeros(25 * TERABYTE, device="mps"), id="zeros"),
        pytest.param(lambda: torch.ones(1, device="mps").repeat(25 * TERABYTE), id="repeat"),
        pytest.param(lambda: torch.ones(25 * TERABYTE, 1, device="mps"), id="ones"),
        pytest.param(lambda: torch.ones(1, device="mps").expand(25 * TERABYTE) + 1, id="add"),
        pytest.param(lambda: torch.ones(1, device="mps").expand(25 * TERABYTE).clone(), id="clone"),
        pytest.param(lambda: torch.ones(1).expand(25 * TERABYTE).to("mps"), id="to"),
        pytest.param(lambda: torch.ones(1, device="mps").resize_(25 * TERABYTE), id="resize_"),
        pytest.param(lambda: torch.randn(25 * TERABYTE, device="mps"), id="randn"),
        pytest.param(lambda: torch.arange(12 * TERABYTE, device="mps"), id="arange"),
        pytest.param(lambda: torch.eye(5_000_000, device="mps"), id="eye"),
        pytest.param(
            lambda: torch.mm(*(torch.ones(n, m, device="mps").expand(5_000_000, 5_000_000) for n, m in [(1, 1)] * 2)),
            id="mm",
        ),
        pytest.param(lambda: torch.cumsum(torch.ones(1, device="mps").expand(25 * TERABYTE), 0), id="cumsum"),
        pytest.param(lambda: torch.empty(25 * TERABYTE, device="mps", pin_memory=False), id="empty-unpinned"),
    ],
)
def test_a_request_of_100_terabytes_is_out_of_memory(ask):
    with pytest.raises(torch.OutOfMemoryError) as raised:
        ask()
    text = str(raised.value)
    assert "mps" in text.lower() and "memory" in text.lower(), text


def test_out_of_memory_says_how_much_was_asked_for_and_what_there_is():
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(100 * TERABYTE, dtype=torch.uint8, device="mps")
    text = str(raised.value)
    assert "90.95 TiB" in text or "100000000000000" in text or "100.00 TB" in text, text
    assert torch.mps.recommended_max_memory() < 100 * TERABYTE
    # It is the error that programs already catch.
    assert isinstance(raised.value, RuntimeError) and isinstance(raised.value, torch.cuda.OutOfMemoryError)


def test_out_of_memory_in_one_thread_does_not_disturb_the_others():
    over = threading.Event()

    def work(index):
        x = torch.full((100,), float(index), device="mps")
        rounds = 0
        while not over.is_set() or rounds == 0:
            assert (x + 1).sum().item() == 100 * (index + 1)
            rounds += 1
        return rounds

    workers = [Background(work, index) for index in range(6)]

    def fail(index):
        for _ in range(30):
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(100 * TERABYTE, dtype=torch.uint8, device="mps")

    run_threads(2, fail)
    over.set()
    assert all(worker.result() > 0 for worker in workers)


def check_limit():
    """A limit of the process: reached, it frees caches first, then raises; what is freed can be had again."""
    mib = 1 << 20
    limit = 256 * mib
    torch.mps.set_per_process_memory_fraction(limit / torch.mps.recommended_max_memory())
    kept = []
    with pytest.raises(torch.OutOfMemoryError):
        while True:
            kept.append(torch.empty(16 * mib, dtype=torch.uint8, device="mps"))
            assert len(kept) < 100
    assert 8 <= len(kept) <= 16, len(kept)
    count = len(kept)
    kept.pop()
    assert_works()
    # Freed by this thread into its cache; another stream gets it all the same.
    kept.clear()

    def body(index):
        return len([torch.empty(16 * mib, dtype=torch.uint8, device="mps") for _ in range(count - 1)])

    assert run_threads(1, body) == [count - 1]
    # All threads against one limit: some are refused, none fails otherwise, and all is given back.
    refusals = []

    def greedy(index):
        mine = []
        for _ in range(40):
            try:
                # An op whose result is allocated by its kernel.
                mine.append(torch.full((4 * mib,), index, dtype=torch.uint8, device="mps").roll(1))
                assert torch.mps.driver_allocated_memory() <= limit
            except torch.OutOfMemoryError:
                refusals.append(index)
                assert all((t.cpu() == index).all() for t in mine)
                mine.clear()

    run_threads(6, greedy)
    gc.collect()
    assert refusals
    assert torch.mps.current_allocated_memory() == 0
    torch.mps.empty_cache()
    assert torch.empty(limit // 2, dtype=torch.uint8, device="mps").numel() == limit // 2


def test_a_memory_limit_is_kept_by_all_threads_together():
    fresh_process(check_limit)


# --- devices ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda: torch.ones(2, device="mps:1"), id="factory"),
        pytest.param(lambda: torch.ones(2).to("mps:1"), id="to"),
        pytest.param(lambda: torch.ones(2, device="mps").to("mps:3"), id="mps to mps"),
        pytest.param(lambda: torch.nn.Linear(2, 2).to("mps:1"), id="module"),
        pytest.param(lambda: torch.empty_like(torch.ones(2), device="mps:1"), id="like"),
        pytest.param(lambda: torch.accelerator.set_device_index(1), id="set_device_index"),
        pytest.param(lambda: torch.mps.Stream(device="mps:1"), id="Stream"),
        pytest.param(lambda: torch.Stream(device="mps:1"), id="torch.Stream"),
    ],
)
def test_a_wrong_device_index_is_an_error_that_names_it(use):
    with pytest.raises((RuntimeError, ValueError)) as raised:
        use()
    text = str(raised.value)
    assert "mps" in text and ("1" in text or "3" in text), text


@pytest.mark.parametrize(
    "mix",
    [
        pytest.param(lambda d, c: d + c, id="add"),
        pytest.param(lambda d, c: c + d, id="add, cpu first"),
        pytest.param(lambda d, c: d @ c, id="matmul"),
        pytest.param(lambda d, c: torch.nn.functional.linear(d, c), id="linear"),
        pytest.param(lambda d, c: torch.cat([d, c]), id="cat"),
        pytest.param(lambda d, c: torch.stack([d, c]), id="stack"),
        pytest.param(lambda d, c: torch.where(d > 0, d, c), id="where"),
        pytest.param(lambda d, c: d.add_(c), id="in place"),
        pytest.param(lambda d, c: c.add_(d), id="in place on the cpu"),
        pytest.param(lambda d, c: torch.add(d, d, out=c), id="out"),
        pytest.param(lambda d, c: torch.nn.functional.layer_norm(d, (4,), c[0]), id="layer_norm"),
        pytest.param(lambda d, c: torch.linalg.solve(d, c), id="solve"),
        pytest.param(lambda d, c: torch.nn.Linear(4, 4)(d), id="module on the cpu"),
        pytest.param(lambda d, c: torch.nn.Linear(4, 4, device="mps")(c), id="input on the cpu"),
        pytest.param(lambda d, c: torch.bmm(d[None], c[None]), id="bmm"),
        pytest.param(lambda d, c: torch.nn.functional.scaled_dot_product_attention(d, c, d), id="sdpa"),
    ],
)
def test_mixed_devices_are_an_error_that_names_both(mix):
    device, cpu = torch.eye(4, device="mps"), torch.eye(4)
    with pytest.raises(RuntimeError) as raised:
        mix(device, cpu)
    text = str(raised.value)
    assert "mps" in text and "cpu" in text, text
    assert (device.cpu() == torch.eye(4)).all() and (cpu == torch.eye(4)).all()


def test_a_cpu_scalar_beside_a_device_tensor_is_no_error():
    x = torch.ones(3, device="mps")
    assert (x + torch.tensor(2.0)).tolist() == [3.0, 3.0, 3.0]
    assert (torch.tensor(2.0) * x).device.type == "mps"


# --- ops that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x + torch.ones(3, device="mps"), "size of tensor"),
        (lambda x: x @ torch.ones(3, 3, device="mps"), "shapes cannot be multiplied"),
        (lambda x: x.view(5), "invalid for input of size"),
        (lambda x: x[9], "out of bounds"),
        (lambda x: torch.linalg.inv(torch.zeros(2, 2, device="mps")), "singular"),
        (lambda x: torch.linalg.cholesky(-torch.eye(2, device="mps")), "positive-definite"),
        (lambda x: x.index_select(0, torch.tensor([7], device="mps")), "out of range"),
        (lambda x: torch.nn.functional.embedding(torch.tensor([99], device="mps"), x), "out of range"),
        (lambda x: x.to(torch.int32).bitwise_and(1.5), "not implemented|bitwise"),
        (lambda x: torch.nn.functional.conv2d(x, x), "dimension|input"),
    ],
)
def test_a_failing_op_raises_what_it_raises_on_the_cpu_and_releases_its_operands(call, text):
    x = torch.arange(16.0, device="mps").reshape(4, 4)
    with pytest.raises((RuntimeError, IndexError), match=text):
        call(x)
    # A block that stayed locked would keep another thread waiting for ever.
    assert Background(lambda: x.add_(1).sum().item()).result(10) == 136


def test_an_error_in_a_kernel_that_calls_python_releases_its_operands():
    x = torch.ones(8, device="mps")
    library = torch.library.Library("rivulet_test_errors", "DEF")
    library.define("fail(Tensor(a!) x) -> ()")

    class Trouble(Exception):
        pass

    def fail(x):
        x.add_(1)
        raise Trouble("in the kernel")

    library.impl("fail", fail, "CPU")
    for _ in range(3):
        with pytest.raises(Trouble, match="in the kernel"):
            torch.ops.rivulet_test_errors.fail(x)
    assert Background(lambda: x.add_(1).sum().item()).result(10) == 40


def test_an_error_in_backward_reaches_the_caller_and_the_next_backward_works():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ValueError("no gradient today")

    def body(index):
        x = torch.ones(4, device="mps", requires_grad=True)
        with pytest.raises(ValueError, match="no gradient today"):
            Bad.apply(x).sum().backward()
        y = torch.ones(4, device="mps", requires_grad=True)
        (y * 3).sum().backward()
        return y.grad.tolist()

    assert body(0) == [3.0] * 4
    assert run_threads(4, body) == [[3.0] * 4] * 4


def test_an_error_while_another_thread_holds_the_operands_is_raised_after_it():
    x = torch.ones(4, device="mps")
    with Gate(x) as gate:
        thread = Background(lambda: x + torch.ones(3, device="mps"))
        gate.open()
        with pytest.raises(RuntimeError, match="size of tensor"):
            thread.result()
    assert x.sum().item() == 8


@pytest.mark.parametrize("stream_id", [5_000_000, -1, 2**40])
def test_a_stream_that_was_never_made_is_refused(stream_id):
    with pytest.raises((ValueError, RuntimeError), match=r"[Ii]nvalid (MPS|mps) stream id"):
        torch.mps.Stream(stream_id=stream_id)


def test_messages_of_threads_do_not_mix():
    """Each thread gets its own error's text, however many fail at once."""

    def body(index):
        for _ in range(50):
            with pytest.raises((ValueError, RuntimeError), match=rf"\b{6_000_000 + index}\b"):
                torch.mps.Stream(stream_id=6_000_000 + index)

    run_threads(8, body)


# --- settings -------------------------------------------------------------------------------------------------------


BAD_SETTINGS = [
    ("RIVULET_ADAPTER", "quantum", "auto"),
    ("RIVULET_QUEUES", "0", "1 to"),
    ("RIVULET_QUEUES", "many", "1 to"),
    ("MPS_POOL_SHARE", "maybe", "0 and 1"),
]


def check_settings():
    """Each is refused in turn; nothing half-open stays behind, so that at the end the same process goes on."""
    from rivulet import _load

    for name, value, allowed in BAD_SETTINGS:
        os.environ[name] = value
        for _ in range(2):
            with pytest.raises(RuntimeError) as raised:
                torch.ones(2, device="mps")
            text = str(raised.value)
            assert name in text and value in text and allowed in text, text
        assert torch.ones(2).sum().item() == 2
        del os.environ[name]
    assert_works()
    assert _load.native().report()["opened"] is True


def test_a_bad_setting_is_an_error_at_the_first_use_and_can_be_corrected():
    fresh_process(check_settings)


# --- doubles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.complex64])
def test_doubles_and_complex_numbers_work(dtype):
    torch.manual_seed(0)
    a, b = torch.randn(6, 6, dtype=dtype), torch.randn(6, 6, dtype=dtype)

    def calculate(a, b):
        return [
            a + b,
            a @ b,
            torch.linalg.solve(a, b),
            torch.linalg.inv(a),
            a.sum(),
            a.abs(),
            torch.exp(a),
            torch.fft.fft(a),
            torch.linalg.svdvals(a),
            torch.nn.functional.linear(a, b),
            a.to(torch.complex128),
        ]

    expected = calculate(a, b)

    def body(index):
        return calculate(a.to("mps"), b.to("mps"))

    for results in [body(0), *run_threads(4, body)]:
        for place, (got, want) in enumerate(zip(results, expected, strict=True)):
            assert got.device.type == "mps" and got.dtype == want.dtype
            torch.testing.assert_close(got.cpu(), want, msg=lambda text, place=place: f"{place}: {text}")


def test_a_model_in_doubles_trains():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    expected = torch.autograd.grad(model(x).sum(), list(model.parameters()))
    model.to("mps")
    got = torch.autograd.grad(model(x.to("mps")).sum(), list(model.parameters()))
    for mine, reference in zip(got, expected, strict=True):
        assert mine.dtype == torch.float64
        assert_same_bits(mine, reference)
    assert torch.autograd.gradcheck(model, x.to("mps").requires_grad_())
