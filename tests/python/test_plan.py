"""Plans: what a function gives as one call is what it gives op by op, whatever goes in and whoever calls."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import pytest
import rivulet
import torch
from plan_support import HOST, Attends, Follows, Found, bert, close, gpt2, mlp, on_mps
from torch import nn
from torch.nn import functional


def agrees(model, *args, calls=3, **kwargs):
    plan = rivulet.capture(model, *args, **kwargs)
    with torch.no_grad():
        expected = model(*args, **kwargs)
        for _ in range(calls):
            close(plan(*args, **kwargs), expected)
    return plan


# --- models ---------------------------------------------------------------------------------------------------


class Convolves(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)
        )

    def forward(self, x):
        y = functional.adaptive_avg_pool2d(self.body(x), 2)
        return functional.log_softmax(torch.cummax(y, 1).values.flatten(1), -1)


MODELS = {
    "linear": lambda: (on_mps(nn.Linear(8, 4)), torch.randn(3, 8)),
    "mlp": lambda: (mlp(), torch.randn(3, 8)),
    "encoder": lambda: (
        on_mps(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)),
        torch.randn(2, 5, 16),
    ),
    "attention": lambda: (on_mps(Attends()), torch.randn(2, 5, 16)),
    "lstm": lambda: (on_mps(nn.LSTM(6, 8, num_layers=2, batch_first=True, bidirectional=True)), torch.randn(2, 4, 6)),
    "gru": lambda: (on_mps(nn.GRU(6, 8, batch_first=True)), torch.randn(2, 4, 6)),
    "convolutions": lambda: (on_mps(Convolves()), torch.randn(2, 3, 12, 12)),
    "embedding": lambda: (on_mps(nn.EmbeddingBag(10, 4, mode="mean")), torch.tensor([[1, 2], [3, 9]])),
}


@pytest.mark.parametrize("name", MODELS)
def test_plan_equals_eager(name):
    torch.manual_seed(1)
    model, x = MODELS[name]()
    plan = agrees(model, x.to("mps"))
    stats = plan.stats()
    assert stats["calls"] == stats["hits"] == 3 and stats["misses"] == 0
    if HOST:
        assert stats["shapes"][0]["path"] == "CPU kernels without Python"


def test_bert_by_keywords_gives_its_model_output():
    torch.manual_seed(0)
    model = bert()
    ids = torch.randint(0, 50, (2, 7), device="mps")
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3], device="mps")
    plan = rivulet.capture(model, input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask)
        given = plan(input_ids=ids, attention_mask=mask)
        turned = plan(attention_mask=mask, input_ids=ids)
    assert type(given) is type(expected) and given.keys() == expected.keys()
    close(given.last_hidden_state, expected.last_hidden_state)
    close(given.pooler_output, expected.pooler_output)
    close(turned.last_hidden_state, expected.last_hidden_state)
    assert plan.stats()["misses"] == 0


def test_gpt2():
    torch.manual_seed(0)
    model = gpt2()
    ids = torch.randint(0, 50, (2, 7), device="mps")
    plan = rivulet.capture(model, ids, use_cache=False)
    with torch.no_grad():
        close(plan(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
    assert plan.stats()["misses"] == 0


# --- arguments and outputs ------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: torch.Tensor
    second: int


OUTPUTS = {
    "tensor": lambda x: x + 1,
    "the input": lambda x: x,
    "tuple": lambda x: (x + 1, x * 2),
    "list": lambda x: [x + 1, x * 2],
    "twice the same": lambda x: (lambda y: (y, y))(x * 2),
    "parts of one": lambda x: x.mul(2).chunk(2),
    "dict with constants": lambda x: {"b": x + 1, "a": [x * 2, 3, None, "text"]},
    "named tuple": lambda x: Pair(x + 1, 5),
    "dataclass": lambda x: Found(x + 1, more={"deep": (x * 3, Found(x - 1, "inner"))}),
    "nothing": lambda x: None,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_come_back_as_they_were(name):
    function = OUTPUTS[name]
    x = torch.randn(4, 3, device="mps")
    plan = rivulet.capture(function, x)
    given, expected = plan(x), function(x)
    from rivulet import _plan_tree

    mine, tree = _plan_tree.flatten(given)
    theirs, expected_tree = _plan_tree.flatten(expected)
    assert type(given) is type(expected) and tree == expected_tree
    for a, b in zip(mine, theirs, strict=True):
        if isinstance(b, torch.Tensor):
            assert a.device == b.device and a.stride() == b.stride() and torch.equal(a.cpu(), b.cpu())
        else:
            assert a == b


def test_outputs_share_memory_where_they_did():
    x = torch.randn(4, 3, device="mps")
    assert rivulet.capture(lambda x: x, x)(x) is x
    view = rivulet.capture(lambda x: x[1:], x)(x)
    view.zero_()
    assert x.cpu()[1:].eq(0).all() and x.cpu()[0].ne(0).all()
    a, b = rivulet.capture(lambda x: x.mul(2).chunk(2), x)(x)
    a.untyped_storage().nbytes()
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def test_nested_arguments_with_numbers_and_texts():
    def function(batch, scale, *, mode="plus", flags=()):
        x, y = batch["x"], batch["rest"][0]
        return x * scale + y if mode == "plus" and not flags else x - y

    x, y = torch.randn(3, device="mps"), torch.randn(3, device="mps")
    plan = rivulet.capture(function, {"x": x, "rest": [y]}, 2.0)
    for args, kwargs in [
        (({"x": x, "rest": [y]}, 2.0), {}),
        (({"x": y, "rest": [x]}, 3.0), {}),
        (({"x": x, "rest": [y]}, 2.0), {"mode": "minus"}),
        (({"x": x, "rest": [y]}, 2.0), {"flags": (1,)}),
        (({"x": x, "rest": [y]}, 2.0), {"mode": "minus"}),
    ]:
        close(plan(*args, **kwargs), function(*args, **kwargs))
    assert plan.stats()["misses"] == 3 and plan.stats()["hits"] == 2


def test_new_shapes_are_noted_behind_a_bounded_cache():
    model = mlp()
    plan = rivulet.capture(model, torch.randn(1, 8, device="mps"), max_shapes=3)
    inputs = [torch.randn(n, 8, device="mps") for n in (1, 2, 3, 4)]
    with torch.no_grad():
        for x in [*inputs, *inputs[1:]]:
            close(plan(x), model(x))
    stats = plan.stats()
    assert (stats["hits"], stats["misses"], stats["evictions"], len(stats["shapes"])) == (4, 3, 1, 3)


def test_inputs_of_another_dtype_or_layout_are_other_shapes():
    function = lambda x: x.reshape(-1) * 2  # noqa: E731
    x = torch.randn(4, 3, device="mps")
    plan = rivulet.capture(function, x)
    for other in (x.t(), x.half(), x[::2], x.to(torch.int32)):
        assert torch.equal(plan(other).cpu(), function(other).cpu())
    assert plan.stats()["misses"] == 4


# --- what is shared -------------------------------------------------------------------------------------------


def test_updates_in_place_are_seen():
    model = mlp()
    x = torch.randn(3, 8, device="mps")
    plan = rivulet.capture(model, x)
    with torch.no_grad():
        before = plan(x).cpu()
        model[0].weight.mul_(-1)
        model.load_state_dict({k: v + 0.5 for k, v in model.state_dict().items()})
        close(plan(x), model(x))
    assert not torch.allclose(plan(x).cpu(), before)
    assert plan.stats()["misses"] == 0


@pytest.mark.parametrize(
    "rebind",
    [
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.randn(16, 8, device="mps"))),
        lambda model: setattr(model[0].weight, "data", torch.randn(16, 8, device="mps")),
        lambda model: model[0]._parameters.update(weight=nn.Parameter(torch.randn(16, 8, device="mps"))),
        lambda model: model.load_state_dict(
            {k: torch.randn_like(v) for k, v in model.state_dict().items()}, assign=True
        ),
        lambda model: model.half().float(),
    ],
    ids=["setattr", "data", "dictionary", "assigned state", "conversion"],
)
def test_rebound_parameters_are_noted_again(rebind):
    model = mlp()
    x = torch.randn(3, 8, device="mps")
    plan = rivulet.capture(model, x)
    plan(x)
    rebind(model)
    with torch.no_grad():
        close(plan(x), model(x))
        close(plan(x), model(x))
    stats = plan.stats()
    assert (stats["rebound"], stats["misses"]) == (1, 1)


def test_a_module_that_a_function_closes_over_is_watched():
    model = mlp()
    x = torch.randn(3, 8, device="mps")
    plan = rivulet.capture(lambda x: model(x) + 1, x)
    model[0].weight = nn.Parameter(torch.randn(16, 8, device="mps"))
    with torch.no_grad():
        close(plan(x), model(x) + 1)
    assert plan.stats()["rebound"] == 1


def test_buffers_are_updated_in_place_once_a_call():
    model = nn.BatchNorm1d(4).to("mps").train()
    twin = nn.BatchNorm1d(4).to("mps").train()
    x = torch.randn(6, 4, device="mps")
    plan = rivulet.capture(model, x)
    with torch.no_grad():
        twin(x)
        for _ in range(3):
            close(plan(x), twin(x))
        y = torch.randn(3, 4, device="mps")
        close(plan(y), twin(y))
    close(model.running_mean, twin.running_mean)
    assert model.num_batches_tracked.item() == twin.num_batches_tracked.item() == 5


def test_inputs_are_changed_in_place():
    def function(x, cache):
        cache[:, 1] = x
        return cache.sum(1)

    x, cache = torch.randn(4, device="mps"), torch.zeros(4, 3, device="mps")
    plan = rivulet.capture(function, x, cache)
    cache.zero_()
    close(plan(x * 2, cache), x * 2)
    close(cache[:, 1], x * 2)


def test_constants_made_in_the_forward():
    def function(x):
        table = torch.tensor([1.0, 2.0, 3.0], device=x.device)
        line = torch.arange(3, device=x.device, dtype=x.dtype)
        changed = torch.zeros(3, device=x.device)
        changed[1] = 5
        changed += x
        total = torch.zeros(3, device=x.device)
        total += x
        return x * table + line, changed, torch.ones(2, device=x.device), total * 2

    x = torch.randn(3, device="mps")
    plan = rivulet.capture(function, x)
    for _ in range(3):
        for mine, theirs in zip(plan(x), function(x), strict=True):
            assert torch.equal(mine.cpu(), theirs.cpu())
    first, second = plan(x)[2], plan(x)[2]
    first.zero_()
    assert second.cpu().eq(1).all() and plan(x)[2].cpu().eq(1).all()


# --- random numbers -------------------------------------------------------------------------------------------


RANDOM = {
    "dropout": lambda x: functional.dropout(x, 0.5, training=True),
    "rand": lambda x: x + torch.rand(64, device=x.device),
    "randn_like": lambda x: torch.randn_like(x),
    "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.5)),
    "normal": lambda x: x.clone().normal_(2, 3),
    "attention": lambda x: functional.scaled_dot_product_attention(
        x.view(1, 4, 16), x.view(1, 4, 16), x.view(1, 4, 16), dropout_p=0.5
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_ops_draw_fresh_numbers_from_the_devices_generator(name):
    x = torch.ones(64, device="mps")
    plan = rivulet.capture(RANDOM[name], x)
    torch.mps.manual_seed(3)
    first, second = plan(x).cpu(), plan(x).cpu()
    torch.mps.manual_seed(3)
    again = plan(x).cpu()
    assert not torch.equal(first, second) and torch.equal(first, again)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    plan(x)
    assert torch.equal(torch.get_rng_state(), state), "it drew from the CPU's generator"


def test_dropout_keeps_half():
    x = torch.ones(20_000, device="mps")
    plan = rivulet.capture(nn.Dropout(0.5).train(), x)
    kept = plan(x).cpu()
    assert set(kept.unique().tolist()) == {0.0, 2.0} and 0.45 < kept.eq(0).float().mean() < 0.55


# --- what is refused ------------------------------------------------------------------------------------------


def reads_item(x):
    return x * x.sum().item()


def branches(x):
    if x.sum() > 0:
        return x
    return -x


def selects(x):
    return x[x > 0]


def counts(x):
    return x.nonzero()


def leaves(x):
    return x.cpu() + 1


def lists(x):
    return x * x.tolist()[0]


def resizes(x):
    x.resize_(1)
    return x + 1


def own_generator(x):
    return x + torch.rand(3, device="mps", generator=torch.Generator("mps"))


@pytest.mark.parametrize(
    ("function", "op", "line"),
    [
        (reads_item, "_local_scalar_dense", "return x * x.sum().item()"),
        (branches, "_local_scalar_dense", "if x.sum() > 0:"),
        (selects, "aten::", "return x[x > 0]"),
        (counts, "aten::nonzero", "return x.nonzero()"),
        (leaves, "aten::_to_copy", "return x.cpu() + 1"),
        (lists, "aten::_to_copy", "return x * x.tolist()[0]"),
        (resizes, "aten::resize_", "x.resize_(1)"),
        (own_generator, "aten::", "generator=torch.Generator"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_noted_names_the_op_and_the_line(function, op, line):
    with pytest.raises(rivulet.PlanError) as error:
        rivulet.capture(function, torch.ones(3, device="mps"))
    assert op in str(error.value) and line in str(error.value) and "test_plan.py" in str(error.value)


def test_constants_may_be_read():
    def function(x):
        return x * torch.tensor([2.0, 3.0]).sum().item()

    x = torch.ones(3, device="mps")
    assert rivulet.capture(function, x)(x).tolist() == [5, 5, 5]


def test_gradients_are_refused_in_words():
    model = mlp()
    x = torch.randn(3, 8, device="mps", requires_grad=True)
    with torch.no_grad():
        plan = rivulet.capture(model, x)
        close(plan(x), model(x))
    with pytest.raises(rivulet.PlanError, match="requires grad"):
        plan(x)
    assert not plan(x.detach()).requires_grad


def test_a_failing_op_raises_its_error_and_the_plan_goes_on():
    x = torch.tensor([0, 1, 2], device="mps")
    table = torch.randn(4, 2, device="mps")
    plan = rivulet.capture(lambda i: functional.embedding(i, table), x)
    if HOST:
        with pytest.raises(IndexError):
            plan(torch.tensor([0, 9, 1], device="mps"))
    assert torch.equal(plan(x).cpu(), table.cpu()[:3])


def test_wrong_arguments_fail_as_the_function_does():
    model = mlp()
    plan = rivulet.capture(model, torch.randn(3, 8, device="mps"))
    with pytest.raises(TypeError):
        plan()
    with pytest.raises(RuntimeError):
        plan(torch.randn(3, 9, device="mps"))
    with torch.no_grad():
        x = torch.randn(3, 8, device="mps")
        close(plan(x), model(x))


def test_a_plan_inside_a_plan():
    model = mlp()
    x = torch.randn(3, 8, device="mps")
    inner = rivulet.capture(model, x)
    outer = rivulet.capture(lambda x: inner(x) * 2, x)
    with torch.no_grad():
        close(outer(x), model(x) * 2)


def test_autocast_is_noted_and_not_applied_again():
    model = mlp()
    x = torch.randn(3, 8, device="mps")
    with torch.no_grad():
        plain = rivulet.capture(model, x)
        expected = model(x)
        with torch.autocast("mps", dtype=torch.float16):
            cast = rivulet.capture(model, x)
            assert plain(x).dtype == torch.float32
            wanted = model(x).dtype
        close(plain(x), expected)
        assert cast(x).dtype == wanted


# --- threads --------------------------------------------------------------------------------------------------


def test_31_threads_on_one_plan_get_bit_equal_results(in_threads):
    model = mlp()
    inputs = [torch.randn(3, 8, device="mps") for _ in range(31)]
    plan = rivulet.capture(model, inputs[0])
    expected = [plan(x).cpu() for x in inputs]

    def body(index):
        return all(torch.equal(plan(inputs[index]).cpu(), expected[index]) for _ in range(100))

    assert in_threads(31, body) == [True] * 31
    assert plan.stats()["calls"] == 31 * 101


def test_threads_that_meet_a_new_shape_note_it_once(in_threads):
    model = mlp()
    plan = rivulet.capture(model, torch.randn(1, 8, device="mps"))
    x = torch.randn(5, 8, device="mps")
    with torch.no_grad():
        expected = model(x).cpu()
    in_threads(8, lambda index: close(plan(x), expected))
    assert plan.stats()["misses"] == 1


def test_python_goes_on_during_a_long_call():
    size, rounds = (768, 60) if HOST else (256, 20)
    big = torch.randn(size, size, device="mps")

    def function(x):
        for _ in range(rounds):
            x = torch.tanh(x @ big)
        return x

    plan = rivulet.capture(function, big)
    running = threading.Event()
    over = threading.Event()
    gaps = []

    def ticks():
        running.set()
        last = time.perf_counter()
        while not over.is_set():
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=ticks)
    thread.start()
    running.wait()
    gaps.clear()
    start = time.perf_counter()
    plan(big).cpu()
    seconds = time.perf_counter() - start
    over.set()
    thread.join()
    # Without the lock the other thread never stands still for the length of the call.
    assert seconds > 0.02 and max(gaps) < seconds / 2, (seconds, max(gaps), len(gaps))


# --- what is told ---------------------------------------------------------------------------------------------


def test_explain_names_ops_lines_and_weights():
    model = on_mps(Follows())
    text = rivulet.capture(model, torch.randn(4, 5, 16, device="mps"), dynamic_batch=True).explain()
    assert "aten::linear" in text and "plan_support.py" in text and "tensors of the module" in text and "batch" in text
    if HOST:
        assert "CPU kernels without Python" in text


# --- the process ----------------------------------------------------------------------------------------------


def test_a_forked_child_ends_well_and_is_told_so(run_python):
    run_python(
        """
        import os, sys, torch, rivulet
        x = torch.randn(3, 8, device="mps")
        plan = rivulet.capture(torch.nn.Linear(8, 4).to("mps"), x)
        plan(x)
        child = os.fork()
        if child == 0:
            try:
                plan(x)
            except RuntimeError as error:
                print(error, flush=True)
                sys.exit(7)
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        plan(x)
        """.replace("\n        ", "\n")
    )


def test_the_process_ends_while_threads_call(run_python):
    for _ in range(3):
        run_python(
            """
import threading, time, torch, rivulet
x = torch.randn(64, 256, device="mps")
plan = rivulet.capture(torch.nn.Sequential(*[torch.nn.Linear(256, 256) for _ in range(4)]).to("mps"), x)
def work():
    while True:
        plan(x)
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.2)
"""
        )


def test_plans_are_freed():
    import gc
    import weakref

    model = nn.Linear(256, 256).to("mps")
    x = torch.randn(4, 256, device="mps")
    plan = rivulet.capture(model, x)
    plan(x)
    gone = weakref.ref(plan)
    before = torch.mps.current_allocated_memory()
    del plan, model
    gc.collect()
    assert gone() is None and torch.mps.current_allocated_memory() < before
