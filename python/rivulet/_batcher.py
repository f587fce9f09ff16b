"""``rivulet.Batcher``: calls of one model from many threads, joined and run as one."""

from __future__ import annotations

import atexit
import concurrent.futures
import functools
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any, NoReturn

from ._call_queue import CLOSED, FULL, RUN, TIMED_OUT, UNLIMITED, CallQueue, Ticket, microseconds
from ._joining import CannotSplit, Joiner, Request
from ._native import BatchTurn
from ._padding import Padding

__all__ = ["Batcher"]


class RequestFuture(concurrent.futures.Future):  # type: ignore[type-arg]
    """The future of a submitted call. Cancelling it takes the call out of the queue."""

    _core: Core | None = None
    _request: Request | None = None
    _ticket: Ticket | None = None

    def cancel(self) -> bool:
        """Gives the call up; False where it is running or done already."""
        if not super().cancel():
            return False
        core, request, ticket = self._core, self._request, self._ticket
        if core is not None and request is not None and ticket is not None and ticket.cancel():
            # No runner will come to it: who waits for several futures has to be told here.
            core.pending.pop(request.token, None)
            self.set_running_or_notify_cancel()
            self.forget()
        return True

    def forget(self) -> None:
        """Lets go of the request: it holds the future too, and its tensors would stay until the next collection."""
        self._core = self._request = self._ticket = None


