"""Tensors that cross from thread to thread without any synchronisation by the program: right by value."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time

import pytest
import torch
from threads_support import Background, Gate, assert_same_bits, one_kernel_thread, run_threads

ROUNDS = pytest.mark.parametrize("rounds", [60, pytest.param(1000, marks=pytest.mark.slow)])


@pytest.fixture(autouse=True)
def switch_threads_often():
    """Python's threads change places every 50 microseconds, where the default would let a short body run through."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    with one_kernel_thread():
        yield
    sys.setswitchinterval(interval)


def zeros(count=64):
    return torch.zeros(count, device="mps")


# --- one op against another ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reader",
    [
        pytest.param(lambda x: x.cpu(), id="cpu"),
        pytest.param(lambda x: x + 0, id="op"),
        pytest.param(lambda x: x[:32].clone(), id="view"),
        pytest.param(lambda x: x.view(8, 8).t().contiguous(), id="transposed view"),
        pytest.param(lambda x: torch.linalg.vector_norm(x, float("inf")), id="op of the general path"),
        pytest.param(lambda x: torch.stack([x, x]), id="list of tensors"),
        pytest.param(lambda x: torch.cat([torch.ones(2, device="mps"), x]), id="cat"),
        pytest.param(lambda x: x.to(torch.float16), id="to"),
        pytest.param(lambda x: torch.ones(64).to("mps").copy_(x), id="copy"),
        pytest.param(lambda x: x[0].item() * torch.ones(1), id="item"),
        pytest.param(lambda x: torch.ones(64, device="mps").mul_(x), id="second operand"),
        pytest.param(lambda x: torch.tensor(x.tolist()), id="tolist"),
        pytest.param(lambda x: torch.from_numpy(x.cpu().numpy()), id="numpy"),
        pytest.param(lambda x: torch.where(x > 0, x, 7.0), id="where"),
        pytest.param(lambda x: x[torch.tensor([0, 1], device="mps")], id="index"),
    ],
)
def test_a_read_waits_for_a_write_of_another_thread(reader):
    x = zeros()
    with Gate(x, write=True) as gate:
        thread = Background(reader, x)
        time.sleep(0.03)
        assert thread.is_running()
        gate.open()
        assert (thread.result().cpu() == 1).all(), "read before the write had ended"


@pytest.mark.parametrize(
    "writer",
    [
        pytest.param(lambda x: x.fill_(5), id="fill_"),
        pytest.param(lambda x: x.copy_(torch.full((64,), 5.0)), id="copy from the CPU"),
        pytest.param(lambda x: x.copy_(torch.full((64,), 5.0, device="mps")), id="copy"),
        pytest.param(lambda x: x[:].fill_(5), id="view"),
        pytest.param(lambda x: torch.add(torch.full((64,), 4.0, device="mps"), 1, out=x), id="out"),
        pytest.param(lambda x: x.set_(torch.full((64,), 5.0, device="mps")), id="set_"),
        pytest.param(lambda x: x.index_fill_(0, torch.arange(64, device="mps"), 5.0), id="index_fill_"),
        pytest.param(lambda x: x.__setitem__(slice(None), 5.0), id="setitem"),
        pytest.param(lambda x: torch._foreach_add_([x], 5.0), id="list of tensors"),
    ],
)
def test_a_write_waits_for_a_read_of_another_thread(writer):
    x = zeros()
    with Gate(x, write=False) as gate:
        thread = Background(writer, x)
        time.sleep(0.03)
        waited = thread.is_running()
        gate.open()
        thread.result()
        assert (gate.run.result().cpu() == 0).all(), "overwritten while it was read"
        # set_ only exchanges what the tensor stands for; the bytes that are read stay.
        assert waited or writer.__code__.co_names[0] == "set_"
        assert (x.cpu() == 5).all()


def test_reads_of_several_threads_run_at_once():
    x = zeros()
    gates = [Gate(x, write=False) for _ in range(8)]  # each is inside before the next is made
    assert x.sum().item() == 0
    for gate in gates:
        gate.__exit__()


def test_work_on_other_memory_is_not_held_up():
    x, y = zeros(), zeros()
    with Gate(x):
        start = time.monotonic()
        assert Background(lambda: y.add_(1).sum().item()).result(20) == 64
        assert y.add_(1).sum().item() == 128
        assert time.monotonic() - start < 10


