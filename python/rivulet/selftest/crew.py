"""Threads of the checks: they start together, and an error of one is an error of all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

#: As many as have a stream of their own beside the main thread.
THREADS = 31


def crew(count: int, body: Callable[[int], Any]) -> list[Any]:
    """Runs body(0) … body(count - 1) at once, each on a thread of its own. The results in order; the first error is
    raised when all have ended."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def work(index: int) -> None:
        try:
            start.wait()
            results[index] = body(index)
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            errors.append(error)

    # Daemons, so that one that never comes back does not keep the process from its end.
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def apart(body: Callable[[], Any]) -> Any:
    """The result of a call on a thread of its own."""
    return crew(1, lambda _: body())[0]
