"""One entry of module_db under one task, on mps against the CPU."""

from __future__ import annotations

import copy
from typing import Any

import torch

from .checks import Mirror, Tally, first_derivatives, judge, packed


class _Case:
    """A built module and its operands, in the form of a sample."""

    def __init__(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.input, self.args, self.kwargs = None, args, kwargs
        self.module = module


def run(info: Any, dtype: torch.dtype, training: bool, tally: Tally) -> None:
    """Forward, the module's state afterwards, and in float32 the gradients of parameters and operands."""
    differentiate = dtype == torch.float32
    torch.manual_seed(0)
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=differentiate, training=training
    )
    for number, module_input in enumerate(inputs):
        if module_input.forward_input is None:
            continue

        def body(module_input: Any = module_input) -> bool:
            constructor = module_input.constructor_input
            module = info.module_cls(*constructor.args, **constructor.kwargs).to(dtype).train(training)
            case = _Case(module, module_input.forward_input.args, module_input.forward_input.kwargs)

            def call(mirror: Mirror, value: Any, args: tuple, kwargs: dict) -> Any:
                mine = copy.deepcopy(case.module).to(mirror.device)
                result = mine(*args, **kwargs)
                found = [result, list(mine.state_dict().values())]
                if differentiate:
                    wanted = [*mirror.leaves, *(p for p in mine.parameters() if p.requires_grad)]
                    found.append(packed(first_derivatives(result, wanted)))
                return found

            return judge(case, call, tally, autograd=differentiate)

        tally.run(f"input {number} ({module_input.desc})", body)
