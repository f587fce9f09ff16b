"""Plans in files: what was saved comes back, and nothing else is taken for a plan."""

from __future__ import annotations

import pytest
import rivulet
import torch
from plan_support import Follows, Found, close, mlp, on_mps



def test_a_saved_plan_gives_the_same(tmp_path):
    torch.manual_seed(0)
    model = on_mps(Follows())
    x = torch.randn(3, 5, 16, device="mps")
    plan = rivulet.capture(model, x, dynamic_batch=True)
    plan.save(tmp_path / "model.plan")
    loaded = rivulet.load_plan(tmp_path / "model.plan")
    for given in (x, torch.randn(1, 5, 16, device="mps")):
        for mine, theirs in zip(loaded(given), plan(given), strict=True):
            assert torch.equal(mine.cpu(), theirs.cpu())
    with pytest.raises(rivulet.PlanError, match="loaded from a file"):
        loaded(torch.randn(3, 6, 16, device="mps"))


def test_a_saved_plan_keeps_structures(tmp_path):
    def function(x, *, scale, how="plus"):
        return Found(x * scale, how, {"deep": [x + 1, None, 2.5]})

    x = torch.randn(3, device="mps")
    plan = rivulet.capture(function, x, scale=2.0)
    plan(x, scale=3.0, how="minus")
    plan.save(tmp_path / "model.plan")
    loaded = rivulet.load_plan(tmp_path / "model.plan")
    for kwargs in ({"scale": 2.0}, {"scale": 3.0, "how": "minus"}):
        mine, theirs = loaded(x, **kwargs), plan(x, **kwargs)
        assert mine.note == theirs.note and torch.equal(mine.value.cpu(), theirs.value.cpu())
        assert mine.more["deep"][1:] == [None, 2.5]


def test_tied_weights_stay_tied_in_a_file(tmp_path):
    table = torch.randn(64, 64, device="mps")
    model = lambda x: (x @ table) @ table[1:].t()  # noqa: E731
    x = torch.randn(2, 64, device="mps")
    rivulet.capture(model, x).save(tmp_path / "model.plan")
    # The table once, and a description that is shorter.
    assert table.nbytes < (tmp_path / "model.plan").stat().st_size < 2 * table.nbytes
    close(rivulet.load_plan(tmp_path / "model.plan")(x), model(x))


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.plan"
    rivulet.capture(mlp(), torch.randn(3, 8, device="mps")).save(path)
    return path


def test_every_damaged_byte_is_noticed(saved):
    data = saved.read_bytes()
    for place in [0, 3, 9, 17, 30, 60, len(data) // 2, len(data) - 1]:
        saved.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        with pytest.raises(rivulet.PlanFileError):
            rivulet.load_plan(saved)
    for length in [0, 5, 55, 100, len(data) - 64]:
        saved.write_bytes(data[:length])
        with pytest.raises(rivulet.PlanFileError):
            rivulet.load_plan(saved)


def forge(path, change):
    """The file with another description and a checksum that fits it."""
    import hashlib
    import json

    from rivulet import _plan_file

    data = path.read_bytes()
    magic, version, nothing, length, _ = _plan_file._HEAD.unpack_from(data)
    head = _plan_file._HEAD.size
    content = json.loads(data[head : head + length])
    start = head + length + len(_plan_file._padding(head + length))
    change(content)
    text = json.dumps(content).encode()
    rest = text + _plan_file._padding(head + len(text)) + data[start:]
    path.write_bytes(_plan_file._HEAD.pack(magic, version, nothing, len(text), hashlib.sha256(rest).digest()) + rest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(torch="1.0"), "torch 1.0"),
        (lambda c: c["variants"][0]["tape"]["ops"][0].update(name="aten::from_file"), "from_file; a plan from a file runs"),
        (lambda c: c["variants"][0]["tape"]["ops"][0].update(name="evil::run"), "evil::run; a plan from a file runs"),
        (lambda c: c["variants"][0]["tape"]["ops"][0].update(name="aten::no_such_op"), "no_such_op"),
        (lambda c: c["variants"][0]["tape"].update(outputs=[12345]), "12345"),
        (lambda c: c["variants"][0]["tape"]["ops"].reverse(), "before it is made"),
        (lambda c: c["variants"][0]["tape"]["shared"][0][1].update(sizes=[10**9, 8]), "larger than its memory"),
        (lambda c: c["variants"][0]["tape"]["shared"][0][1].update(offset=-1), "negative"),
        (lambda c: c["storages"][0].update(bytes=10**12), "ends within"),
        (lambda c: c.pop("variants"), "KeyError"),
    ],
)
def test_forged_files_are_refused_in_words(saved, change, words):
    forge(saved, change)
    with pytest.raises(rivulet.PlanFileError, match=words):
        rivulet.load_plan(saved)


def test_foreign_files_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(rivulet.PlanFileError, match="is no plan"):
        rivulet.load_plan(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError):
        rivulet.load_plan(tmp_path / "none")
