"""One entry of op_db under one task, on mps against the CPU.

Each check takes the entry and a Tally, runs all samples, and raises nothing: what went wrong is in the tally.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from . import compare
from .compare import Difference
from .rules import Dispute, Rule, find_rule
from .samples import Mirror, OnHost

# The bytes of these results are whatever the memory held.
UNINITIALISED = {
    "empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided", "resize_", "resize_as_",
}  # fmt: skip
KEPT_ERRORS = 5
# Draws of a random entry on each device for its statistics.
DRAWS = 128
# Entries whose further operands are index tensors that PyTorch wants on the CPU beside any device's input.
HOST_OPERANDS = {"tensor_split"}


@dataclass
class Tally:
    """Counts of one item. `errors` holds the first few failures, each with the sample's number."""

    samples: int = 0
    passed: int = 0
    exact: int = 0
    random: int = 0
    raised_alike: int = 0
    by_rule: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return self.samples - self.passed

    def run(self, what: str, body: Callable[[], bool]) -> None:
        """Counts one sample; `body` returns whether the result was bit-equal, or raises."""
        self.samples += 1
        try:
            exact = body()
        except Difference as difference:
            self._keep(f"{what}: {difference}")
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            where = next((f for f in reversed(frames) if "/opinfo/" not in f.filename), frames[-1])
            text = str(error).split("\n\nException raised from")[0][:600]
            self._keep(f"{what}: {type(error).__name__}: {text} (at {where.filename.split('/')[-1]}:{where.lineno})")
        else:
            self.passed += 1
            self.exact += exact

    def _keep(self, text: str) -> None:
        if len(self.errors) < KEPT_ERRORS:
            self.errors.append(text)


@dataclass
class Side:
    """One sample on one device, called once."""

    mirror: Mirror
    result: Any = None
    error: Exception | None = None


def call_on(device: str, sample: Any, call: Callable[[Mirror, Any, tuple, dict], Any]) -> Side:
    side = Side(Mirror(device))
    value, args, kwargs = (side.mirror(part) for part in (sample.input, sample.args, sample.kwargs))
    try:
        side.result = call(side.mirror, value, args, kwargs)
    except Exception as error:
        side.error = error
    return side


def mps_generator_state() -> torch.Tensor:
    return torch.mps.get_rng_state()


def both(sample: Any, call: Callable[..., Any], tally: Tally) -> tuple[Side, Side, bool] | None:
    """Runs the sample on both devices from one seed; None where both refuse it alike.

    The third value tells whether the entry drew random numbers. An op on mps that draws from the CPU's generator, or
    leaves the generator of mps where its CPU twin draws, is reported.
    """
    torch.manual_seed(0)
    before = torch.get_rng_state()
    host = call_on("cpu", sample, call)
    drew = not torch.equal(before, torch.get_rng_state())
    torch.manual_seed(0)
    device_before = mps_generator_state()
    device = call_on("mps", sample, call)
    if host.error is not None:
        if device.error is None:
            raise Difference(f"cpu raises {type(host.error).__name__} ({host.error}), mps nothing")
        if type(device.error) is not type(host.error):
            raise Difference(
                f"cpu raises {type(host.error).__name__} ({host.error}), "
                f"mps {type(device.error).__name__} ({device.error})"
            )
        tally.raised_alike += 1
        return None
    if device.error is not None:
        raise device.error
    if drew and torch.equal(device_before, mps_generator_state()):
        raise Difference("draws from the CPU's generator on the CPU, but not from that of mps on mps")
    if not torch.equal(before, torch.get_rng_state()):
        raise Difference("changes the CPU's generator though everything is on mps")
    return host, device, drew


def check_side_effects(host: Side, device: Side, values: bool = True) -> None:
    """Operands changed in place: the same ones, to the same values."""
    for index, (a, b) in enumerate(zip(host.mirror.tensors, device.mirror.tensors)):
        if a.is_inference() or b.is_inference():
            continue
        # How often is PyTorch's own affair: resizing an out= counts on every device but the CPU.
        if (a._version == 0) != (b._version == 0):
            raise Difference(f"operand {index} has version {b._version} on mps, {a._version} on cpu")
        if a._version:
            compare.check_results(a, b, values=values)
    mine = compare.sharing(host.result, host.mirror.tensors)
    theirs = compare.sharing(device.result, device.mirror.tensors)
    if mine != theirs:
        raise Difference(f"results share memory with operands or results {theirs} on mps, {mine} on cpu")


