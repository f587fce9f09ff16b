"""Plans with a free batch: noted once, right for every size, and refused where the size is more than a size."""

from __future__ import annotations

import pytest
import rivulet
import torch
from plan_support import Follows, bert, close, on_mps



@pytest.mark.parametrize("batch", [1, 2, 3, 7, 16])
def test_a_free_batch(batch):
    torch.manual_seed(0)
    model = on_mps(Follows())
    plan = rivulet.capture(model, torch.randn(4, 5, 16, device="mps"), dynamic_batch=True)
    x = torch.randn(batch, 5, 16, device="mps")
    with torch.no_grad():
        for mine, theirs in zip(plan(x), model(x), strict=True):
            close(mine, theirs)
    assert plan.stats()["misses"] == 0
    assert plan.stats()["shapes"][0]["inputs"] == [("batch", 5, 16)]


def test_a_free_batch_of_other_rows_is_another_shape():
    torch.manual_seed(0)
    model = on_mps(Follows())
    plan = rivulet.capture(model, torch.randn(4, 5, 16, device="mps"), dynamic_batch=True)
    with torch.no_grad():
        for batch, length in [(1, 6), (5, 6), (2, 5)]:
            x = torch.randn(batch, length, 16, device="mps")
            close(plan(x)[0], model(x)[0])
    assert plan.stats()["misses"] == 1


def test_bert_with_a_free_batch():
    torch.manual_seed(0)
    model = bert()
    ids = torch.randint(0, 50, (2, 7), device="mps")
    mask = torch.ones_like(ids)
    plan = rivulet.capture(model, input_ids=ids, attention_mask=mask, dynamic_batch=True)
    with torch.no_grad():
        for batch in (1, 2, 6):
            ids = torch.randint(0, 50, (batch, 7), device="mps")
            mask = torch.ones_like(ids)
            mask[0, 4:] = 0
            given = plan(input_ids=ids, attention_mask=mask)
            close(given.last_hidden_state, model(input_ids=ids, attention_mask=mask).last_hidden_state)
    assert plan.stats()["misses"] == 0


def divides(x):
    return x.sum(0) * (1.0 / x.shape[0])


def squares(x):
    return x.new_zeros(x.shape[0] ** 2)


def loops(x):
    for row in range(x.shape[0]):
        x = x + row
    return x


def changes(x):
    return x.add_(1)


@pytest.mark.parametrize(
    ("function", "words"),
    [(divides, ("aten::mul", "no integer")), (squares, ("aten::new_zeros", "linear")), (loops, ("aten::add", "ops")),
     (changes, ("in place",))],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_does_not_follow_the_batch_is_refused(function, words):
    with pytest.raises(rivulet.PlanError) as error:
        rivulet.capture(function, torch.ones(4, 3, device="mps"), dynamic_batch=True)
    for word in words:
        assert word in str(error.value)
