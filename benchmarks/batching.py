"""Forwards a second of an MLP, one row a call, from Python threads: each for itself, and joined by a `rivulet.Batcher`.

    python benchmarks/batching.py --out result.json
    python benchmarks/batching.py --threads 8 --seconds 1

Both ways are timed in turn, several rounds in one run, and the median of each is reported. On a machine that has other
things to do the CPU time a call tells more than the rate. Each call waits for its result. `--model minilm` is a BERT of MiniLM's shape on one sentence of
32 tokens, `lin` one Linear 256 to 128. The ceiling is the same with a model that gives its input back.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from pathlib import Path

import rivulet
import torch


def mlp() -> tuple[torch.nn.Module, torch.Tensor]:
    layers = [torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(1024, 512)), torch.randn(1, 512)


def lin() -> tuple[torch.nn.Module, torch.Tensor]:
    return torch.nn.Linear(256, 128), torch.randn(1, 256)


def minilm() -> tuple[torch.nn.Module, torch.Tensor]:
    layer = torch.nn.TransformerEncoderLayer(384, 12, 1536, activation="gelu", batch_first=True)
    return torch.nn.TransformerEncoder(layer, 6, enable_nested_tensor=False), torch.randn(1, 32, 384)


MODELS = {"mlp": mlp, "lin": lin, "minilm": minilm}


def rate(call, x, threads: int, seconds: float) -> tuple[float, float]:
    """Calls a second of all threads together, and microseconds of CPU time of the process for each."""
    start, over = threading.Barrier(threads + 1), threading.Event()
    counts = [0] * threads
    errors: list[BaseException] = []

    def body(me: int) -> None:
        try:
            mine = x.clone()
            for _ in range(3):
                call(mine)
            start.wait()
            done = 0
            while not over.is_set():
                call(mine)
                done += 1
            counts[me] = done
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)
            start.abort()

    workers = [threading.Thread(target=body, args=(me,)) for me in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began, spent = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    over.set()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    calls = max(sum(counts), 1)
    return calls / (time.perf_counter() - began), (time.process_time() - spent) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mlp")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 31])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--no-regroup", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    torch.manual_seed(0)
    model, x = MODELS[given.model]()
    model, x = model.to("mps").eval(), x.to("mps")
    options = {"max_batch": given.max_batch, "max_in_flight": given.in_flight, "regroup": not given.no_regroup}

    def alone(x):
        with torch.no_grad():
            y = model(x)
        torch.mps.current_stream().synchronize()
        return y

    rows = []
    for threads in given.threads:
        joined, empty = rivulet.Batcher(model, **options), rivulet.Batcher(lambda x: x, **options)
        torch.testing.assert_close(joined(x), alone(x))
        ways = {"alone": alone, "joined": joined, "ceiling": empty}
        rates = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, call in ways.items():
                rates[name].append(rate(call, x, threads, given.seconds))
        row = {name: statistics.median(rate for rate, _ in values) for name, values in rates.items()}
        row |= {f"{name}_cpu_us": statistics.median(cpu for _, cpu in values) for name, values in rates.items()}
        stats = joined.stats()
        row |= {
            "model": given.model,
            "threads": threads,
            "mean_batch": stats["requests"] / stats["batches"],
            "p50_us": stats["latency"]["p50"] * 1e6,
            "p99_us": stats["latency"]["p99"] * 1e6,
            "rounds": rates,
        }
        rows.append(row)
        print(
            f"{given.model} {threads:>3} threads: alone {row['alone']:>9.0f}/s  joined {row['joined']:>9.0f}/s  "
            f"({row['joined'] / row['alone']:.2f} times)  ceiling {row['ceiling']:>9.0f}/s  mean batch "
            f"{row['mean_batch']:.1f}  p50 {row['p50_us']:.0f} us  p99 {row['p99_us']:.0f} us  CPU time a call: alone "
            f"{row['alone_cpu_us']:.0f} us, joined {row['joined_cpu_us']:.0f} us"
        )
    if given.out:
        result = {"adapter": rivulet.adapter().name, "torch": torch.__version__, "options": options, "rows": rows}
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
