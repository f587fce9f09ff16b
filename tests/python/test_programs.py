"""Programs through the C interface: PyTorch's ops noted once, and run again on threads without the interpreter's lock."""

from __future__ import annotations

import re
from pathlib import Path

from test_vulkan import needs_llvmpipe

HEADER = Path(__file__).resolve().parents[2] / "crates" / "rivulet-torch" / "include" / "rivulet.h"

SUPPORT = '''
import ctypes, json, threading
import torch
from rivulet import _load

lib = ctypes.CDLL(str(_load.find_library(_load.torch_minor(torch.__version__))))
P, N = ctypes.c_void_p, ctypes.c_size_t

class Span(ctypes.Structure):
    _fields_ = [("block", P), ("data", P), ("bytes", N)]

for name, result, arguments in [
    ("rivulet_block_of", P, [P]), ("rivulet_last_error", ctypes.c_char_p, []), ("rivulet_free", None, [P]),
    ("rivulet_op_id", ctypes.c_uint32, [ctypes.c_char_p]), ("rivulet_rng_new", P, [ctypes.c_uint64]),
    ("rivulet_read", ctypes.c_int32, [ctypes.c_uint32, P, P, P, N]), ("rivulet_string_free", None, [P]),
    ("rivulet_program_begin", ctypes.c_int32, [ctypes.POINTER(Span), N]),
    ("rivulet_program_end", ctypes.c_int32, [ctypes.POINTER(Span), N, ctypes.POINTER(P)]),
    ("rivulet_program_abandon", None, []), ("rivulet_program_free", None, [P]),
    ("rivulet_program_output", ctypes.c_int32, [P, N] + [P] * 4), ("rivulet_program_fresh", N, [P]),
    ("rivulet_program_run", ctypes.c_int32, [P, ctypes.POINTER(Span), N, P, P, P]),
    ("rivulet_program_json", ctypes.c_int32, [P, ctypes.POINTER(P)]),
]:
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments

NO_KERNEL = 5

def message():
    return lib.rivulet_last_error().decode()

def spans(*tensors):
    made = [Span(lib.rivulet_block_of(t.data_ptr()), t.data_ptr(), t.numel() * t.element_size()) for t in tensors]
    return (Span * len(made))(*made), len(made)

def note(function, *inputs):
    assert lib.rivulet_program_begin(*spans(*inputs)) == 0, message()
    with torch.no_grad():
        outputs = function(*inputs)
    program = P()
    status = lib.rivulet_program_end(*spans(*outputs), ctypes.byref(program))
    return status, program, outputs

def run(program, like, *inputs, rng=None):
    count = lib.rivulet_program_fresh(program)
    fresh, data = (P * count)(), (P * count)()
    assert lib.rivulet_program_run(program, *spans(*inputs), rng, fresh, data) == 0, message()
    results = []
    for index, tensor in enumerate(like):
        kind, place, offset, shared = ctypes.c_uint32(), N(), N(), P()
        at = [ctypes.byref(value) for value in (kind, place, offset, shared)]
        assert lib.rivulet_program_output(program, index, *at) == 0, message()
        assert kind.value == 0, "these tests' outputs are new memory"
        copy = torch.empty(tensor.shape, dtype=tensor.dtype)
        bytes = copy.numel() * copy.element_size()
        first = data[place.value] + offset.value
        status = lib.rivulet_read(lib.rivulet_op_id(b"test"), fresh[place.value], first, copy.data_ptr(), bytes)
        assert status == 0, message()
        results.append(copy)
    for block in fresh:
        lib.rivulet_free(block)
    return results
'''

MODEL = """
model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).to("mps")
x = torch.randn(4, 16, device="mps")
status, program, outputs = note(lambda x: [model(x), x.sin() * 2 + 1], x)
assert status == 0, message()
text = P()
assert lib.rivulet_program_json(program, ctypes.byref(text)) == 0
report = json.loads(ctypes.cast(text, ctypes.c_char_p).value)
lib.rivulet_string_free(text)
assert report["arena_bytes"] <= 1.1 * report["eager_peak_bytes"], report
assert len(report["commands"]) < report["noted_commands"] and report["fusions"], report
assert report["commands"][0]["kernel"].startswith("matmul"), report

def check(seed):
    other = torch.randn(4, 16, generator=torch.Generator().manual_seed(seed)).to("mps")
    with torch.no_grad():
        wanted = [model(other).cpu(), (other.sin() * 2 + 1).cpu()]
    for _ in range(20):
        for got, want in zip(run(program, outputs, other), wanted):
            torch.testing.assert_close(got, want)

failed = []
def thread(seed):
    try:
        check(seed)
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=thread, args=(seed,)) for seed in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failed, failed

with torch.no_grad():
    model[0].weight.mul_(0.5)
check(99)
lib.rivulet_program_free(program)

status, program, outputs = note(lambda x: [x + torch.randn(4, 16, device="mps")], x)
assert status == 0, message()
rng = lib.rivulet_rng_new(3)
first, second = run(program, outputs, x, rng=rng)[0], run(program, outputs, x, rng=rng)[0]
again = run(program, outputs, x, rng=lib.rivulet_rng_new(3))[0]
assert not torch.equal(first, second) and torch.equal(first, again)
assert lib.rivulet_program_run(program, *spans(x), None, (P * 1)(), (P * 1)()) != 0
assert "generator" in message(), message()
print("ok")
"""

REFUSED = """
x = torch.randn(4, device="mps")
status, _, _ = note(lambda x: [x * float(x.exp().sum())], x)
assert status == NO_KERNEL, status
assert "copy_" in message() and "device made" in message(), message()
status, _, _ = note(lambda x: [x * x[0].item()], x)
assert status == NO_KERNEL and "input 0" in message(), message()
assert lib.rivulet_program_begin(*spans(x)) == 0
assert lib.rivulet_program_begin(*spans(x)) == NO_KERNEL and "already" in message(), message()
lib.rivulet_program_abandon()
lib.rivulet_program_abandon()
status, program, outputs = note(lambda x: [x.exp()], x)
assert status == 0, message()
torch.testing.assert_close(run(program, outputs, x)[0], x.exp().cpu())
assert lib.rivulet_program_end(None, 0, ctypes.byref(P())) != 0 and "begun no program" in message()
print("ok")
"""


@needs_llvmpipe
def test_ops_of_pytorch_are_run_again_on_other_inputs_and_threads(run_python):
    done = run_python(SUPPORT + MODEL, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0"})
    assert done.stdout.strip().endswith("ok"), done.stdout


@needs_llvmpipe
def test_what_cannot_be_run_again_is_refused_by_name(run_python):
    done = run_python(SUPPORT + REFUSED, env={"RIVULET_ADAPTER": "llvmpipe", "LP_NUM_THREADS": "0"})
    assert done.stdout.strip().endswith("ok"), done.stdout


def test_there_are_no_programs_where_ops_run_on_the_cpu(run_python):
    script = SUPPORT + (
        "x = torch.ones(4, device='mps')\n"
        "assert lib.rivulet_program_begin(*spans(x)) == NO_KERNEL and 'on the CPU' in message(), message()\n"
        "print('ok')\n"
    )
    done = run_python(script, env={"RIVULET_ADAPTER": "host"})
    assert done.stdout.strip().endswith("ok"), done.stdout


def test_the_library_has_what_the_header_names():
    declared = set(re.findall(r"\b(rivulet_program_\w+)\(", HEADER.read_text()))
    used = set(re.findall(r'"(rivulet_program_\w+)"', SUPPORT))
    assert declared == used
