"""`rivulet selftest`: passes where the device is right, and names what is wrong where it is not."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rivulet
import torch
from conftest import clean_environment
from rivulet.selftest import command, compare, record, runner
from rivulet.selftest.registry import PARTS, Check, Context, Failed, Part
from test_vulkan import needs_llvmpipe

PACKAGE = Path(rivulet.__file__).parent
DOC = Path(__file__).resolve().parents[2] / "docs" / "selftest.md"


# --- the whole, as people run it -------------------------------------------------------------------------------------


def selftest(folder, *arguments, env=None, timeout=1200):
    """From a copy of the package, in an empty folder, with nothing of the checkout on the path."""
    copy = folder / "installed"
    if not copy.exists():
        shutil.copytree(PACKAGE, copy / "rivulet", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**clean_environment(env), "PYTHONPATH": str(copy)}
    done = subprocess.run(
        [sys.executable, "-m", "rivulet", "selftest", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done, copy


def check_record(made):
    """The schema that docs/selftest.md describes."""
    assert made["schema"] == record.SCHEMA == 1
    text = DOC.read_text()
    for key in made:
        assert f"`{key}`" in text, f"{key} is not in docs/selftest.md"
    assert made["verdict"] in command.STATUS
    for part in made["parts"]:
        outcomes = [check["outcome"] for check in part["checks"]]
        for count, outcome in (("passed", "passed"), ("failed", "failed"), ("left_out", "left out"), ("not_here", "not here")):
            assert part[count] == outcomes.count(outcome)
        for key in (*part, *(key for check in part["checks"] for key in check)):
            assert f"`{key}`" in text, f"{key} of a part is not in docs/selftest.md"
        assert f"| `{part['name']}` |" in text


@pytest.mark.timeout(1300)
@pytest.mark.parametrize("adapter", ["host", pytest.param("llvmpipe", marks=needs_llvmpipe)])
def test_a_device_that_is_right_passes(tmp_path, adapter):
    env = {"RIVULET_ADAPTER": adapter, "LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}
    done, copy = selftest(tmp_path, "--quick", "--minutes", "18", "--patience", "300", env=env)
    page = done.stdout
    assert done.returncode == 0 and done.stderr == "", page + done.stderr
    [path] = tmp_path.glob("rivulet-selftest-*.json")
    made = json.loads(path.read_text())
    check_record(made)
    assert [part["name"] for part in made["parts"]] == [part.name for part in PARTS]
    assert {part["state"] for part in made["parts"]} == {"passed"} and made["verdict"] == "passed"
    assert made["versions"]["library_path"].startswith(str(copy)), "the library of the copy"
    last = page.strip().splitlines()[-1]
    assert last.startswith("PASSED: ") and str(path) in last
    for part in PARTS:
        assert re.search(rf"^{part.name} .* passed ", page, re.M), page
    kernels = next(part for part in made["parts"] if part["name"] == "kernels")
    assert kernels["passed"] > 280
    if adapter == "host":
        assert made["kernels"]["kernels"] == 0
        assert "which are the host adapter's own" in page
    else:
        assert made["fallbacks"] == {}
        assert made["kernels"]["kernels"] == len(made["kernels"]["labels"]) > 200
        assert all(made["kernels"]["families"][family] for family in ("Pointwise", "Matmul", "Sort", "Fused", "JoinRows"))
        assert made["kernels"]["refused"] == []
        assert f"{kernels['passed']} of {kernels['passed']} cases ran on the device's kernels alone" in page


def test_one_part_alone_runs_with_the_machines_facts(tmp_path):
    done, _ = selftest(tmp_path, "--quick", "--part", "events", "--json", "x.json", env={"RIVULET_ADAPTER": "host"})
    assert done.returncode == 0, done.stdout
    made = json.loads((tmp_path / "x.json").read_text())
    assert [part["name"] for part in made["parts"]] == ["machine", "events"]
    assert made["machine"]["cores"] >= 1 and made["adapter"]["name"] == "Host CPU"
    assert "rivulet-selftest" not in " ".join(path.name for path in tmp_path.iterdir())


def test_a_device_that_is_not_available_could_not_be_tested(tmp_path):
    done, _ = selftest(tmp_path, "--quick", env={"RIVULET_DISABLE": "1"})
    assert done.returncode == 2
    assert "RIVULET_DISABLE=1" in done.stdout and done.stdout.strip().splitlines()[-1].startswith("COULD NOT RUN")
    assert "kernels" in done.stdout and "not run" in done.stdout
    [path] = tmp_path.glob("*.json")
    check_record(json.loads(path.read_text()))


def test_an_adapter_that_is_not_there_is_told(tmp_path):
    done, _ = selftest(tmp_path, "--quick", "--adapter", "abacus")
    assert done.returncode == 2
    assert "abacus" in done.stdout and done.stdout.strip().splitlines()[-1].startswith("COULD NOT RUN")
    assert re.search("^kernels .*not run", done.stdout, re.M)


def test_a_part_that_is_not_there_and_no_time_are_usage_errors(tmp_path):
    assert selftest(tmp_path, "--part", "surgery")[0].returncode == 2
    done, _ = selftest(tmp_path, "--minutes", "0")
    assert done.returncode == 2 and "--minutes is 0" in done.stderr and not list(tmp_path.glob("*.json"))
    done, _ = selftest(tmp_path, "--json", "nowhere/x.json")
    assert done.returncode == 2 and "nowhere/x.json cannot be written" in done.stderr and done.stdout == ""


# --- children that die, hang and run out of time ---------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    """`broken("good,aborts", patience=…)` runs such checks as a part; its result."""

    def run(kinds, minutes=5.0, patience=60.0):
        monkeypatch.setenv("SELFTEST_CHECKS", kinds)
        path = os.pathsep.join([str(Path(__file__).parent), str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("RIVULET_ADAPTER", "host")
        part = Part("broken", "a part of the tests", 1, "selftest_broken")
        [found] = runner.run([part], runner.Options(minutes, patience=patience), lambda text: None)
        return found

    return run


def outcomes(found):
    return [result.outcome for result in found.results]


def test_what_kills_a_process_is_a_named_failure_and_the_rest_goes_on(broken):
    found = broken("good,aborts,good,segfault,exits,wrong,good,not here")
    assert outcomes(found) == ["passed", "failed", "passed", "failed", "failed", "failed", "passed", "not here"]
    messages = [result.message for result in found.results]
    assert "SIGABRT" in messages[1] and "SIGSEGV" in messages[3] and "status 9" in messages[4]
    assert "1 of 3 elements" in messages[5] and messages[7] == "this device has no such thing"
    assert "commit an already committed command buffer" in found.results[1].output
    assert "_segfault" in found.results[3].output, "the stack of the place"
    assert found.state == "failed" and found.results[0].facts["process"] != found.results[2].facts["process"]


def test_a_check_that_hangs_is_named_with_its_stacks_and_the_rest_goes_on(broken):
    begun = time.monotonic()
    found = broken("good,hangs,good", patience=4)
    assert outcomes(found) == ["passed", "failed", "passed"]
    assert "hangs: nothing was heard of it for 4 s" in found.results[1].message
    assert "hangs_here" in found.results[1].output
    assert time.monotonic() - begun < 120


def test_a_check_that_says_that_it_goes_on_does_not_hang(broken):
    assert outcomes(broken("long", patience=2)) == ["passed"]


def test_an_error_is_a_failure_with_its_place(broken):
    found = broken("raises,good")
    assert outcomes(found) == ["failed", "passed"]
    assert "RuntimeError: the driver said no" in found.results[0].message and "_raises:" in found.results[0].message


def test_what_there_was_no_time_for_is_left_out_and_has_not_passed(broken):
    found = broken("long,good,good", minutes=1e-6)
    assert outcomes(found) == ["passed", "left out", "left out"]
    assert found.state == "incomplete" and found.results[1].message == "the time was over"
    assert record.verdict([found], 1) == "incomplete" and command.STATUS["incomplete"] == 2


def test_a_process_that_dies_behind_its_last_check_has_failed(broken):
    found = broken("good,dies at the end")
    assert outcomes(found) == ["passed", "passed", "failed"]
    assert found.results[2].name == "the end of the process" and "SIGABRT" in found.results[2].message


def test_a_part_in_which_every_check_dies_ends(broken):
    found = broken(",".join(["exits"] * 9))
    assert outcomes(found) == ["failed"] * runner.LIVES + ["left out"] * (9 - runner.LIVES)
    assert f"{runner.LIVES} processes died" in found.broken


def test_a_part_without_checks_could_not_run(broken):
    found = broken("none can be made")
    assert found.state == "could not run" and "status 1" in found.broken and "no checks today" in found.output
    assert record.verdict([found], 1) == "could not run"


INTERRUPTED = """
import argparse, signal, sys
from pathlib import Path
from rivulet.selftest import command
from rivulet.selftest.registry import Part
signal.signal(signal.SIGINT, signal.default_int_handler)
options = argparse.Namespace(
    minutes=5.0, quick=True, part=None, json=Path(sys.argv[1]), seed=0, adapter="host", patience=300.0
)
parts = [Part("broken", "a part", 1, "selftest_broken"), Part("later", "another", 1, "selftest_broken")]
sys.exit(command.main(options, parts))
"""


def test_ctrl_c_gives_the_report_so_far_and_leaves_no_process(tmp_path):
    marker, out = tmp_path / "marker", tmp_path / "out.json"
    env = {"SELFTEST_CHECKS": "good,wrong,hangs,good", "SELFTEST_MARKER": str(marker)}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(PACKAGE.parent)])
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(out)], env=clean_environment(env), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 200
    while not (marker.exists() and marker.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    page, errors = process.communicate(timeout=60)
    assert process.returncode == 1, page + errors
    assert "interrupted" in page and "2.0 instead of 3.0" in page and "Traceback" not in errors
    assert re.search(r"^later .*not run", page, re.M)
    [part] = json.loads(out.read_text())["parts"]
    assert [check["outcome"] for check in part["checks"]] == ["passed", "failed", "left out", "left out"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


# --- broken results are found, by the checks themselves ----------------------------------------------------------------


@pytest.fixture
def run_check():
    """`run_check("kernels", "pointwise: relu")` makes the part's checks and runs the one; None, or what it found."""
    threads, interval = torch.get_num_threads(), sys.getswitchinterval()

    def run(part, name):
        context = Context(quick=True)
        [place] = [part_ for part_ in PARTS if part_.name == part]
        torch.manual_seed(0)
        [check] = [check for check in place.checks(context) if check.name == name]
        try:
            check.run(context)
        except Failed as failed:
            return str(failed)
        return None

    yield run
    torch.set_num_threads(threads)
    sys.setswitchinterval(interval)


