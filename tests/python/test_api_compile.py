"""`torch.compile`: every backend that needs no Metal compiler works, and with the default one a graph becomes a plan."""

from __future__ import annotations

import warnings

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def warned(monkeypatch):
    from rivulet import _compile

    monkeypatch.setattr(_compile, "_warned", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: [w for w in caught if "torch.compile" in str(w.message) and "plan" in str(w.message)]


@pytest.fixture
def plans(monkeypatch):
    """The plans that backends made."""
    from rivulet import _plan

    made = []

    class Noted(_plan.Plan):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(_plan, "Plan", Noted)
    return made


def mlp():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4)).to("mps").eval()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_backends_without_code_generation(backend, warned):
    model, x = mlp(), torch.randn(3, 8, device="mps")
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(compiled(x).cpu(), model(x).cpu())
    assert not warned()


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "reduce-overhead"}, {"dynamic": True}, {"fullgraph": True}, {"backend": "rivulet"}],
    ids=str,
)
def test_a_graph_becomes_a_plan(options, warned, plans):
    model = mlp()
    compiled = torch.compile(model, **options)
    with torch.no_grad():
        for rows in (3, 5, 3, 5, 7, 7):
            x = torch.randn(rows, 8, device="mps")
            assert torch.equal(compiled(x).cpu(), model(x).cpu())
    stats = [plan.stats() for plan in plans]
    calls, misses = (sum(one[name] for one in stats) for name in ("calls", "misses"))
    assert calls >= 2 and calls + misses == 6
    assert not warned()


def test_the_backend_is_listed():
    assert "rivulet" in torch._dynamo.list_backends()


def test_what_cannot_become_a_plan_is_told_once_and_runs_as_captured(warned):
    for function in (torch.sin, torch.cos, torch.tan):
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, function=function: function(x).cpu() + 1)
        for _ in range(2):
            assert torch.allclose(compiled(torch.ones(2, device="mps")), function(torch.ones(2)) + 1)
    assert len(warned()) == 1


def test_gradients_flow(warned, plans):
    model, x = mlp(), torch.randn(3, 8, device="mps")
    torch.compile(model)(x).sum().backward()
    compiled = [p.grad.cpu().clone() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    assert all(torch.allclose(a, p.grad.cpu()) for a, p in zip(compiled, model.parameters(), strict=True))
    assert plans and not any(plan.stats()["calls"] for plan in plans)


class Own(torch.nn.Module):
    """PyTorch compiles only modules of the user's own in place, not its Sequential."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        return self.inner(x) + 1


def test_module_compile_in_place(warned):
    model, x = Own().to("mps"), torch.randn(3, 8, device="mps")
    expected = model(x).cpu()
    model.compile()
    assert torch.equal(model(x).cpu(), expected) and not warned()


def test_function_that_moves_to_mps_inside(warned):
    @torch.compile
    def double(x):
        return (x.to("mps") * 2).cpu()

    assert double(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(warned()) == 1


def test_function_that_makes_mps_tensors_inside(warned):
    @torch.compile
    def make(x):
        return x + torch.ones(3, device="mps").cpu()

    assert make(torch.ones(3)).tolist() == [2, 2, 2]


def test_graphs_without_mps_still_reach_inductor(monkeypatch, warned):
    import torch._inductor.compile_fx as compile_fx

    seen = []

    def recorded(graph, inputs, **options):
        seen.append(graph)
        return graph.forward

    monkeypatch.setattr(compile_fx, "compile_fx", recorded)
    assert torch.compile(lambda x: x * 2)(torch.ones(3)).tolist() == [2, 2, 2]
    assert len(seen) == 1 and not warned()
    from torch._inductor.utils import get_gpu_type

    assert get_gpu_type() != "mps"
    torch._dynamo.reset()
    torch.compile(lambda x: x * 2)(torch.ones(3, device="mps"))
    assert len(seen) == 1


@pytest.mark.slow
def test_inductor_compiles_for_the_cpu_beside_mps(warned):
    torch.ones(2, device="mps").sum().item()
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    x = torch.randn(3, 8)
    y = torch.compile(model)(x)
    y.sum().backward()
    assert torch.allclose(y, model(x), atol=1e-6) and not warned()


def test_compiled_model_from_several_threads(in_threads, warned):
    model = mlp()
    compiled = torch.compile(model)
    inputs = [torch.randn(3, 8, device="mps") for _ in range(4)]
    compiled(inputs[0])

    def body(index):
        with torch.no_grad():
            return all(torch.equal(compiled(inputs[index]).cpu(), model(inputs[index]).cpu()) for _ in range(10))

    assert in_threads(4, body) == [True] * 4
