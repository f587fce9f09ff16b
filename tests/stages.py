"""The stages of `./run test`: each runs even where an earlier one failed, and all are counted together.

Needs the standard library alone; the Python tests run in the environments that `./run setup` makes. The last line is
`N passed, N failed, N skipped`. A stage that has no count of its own (a check) counts as one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "python"
OPINFO = TESTS / "opinfo"
MAIN_TORCH = "2.11.0"
NEXT_TORCH = "2.15.0"
# What must hold on the newer PyTorch too; the rest runs on the main one.
NEXT_TORCH_TESTS = ["test_guide.py", "test_api_*.py", "test_import.py", "test_models.py", "test_takeover.py", "test_in_tree_ops.py"]
FAST_TESTS = ["test_guide.py", "test_api_*.py", "test_import.py"]
# On two cores a part takes at most two minutes.
VULKAN_PARTS = 5
DARWIN = "aarch64-apple-darwin"


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __iadd__(self, other: "Count") -> "Count":
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        return self


def check(ok: bool) -> Count:
    return Count(passed=1) if ok else Count(failed=1)


@dataclass
class Outcome:
    """What a command did: its exit code (None where it ran past its time) and all that it printed."""

    code: int | None
    text: str


@dataclass
class Stage:
    name: str
    body: Callable[[], Count]
    count: Count = field(default_factory=Count)
    seconds: float = 0.0
    note: str = ""


def say(text: str) -> None:
    print(text, flush=True)


def run(command: list[str], timeout: float, env: dict[str, str] | None = None, quiet: bool = False) -> Outcome:
    """Runs a command, shows its output as it comes, and ends it with all its children after `timeout` seconds."""
    say("$ " + " ".join(command))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    expired = False

    # Raised out of the reading: a child in a session of its own may hold the pipe open for ever.
    def end(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(max(1, int(timeout)))
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if not quiet:
                sys.stdout.write(line)
                sys.stdout.flush()
        process.wait()
    except TimeoutError:
        expired = True
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if expired:
        say(f"stopped after {timeout:.0f} s: {' '.join(command)}")
    elif quiet and process.returncode != 0:
        say("".join(lines))
    return Outcome(None if expired else process.returncode, "".join(lines))


# ---------------------------------------------------------------- Rust


class Suite:
    """The stages of one invocation, chosen by its arguments."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.ready: dict[str, bool] = {}
        self.counts_by_file: list[tuple[str, str, Count, float]] = []

    def setup(self, torch: str) -> Count:
        outcome = run([str(ROOT / "run"), "setup"], 2400, {"RIVULET_TORCH": torch})
        self.ready[torch] = outcome.code == 0
        return check(self.ready[torch])

    def fmt(self) -> Count:
        if not has_cargo("fmt"):
            say("skipped: rustfmt is not installed (rustup component add rustfmt)")
            return Count(skipped=1)
        return check(run(["cargo", "fmt", "--all", "--check"], 120).code == 0)

    def clippy(self) -> Count:
        if not has_cargo("clippy"):
            say("skipped: clippy is not installed (rustup component add clippy)")
            return Count(skipped=1)
        command = ["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]
        return check(run(command, 1200).code == 0)

    def rust_tests(self) -> Count:
        # All of the kernels' MSL goes through the C++ compiler, see docs/metal.md.
        env = {"RIVULET_MSL_SYNTAX": "1/1"} if shutil.which(os.environ.get("CXX") or "g++") else {}
        if has_cargo("nextest"):
            outcome = run(["cargo", "nextest", "run", "--workspace", "--no-fail-fast"], 1500, env)
            return nextest_count(outcome)
        say("cargo-nextest is not installed; cargo test runs the same tests")
        command = ["cargo", "test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]
        return libtest_count(run(command, 1500, env))

    def doctests(self) -> Count:
        return libtest_count(run(["cargo", "test", "--doc", "--workspace", "--no-fail-fast"], 900))

    def loom(self) -> Count:
        env = {"RUSTFLAGS": "--cfg loom", "CARGO_TARGET_DIR": str(target_dir() / "loom")}
        command = ["cargo", "test", "--release", "-p", "rivulet-hal", "-p", "rivulet", "--test", "loom_*"]
        return libtest_count(run([*command, "--no-fail-fast"], 1200, env))

    def seeded_bugs(self) -> Count:
        script = ROOT / "crates" / "rivulet" / "tests" / "seeded_bugs.sh"
        env = {"CARGO_TARGET_DIR": str(target_dir() / "loom")}
        return check(run(["bash", str(script)], 1200, env).code == 0)

    def darwin(self) -> Count:
        if not shutil.which("rustup"):
            say(f"skipped: without rustup the target {DARWIN} cannot be looked for")
            return Count(skipped=1)
        installed = subprocess.run(["rustup", "target", "list", "--installed"], capture_output=True, text=True)
        if DARWIN not in installed.stdout and run(["rustup", "target", "add", DARWIN], 120).code != 0:
            say(f"skipped: the target {DARWIN} is not installed and could not be fetched")
            return Count(skipped=1)
        # The bridge leaves its C++ part out when it is built for another platform than this one.
        command = ["cargo", "check", "--workspace", "--target", DARWIN, "--quiet"]
        total = check(run(command, 600).code == 0)
        if has_cargo("clippy"):
            lint = ["cargo", "clippy", "--workspace", "--target", DARWIN, "--quiet", "--", "-D", "warnings"]
            total += check(run(lint, 600).code == 0)
        document = ["cargo", "doc", "--workspace", "--no-deps", "--target", DARWIN, "--quiet"]
        total += check(run(document, 600, {"RUSTDOCFLAGS": "-D warnings -A rustdoc::private_intra_doc_links"}).code == 0)
        return total

    def deny(self) -> Count:
        if not has_cargo("deny"):
            say("skipped: cargo-deny is not installed (cargo install cargo-deny)")
            return Count(skipped=1)
        # Advisories come from the net and change without us; they are looked at by hand.
        return check(run(["cargo", "deny", "check", "licenses", "bans", "sources"], 300).code == 0)

    def housekeeping(self) -> Count:
        return check(run([sys.executable, str(ROOT / "tests" / "housekeeping.py")], 120).code == 0)

    # ------------------------------------------------------------ Python

    def python_tests(self, torch: str, files: list[Path], extra: list[str], env: dict[str, str], timeout: float) -> Count:
        """Each file in a process of its own: a crash or a hang costs that file alone."""
        total = Count()
        if not self.ready.get(torch):
            say(f"not run: the environment for PyTorch {torch} could not be set up")
            return Count(failed=1)
        venv = ROOT / (".venv" if torch == MAIN_TORCH else f".venv-{torch}")
        python = str(venv / "bin" / "python")
        # Tests that start commands find the environment's Python first, as users do.
        env = {**env, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(venv)}
        for file in files:
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                report = Path(scratch) / "report.xml"
                command = [python, "-m", "pytest", "-q", f"--junitxml={report}", *extra, str(file.relative_to(ROOT))]
                outcome = run(command, timeout, env)
                count = pytest_count(outcome, report)
            total += count
            self.counts_by_file.append((torch, str(file.relative_to(TESTS)), count, time.monotonic() - start))
        return total

    def main_python(self) -> Count:
        extra = []
        if self.args.keyword:
            extra += ["-k", self.args.keyword]
        files = self.args.files or python_files(FAST_TESTS if self.args.fast else ["**/test_*.py"])
        asked_for = self.args.full or self.args.files or self.args.keyword is not None
        if not asked_for:
            extra += ["-m", "not slow"]
        return self.python_tests(MAIN_TORCH, files, extra, {}, 1200)

    def next_python(self) -> Count:
        return self.python_tests(NEXT_TORCH, python_files(NEXT_TORCH_TESTS), [], {}, 900)

    def opinfo(self) -> Count:
        shard = "all" if self.args.opinfo_all else f"{commit_number() % 10}/10"
        say(f"shard {shard}")
        # Values and gradients in float32 alone, so that a larger part takes no longer.
        vulkan = "all" if self.args.opinfo_all else f"{commit_number() % VULKAN_PARTS}/{VULKAN_PARTS}"
        timeout = 3 * 3600 if self.args.opinfo_all else 1200
        env = {"RIVULET_OPINFO_SHARD": shard, "RIVULET_OPINFO_VULKAN_SHARD": vulkan}
        return self.python_tests(MAIN_TORCH, opinfo_files(), [], env, timeout)

    def stages(self) -> list[Stage]:
        args = self.args
        chosen = [Stage(f"set-up for PyTorch {MAIN_TORCH}", lambda: self.setup(MAIN_TORCH))]
        if args.files or args.keyword is not None:
            return [*chosen, Stage(f"Python tests on {MAIN_TORCH}", self.main_python)]
        if args.opinfo_all and opinfo_files():
            return [*chosen, Stage("OpInfo, all", self.opinfo)]
        chosen += [
            Stage("rustfmt", self.fmt),
            Stage("housekeeping", self.housekeeping),
            Stage("clippy", self.clippy),
            Stage("Rust tests", self.rust_tests),
        ]
        if args.fast:
            return [*chosen, Stage(f"Python tests on {MAIN_TORCH}", self.main_python)]
        chosen += [Stage("Rust doctests", self.doctests), Stage("loom models", self.loom)]
        if (ROOT / "crates" / "rivulet" / "tests" / "seeded_bugs.sh").exists():
            chosen.append(Stage("seeded bugs", self.seeded_bugs))
        chosen += [
            Stage("macOS type check", self.darwin),
            Stage("dependency licences", self.deny),
            Stage(f"Python tests on {MAIN_TORCH}", self.main_python),
        ]
        if opinfo_files():
            chosen.append(Stage("OpInfo shard", self.opinfo))
        return [
            *chosen,
            Stage(f"set-up for PyTorch {NEXT_TORCH}", lambda: self.setup(NEXT_TORCH)),
            Stage(f"Python tests on {NEXT_TORCH}", self.next_python),
        ]


# ---------------------------------------------------------------- counting


def nextest_count(outcome: Outcome) -> Count:
    found = re.findall(r"Summary \[.*?\] .*", outcome.text)
    if not found:
        return check(outcome.code == 0)
    line = re.sub(r"\x1b\[[0-9;]*m", "", found[-1])
    number = lambda word: sum(int(n) for n in re.findall(rf"(\d+) {word}", line))  # noqa: E731
    count = Count(number("passed"), number("failed") + number("timed out") + number("exec failed"), number("skipped"))
    return at_least_one_failed(count, outcome)


def libtest_count(outcome: Outcome) -> Count:
    count = Count()
    for passed, failed, ignored in re.findall(
        r"test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored", outcome.text
    ):
        count += Count(int(passed), int(failed), int(ignored))
    if count == Count() and outcome.code == 0:
        return Count(passed=1)
    return at_least_one_failed(count, outcome)


def pytest_count(outcome: Outcome, report: Path) -> Count:
    # 5: nothing was collected, which is right for a file that -k or -m left nothing of.
    if outcome.code == 5:
        return Count()
    try:
        suites = list(ET.parse(report).getroot().iter("testsuite"))
    except (OSError, ET.ParseError):
        # The process died: what had run before is not known, so it counts as one failure.
        return Count(failed=1)
    total = lambda key: sum(int(suite.get(key, 0)) for suite in suites)  # noqa: E731
    failed = total("failures") + total("errors")
    count = Count(max(0, total("tests") - failed - total("skipped")), failed, total("skipped"))
    return at_least_one_failed(count, outcome)


def at_least_one_failed(count: Count, outcome: Outcome) -> Count:
    """A command that failed without naming a failed test (it did not compile, it crashed) is a failure all the same."""
    if outcome.code != 0 and count.failed == 0:
        count.failed = 1
    return count


# ---------------------------------------------------------------- helpers


def has_cargo(command: str) -> bool:
    return subprocess.run(["cargo", command, "--version"], capture_output=True).returncode == 0


def target_dir() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def python_files(patterns: list[str]) -> list[Path]:
    found = {file for pattern in patterns for file in TESTS.glob(pattern)}
    return sorted(file for file in found if OPINFO not in file.parents)


def opinfo_files() -> list[Path]:
    return sorted(OPINFO.glob("test_*.py"))


def commit_number() -> int:
    """A number that changes from commit to commit, so that ten commits in a row cover about every shard."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return int(head.stdout[:8], 16) if head.returncode == 0 else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run test", description="Run the tests.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--fast", action="store_true", help="under five minutes: no loom, no second PyTorch, no slow tests")
    size.add_argument("--full", action="store_true", help="the tests marked slow too: many rounds, the wheel; ten to fifteen minutes more")
    parser.add_argument("-k", dest="keyword", metavar="EXPR", help="only the Python tests that match, as in pytest -k")
    parser.add_argument("--opinfo-all", action="store_true", help="the whole OpInfo sweep (ten minutes on two idle cores) and nothing else")
    parser.add_argument("--called-from", type=Path, default=Path.cwd(), help=argparse.SUPPRESS)
    parser.add_argument("files", nargs="*", help="only these Python test files")
    args = parser.parse_args()
    files = []
    for name in args.files:
        path = (args.called_from / name).resolve()
        if not path.is_file() or TESTS not in path.parents:
            parser.error(f"{name}: that is no test file under tests/python")
        files.append(path)
    args.files = files
    return args


def main() -> int:
    suite = Suite(parse())
    stages = suite.stages()
    try:
        for stage in stages:
            say(f"\n== {stage.name} ==")
            start = time.monotonic()
            stage.count = stage.body()
            stage.seconds = time.monotonic() - start
    except KeyboardInterrupt:
        say("\ninterrupted")
        return 130
    total = Count()
    if suite.counts_by_file:
        say(f"\n{'Python test file':<48}{'torch':>8}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
        for torch, name, count, seconds in suite.counts_by_file:
            say(f"{name:<48}{torch:>8}{count.passed:>8}{count.failed:>8}{count.skipped:>8}{seconds:>9.1f}")
    say(f"\n{'stage':<32}{'':>6}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for stage in stages:
        word = "FAILED" if stage.count.failed else "ok"
        row = stage.count
        say(f"{stage.name:<32}{word:>6}{row.passed:>8}{row.failed:>8}{row.skipped:>8}{stage.seconds:>9.1f}")
        total += stage.count
    say(f"\n{total.passed} passed, {total.failed} failed, {total.skipped} skipped")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