def test_two_views_of_one_storage_are_one_memory():
    base = zeros()
    left, right = base[:32], base[32:]
    with Gate(left) as gate:
        thread = Background(lambda: right.add_(10))
        time.sleep(0.03)
        gate.open()
        thread.result()
    assert base.tolist() == [1.0] * 32 + [10.0] * 32


def test_memory_shared_by_dlpack_is_one_memory():
    x = zeros()
    y = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(x))
    assert y.data_ptr() == x.data_ptr()
    with Gate(x) as gate:
        thread = Background(lambda: (y + 0).cpu())
        time.sleep(0.03)
        assert thread.is_running()
        gate.open()
        assert (thread.result() == 1).all()


# --- many threads, many rounds --------------------------------------------------------------------------------------


@ROUNDS
def test_in_place_on_a_shared_weight_loses_no_update(rounds):
    weight = zeros(1000)

    def body(index):
        for _ in range(rounds):
            weight.add_(1)

    run_threads(8, body)
    assert (weight.cpu() == 8 * rounds).all()


@ROUNDS
def test_in_place_on_several_shared_weights_at_once_loses_no_update(rounds):
    weights = [zeros(100) for _ in range(5)]

    def body(index):
        mine = weights[index % 5 :] + weights[: index % 5]
        for _ in range(rounds):
            torch._foreach_add_(mine, 1)

    run_threads(8, body)
    assert all((weight.cpu() == 8 * rounds).all() for weight in weights)


@ROUNDS
def test_crossed_in_place_ops_end_and_are_each_whole(rounds):
    """y.add_(x) beside x.add_(y): either order is right, a mixture is not, and neither waits for ever."""
    size = 4096
    for _ in range(rounds):
        x = torch.full((size,), 1.0, device="mps")
        y = torch.full((size,), 2.0, device="mps")
        run_threads(2, lambda index, x=x, y=y: y.add_(x) if index else x.add_(y))
        pair = x.cpu(), y.cpu()
        first = all((t == v).all() for t, v in zip(pair, (4.0, 3.0), strict=True))  # y += x came first
        second = all((t == v).all() for t, v in zip(pair, (3.0, 5.0), strict=True))
        assert first or second, (pair[0][:4], pair[1][:4])


def test_crossed_in_place_ops_of_many_threads_end():
    tensors = [torch.ones(256, device="mps") for _ in range(4)]

    def body(index):
        for step in range(200):
            a, b = tensors[(index + step) % 4], tensors[(index * 3 + step * 2 + 1) % 4]
            if a is not b:
                a.lerp_(b, 0.5)

    threads = Background(run_threads, 8, body)
    threads.result(120)
    for tensor in tensors:
        assert (tensor.cpu() == 1).all()


@ROUNDS
def test_what_a_thread_frees_stays_whole_for_the_thread_that_uses_it(rounds):
    """Each round's tensor is dropped by its maker while the user works on it; makers re-allocate the same size."""
    inbox: queue.Queue = queue.Queue(maxsize=2)
    size = 2048

    def make():
        for number in range(rounds):
            x = torch.full((size,), float(number), device="mps")
            inbox.put(x)
            del x
            scratch = torch.full((size,), -1.0, device="mps")  # may get the memory that has just been freed
            del scratch
        inbox.put(None)

    def use():
        seen = 0
        while (x := inbox.get()) is not None:
            total = x * 2
            del x
            assert (total.cpu() == 2.0 * seen).all(), seen
            seen += 1
        return seen

    user, maker = Background(use), Background(make)
    maker.result(200)
    assert user.result(200) == rounds


@pytest.mark.parametrize("size", [1 << 10, 1 << 14, 1 << 20])
def test_memory_given_up_during_an_op_is_not_reused_before_its_end(size):
    """The tensor gets other memory while an op writes to what it had; nobody else may get that meanwhile."""
    x = zeros(size)
    address = x.data_ptr()
    gate = Gate(x, write=True)
    x.set_(zeros(1))
    gc.collect()
    others = [zeros(size) for _ in range(40)] + Background(lambda: [zeros(size) for _ in range(40)]).result()
    assert address not in [other.data_ptr() for other in others], "the memory of a running op was given away"
    gate.__exit__()
    assert all((other.cpu() == 0).all() for other in others)


