"""Runs items in worker processes. One that crashes or hangs costs its item, and the next gets a fresh worker."""

from __future__ import annotations

import collections
import concurrent.futures
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .items import Item

ITEM_TIMEOUT = 600.0  # seconds; the slowest item takes about a minute
# A worker's memory grows with what PyTorch's own caches keep, so it is replaced now and then.
ITEMS_PER_WORKER = 400


class Worker:
    """One process, with `env` beside what this one has. Used by one thread."""

    def __init__(self, env: dict[str, str]) -> None:
        self.stderr = tempfile.TemporaryFile()
        env = {**os.environ, **env, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env=env,
        )
        self.served = 0

    def run(self, item: Item) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        timer = threading.Timer(ITEM_TIMEOUT, self.process.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(asdict(item)) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timed_out = timer.finished.is_set()
            timer.cancel()
        self.served += 1
        if line:
            return json.loads(line)
        code = self.process.wait()
        what = f"no answer within {ITEM_TIMEOUT:.0f} s" if timed_out else f"the process ended with {_describe(code)}"
        return {
            "samples": 1, "passed": 0, "exact": 0, "random": 0, "raised_alike": 0, "by_rule": 0, "fallbacks": 0,
            "fell_back": [], "seconds": 0.0, "errors": [f"{what}: {self._last_words()}"],
        }  # fmt: skip

    def _last_words(self) -> str:
        self.stderr.seek(0)
        text = self.stderr.read().decode(errors="replace")
        start = text.rfind("Fatal Python error")
        return text[start:][:1500] if start >= 0 else text[-1500:]

    def alive(self) -> bool:
        return self.process.poll() is None and self.served < ITEMS_PER_WORKER

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        self.stderr.close()


def _describe(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Pool:
    """Starts at once; `result(item)` waits for one item. Close it when done. `env` is for the workers."""

    def __init__(self, items: list[Item], workers: int, env: dict[str, str] | None = None) -> None:
        self.futures: dict[Item, Future[dict[str, Any]]] = {item: Future() for item in items}
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        for item in _longest_first(items):
            self._queue.put(item)
        self._env = env or {}
        self._stop = threading.Event()
        self._current: dict[int, Worker] = {}
        self._threads = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(workers)]
        for thread in self._threads:
            thread.start()

    def result(self, item: Item) -> dict[str, Any]:
        return self.futures[item].result()

    def as_completed(self) -> Iterator[tuple[Item, dict[str, Any]]]:
        items = {future: item for item, future in self.futures.items()}
        for future in concurrent.futures.as_completed(items):
            yield items[future], future.result()

    def close(self) -> None:
        self._stop.set()
        for worker in list(self._current.values()):
            worker.process.kill()
        for thread in self._threads:
            thread.join()

    def _serve(self, number: int) -> None:
        worker: Worker | None = None
        try:
            while not self._stop.is_set():
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    return
                # From here on it cannot be cancelled, and its result has a place.
                if not self.futures[item].set_running_or_notify_cancel():
                    continue
                if worker is None or not worker.alive():
                    if worker is not None:
                        worker.close()
                    worker = self._current[number] = Worker(self._env)
                self.futures[item].set_result(worker.run(item))
        finally:
            if worker is not None:
                worker.close()
            for future in self.futures.values():
                if self._stop.is_set() and not future.done():
                    future.cancel()


def _longest_first(items: list[Item]) -> list[Item]:
    """In the given order, but entries with many items early, so that no long one is left for the end."""
    sizes = collections.Counter(item.entry for item in items)
    return sorted(items, key=lambda item: -sizes[item.entry])
