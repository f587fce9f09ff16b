"""Every code block of the user guide runs as it stands there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUIDE_FOLDER = Path(__file__).parent / "guide"
sys.path.insert(0, str(GUIDE_FOLDER))
from blocks import AFTERWARDS, GUIDE, OPEN_NAMES, blocks  # noqa: E402

PYTHON = [block for block in blocks() if block.language == "python"]
BASH = [block for block in blocks() if block.language == "bash"]
ORIGINAL = Path(__file__).parents[3] / "shared" / "guide" / "USER_GUIDE.md"


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.heading)
def test_block_runs_unchanged(block):
    done = run([sys.executable, str(GUIDE_FOLDER / "run_block.py"), block.heading])
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the block ran\n")
    assert "Traceback" not in done.stderr, done.stderr


def test_every_block_is_covered():
    assert len(PYTHON) == 12 and len(BASH) == 1
    assert {block.language for block in blocks()} == {"python", "bash"}
    headings = [block.heading for block in PYTHON]
    # One block a heading, or running "the block under a heading" would leave one out.
    assert len(set(headings)) == len(headings)
    assert set(headings) == set(OPEN_NAMES) == set(AFTERWARDS)
    assert GUIDE.read_text(encoding="utf-8").count("```") == 2 * (len(PYTHON) + len(BASH))


def test_only_one_block_is_no_python():
    [block] = [block for block in PYTHON if not block.parses]
    assert block.heading == "Thread-Safe Functions"
    code = [line for line in block.text.splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in code if line not in block.parsing_lines()] == ["torch.nn.functional.*  # Most operations"]
    assert len(block.parsing_lines()) == 13


# With the guide's two exports: 15 workers hold the 15 slots beside the main thread's, the 16th is told so, and the
# log says what happens.
POOL_OF_16 = """
import threading, torch
torch.ones(1, device='mps')
hold, ready, errors = threading.Event(), threading.Semaphore(0), []
def work():
    try:
        torch.ones(1, device='mps')
    except RuntimeError as error:
        errors.append(str(error))
    ready.release()
    hold.wait()
threads = [threading.Thread(target=work) for _ in range(15)]
for t in threads: t.start()
for t in threads: ready.acquire()
assert errors == [], errors
last = threading.Thread(target=work)
last.start()
ready.acquire()
hold.set()
for t in [*threads, last]: t.join()
assert len(errors) == 1 and '16' in errors[0] and 'pool' in errors[0].lower(), errors
print('pool of 16')
"""


def test_exports_are_honoured():
    [block] = BASH
    done = run(["bash", "-c", block.text + '\nexec "$0" -c "$1"', sys.executable, POOL_OF_16])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "pool of 16\n"
    # PYTORCH_MPS_DEBUG=1 writes its log to standard error, and only then is anything written there.
    assert done.stderr.strip()
    quiet = run(["bash", "-c", 'export MPS_STREAM_POOL_SIZE=16\nexec "$0" -c "$1"', sys.executable, POOL_OF_16])
    assert quiet.returncode == 0 and quiet.stderr == "", quiet.stderr


@pytest.mark.skipif(not ORIGINAL.exists(), reason="the guide's original is not beside this checkout")
def test_copy_is_identical_to_the_original():
    assert GUIDE.read_bytes() == ORIGINAL.read_bytes()
