"""What a plan gives on the CPU beside PyTorch's own eager CPU tensors: eight Python threads, each call one sentence or
one row, for itself or joined with those that wait (`coalesce=True`). PyTorch gets the number of intra-op threads that suits it best; both sides are measured in turn, round by
round, and the figure is the median of the rounds' ratios. Nothing fails on a figure: a limit is printed beside each.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "demo"))
import rivulet  # noqa: E402
import torch  # noqa: E402
from cost import Crew, measure  # noqa: E402
from embedding import batches_of, load, sentences  # noqa: E402
from record import calls_for, machine, median_ratio, paired, timed, write  # noqa: E402

THREADS = 8
Body = Callable[[], object]


def crew_of(body: Body, calls: int) -> Body:
    """The body so many times in a row, without gradients."""

    def work() -> None:
        with torch.no_grad():
            for _ in range(calls):
                body()

    return work


def threads(name: str, what: str, limit: float, eager: Body, plan: Body, rounds: int) -> dict[str, Any]:
    """Throughput of eight threads, the plan's to eager's at its best number of intra-op threads."""
    default = os.cpu_count() or 1
    with torch.no_grad():
        calls = calls_for(eager, 0.02)
    crew = Crew(THREADS)
    try:
        tried: dict[int, list[float]] = {}
        for intra in sorted({1, 2, default // 2 or 1, default}):
            torch.set_num_threads(intra)
            crew.run(crew_of(eager, calls))
            tried[intra] = [crew.run(crew_of(eager, calls)) for _ in range(max(3, rounds // 4))]
        best = min(tried, key=lambda intra: statistics.median(tried[intra]))

        def eager_at_its_best() -> float:
            torch.set_num_threads(best)
            return crew.run(crew_of(eager, calls))

        def plan_as_it_comes() -> float:
            torch.set_num_threads(default)
            return crew.run(crew_of(plan, calls))

        eager_at_its_best(), plan_as_it_comes()
        eagers, plans = paired(eager_at_its_best, plan_as_it_comes, rounds)
    finally:
        crew.close()
    samples = {
        "eager_seconds": eagers,
        "plan_seconds": plans,
        "calls": [THREADS * calls],
        **{f"eager_seconds_at_{k}": v for k, v in tried.items()},
    }
    return measure(name, f"{what} (eager's best: {best})", limit, "at least", samples, median_ratio(eagers, plans))


def alone(name: str, what: str, limit: float, eager: Body, plan: Body, rounds: int) -> dict[str, Any]:
    """Speed of one thread, the plan's to eager's at its best number of intra-op threads."""
    default = os.cpu_count() or 1
    with torch.no_grad():
        calls = calls_for(eager, 0.03)
        calls_for(plan, 0.03)
        tried: dict[int, list[float]] = {}
        for _ in range(max(5, rounds // 4)):
            for intra in sorted({1, default // 2 or 1, default}):
                torch.set_num_threads(intra)
                tried.setdefault(intra, []).append(timed(eager, calls))
        best = min(tried, key=lambda intra: statistics.median(tried[intra]))

        def eager_at_its_best() -> float:
            torch.set_num_threads(best)
            return timed(eager, calls)

        def plan_as_it_comes() -> float:
            torch.set_num_threads(default)
            return timed(plan, calls)

        eagers, plans = paired(eager_at_its_best, plan_as_it_comes, rounds)
    samples = {
        "eager_seconds": eagers,
        "plan_seconds": plans,
        "calls": [calls],
        **{f"eager_seconds_at_{k}": v for k, v in tried.items()},
    }
    return measure(name, f"{what} (eager's best: {best})", limit, "at least", samples, median_ratio(eagers, plans))


def both(name: str, what: str, limit: float, model: torch.nn.Module, example: dict[str, torch.Tensor], rounds: int,
         by_name: bool) -> list[dict[str, Any]]:
    """One model, alone and from eight threads, each call for itself and calls that wait joined."""
    moved = copy.deepcopy(model).to("mps")
    given = {key: tensor.to("mps") for key, tensor in example.items()}
    if by_name:
        plan = rivulet.capture(moved, **given)
        joined = rivulet.capture(moved, **given, dynamic_batch=True, coalesce=True)
        eager, single, together = (lambda: model(**example)), (lambda: plan(**given)), (lambda: joined(**given))
    else:
        (x,), (y,) = example.values(), given.values()
        plan = rivulet.capture(moved, y)
        joined = rivulet.capture(moved, y, dynamic_batch=True, coalesce=True)
        eager, single, together = (lambda: model(x)), (lambda: plan(y)), (lambda: joined(y))
    rows = [
        alone(f"{name}_alone", f"{what}, one thread", 1.0, eager, single, rounds),
        alone(f"{name}_joined_alone", f"{what}, one thread, joining", 1.0, eager, together, rounds),
        threads(f"{name}_threads", f"{what}, {THREADS} threads", limit, eager, single, rounds),
    ]
    before = joined.stats()["joined"]
    rows.append(
        threads(f"{name}_joined_threads", f"{what}, {THREADS} threads, joined", limit, eager, together, rounds)
    )
    after = joined.stats()["joined"]
    calls, batches = (after[key] - before[key] for key in ("requests", "batches"))
    rows[-1]["samples"]["mean_batch"] = [calls / max(batches, 1)]
    print(f"{'':<4}{calls / max(batches, 1):.1f} calls a batch")
    return rows


def empty(rounds: int) -> dict[str, Any]:
    """Microseconds of a call of a plan without ops."""
    x = torch.randn(3, device="mps")
    plan = rivulet.capture(lambda x: x, x)
    samples = [timed(lambda: plan(x), 20_000) * 1e6 for _ in range(rounds)]
    loops = [timed(lambda: x, 20_000) * 1e6 for _ in range(rounds)]
    figure = statistics.median(samples) - statistics.median(loops)
    return measure("empty", "a plan without ops: microseconds a call", 1.5, "at most", {"microseconds": samples}, figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="pairs of samples for a figure (default: 20)")
    parser.add_argument("--only", choices=["empty", "mlp", "wide", "minilm"], help="measure one group and write no file")
    parser.add_argument("--no-record", action="store_true", help="print only, write no file")
    args = parser.parse_args()
    if args.rounds < 3:
        parser.error("--rounds: give 3 or more, or a median says nothing")
    if rivulet.adapter().backend != "host":
        print("this benchmark is of the host adapter: unset RIVULET_ADAPTER", file=sys.stderr)
        return 1
    started, place = time.time(), machine()
    torch.manual_seed(0)
    relu = torch.nn.ReLU
    linear = torch.nn.Linear
    mlp = torch.nn.Sequential(linear(256, 256), relu(), linear(256, 256), relu(), linear(256, 128)).eval()
    wide = torch.nn.Sequential(linear(512, 1024), relu(), linear(1024, 1024), relu(), linear(1024, 512)).eval()

    def minilm() -> list[dict[str, Any]]:
        model, tokenizer = load("cpu")
        sentence = batches_of(sentences()[20:21], tokenizer, 1)[0]
        return both("minilm", "MiniLM, single sentences", 1.5, model, sentence, args.rounds, True)

    print(f"{'plan to CPU eager':<58}{'ratio':>7}   wanted")
    groups: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "empty": lambda: [empty(args.rounds)],
        "mlp": lambda: both("mlp", "MLP 256-256-256-128, one row", 3.0, mlp, {"x": torch.randn(1, 256)}, args.rounds, False),
        "wide": lambda: both(
            "wide", "MLP 512-1024-1024-512, one row", 3.0, wide, {"x": torch.randn(1, 512)}, args.rounds, False
        ),
        "minilm": minilm,
    }
    measures = [row for name, group in groups.items() if args.only in (None, name) for row in group()]
    if not args.no_record and args.only is None:
        print(f"\nwritten: {write('plans_cpu', measures, place, started).relative_to(Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