def on_mps(original, spoil):
    """`original`, with `spoil` on the result where that is on mps."""

    def spoiled(*args, **kwargs):
        result = original(*args, **kwargs)
        return spoil(result) if isinstance(result, torch.Tensor) and result.device.type == "mps" else result

    return spoiled


class Now_and_then:
    """Leaves out every `every`-th call of a method that works in place."""

    def __init__(self, original, every):
        self.original, self.every, self.calls = original, every, 0

    def method(self):
        def call(tensor, *args, **kwargs):
            self.calls += 1
            return tensor if self.calls % self.every == 0 else self.original(tensor, *args, **kwargs)

        return call


def one_element_off(x):
    x = x.clone()
    x.view(-1)[5] += 1e-3
    return x


def kept():
    memory = []

    def keep(x):
        memory.append(x)
        return x

    return keep


FAULTS = {
    "one element of an op": (
        "kernels", "pointwise: exp",
        lambda patch: patch.setattr(torch, "exp", on_mps(torch.exp, one_element_off)),
        r"float32 \[7, 33\]: 1 of 231 elements, first .* instead of .* at \[0, 5\]; largest error 0.001 where .* is allowed",
    ),
    "another type": (
        "kernels", "pointwise: exp",
        lambda patch: patch.setattr(torch, "exp", on_mps(torch.exp, torch.Tensor.half)), r"float16 \[7, 33\].* instead of float32",
    ),
    "a sort that is not stable": (
        "kernels", "reductions: sort", lambda patch: patch.setattr(
            torch.Tensor, "sort",
            (lambda original: lambda x, *a, **k: tuple(
                t.flip(-1) if x.device.type == "mps" and t.dtype == torch.int64 else t for t in original(x, *a, **k)
            ))(torch.Tensor.sort),
        ),
        r"result 1: int64 \[7, 33\]: \d+ of 231 elements.*which have to be equal",
    ),
    "a model in low precision": (
        "kernels", "models: linear",
        lambda patch: patch.setattr(torch.nn.Linear, "forward", on_mps(torch.nn.Linear.forward, lambda x: x.half().float())),
        r"relative error .* where .* is allowed",
    ),
    "random numbers off their mean": (
        "kernels", "random_numbers: randn", lambda patch: patch.setattr(torch, "randn", on_mps(torch.randn, lambda x: x + 0.2)),
        "mean 0.[12].* instead of 0",
    ),
    "events that are never complete": (
        "events", "an event is complete after its wait, and so is the work before it",
        lambda patch: patch.setattr(torch.mps.Event, "query", lambda event: False), r"query\(\) is False after synchronize",
    ),
    "an addition that is lost": (
        "hazards", "no addition in place is lost",
        lambda patch: patch.setattr(torch.Tensor, "add_", Now_and_then(torch.Tensor.add_, 50).method()),
        r"8 threads added 1 25 times each: 1000 of 1000 elements are not 200",
    ),
    "a write that comes to nothing": (
        "hazards", "write after write, across streams",
        lambda patch: patch.setattr(torch.Tensor, "mul_", Now_and_then(torch.Tensor.mul_, 2).method()), "four writes in order",
    ),
    "a value of the round before": (
        "hazards", "read after write, across threads",
        lambda patch: patch.setattr(torch.Tensor, "fill_", Now_and_then(torch.Tensor.fill_, 3).method()), "read before the write",
    ),
    "threads that get other bits": (
        "threads", "bmm, float32",
        lambda patch: patch.setattr(
            torch, "bmm", (lambda original: lambda *a: original(*a) + (1e-7 if len(calls) > 20 else calls.append(0) or 0))(torch.bmm)
        ),
        r"thread \d+ of 31 got other bits than one thread alone: result 0",
    ),
    "a strided copy of other elements": (
        "patterns", "strided views made contiguous, 8 threads",
        lambda patch: patch.setattr(torch.Tensor, "contiguous", on_mps(torch.Tensor.contiguous, one_element_off)),
        "copy 1 of a strided view",
    ),
    "attention that is off": (
        "patterns", "MultiheadAttention beside the CPU, 8 threads",
        lambda patch: patch.setattr(torch.nn.MultiheadAttention, "forward", (lambda original: lambda self, x, *a, **k: (
            original(self, x, *a, **k)[0] * (1.001 if x.device.type == "mps" else 1), None
        ))(torch.nn.MultiheadAttention.forward)),
        r"MultiheadAttention: relative error 1.00e-03",
    ),
    "a leak": (
        "memory", "forwards leave nothing behind",
        lambda patch: patch.setattr(torch.nn.ReLU, "forward", on_mps(torch.nn.ReLU.forward, kept())),
        "allocated and driver bytes went from",
    ),
    "plans that give something else": (
        "plans", "MLP: a plan gives what eager mode gives",
        lambda patch: patch.setattr(rivulet, "capture", lambda model, *a, **k: lambda x: model(x).detach() * 1.01), "call 0: .* off",
    ),
    "rows of others": (
        "plans", "a Batcher gives each caller its rows",
        lambda patch: patch.setattr(
            rivulet.Batcher, "__call__", (lambda original: lambda self, x: original(self, x).roll(1, -1))(rivulet.Batcher.__call__)
        ),
        r"thread \d, step \d",
    ),
    "an error that is lost": (
        "robustness", "a factor of no inverse: an error that says so",
        lambda patch: patch.setattr(torch.linalg, "inv", lambda x: x), "no error was raised",
    ),
    "a result of the benchmark": (
        "benchmark", "Linear 256-128, 32 rows",
        lambda patch: patch.setattr(torch.nn.Linear, "forward", on_mps(torch.nn.Linear.forward, lambda x: x * 1.001)),
        "relative error 1.00e-03",
    ),
}  # fmt: skip
calls: list[int] = []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named_and_without_it_the_check_passes(run_check, monkeypatch, fault):
    part, name, inject, text = FAULTS[fault]
    calls.clear()
    assert run_check(part, name) is None
    from rivulet.selftest import workloads

    workloads.workloads.cache_clear()
    with monkeypatch.context() as patch:
        inject(patch)
        found = run_check(part, name)
    assert found is not None, "the fault was not found"
    assert re.search(text, found), found