class Core:
    """The queue, the model and those who serve: what lives on where a Batcher is dropped with calls pending."""

    def __init__(self, joiner: Joiner, options: dict[str, int], name: str, refuses: bool, counts_rows: bool = True):
        self.joiner = joiner
        self.name = name
        self.queue = CallQueue(**options)
        # A call in a queue costs a few microseconds, of which each look-up of a name is a part.
        self._handle = self.queue.handle
        self._call, self._end, self._fail = self.queue.c_call, self.queue.c_end, self.queue.fail
        #: Requests that may be in a batch, by token.
        self.pending: dict[int, Request] = {}
        self.retried = 0
        self._refuses = refuses
        self._counts_rows = counts_rows
        self._max_workers = options["max_in_flight"]
        self._max_queue = options["max_queue"]
        self._tokens = itertools.count(1)
        self._running: set[int] = set()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()

    # --- calls ----------------------------------------------------------------------------------------------

    def call(self, request: Request, timeout: float | None) -> Any:
        """Has a request run, by this thread or another, and waits for it."""
        me = get_ident()
        if me in self._running:
            raise RuntimeError(
                f"{self.name}: called from inside its own model, which would wait for itself; call the inner model there"
            )
        timeout_us = -1 if timeout is None else microseconds(timeout)
        token = next(self._tokens)
        rows = request.rows if self._counts_rows else 1
        turn = BatchTurn()
        self.pending[token] = request
        try:
            status = self._call(self._handle, token, request.hash, rows, self._refuses, timeout_us, turn)
            if status:
                self._fail(status)
            if turn.verdict == RUN:
                if turn.count > 1:
                    self._run(turn)
                else:
                    return self._run_own(request, turn, me)
        except BaseException:
            # Also where a signal handler raised between two lines: the others must not wait for this thread.
            self.queue.end(turn, False)
            raise
        finally:
            self.pending.pop(token, None)
        if request.error is not None:
            try:
                raise request.error
            finally:
                # The error holds this frame.
                del request
        if not request.is_done():
            self._refused(turn.verdict, timeout)
        return request.result

    def submit(self, request: Request, timeout: float | None, wait: bool) -> RequestFuture:
        """Leaves a request to the workers. `wait`: until the queue has room, where it does not refuse."""
        timeout_us = -1 if timeout is None else microseconds(timeout)
        request.deadline = None if timeout is None else time.monotonic() + timeout
        future = request.future = RequestFuture()
        future._core, future._request = self, request
        request.token = next(self._tokens)
        rows = request.rows if self._counts_rows else 1
        turn = BatchTurn()
        self._start_workers()
        self.pending[request.token] = request
        try:
            ticket = self.queue.submit(turn, request.token, request.hash, rows, self._refuses, wait, timeout_us)
        except BaseException:
            self.pending.pop(request.token, None)
            raise
        if ticket is None:
            self.pending.pop(request.token, None)
            self._refused(turn.verdict, timeout)
        future._ticket = ticket
        return future

    def _refused(self, verdict: int, timeout: float | None) -> NoReturn:
        if verdict == FULL:
            raise queue.Full(
                f"{self.name}: the queue is full: {self._max_queue} calls wait already (max_queue={self._max_queue}); "
                "make fewer at a time, allow more, or let them wait with when_full='block'"
            )
        if verdict == CLOSED:
            raise RuntimeError(f"{self.name} is closed and takes no more calls")
        if verdict == TIMED_OUT:
            raise TimeoutError(f"{self.name}: the call was not done within {timeout} s")
        raise RuntimeError(f"{self.name}: a batch ended without a result for this call; please report this")

    # --- runs -----------------------------------------------------------------------------------------------

    def _run_own(self, request: Request, turn: BatchTurn, me: int) -> Any:
        """Runs the caller's own request, which is alone."""
        self._running.add(me)
        try:
            result = self.joiner.run_single(request)
        except Exception:
            # Its own error is its result.
            self._end(turn, True, 0)
            raise
        finally:
            self._running.discard(me)
        self._end(turn, True, 0)
        return result

    def _run(self, turn: BatchTurn) -> None:
        """Runs the turn's batch and ends it."""
        pending = self.pending
        requests = [r for r in map(pending.get, turn.tokens[: turn.count]) if r is not None]
        me = get_ident()
        self._running.add(me)
        try:
            self._serve([r for r in requests if _starts(r)])
        finally:
            self._running.discard(me)
        try:
            self.queue.end(turn, True)
        finally:
            # After the role was passed on: what a future's callbacks do may take its time.
            for request in requests:
                if request.future is not None:
                    self._resolve(request)

    def _serve(self, requests: Sequence[Request]) -> None:
        while requests:
            key = requests[0].key
            same = [r for r in requests if r.key == key]
            # The queue goes by a hash, which different keys may share.
            requests = [r for r in requests if r.key != key] if len(same) < len(requests) else []
            try:
                results = self.joiner.run(same)
            except Exception as error:
                if len(same) == 1:
                    same[0].error = error
                    continue
                # Nobody knows whose it is, so each gets its own.
                if not isinstance(error, CannotSplit):
                    self.retried += len(same)
                for request in same:
                    self._serve_alone(request)
            else:
                for request, result in zip(same, results):
                    request.result = result

    def _serve_alone(self, request: Request) -> None:
        try:
            request.result = self.joiner.run([request])[0]
        except Exception as error:
            request.error = error

    def _resolve(self, request: Request) -> None:
        self.pending.pop(request.token, None)
        future = request.future
        if request.started and not future.done():
            if request.error is not None:
                future.set_exception(request.error)
            elif request.is_done():
                future.set_result(request.result)
        future.forget()

    # --- workers --------------------------------------------------------------------------------------------

    def _start_workers(self) -> None:
        if len(self._workers) == self._max_workers:
            return
        with self._lock:
            while len(self._workers) < self._max_workers:
                number = len(self._workers) + 1
                # Python ends without asking daemon threads; `_at_exit` lets them finish first.
                worker = threading.Thread(target=self._work, name=f"{self.name} worker {number}", daemon=True)
                worker.start()
                self._workers.append(worker)
            _with_workers.add(self)
            _serve_before_exit()

    def _work(self) -> None:
        turn = BatchTurn()
        while True:
            try:
                if not self.queue.serve(turn):
                    return
                self._run(turn)
            finally:
                self.queue.end(turn, False)

    def close(self, cancel: bool = False) -> None:
        """Takes no more calls; `cancel` gives up those that were submitted and have not begun."""
        self.queue.close()
        if cancel:
            for request in list(self.pending.values()):
                if request.future is not None:
                    request.future.cancel()

    def join(self) -> None:
        """After :meth:`close`: waits until the workers have served what was submitted."""
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()


def _starts(request: Request) -> bool:
    """False where the request's owner no longer wants it, or it has been done by a runner that could not finish."""
    if request.is_done():
        return False
    if request.future is None:
        return True
    if not request.started:
        if not request.future.set_running_or_notify_cancel():
            return False
        request.started = True
    if request.deadline is not None and time.monotonic() >= request.deadline:
        request.error = TimeoutError("the call had not begun when its time was up")
        return False
    return True


_with_workers: weakref.WeakSet[Core] = weakref.WeakSet()


@functools.cache
def _serve_before_exit() -> None:
    # Not when this module is loaded: such functions run last to first, and the device's own end comes after this.
    atexit.register(_at_exit)


def _at_exit() -> None:
    # What was submitted is served before the interpreter goes, as concurrent.futures does.
    cores = list(_with_workers)
    for core in cores:
        core.close()
    for core in cores:
        core.join()


