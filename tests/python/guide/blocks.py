"""The code blocks of the user guide, and what each needs from around it.

A block is known by the heading that it stands under. The guide's fragments leave names open (`batches`,
`create_model`, ...): OPEN_NAMES gives those, and nothing else. AFTERWARDS looks at what a block did, and calls the
functions that it only defines.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

GUIDE = Path(__file__).with_name("USER_GUIDE.md")


@dataclass(frozen=True)
class Block:
    heading: str
    language: str
    text: str

    @property
    def parses(self) -> bool:
        try:
            ast.parse(self.text)
        except SyntaxError:
            return False
        return True

    def parsing_lines(self) -> list[str]:
        """The lines that are Python by themselves; for a block that is none as a whole."""
        lines = [line for line in self.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        return [line for line in lines if Block("", "python", line).parses]


def blocks(path: Path = GUIDE) -> list[Block]:
    found: list[Block] = []
    heading = ""
    fence: list[str] | None = None
    language = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if fence is None:
            if line.startswith("```"):
                fence, language = [], line[3:].strip()
            elif title := re.match(r"#+ (.*)", line):
                heading = title[1]
        elif line.startswith("```"):
            found.append(Block(heading, language, "\n".join(fence) + "\n"))
            fence = None
        else:
            fence.append(line)
    return found


_MODEL = "model = torch.nn.Linear(256, 128).to('mps').eval()\n"
_MAKE = "import torch, threading, time\n"

OPEN_NAMES: dict[str, str] = {
    "Quick Start": "",
    "Pool Exhaustion Modes": "",
    "1. Use `torch.no_grad()` for Inference": "import torch\n",
    "2. Use Event Sync in Multi-Threaded Code": f"{_MAKE}{_MODEL}x = torch.randn(32, 256, device='mps')\n",
    "3. Create Separate Model Per Thread (for Large Models)": f"""{_MAKE}
made, processed = [], []
def create_model():
    made.append(torch.nn.Linear(256, 128))
    return made[-1]
def get_data():
    return [torch.randn(32, 256, device='mps') for _ in range(4)]
process = processed.append
""",
    "4. Monitor Memory Usage": "",
    "Pattern 1: Thread Pool with Shared Model": "import torch\nbatches = [torch.randn(32, 256) for _ in range(40)]\n",
    "Pattern 2: Batch Processing with Workers": "import torch\nbatches = [torch.randn(32, 256) for _ in range(40)]\n",
    "Memory Growth Over Time": "import torch\ntensor = torch.randn(1 << 20, device='mps')\n",
    "Sync Frequency is Critical": f"{_MAKE}{_MODEL}inputs = [torch.randn(32, 256, device='mps') for _ in range(70)]\n",
    "Finding Optimal Thread Count": f"""{_MAKE}{_MODEL}
data = torch.randn(32, 256, device='mps')
calls = []
def inference(model, data):
    calls.append(model(data))
""",
    "Thread-Safe Functions": f"""{_MAKE}
model = torch.nn.Linear(64, 64).to('mps')
size = (8, 64)
tensor = torch.randn(8, 64)
x = torch.randn(size, device='mps')
a, b = torch.randn(8, 64, device='mps'), torch.randn(64, 8, device='mps')
event = torch.mps.Event(enable_timing=False)
""",
}

# `seen` holds (module, input, output) of every Linear that ran while the block did; `same_as_cpu` repeats each on
# the CPU with the same weights and compares; `in_threads(n, f)` runs f(i) on n threads and returns the results.
AFTERWARDS: dict[str, str] = {
    "Quick Start": """
assert len(seen) == 8, len(seen)
assert all(y.device.type == 'mps' and y.shape == (32, 128) for _, _, y in seen)
assert len({module for module, _, _ in seen}) == 1
same_as_cpu(seen)
first = [x.cpu() for _, x, _ in seen]
assert not any(torch.equal(first[i], first[j]) for i in range(8) for j in range(i)), 'two threads drew the same numbers'
again = in_threads(8, worker)
assert len(again) == 8 and all(y.shape == (32, 128) for y in again)
same_as_cpu(seen)
""",
    "Pool Exhaustion Modes": """
import torch
assert os.environ['MPS_POOL_BACKPRESSURE'] == '1' and os.environ['MPS_POOL_TIMEOUT_MS'] == '5000'
assert in_threads(40, lambda i: (torch.ones(4, device='mps') * i).sum().item()) == [4.0 * i for i in range(40)]
""",
    "1. Use `torch.no_grad()` for Inference": """
layer = torch.nn.Linear(256, 128).to('mps')
data = torch.randn(32, 256, device='mps')
results = in_threads(8, lambda i: inference_worker(layer, data))
assert not any(y.requires_grad for y in results)
same_as_cpu(seen)
""",
    "2. Use Event Sync in Multi-Threaded Code": """
results = []
in_threads(8, lambda i: worker())
assert single_thread_inference().device.type == 'cpu'
assert len(seen) == 9
same_as_cpu(seen)
""",
    "3. Create Separate Model Per Thread (for Large Models)": """
in_threads(8, worker)
assert len(made) == 8 and len(processed) == 32 and len(seen) == 32
assert all(p.device.type == 'mps' for m in made for p in m.parameters())
same_as_cpu(seen)
""",
    "4. Monitor Memory Usage": """
assert isinstance(mem, int) and mem >= 0
held = torch.empty(1 << 20, device='mps')
assert torch.mps.current_allocated_memory() >= mem + held.nbytes
""",
    "Pattern 1: Thread Pool with Shared Model": """
cpu = torch.nn.Linear(256, 128)
cpu.load_state_dict({k: v.cpu() for k, v in model.state_dict().items()})
assert len(results) == len(batches) and all(r.device.type == 'cpu' for r in results)
for batch, result in zip(batches, results):
    torch.testing.assert_close(result, cpu(batch).detach())
""",
    "Pattern 2: Batch Processing with Workers": """
assert result_queue.qsize() == len(batches) and not any(t.is_alive() for t in threads)
assert len({module for module, _, _ in seen}) <= 4 and len(seen) == len(batches)
same_as_cpu(seen)
""",
    "Memory Growth Over Time": """
assert 'tensor' not in globals()
assert torch.mps.current_allocated_memory() < 4 << 20
""",
    "Sync Frequency is Critical": """
assert len(results) == 70 and result.shape == (70, 32, 128)
same_as_cpu(seen)
torch.testing.assert_close(result.cpu(), torch.stack([r.cpu() for r in results]))
""",
    "Finding Optimal Thread Count": """
found = benchmark_threads(model, data, [1, 2, 4, 8])
assert sorted(found) == [1, 2, 4, 8] and all(seconds > 0 for seconds in found.values())
assert len(calls) == 15
same_as_cpu(seen)
""",
    "Thread-Safe Functions": """
assert torch.matmul(a, b).shape == (8, 8)
assert torch.mps.is_available() is True
assert event.query() is True
same_as_cpu(seen)
""",
}
