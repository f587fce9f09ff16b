"""``torch.mps.BatchQueue`` and its relatives: requests of many threads, run by workers, really joined.

The names are those of the project that first offered them. There a worker collects requests and runs one after another;
here requests with the same operation and joinable inputs run as one. The results are the same: a joined run is compared
with single ones the first time, and an operation that mixes rows (a mean over dim 0, say) is then run request by request.
"""

from __future__ import annotations

import contextlib
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ._batcher import Core
from ._call_queue import UNLIMITED
from ._joining import Joiner, Request, split

__all__ = ["BatchQueue", "batch_inference", "configure_batch_queue"]

#: How much a joined result may differ from a single one, relative to the largest element: another order of sums, no more.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}

#: Joined runs of a kind that are compared again: by then the inputs may be others.
_CHECKED_RUNS = {0, 16, 256, 4096, 65536}

#: Kinds of requests whose comparison is remembered.
_REMEMBERED = 512


class _OperationJoiner(Joiner):
    """Joins requests that bring their operation along."""

    def __init__(self) -> None:
        super().__init__(_apply)
        #: Joined runs of a kind, and whether one of different inputs was compared with single runs.
        self._seen: OrderedDict[Any, tuple[int, bool]] = OrderedDict()

    def request_of(self, inputs: Any, operation: Callable[[Any], Any]) -> Request:
        """One request: `operation(inputs)`."""
        request = self.request((inputs,), {})
        request.args = (inputs, operation)
        key = (request.key, _same(operation), _Held(operation))
        request.key = object() if key in self._apart else key
        request.hash = hash(request.key) & (2**64 - 1)
        return request

    def run_joined(self, requests: Sequence[Request]) -> list[Any]:
        """Several as one; the first time of a kind, and a few times later, also one by one."""
        first = requests[0]
        operation = first.args[1]
        leaves = self.joined_leaves(requests)
        inputs = leaves[0] if first.spec is None else pytree.tree_unflatten(leaves, first.spec)[0][0]
        results = split(operation(inputs), [request.rows for request in requests])
        runs, checked = self._seen.get(first.key, (0, False))
        # Equal inputs prove nothing: their mean is that of each.
        differ = not checked and _differ(requests)
        if differ or runs in _CHECKED_RUNS:
            single = [operation(request.args[0]) for request in requests]
            if not all(map(_alike, results, single)):
                self.keep_apart(first.key)
                return single
        self._seen[first.key] = (runs + 1, checked or differ)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return results


def _differ(requests: Sequence[Request]) -> bool:
    first = requests[0]
    for request in requests[1:]:
        for a, b in zip(first.leaves, request.leaves):
            if a is not b and isinstance(a, torch.Tensor) and not torch.equal(a, b):
                return True
    return False


def _apply(inputs: Any, operation: Callable[[Any], Any]) -> Any:
    return operation(inputs)


def _same(operation: Callable[[Any], Any]) -> Any:
    """What two operations have in common that do the same: for functions that are made anew for each request their code
    and what they refer to, else the object itself."""
    if isinstance(operation, types.FunctionType):
        cells = tuple(id(cell) for cell in operation.__closure__ or ())
        defaults = tuple(id(value) for value in operation.__defaults__ or ())
        named = tuple((name, id(value)) for name, value in (operation.__kwdefaults__ or {}).items())
        return (operation.__code__, cells, defaults, named, id(operation.__globals__))
    if isinstance(operation, types.MethodType):
        return (operation.__func__, id(operation.__self__))
    return id(operation)