class Batcher:
    """Calls of one model from many threads, joined on dim 0 and run as one.

    A call that comes while nothing is running starts at once. Calls that come meanwhile are joined and run next, in the
    order of arrival; each caller gets its own rows, its own error and its own timeout. The result is complete on the
    device when the call returns. Tensors in the results are views of the batch's; no gradients are recorded.

    Any thread may call; see docs/batching.md for what makes calls joinable.

    Args:
        model: a module in eval mode, a plan, or any callable whose output rows depend on the input row of the same place
            alone.
        max_batch: rows of a batch, at most. A call that has more runs by itself.
        max_wait_us: how long a call waits for its batch to become full, in microseconds.
        max_queue: calls that wait, at most; None for any number.
        when_full: "block" lets further calls wait, "raise" raises :class:`queue.Full`.
        max_in_flight: batches that run at a time.
        pad: "longest" joins calls whose tensors differ in dim 1 too, None does not.
        pad_value: what shorter tensors are filled up with: a number, or numbers by the names of the model's arguments.
        mask: the model's argument that tells input (1) from padding (0); it is made where a call leaves it out.
        regroup: whether a batch waits a little for the callers of the batch before it to come back.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        max_batch: int = 64,
        max_wait_us: float = 0,
        max_queue: int | None = 1024,
        when_full: str = "block",
        max_in_flight: int = 1,
        pad: str | None = None,
        pad_value: float | dict[str, float] = 0,
        mask: str | None = "attention_mask",
        regroup: bool = True,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}")
        for name, value in (("max_batch", max_batch), ("max_in_flight", max_in_flight), ("max_queue", max_queue)):
            if (name, value) != ("max_queue", None) and not (isinstance(value, int) and value > 0):
                raise ValueError(f"{name} must be an integer > 0, got {value!r}")
        if not 0 <= max_wait_us < 1e12:
            raise ValueError(f"max_wait_us must be >= 0 microseconds and < 1e12, got {max_wait_us!r}")
        if when_full not in ("block", "raise"):
            raise ValueError(f"when_full must be 'block' or 'raise', got {when_full!r}")
        if pad not in (None, "longest"):
            raise ValueError(f"pad must be None or 'longest', got {pad!r}")
        if getattr(model, "training", False) is True:
            raise ValueError(
                "the model is in training mode, in which the rows of a batch change one another's results: call "
                "model.eval() first"
            )
        options = {
            "max_batch": max_batch,
            "max_in_flight": max_in_flight,
            "max_queue": UNLIMITED if max_queue is None else max_queue,
            "max_wait_us": int(max_wait_us),
            "regroup": regroup,
        }
        padding = None if pad is None else Padding(model, pad_value, mask)
        self._core = Core(Joiner(model, padding), options, "Batcher", when_full == "raise")
        self._waits = when_full == "block"
        weakref.finalize(self, self._core.queue.close)

    def __call__(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """Calls the model, with others where there are any, and waits for the result.

        Args:
            timeout: seconds after which the caller gets a TimeoutError. A batch that is running then goes on.

        Raises:
            TimeoutError, queue.Full: as said; ValueError for tensors that cannot be joined; what the model raises for this
            call alone.
        """
        core = self._core
        return core.call(core.joiner.request(args, kwargs), timeout)

    def submit(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> concurrent.futures.Future[Any]:
        """The same as a future, for callers that do not wait. Waits itself where the queue is full.

        Args:
            timeout: seconds within which the call has to begin.
        """
        core = self._core
        return core.submit(core.joiner.request(args, kwargs), timeout, self._waits)

    async def acall(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """The same for asyncio. Cancelling the task gives the call up. Waits for a full queue without blocking the loop.

        Args:
            timeout: seconds after which a TimeoutError is raised and the call is given up.
        """
        # Not at the top: `import torch` comes past here, and few programs need it.
        import asyncio

        core = self._core
        future = core.submit(core.joiner.request(args, kwargs), timeout, False)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except asyncio.TimeoutError:
            # Before Python 3.11 asyncio's is another class.
            raise TimeoutError(f"Batcher: the call was not done within {timeout} s") from None

    def stats(self) -> dict[str, Any]:
        """Counts since the batcher was made, and times in seconds; see docs/batching.md."""
        return {**self._core.queue.stats(), "retried": self._core.retried}

    def close(self, cancel: bool = False) -> None:
        """Takes no more calls, and waits until those that were submitted are done.

        Args:
            cancel: cancels submitted calls that have not begun.
        """
        self._core.close(cancel)
        self._core.join()

    def __enter__(self) -> Batcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<rivulet.Batcher of {type(self._core.joiner.model).__name__}>"
