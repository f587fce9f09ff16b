"""What a CPU kernel allocates inside an op is device memory from the start; everything else stays PyTorch's."""

from __future__ import annotations

import gc
import threading

import pytest
import torch

# The body of an op of our own: it makes tensors on the CPU, keeps one and returns one.
KEEPING_OP = """
import gc, os, torch
kept = []

@torch.library.custom_op("rivulet_test::keeps", mutates_args=(), device_types="cpu")
def keeps(x: torch.Tensor) -> torch.Tensor:
    assert x.device.type == "cpu"
    kept.append(torch.full((1000,), float(x[0])))
    return x + 1

x = torch.arange(4.0, device="mps") + 5
y = keeps(x)
assert y.device.type == "mps" and y.tolist() == [6, 7, 8, 9] and kept[0].device.type == "cpu"
"""


def allocated() -> int:
    gc.collect()
    return torch.mps.current_allocated_memory()


@pytest.mark.parametrize("count", [1000, 100_000, 5_000_000])
def test_a_result_is_device_memory_of_its_size_and_is_reused(count):
    a = torch.ones(count, device="mps")
    before = allocated()
    result = a + a
    assert allocated() - before == 4 * count
    address = result.data_ptr()
    del result
    assert allocated() == before
    again = a * 3
    assert again.data_ptr() == address, "freed memory of a stream serves its next op"
    assert (again == 3).all()


def test_scratch_memory_of_a_kernel_is_given_back():
    conv = torch.nn.Conv2d(3, 16, 3).to("mps")
    x = torch.randn(2, 3, 20, 20, device="mps")
    with torch.no_grad():
        conv(x)
        before = allocated()
        for _ in range(20):
            conv(x)
            torch.linalg.svd(x[0, 0])
            torch.sort(x)
    assert allocated() == before


def test_cpu_tensors_take_no_device_memory():
    before = allocated()
    x = torch.randn(1000, 1000)
    y = (x @ x).relu()
    back = torch.ones(1000, device="mps").cpu()
    assert y.device.type == back.device.type == "cpu"
    assert allocated() == before


def test_a_cpu_tensor_that_an_op_keeps_stays_good(run_python):
    run_python(KEEPING_OP + """
for _ in range(200):
    torch.ones(1000, device="mps") * 2  # would take the memory if it were free
assert (kept[0] == 5).all()
kept[0].resize_(5000).fill_(3)
del kept[:]
gc.collect()
torch.mps.synchronize()
""")


def test_a_cpu_tensor_that_an_op_keeps_outlives_the_runtime(run_python):
    run_python(KEEPING_OP + "os.environ['KEEP'] = '1'; import builtins; builtins.kept = kept")


def test_a_forked_child_frees_what_its_parent_allocated_in_ops(run_python):
    """By address too, as oneDNN does: its caches outlive the op."""
    done = run_python(
        KEEPING_OP
        + """
conv = torch.nn.Conv2d(3, 8, 3)
on_device = torch.nn.Conv2d(3, 8, 3).to("mps")
image = torch.randn(1, 3, 12, 12)
with torch.no_grad():
    want = conv(image)
    on_device(image.to("mps"))
    child = os.fork()
    if child == 0:
        assert (kept[0] == 5).all()
        del kept[:], x, y, on_device
        gc.collect()
        assert all(torch.equal(conv(image), want) for _ in range(10))
        print("the child is done", flush=True)
        os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (kept[0] == 5).all()
""",
        env={"OMP_NUM_THREADS": "1"},  # OpenMP's threads do not come along into a child; PyTorch hangs there by itself
    )
    assert "the child is done" in done.stdout


def test_threads_that_convolve_at_once_free_nothing_twice(run_python):
    """oneDNN allocates and frees by address, nothing included; the C library's own checks judge."""
    run_python(
        """
import threading, torch
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3)).to("mps")
inputs = [torch.randn(2, 3, 16 + 4 * i, 16) for i in range(4)]
with torch.no_grad():
    expected = [model(x.to("mps")).cpu() for x in inputs]
wrong = []

def work(index):
    with torch.no_grad():
        for step in range(60):
            k = (index + step) % 4
            if not torch.allclose(model(inputs[k].to("mps")).cpu(), expected[k], atol=1e-5):
                wrong.append((index, step))

threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not wrong
""",
        env={"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"},
    )


def test_an_op_of_another_thread_does_not_change_where_cpu_tensors_live():
    stop = threading.Event()

    def busy():
        a = torch.randn(400, 400, device="mps")
        while not stop.is_set():
            torch.linalg.inv(a)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        tensors = [torch.full((100,), float(i)) for i in range(2000)]
    finally:
        stop.set()
        thread.join()
    before = allocated()
    assert all((tensor == i).all() for i, tensor in enumerate(tensors))
    del tensors
    assert allocated() == before