def test_ops_on_the_cpu_path_are_told_and_are_no_failure(run_check, monkeypatch):
    monkeypatch.setattr(rivulet, "fallback_counts", lambda: {"aten::exp": 3})
    context = Context(quick=True)
    [check] = [check for check in PARTS[1].checks(context) if check.name == "pointwise: exp"]
    check.run(context)
    assert context.facts["fallbacks"] == {"aten::exp": 3}


# --- what is compared, and how it is told --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "wanted", "text"),
    [
        ([1.0, float("nan")], [1.0, float("nan")], ""),
        ([1.0, 2.0], [1.0, float("nan")], "1 of 2 elements, first 2.0 instead of nan"),
        ([1.0, float("nan")], [1.0, 2.0], "first nan instead of 2.0"),
        ([float("inf")], [float("inf")], ""),
        ([float("-inf")], [float("inf")], "first -inf instead of inf"),
        ([3e38], [float("inf")], "instead of inf"),
        ([1.0 + 1e-6], [1.0], ""),
        ([1.0 + 1e-4], [1.0], "largest error 0.0001 where 1.13e-05 is allowed"),
    ],
)
def test_values_are_compared_with_nan_and_infinity_in_their_places(got, wanted, text):
    said = compare.difference(torch.tensor(got), torch.tensor(wanted))
    assert (said == "") == (text == "") and text in said