@ROUNDS
def test_hand_off_from_producer_to_consumer_without_synchronisation(rounds):
    stages = [queue.Queue(maxsize=4) for _ in range(4)]

    def stage(index):
        source, target = stages[index], stages[index + 1]
        while (x := source.get()) is not None:
            target.put(x * 3 + index if index != 1 else x.mul_(3).add_(index))
        target.put(None)

    threads = [Background(stage, index) for index in range(3)]

    def feed():
        for number in range(rounds):
            stages[0].put(torch.full((333,), float(number % 50), device="mps"))
        stages[0].put(None)

    feeder = Background(feed)
    for number in range(rounds):
        got = stages[3].get(timeout=60)
        value = float(number % 50)
        for index in range(3):
            value = value * 3 + index
        assert (got.cpu() == value).all(), number
    assert stages[3].get(timeout=60) is None
    feeder.result()
    for thread in threads:
        thread.result()


def test_a_model_trained_in_one_thread_and_read_by_others_is_never_torn():
    """The trainer keeps all elements of each weight equal; a reader never sees two of them differ."""
    weights = [zeros(5000) for _ in range(3)]
    over = threading.Event()

    def read(index):
        looks = 0
        while not over.is_set() or looks == 0:
            for weight in weights:
                copy = weight.cpu() if index % 2 else (weight + 0).cpu()
                assert (copy == copy[0]).all(), "half of an update"
            looks += 1
        return looks

    readers = [Background(read, index) for index in range(4)]
    for _ in range(150):
        for weight in weights:
            weight.add_(1)
    over.set()
    assert all(reader.result() > 0 for reader in readers)
    assert all((weight.cpu() == 150).all() for weight in weights)


@pytest.fixture
def warn_always():
    """PyTorch says most of its warnings only once a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.filterwarnings("error")  # such as one about streams that nobody chose
def test_gradients_of_shared_parameters_accumulate_from_all_threads(warn_always):
    """Eight threads run backward through one module at once; integers, so that every order gives the same sum."""
    model = torch.nn.Linear(8, 3, bias=False).to("mps")
    torch.nn.init.ones_(model.weight)
    rounds = 30

    def body(index):
        x = torch.full((2, 8), float(index), device="mps")
        for _ in range(rounds):
            torch.autograd.backward(model(x).sum())

    # PyTorch asks for a gradient buffer that exists before several threads accumulate into it.
    model.weight.grad = torch.zeros_like(model.weight)
    run_threads(8, body)
    assert (model.weight.grad.cpu() == rounds * 2 * sum(range(8))).all()


def test_random_draws_of_threads_are_valid_and_never_repeat():
    torch.manual_seed(7)
    draws = run_threads(8, lambda index: [torch.rand(1000, device="mps").cpu() for _ in range(50)])
    flat = [draw for thread in draws for draw in thread]
    heads = {tuple(draw[:4].tolist()) for draw in flat}
    assert len(heads) == len(flat)
    assert all(((draw >= 0) & (draw < 1)).all() for draw in flat)
    assert abs(torch.cat(flat).mean().item() - 0.5) < 0.01


@ROUNDS
def test_a_cpu_tensor_filled_again_after_its_copy_was_taken(rounds):
    """Also non_blocking: the copy holds what the source held at the call."""
    source = torch.empty(512)

    for number in range(rounds):
        source.fill_(number)
        copy = source.to("mps", non_blocking=True)
        source.fill_(-1)
        reader = copy + 0
        back = torch.empty(512)
        back.copy_(copy, non_blocking=True)
        torch.mps.synchronize()
        assert (back == number).all() and (reader.cpu() == number).all()


def test_eight_threads_on_one_model_give_the_bits_of_one_thread():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 64), torch.nn.LayerNorm(64), torch.nn.GELU(), torch.nn.Linear(64, 16)
    ).to("mps")
    inputs = [torch.randn(1 + index % 5, 32) for index in range(24)]
    with torch.no_grad():
        expected = [Background(lambda x=x: model(x.to("mps")).cpu()).result() for x in inputs]

    def body(index):
        with torch.no_grad():
            return [model(x.to("mps")).cpu() for _ in range(3) for x in inputs]

    for results in run_threads(8, body):
        for place, result in enumerate(results):
            assert_same_bits(result, expected[place % 24], f"input {place % 24}")