def judge(
    sample: Any,
    call: Callable[..., Any],
    tally: Tally,
    *,
    values: bool = True,
    autograd: bool = False,
    rule: Rule | None = None,
) -> bool:
    outcome = both(sample, call, tally)
    if outcome is None:
        return False
    host, device, drew = outcome
    if not drew:
        form = {"autograd": autograd, "moved": device.mirror.moved}
        try:
            exact = compare.check_results(host.result, device.result, values=values, **form)
        except Difference as difference:
            if rule is None:
                raise
            compare.check_results(host.result, device.result, values=False, **form)
            rule.judge(Dispute(host.result, device.result, lambda: in_float64(sample, call), sample, str(difference)))
            tally.by_rule += 1
            # out= operands are the results that were judged.
            check_side_effects(host, device, values=False)
            return False
        check_side_effects(host, device, values)
        return exact
    tally.random += 1
    compare.check_results(
        host.result, device.result, values=False, autograd=autograd, moved=device.mirror.moved
    )
    if values:
        judge_random(sample, call)
    return False


def in_float64(sample: Any, call: Callable[..., Any]) -> Any:
    """What the CPU gives for a sample in double precision."""
    wide = {torch.complex64: torch.complex128}
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def widened(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() and not tensor.is_complex():
            return tensor
        if id(tensor) not in seen:
            copy = tensor.detach().to(wide.get(tensor.dtype, torch.float64))
            seen[id(tensor)] = (tensor, copy.requires_grad_(tensor.requires_grad))
        return seen[id(tensor)][1]

    value, args, kwargs = map_tensors((sample.input, sample.args, sample.kwargs), widened)
    side = call_on("cpu", SimpleNamespace(input=value, args=args, kwargs=kwargs), call)
    if side.error is not None:
        raise side.error
    return side.result


def judge_random(sample: Any, call: Callable[..., Any]) -> None:
    """Reproducible from a seed, different from another seed where the CPU's is, and distributed like the CPU's."""

    def draw(device: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        side = call_on(device, sample, call)
        if side.error is not None:
            raise side.error
        # Nothing more is done on mps, where it might count as a fallback of the entry.
        results = [t.detach().cpu() for t in compare.tensors(side.result)]
        values = [compare.numbers(t.to_dense() if t.layout != torch.strided else t) for t in results]
        return torch.cat(values) if values else torch.empty(0, dtype=torch.double)

    once, again = draw("mps", 1), draw("mps", 1)
    if not torch.equal(once.nan_to_num(), again.nan_to_num()):
        raise Difference("two runs from one seed differ on mps")
    if not once.numel():
        return
    draws = {device: torch.stack([draw(device, 100 + n) for n in range(DRAWS)]) for device in ("cpu", "mps")}
    # Two seeds may well give the same few values; half as many different ones as on the CPU is no accident.
    different = {device: len(rows.unique(dim=0)) for device, rows in draws.items()}
    if different["mps"] < different["cpu"] / 2:
        raise Difference(
            f"different seeds give the same values on mps: {DRAWS} seeds, {different['mps']} results, "
            f"{different['cpu']} on cpu"
        )
    what = compare.distributions_differ(draws["cpu"], draws["mps"])
    if what:
        raise Difference(what)


# ---------------------------------------------------------------- the tasks


def samples_of(op: Any, dtype: torch.dtype, requires_grad: bool = False) -> Iterable[Any]:
    torch.manual_seed(0)
    for sample in op.sample_inputs("cpu", dtype, requires_grad=requires_grad):
        if op.name in HOST_OPERANDS:
            sample.args = tuple(OnHost(arg) if isinstance(arg, torch.Tensor) else arg for arg in sample.args)
        yield sample


def forward(op: Any, dtype: torch.dtype, tally: Tally) -> None:
    """The function on every sample."""
    rule = find_rule(op.name, "forward")

    def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict) -> Any:
        return op(value, *args, **kwargs)

    for number, sample in enumerate(samples_of(op, dtype)):
        tally.run(
            f"sample {number}",
            lambda sample=sample: judge(sample, call, tally, values=op.name not in UNINITIALISED, rule=rule),
        )


def gradients(op: Any, dtype: torch.dtype, tally: Tally) -> None:
    """First derivatives of every sample, against fixed weights of the outputs."""
    rule = find_rule(op.name, "gradients")

    def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict, process: Callable[[Any], Any]) -> Any:
        result = op(value, *args, **kwargs)
        return result, packed(first_derivatives(process(result), mirror.leaves))

    for number, sample in enumerate(samples_of(op, dtype, requires_grad=True)):
        bound = _bind(call, sample.output_process_fn_grad)
        tally.run(
            f"sample {number}",
            lambda sample=sample, bound=bound: judge(
                sample, bound, tally, values=op.name not in UNINITIALISED, autograd=True, rule=rule
            ),
        )


