"""More threads than slots, as servers have them: nothing hangs and every answer is right, in every waiting mode."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from threads_support import WORKERS, Background, assert_same_bits, one_kernel_thread, used_slots, wait_until, waiting_threads

MODES = [
    pytest.param({"MPS_POOL_BACKPRESSURE": "1"}, id="backpressure"),
    pytest.param({"MPS_POOL_TIMEOUT_MS": "60000"}, id="timeout"),
    pytest.param({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "-1"}, id="wait-timeout-unlimited"),
    pytest.param({"MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "60000"}, id="wait-timeout"),
    pytest.param({"MPS_POOL_SHARE": "1"}, id="share"),
]
THREADS = 40  # of anyio, and so of Starlette and FastAPI
REQUESTS = 120


@pytest.fixture(autouse=True)
def clean_pool():
    with one_kernel_thread():
        yield
    wait_until(lambda: used_slots() == 0, 10)


@pytest.fixture
def mode(request, monkeypatch):
    for name, value in request.param.items():
        monkeypatch.setitem(os.environ, name, value)
    return request.param


class Service:
    """A model, inputs, the CPU's answers, and a count of the threads that were inside `predict` at once."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(24, 48), torch.nn.GELU(), torch.nn.Linear(48, 6)).eval()
        self.inputs = [torch.randn(1 + index % 4, 24) for index in range(REQUESTS)]
        with torch.no_grad():
            self.expected = [self.model(x) for x in self.inputs]
        self.model.to("mps")
        self.lock, self.inside, self.most = threading.Lock(), 0, 0

    @torch.no_grad()
    def predict(self, index, gather=0):
        """With `gather`, waits between its ops until so many threads have come this far."""
        event = torch.mps.Event()
        x = self.inputs[index].to("mps")
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        deadline = time.monotonic() + 60
        while self.most < gather:
            assert time.monotonic() < deadline, f"only {self.most} of {gather} threads came in"
            time.sleep(0.001)
        y = self.model(x)
        event.record()
        event.synchronize()
        with self.lock:
            self.inside -= 1
        return y.cpu()

    def check(self, answers):
        assert len(answers) == REQUESTS
        for index, answer in enumerate(answers):
            assert_same_bits(answer, self.expected[index], f"request {index}")


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_fastapi_with_its_40_threads(mode):
    fastapi, httpx = pytest.importorskip("fastapi"), pytest.importorskip("httpx")
    service, app = Service(), fastapi.FastAPI()

    @app.get("/predict/{index}")
    def predict(index: int):  # no coroutine, so Starlette runs it on one of its threads
        return service.predict(index, gather=THREADS).tolist()

    async def main():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server", timeout=120) as client:
            return await asyncio.gather(*(client.get(f"/predict/{index}") for index in range(REQUESTS)))

    responses = asyncio.run(main())
    assert [response.status_code for response in responses] == [200] * REQUESTS
    service.check([torch.tensor(response.json()) for response in responses])
    assert service.most == THREADS


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_asyncio_to_thread_with_40_threads(mode):
    service = Service()

    async def main():
        # The default executor has few threads on a small machine; servers set their own.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        return await asyncio.gather(*(asyncio.to_thread(service.predict, index, THREADS) for index in range(REQUESTS)))

    service.check(asyncio.run(main()))
    assert service.most == THREADS


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_thread_pool_executor_of_40(mode):
    service = Service()
    with ThreadPoolExecutor(THREADS) as executor:
        service.check(list(executor.map(lambda index: service.predict(index, THREADS), range(REQUESTS))))
        # All 40 stay alive between two bursts, idle; the second burst finds them so.
        service.most = 0
        service.check(list(executor.map(lambda index: service.predict(index, THREADS), range(REQUESTS))))
    assert service.most == THREADS


def test_40_threads_without_a_waiting_mode_get_the_error_or_the_right_answer():
    service = Service()
    everybody = threading.Barrier(THREADS)

    def predict(index):
        try:
            torch.ones(1, device="mps")
        except RuntimeError as error:
            assert "mps stream pool exhausted" in str(error) and "MPS_POOL_SHARE=1" in str(error)
            return None
        finally:
            everybody.wait(60)  # each of the 40 threads has one request, and keeps what it got
        return service.predict(index)

    with ThreadPoolExecutor(THREADS) as executor:
        answers = list(executor.map(predict, range(THREADS)))
    assert sum(answer is not None for answer in answers) == WORKERS
    for index, answer in enumerate(answers):
        if answer is not None:
            assert_same_bits(answer, service.expected[index], f"request {index}")


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_a_second_server_in_the_same_process(mode):
    """Two executors of 40, as of two libraries, used in turn by requests that hop from one to the other."""
    service = Service()
    with ThreadPoolExecutor(THREADS) as front, ThreadPoolExecutor(THREADS) as back:

        def request(index):
            x = service.inputs[index].to("mps")
            return back.submit(service.model, x).result(60).detach().cpu()

        service.check(list(front.map(request, range(REQUESTS))))


@pytest.mark.parametrize("mode", MODES, indirect=True)
def test_training_in_40_threads(mode):
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 2)
    inputs = [torch.randn(3, 8) for _ in range(THREADS)]
    expected = [torch.autograd.grad(model(x).square().sum(), model.weight)[0] for x in inputs]
    model.to("mps")
    started = threading.Barrier(THREADS)

    def step(index):
        x = inputs[index].to("mps")
        started.wait(60)
        loss = model(x).square().sum()
        return torch.autograd.grad(loss, model.weight)[0].cpu()

    with ThreadPoolExecutor(THREADS) as executor:
        for index, gradient in enumerate(executor.map(step, range(THREADS))):
            torch.testing.assert_close(gradient, expected[index])


def test_a_busy_server_serves_a_late_thread_soon(monkeypatch):
    """31 threads that run op after op do not keep a 32nd out that waits for its turn."""
    monkeypatch.setitem(os.environ, "MPS_POOL_BACKPRESSURE", "1")
    over = threading.Event()
    x = torch.ones(64, device="mps")

    def busy(_):
        rounds = 0
        while not over.is_set():
            (x + 1).sum()
            rounds += 1
        return rounds

    with ThreadPoolExecutor(WORKERS) as executor:
        running = [executor.submit(busy, index) for index in range(WORKERS)]
        wait_until(lambda: used_slots() == WORKERS)
        for _ in range(5):
            start = time.monotonic()
            assert Background(lambda: (x * 2).sum().item()).result(60) == 128
            assert time.monotonic() - start < 20
        over.set()
        assert all(future.result() > 0 for future in running)
    assert waiting_threads() == 0