def test_integers_have_to_be_equal():
    assert compare.difference(torch.tensor([1, 2]), torch.tensor([1, 2])) == ""
    assert "first 3 instead of 2 at [1], which have to be equal" in compare.difference(torch.tensor([1, 3]), torch.tensor([1, 2]))


def test_a_result_as_near_to_float64_as_the_cpu_is_right_and_one_further_off_is_not():
    truth = torch.tensor([1.0, 100.0], dtype=torch.float64)
    cpu = (truth + 1e-3).float()
    assert compare.as_near_as_the_cpu((truth - 1e-3).float(), cpu, truth)
    assert not compare.as_near_as_the_cpu((truth + 3e-3).float(), cpu, truth)
    assert not compare.as_near_as_the_cpu(torch.tensor([1.0, float("inf")]), cpu, truth)


def test_a_view_goes_to_the_device_as_the_view_that_it_is():
    base = torch.arange(24.0)
    for view in (base[3:], base.view(4, 6).t(), base.view(4, 6)[1:, ::2], base[:1].expand(5)):
        there = compare.to_device(view)
        assert there.device.type == "mps" and torch.equal(there.cpu(), view)
        assert (there.stride(), there.storage_offset()) == (view.stride(), view.storage_offset())


def test_two_checks_of_one_name_are_refused(monkeypatch):
    monkeypatch.setenv("SELFTEST_CHECKS", "good")
    import selftest_broken

    twins = [Check("one", selftest_broken._good), Check("one", selftest_broken._good)]
    monkeypatch.setattr(selftest_broken, "checks", lambda context: twins)
    with pytest.raises(ValueError, match="share the names one"):
        Part("broken", "", 1, "selftest_broken").checks(Context())


def test_rounds_end_with_their_count_or_their_time_but_never_before_one():
    context = Context(quick=True)
    assert list(context.rounds(3, 30, 60)) == [0, 1, 2] and context.facts["rounds"] == 3
    assert list(Context(quick=False).rounds(3, 5, 60)) == [0, 1, 2, 3, 4]
    over = Context(deadline=time.monotonic() - 1)
    assert list(over.rounds(3, 30, 60)) == [0]


def test_the_record_does_not_tell_the_name_of_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    part = runner.PartResult(PARTS[0], [runner.Result("a", outcome="failed", message=f"in {tmp_path}/x", facts={"p": [f"{tmp_path}/y"]})])
    made = record.record([part], runner.Options(), ["machine"], 0.0, 1.0)
    assert str(tmp_path) not in json.dumps(made) and "~/x" in json.dumps(made)


def test_selected_parts_keep_their_order_and_the_machine_comes_first():
    assert [part.name for part in command.selected(["plans", "events"])] == ["machine", "events", "plans"]
    assert command.selected(None) == list(PARTS)


def test_the_help_names_every_part():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert all(part.name in parser.format_help() for part in PARTS)