def _bind(call: Callable[..., Any], *extra: Any) -> Callable[..., Any]:
    return lambda mirror, value, args, kwargs: call(mirror, value, args, kwargs, *extra)


def weights_like(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """The same values on every device: drawn on the CPU from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    shape = tensor.shape
    dtype = tensor.dtype if tensor.dtype.is_floating_point or tensor.dtype.is_complex else torch.float32
    # Those of double precision are the ones of single precision: see in_float64.
    drawn = {torch.float64: torch.float32, torch.complex128: torch.complex64}.get(dtype, dtype)
    return torch.randn(shape, dtype=drawn, generator=generator).to(tensor.device, dtype)


def first_derivatives(result: Any, inputs: list[torch.Tensor], create_graph: bool = False) -> Any:
    outputs = [t for t in compare.tensors(result) if t.requires_grad]
    if not outputs or not inputs:
        return None
    weights = [weights_like(output, seed) for seed, output in enumerate(outputs)]
    return torch.autograd.grad(outputs, inputs, weights, allow_unused=True, create_graph=create_graph)


def packed(derivatives: Any) -> Any:
    """Contiguous copies. The strides of a gradient are those of the first of its summands, whose order is the engine's:
    it goes by numbers that every thread counts for itself, and mps has a backward thread where the CPU has none."""
    return map_tensors(
        derivatives,
        lambda t: t.clone(memory_format=torch.contiguous_format) if t.layout == torch.strided else t,
    )


def second_derivatives(op: Any, dtype: torch.dtype, tally: Tally) -> None:
    def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict, process: Callable[[Any], Any]) -> Any:
        result = process(op(value, *args, **kwargs))
        first = first_derivatives(result, mirror.leaves, create_graph=True)
        return packed(first), packed(first_derivatives(first, mirror.leaves))

    for number, sample in enumerate(samples_of(op, dtype, requires_grad=True)):
        bound = _bind(call, sample.output_process_fn_grad)
        tally.run(f"sample {number}", lambda sample=sample, bound=bound: judge(sample, bound, tally, autograd=True))


def forward_derivatives(op: Any, dtype: torch.dtype, tally: Tally) -> None:
    """Forward-mode: one tangent for every operand that takes a gradient."""
    import torch.autograd.forward_ad as forward_ad

    def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict) -> Any:
        duals = {}

        def dual(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in duals:
                primal = tensor.detach()
                duals[id(tensor)] = forward_ad.make_dual(primal, weights_like(primal, len(duals)))
            return duals[id(tensor)]

        leaf_ids = {id(leaf) for leaf in mirror.leaves}
        with forward_ad.dual_level():
            value, args, kwargs = map_tensors((value, args, kwargs), lambda t: dual(t) if id(t) in leaf_ids else t)
            results = compare.tensors(op(value, *args, **kwargs))
            return [tuple(forward_ad.unpack_dual(result)) for result in results]

    for number, sample in enumerate(samples_of(op, dtype, requires_grad=True)):
        tally.run(f"sample {number}", lambda sample=sample: judge(sample, call, tally))


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and not isinstance(value, torch.Size):
        parts = [map_tensors(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [map_tensors(part, change) for part in value]
    if isinstance(value, dict):
        return {key: map_tensors(part, change) for key, part in value.items()}
    return value


def variants(op: Any, dtype: torch.dtype, tally: Tally) -> None:
    """Method, operator and in-place forms, non-contiguous operands, and out=."""
    for number, sample in enumerate(samples_of(op, dtype)):
        for name in ("method_variant", "operator_variant"):
            form = getattr(op, name)
            if form is not None and form is not op.op:
                _run_form(op, form, sample, f"{name}, sample {number}", tally)
        for name in ("inplace_variant", "inplace_operator_variant"):
            form = getattr(op, name)
            if form is not None and not sample.broadcasts_input and isinstance(sample.input, torch.Tensor):
                _run_form(op, form, sample, f"{name}, sample {number}", tally)
        if op.name not in UNINITIALISED:
            try:
                loose = sample.noncontiguous()
            except (RuntimeError, NotImplementedError):
                loose = None  # sparse operands have no strides to make loose
            if loose is not None:
                _run_form(op, op.op, loose, f"non-contiguous, sample {number}", tally)
        if op.supports_out:
            _run_out(op, sample, number, tally)


def _run_form(op: Any, form: Callable[..., Any], sample: Any, what: str, tally: Tally) -> None:
    def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict) -> Any:
        result = form(value, *args, **kwargs)
        # That an in-place form returns its operand itself is part of the result.
        return result, result is value

    rule = find_rule(op.name, "variants")
    tally.run(what, lambda: judge(sample, call, tally, values=op.name not in UNINITIALISED, rule=rule))


def _run_out(op: Any, sample: Any, number: int, tally: Tally) -> None:
    """out= of the right size but other strides, of no size, and of a type that may not fit."""
    torch.manual_seed(0)
    try:
        host = call_on("cpu", sample, lambda mirror, value, args, kwargs: op(value, *args, **kwargs))
    except Exception:
        return
    results = host.result if isinstance(host.result, (tuple, list)) else (host.result,)
    if host.error is not None or not all(isinstance(t, torch.Tensor) and t.layout == torch.strided for t in results):
        return
    shapes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "other strides": lambda t: torch.ones_like(t, memory_format=torch.contiguous_format)
        .mT.contiguous()
        .mT
        if t.dim() > 1
        else torch.ones(t.shape + (2,), dtype=t.dtype)[..., 0],
        "no size": lambda t: torch.empty(0, dtype=t.dtype),
        "another dtype": lambda t: torch.ones(t.shape, dtype=torch.int32),
    }
    single = isinstance(host.result, torch.Tensor)
    rule = find_rule(op.name, "out=")
    for name, make in shapes.items():
        outs = tuple(make(result.detach()) for result in results)

        def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict, outs: tuple = outs) -> Any:
            targets = mirror(outs)
            returned = op(value, *args, **kwargs, out=targets[0] if single else targets)
            back = (returned,) if single else returned
            return targets, [a is b for a, b in zip(back, targets)]

        tally.run(
            f"out= of {name}, sample {number}",
            lambda call=call: judge(sample, call, tally, values=op.name not in UNINITIALISED, rule=rule),
        )


def errors(op: Any, tally: Tally) -> None:
    """The entry's own list of misuses: mps raises what the CPU raises."""
    import re

    torch.manual_seed(0)
    for number, error in enumerate(op.error_inputs("cpu")):
        sample = error.sample_input

        def body(sample: Any = sample, error: Any = error) -> bool:
            sides = [
                call_on(device, sample, lambda mirror, value, args, kwargs: op(value, *args, **kwargs))
                for device in ("cpu", "mps")
            ]
            host, device = (side.error for side in sides)
            if type(host) is not type(device):
                raise Difference(
                    f"cpu raises {type(host).__name__} ({host}), mps {type(device).__name__} ({device})"[:600]
                )
            if host is not None and re.search(error.error_regex, str(host)):
                if not re.search(error.error_regex, str(device)) and not re.search("mps", str(device).lower()):
                    raise Difference(f"says on mps: {device}; wanted: {error.error_regex}"[:600])
            return True

        tally.run(f"error input {number}", body)
