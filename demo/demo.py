"""Embeds a few hundred sentences of Alice in Wonderland from 1, 2, 4 and 8 threads, then searches them by meaning.

Every vector is compared with the one that the CPU gives; the exit code is 1 when any differs.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch
from embedding import batches_of, embed, load, sentences
from tqdm import tqdm

QUERIES = ["a smiling cat", "a girl who has grown too big for the room", "the queen wants people put to death"]
# float32 rounding through six layers; vectors have length 1.
LARGEST_DIFFERENCE = 1e-5
SMALLEST_COSINE = 0.99999


@dataclass
class Run:
    """One pass over all sentences."""

    threads: int
    seconds: float
    vectors: torch.Tensor

    def difference(self, expected: torch.Tensor) -> float:
        return (self.vectors - expected).abs().max().item()

    def cosine(self, expected: torch.Tensor) -> float:
        return torch.nn.functional.cosine_similarity(self.vectors, expected).min().item()

    def agrees(self, expected: torch.Tensor) -> bool:
        # Written so that a NaN disagrees.
        return self.difference(expected) <= LARGEST_DIFFERENCE and self.cosine(expected) >= SMALLEST_COSINE


def embed_all(model, batches, device: str, threads: int, label: str) -> Run:
    """Embeds the batches from `threads` threads, each with an event of its own, and returns vectors on the CPU."""
    todo: SimpleQueue[int] = SimpleQueue()
    for index in range(len(batches)):
        todo.put(index)
    results: list[torch.Tensor | None] = [None] * len(batches)
    errors: list[BaseException] = []
    total = sum(len(batch["input_ids"]) for batch in batches)
    bar = tqdm(total=total, desc=label, unit=" sentences", leave=False, disable=None)

    def work() -> None:
        try:
            event = torch.mps.Event(enable_timing=False) if device == "mps" else None
            while not errors:
                try:
                    index = todo.get_nowait()
                except Empty:
                    return
                vectors = embed(model, {name: ids.to(device) for name, ids in batches[index].items()})
                if event is not None:
                    event.record()
                    event.synchronize()
                results[index] = vectors.cpu()
                bar.update(len(vectors))
        except BaseException as error:  # noqa: BLE001 - raised again on the caller's thread
            errors.append(error)

    workers = [threading.Thread(target=work, name=f"embed-{i}") for i in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - start
    bar.close()
    if errors:
        raise errors[0]
    return Run(threads, seconds, torch.cat([vectors for vectors in results if vectors is not None]))


def search(query: str, vectors: torch.Tensor, texts: list[str], model, tokenizer, device: str, best: int = 3) -> None:
    [batch] = batches_of([query], tokenizer, 1)
    wanted = embed(model, {name: ids.to(device) for name, ids in batch.items()})
    scores, places = (vectors.to(device) @ wanted[0]).topk(min(best, len(texts)))
    print(f"\n{query!r}")
    for score, place in zip(scores.tolist(), places.tolist()):
        print(f"  {score:.2f}  {texts[place]}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__.splitlines()[0])
    parser.add_argument("--ask", metavar="TEXT", help="search for this instead of the built-in queries")
    parser.add_argument("--device", default="mps", choices=["mps", "cpu"], help="where to embed (default: mps)")
    parser.add_argument("--threads", default="1,2,4,8", help="thread counts, with commas (default: 1,2,4,8)")
    parser.add_argument("--sentences", type=int, metavar="N", help="only the first N sentences")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="sentences in a batch (default: 8)")
    args = parser.parse_args()
    try:
        args.threads = [int(count) for count in args.threads.split(",")]
    except ValueError:
        args.threads = []
    if not args.threads or min(args.threads) < 1:
        parser.error("--threads: give positive numbers with commas between them, for example 1,2,4,8")
    if args.batch < 1 or (args.sentences is not None and args.sentences < 1):
        parser.error("--batch and --sentences: give a positive number")
    return args


def main() -> int:
    args = parse()
    if args.device == "mps" and not torch.backends.mps.is_available():
        print("the mps device is not available; `./run doctor` says why", file=sys.stderr)
        return 1
    texts = sentences()[: args.sentences]
    reference_model, tokenizer = load("cpu")
    batches = batches_of(texts, tokenizer, args.batch)
    parameters = sum(p.numel() for p in reference_model.parameters()) / 1e6
    print(f"{len(texts)} sentences of Alice's Adventures in Wonderland; all-MiniLM-L6-v2, {parameters:.1f} M parameters")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads an operation, device {args.device}\n")

    embed(reference_model, batches[0])  # the first call also sets up the CPU's kernels
    reference = embed_all(reference_model, batches, "cpu", 1, "cpu, 1 thread")
    model = load(args.device)[0]
    embed(model, {name: ids.to(args.device) for name, ids in batches[0].items()})
    runs = [embed_all(model, batches, args.device, n, f"{args.device}, {n} threads") for n in args.threads]

    expected = reference.vectors
    print(f"{'device':<8}{'threads':>8}{'sentences/s':>13}{'to 1 on CPU':>13}{'largest diff':>14}{'least cosine':>14}")
    for device, run in [("cpu", reference), *((args.device, run) for run in runs)]:
        speed = f"{len(texts) / run.seconds:.0f}"
        ratio = f"{reference.seconds / run.seconds:.2f}x"
        row = f"{device:<8}{run.threads:>8}{speed:>13}{ratio:>13}"
        print(f"{row}{run.difference(expected):>14.1e}{run.cosine(expected):>14.6f}")

    wrong = [run for run in runs if not run.agrees(expected)]
    for run in wrong:
        print(f"\nWRONG: the vectors from {run.threads} threads differ from the CPU's", file=sys.stderr)
    if not wrong:
        print(f"\nall {len(texts) * len(runs)} vectors are the CPU's (to {LARGEST_DIFFERENCE:.0e})")
    for query in [args.ask] if args.ask else QUERIES:
        search(query, runs[-1].vectors, texts, model, tokenizer, args.device)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