class _Held:
    """Keeps an object alive in a key; any two are equal."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held)

    def __hash__(self) -> int:
        return 0


def _alike(joined: Any, single: Any) -> bool:
    a, b = pytree.tree_leaves(joined), pytree.tree_leaves(single)
    return len(a) == len(b) and all(map(_alike_leaf, a, b))


def _alike_leaf(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return type(a) is type(b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return bool(torch.equal(a, b))
    if not a.numel():
        return True
    # Infinite and missing numbers have to be at the same places.
    x, y = a.float(), b.float()
    finite = torch.isfinite(y)
    if not torch.equal(torch.nan_to_num(x[~finite], nan=1.0), torch.nan_to_num(y[~finite], nan=1.0)):
        return False
    off, largest = (x - y)[finite].abs(), y[finite].abs()
    return not off.numel() or bool(off.max() <= _TOLERANCE.get(a.dtype, 1e-4) * largest.max())


class BatchQueue:
    """Workers that run what many threads submit, joined where it can be.

    Requests with the same operation, whose inputs have the same shapes but for dim 0 and the same types, run as one on the
    device; each future gets the rows of its own request. No gradients are recorded.

    Args:
        batch_size: requests of a batch, at most.
        num_workers: threads that run batches.
        batch_timeout_ms: how long a request waits for its batch to become full, in milliseconds.
    """

    def __init__(self, batch_size: int = 8, num_workers: int = 1, batch_timeout_ms: float = 10) -> None:
        for name, value in (("batch_size", batch_size), ("num_workers", num_workers)):
            if not isinstance(value, int) or value <= 0:
                raise RuntimeError(f"BatchQueue: {name} must be > 0, got {value!r}")
        if not 0 <= batch_timeout_ms < 1e9:
            raise RuntimeError(f"BatchQueue: batch_timeout_ms must be >= 0 and < 1e9, got {batch_timeout_ms!r}")
        self.batch_size, self.num_workers, self.batch_timeout_ms = batch_size, num_workers, batch_timeout_ms
        self._core: Core | None = None
        self._lock = threading.Lock()
        self._submitted = 0
        self._completed = 0

    def start(self) -> BatchQueue:
        """Starts the workers; does nothing where they run."""
        with self._lock:
            if self._core is None:
                options = {
                    "max_batch": self.batch_size,
                    "max_in_flight": self.num_workers,
                    "max_queue": UNLIMITED,
                    "max_wait_us": int(self.batch_timeout_ms * 1000),
                }
                self._core = Core(_OperationJoiner(), options, "BatchQueue", refuses=False, counts_rows=False)
        return self

    def stop(self) -> None:
        """Runs all that was submitted, and ends the workers. The queue can be started again."""
        with self._lock:
            core, self._core = self._core, None
        if core is not None:
            core.close()
            core.join()

    def submit(self, inputs: Any, operation: Callable[[Any], Any]) -> Future[Any]:
        """`operation(inputs)` as a future; its result is complete on the device when the future is done.

        Args:
            inputs: a tensor, or a nest of them, with as many rows in dim 0 each.
            operation: a callable of one argument. An error that it raises for these inputs is the future's.
        """
        core = self._core
        if core is None:
            raise RuntimeError("BatchQueue: cannot submit to stopped queue. Call start() first.")
        joiner = core.joiner
        assert isinstance(joiner, _OperationJoiner)
        request = joiner.request_of(inputs, operation)
        try:
            future = core.submit(request, None, False)
        except RuntimeError:
            if self._core is core:
                raise
            raise RuntimeError("BatchQueue: cannot submit to stopped queue. Call start() first.") from None
        with self._lock:
            self._submitted += 1
        future.add_done_callback(self._count)
        return future

    def _count(self, future: Future[Any]) -> None:
        with self._lock:
            self._completed += 1

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._core is not None

    @property
    def submitted_requests(self) -> int:
        """Requests since it was made."""
        return self._submitted

    @property
    def completed_requests(self) -> int:
        """Those of them that are done, failed and cancelled ones included."""
        return self._completed

    @property
    def pending_requests(self) -> int:
        """Those of them that are not."""
        return self._submitted - self._completed

    def stats(self) -> dict[str, Any]:
        """Counts and times since the last start, as of :meth:`rivulet.Batcher.stats`; empty where it is stopped."""
        core = self._core
        return {} if core is None else {**core.queue.stats(), "retried": core.retried}

    def __enter__(self) -> BatchQueue:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"<torch.mps.BatchQueue batch_size={self.batch_size} num_workers={self.num_workers} {state}>"


_default = BatchQueue()
_default_lock = threading.Lock()


def configure_batch_queue(batch_size: int = 8, num_workers: int = 1, batch_timeout_ms: float = 10) -> BatchQueue:
    """Replaces the process's queue, which :func:`batch_inference` starts, and returns the new one, not started. The old
    one is stopped: what was submitted to it is run first."""
    global _default
    made = BatchQueue(batch_size, num_workers, batch_timeout_ms)
    with _default_lock:
        old, _default = _default, made
    old.stop()
    return made


@contextlib.contextmanager
def batch_inference(batch_size: int | None = None) -> Iterator[BatchQueue]:
    """A queue that runs within a ``with`` block, and is drained at its end.

    ``with torch.mps.batch_inference(batch_size=8) as batches: batches.submit(x, model).result()``. Models that are called
    in the block themselves run as ever.

    Args:
        batch_size: requests of a batch, at most; as :func:`configure_batch_queue` says where it is left out, which also
            gives the number of workers and the time that they wait.
    """
    like = _default
    size = like.batch_size if batch_size is None else batch_size
    with BatchQueue(size, like.num_workers, like.batch_timeout_ms) as running:
        yield running


for _public in (BatchQueue, configure_batch_queue, batch_inference):
    # Where people import them from: tracebacks and `help` go by it.
    _public.__module__ = "torch.mps"
del _public
