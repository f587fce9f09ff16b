"""mps on a GPU beside PyTorch CUDA on the same GPU: the same models, evaluated, the same script, one run.

Calls a second by number of threads, with a wait after every call and after every 256. CUDA runs with a stream for each
thread and on the default stream, and the better of the two counts. Then the bandwidth in GB/s (1e9 bytes read and written
a second) of ops on 1 GiB that do little else than move bytes. Needs a CUDA build of PyTorch and a Vulkan driver of the
same card; `RIVULET_ADAPTER` names it. Without CUDA only mps is measured; `--quick` is for trying the script on a CPU.

    RIVULET_ADAPTER=nvidia python benchmarks/h200.py --out result.json
    RIVULET_ADAPTER=llvmpipe LP_NUM_THREADS=0 python benchmarks/h200.py --quick
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RIVULET_ADAPTER", "nvidia")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import record  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

import rivulet  # noqa: E402
from rivulet.selftest.workloads import Encoder, mlp  # noqa: E402

THREADS = (1, 2, 4, 8, 16, 31)
Call = Callable[[], torch.Tensor]


def workloads() -> dict[str, tuple[nn.Module | None, Callable[[], torch.Tensor]]]:
    """Name, model, and what makes its input on the CPU. Without a model the input is multiplied by itself."""
    encoder_layer = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True)
    encoder = Encoder()
    table: dict[str, tuple[nn.Module | None, Callable[[], torch.Tensor]]] = {
        "lin 256-128 b32": (nn.Linear(256, 128), lambda: torch.randn(32, 256)),
        "mlp b1": (mlp(), lambda: torch.randn(1, 512)),
        "mlp b32": (mlp(), lambda: torch.randn(32, 512)),
        "TransformerEncoderLayer [8, 64, 256]": (encoder_layer, lambda: torch.randn(8, 64, 256)),
        "MiniLM-shaped [1, 32]": (encoder, lambda: torch.randint(0, 30522, (1, 32))),
        "MiniLM-shaped [32, 128]": (encoder, lambda: torch.randint(0, 30522, (32, 128))),
    }
    for size in (128, 512, 1024, 4096):
        table[f"mm {size}"] = (None, lambda size=size: torch.randn(size, size))
    return table


def small_workloads() -> dict[str, tuple[nn.Module | None, Callable[[], torch.Tensor]]]:
    return {
        "lin 256-128 b32": (nn.Linear(256, 128), lambda: torch.randn(32, 256)),
        "TransformerEncoderLayer [1, 8, 64]": (
            nn.TransformerEncoderLayer(64, 4, 64, dropout=0.0, batch_first=True),
            lambda: torch.randn(1, 8, 64),
        ),
        "mm 64": (None, lambda: torch.randn(64, 64)),
    }


def bandwidth_ops(device: str, size: int) -> dict[str, tuple[Call, int]]:
    """Name, call, and the bytes that it has to read and write. Operands have `size` bytes of float32."""
    x, y = (torch.rand(size // 4096, 1024, device=device) for _ in range(2))
    weight, bias = torch.rand(1024, device=device), torch.rand(1024, device=device)
    return {
        "add": (lambda: x + y, 3 * size),
        "copy": (lambda: y.copy_(x), 2 * size),
        "softmax": (lambda: x.softmax(1), 2 * size),
        "layer_norm": (lambda: nn.functional.layer_norm(x, (1024,), weight, bias), 2 * size),
    }


def bandwidth(device: Device, call: Call, size: int, seconds: float) -> float:
    """GB/s of one thread: the median of five rounds of calls with one wait at the end of each."""

    def run(times: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            call()
        device.wait()
        return (time.perf_counter() - begun) / times

    run(3)
    times = max(1, int(seconds / 5 / run(1)))
    return size / sorted(run(times) for _ in range(5))[2] / 1e9


def bandwidths(only: str, size: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    label = f"{size >> 20} MiB" if size < 1 << 30 else f"{size >> 30} GiB"
    devices = ("cuda", "mps") if torch.cuda.is_available() else ("mps",)
    for op in ("add", "copy", "softmax", "layer_norm"):
        name = f"{op} {label}"
        if only not in name:
            continue
        row: dict[str, Any] = {"workload": name, "unit": "GB/s"}
        for device in devices:
            # One device at a time holds its gigabytes.
            call, moved = bandwidth_ops(device, size)[op]
            rivulet.reset_fallback_counts()
            with torch.no_grad():
                row[device] = bandwidth(Device(device, False), call, moved, seconds)
            if rivulet.fallback_counts():
                row["fallbacks"] = rivulet.fallback_counts()
            del call
            (torch.cuda if device == "cuda" else torch.mps).empty_cache()
        rows.append(row)
        ratio = f"{row['mps'] / row['cuda']:.2f}" if "cuda" in row else ""
        print(
            f"{name:<38}cuda {row.get('cuda', 0):>8.0f} GB/s   mps {row['mps']:>8.1f} GB/s   {ratio} "
            f"{row.get('fallbacks', '')}",
            flush=True,
        )
    return rows


def call_of(model: nn.Module | None, x: torch.Tensor) -> Call:
    return (lambda: x @ x) if model is None else (lambda: model(x))


class Device:
    """A device under test and how its threads wait."""

    def __init__(self, name: str, own_streams: bool) -> None:
        self.name, self.own_streams = name, own_streams

    def enter(self) -> Any:
        if self.name == "cuda" and self.own_streams:
            return torch.cuda.stream(torch.cuda.Stream())
        return torch.no_grad()

    def wait(self) -> None:
        if self.name == "cuda":
            torch.cuda.current_stream().synchronize()
        else:
            torch.mps.current_stream().synchronize()


def rate(device: Device, call: Call, threads: int, every: int, seconds: float) -> float:
    """Calls a second of all threads together."""
    counts = [0] * threads
    failures: list[BaseException] = []
    start = threading.Barrier(threads + 1)
    end = [0.0]

    def work(index: int) -> None:
        try:
            with device.enter(), torch.no_grad():
                for _ in range(20):
                    call()
                device.wait()
                start.wait()
                done = 0
                while time.perf_counter() < end[0]:
                    for _ in range(every):
                        call()
                    device.wait()
                    done += every
                counts[index] = done
        except BaseException as error:
            failures.append(error)
            start.abort()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    begin = time.perf_counter()
    end[0] = float("inf")
    try:
        start.wait()
        begin = time.perf_counter()
        end[0] = begin + seconds
    except threading.BrokenBarrierError:
        pass
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begin
    if failures:
        raise failures[0]
    return sum(counts) / elapsed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", default=",".join(map(str, THREADS)))
    parser.add_argument("--quick", action="store_true", help="small sizes and few threads: tries the script itself")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.quick:
        args.seconds, args.threads = 0.05, "1,4"
    threads = [int(count) for count in args.threads.split(",")]
    print(rivulet.adapter().name, torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA", flush=True)
    rows = []
    for name, (model, make) in (small_workloads() if args.quick else workloads()).items():
        if args.only not in name:
            continue
        x = make()
        calls = {}
        with torch.no_grad():
            expected = call_of(model.double() if model else None, x.double() if x.is_floating_point() else x)()
            for device in ("cuda", "mps") if torch.cuda.is_available() else ("mps",):
                if model is not None:
                    model = model.float().to("cpu")
                there = copy.deepcopy(model).to(device).eval() if model is not None else None
                calls[device] = call_of(there, x.to(device))
                rivulet.reset_fallback_counts()
                got = calls[device]().cpu().double()
                error = ((got - expected).norm() / expected.norm()).item()
                print(f"{name:<38}{device:<6}relative error {error:.1e} {rivulet.fallback_counts() if device == 'mps' else ''}", flush=True)
        for every in (1, 8) if args.quick else (1, 256) if not name.startswith(("MiniLM", "mm 4096")) else (1, 16):
            for count in threads:
                row = {"workload": name, "every": every, "threads": count}
                if "cuda" in calls:
                    row["cuda"] = max(
                        rate(Device("cuda", own), calls["cuda"], count, every, args.seconds) for own in (True, False)
                    )
                try:
                    row["mps"] = rate(Device("mps", False), calls["mps"], count, every, args.seconds)
                except Exception as error:
                    print("   ", type(error).__name__, str(error)[:300])
                    continue
                rows.append(row)
                ratio = f"{row['mps'] / row['cuda']:.2f}" if "cuda" in row else ""
                print(
                    f"    sync every {every:<4}{count:>3} threads   cuda {row.get('cuda', 0):>10.0f}/s   "
                    f"mps {row['mps']:>10.0f}/s   {ratio}",
                    flush=True,
                )
        calls.clear()
    rows += bandwidths(args.only, 1 << 20 if args.quick else 1 << 30, args.seconds)
    record.keep(args.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
