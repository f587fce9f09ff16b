"""`torch.mps.Stream` and its functions, with torch.Stream and torch.accelerator: one notion of the current stream."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading

import pytest
import torch


@pytest.fixture(autouse=True)
def stream_restored():
    before = torch.mps.current_stream()
    yield
    assert torch.mps.current_stream() == before, "a test left another stream current"


def test_stream_is_a_torch_stream():
    stream = torch.mps.Stream()
    assert isinstance(stream, torch.Stream) and issubclass(torch.mps.Stream, torch.Stream)
    assert stream.device == torch.device("mps:0") and stream.device_index == 0
    assert torch.mps.streams.Stream is torch.mps.Stream
    assert repr(stream) == f"<torch.mps.Stream stream_id={stream.stream_id}>"


def test_new_streams_come_from_a_pool_of_32():
    ids = [torch.mps.Stream().stream_id for _ in range(64)]
    assert len(set(ids)) == 32 and 0 not in ids


def test_new_stream_is_not_the_default_nor_the_current_one():
    assert torch.mps.Stream() not in (torch.mps.default_stream(), torch.mps.current_stream())


def test_main_thread_is_on_the_default_stream():
    assert torch.mps.current_stream() == torch.mps.default_stream()
    assert torch.mps.default_stream().stream_id == 0


def test_equality_and_hash_go_by_id():
    stream = torch.mps.Stream()
    again = torch.mps.Stream(stream_id=stream.stream_id)
    assert again == stream and hash(again) == hash(stream) and again is not stream
    assert stream != torch.mps.default_stream()
    assert stream != None and stream != "stream"  # noqa: E711 - the operator is what is tested
    assert len({stream, again}) == 1


@pytest.mark.parametrize("device", [None, "mps", "mps:0", torch.device("mps"), 0])
def test_device_argument(device):
    assert torch.mps.Stream(device).device.type == "mps"


@pytest.mark.parametrize("device", ["cpu", "mps:1", 3, torch.device("cuda")])
def test_wrong_device_is_named(device):
    with pytest.raises(ValueError, match="mps:0"):
        torch.mps.Stream(device)


@pytest.mark.parametrize("stream_id", [-2, 10_000_000, 1 << 40])
def test_unknown_stream_id_is_named(stream_id):
    with pytest.raises(ValueError, match=str(stream_id)):
        torch.mps.Stream(stream_id=stream_id)


def test_priorities():
    assert torch.mps.Stream().priority == 0
    first = torch.mps.Stream(priority=-1)
    assert first.priority == -1 and torch.mps.Stream(stream_id=first.stream_id).priority == -1


@pytest.mark.parametrize("priority", [1, -2, 100])
def test_unknown_priority_is_named(priority):
    with pytest.raises(ValueError, match=str(priority)):
        torch.mps.Stream(priority=priority)


def test_context_manager_selects_and_restores():
    stream = torch.mps.Stream()
    with torch.mps.stream(stream):
        assert torch.mps.current_stream() == stream
        inner = torch.mps.Stream()
        with torch.mps.stream(inner):
            assert torch.mps.current_stream() == inner
        assert torch.mps.current_stream() == stream


def test_context_manager_restores_after_an_error():
    with pytest.raises(KeyError), torch.mps.stream(torch.mps.Stream()):
        raise KeyError


def test_context_manager_of_none_does_nothing():
    before = torch.mps.current_stream()
    with torch.mps.stream(None):
        assert torch.mps.current_stream() == before
    torch.mps.set_stream(None)


def test_context_manager_as_decorator():
    stream = torch.mps.Stream()

    @torch.mps.stream(stream)
    def inside():
        return torch.mps.current_stream()

    assert inside() == inside() == stream


def test_stream_is_its_own_context_manager_also_nested_and_from_threads(in_threads):
    stream = torch.mps.Stream()
    all_in = threading.Barrier(4)

    def body(index):
        own = torch.mps.current_stream()
        all_in.wait()
        with stream as entered:
            assert entered is stream and torch.mps.current_stream() == stream
            with stream:
                assert torch.mps.current_stream() == stream
            assert torch.mps.current_stream() == stream
        assert torch.mps.current_stream() == own
        return own.stream_id

    assert len(set(in_threads(4, body))) == 4


def test_plain_torch_stream_as_context_manager_is_seen():
    stream = torch.Stream(device="mps")
    with stream:
        assert torch.mps.current_stream() == stream
        assert torch.accelerator.current_stream() == stream
    assert torch.accelerator.current_stream() == torch.mps.current_stream()


def test_set_stream_of_both_modules_is_one():
    own, stream, plain = torch.mps.current_stream(), torch.mps.Stream(), torch.Stream(device="mps")
    torch.mps.set_stream(stream)
    assert torch.accelerator.current_stream() == stream
    torch.accelerator.set_stream(plain)
    assert torch.mps.current_stream() == plain
    torch.mps.set_stream(plain)
    torch.accelerator.set_stream(stream)
    assert torch.mps.current_stream() == stream
    torch.mps.set_stream(own)


def test_what_is_no_stream_is_refused():
    with pytest.raises(TypeError, match="torch.mps.Stream"):
        torch.mps.set_stream(3)
    cpu = torch.Stream(stream_id=0, device_index=0, device_type=0)
    with pytest.raises(RuntimeError, match="Expected an MPS stream but got device type cpu"):
        torch.mps.set_stream(cpu)


def test_threads_have_streams_of_their_own(in_threads):
    # A thread that ended before another began would leave its slot to that one.
    all_in = threading.Barrier(8)

    def body(index):
        stream = torch.mps.current_stream()
        all_in.wait()
        assert torch.mps.current_stream() == stream
        return stream.stream_id

    ids = in_threads(8, body)
    assert len(set(ids)) == 8 and 0 not in ids


def test_setting_a_stream_is_per_thread(in_threads):
    streams = [torch.mps.Stream() for _ in range(4)]
    barrier = threading.Barrier(4)

    def body(index):
        torch.mps.set_stream(streams[index])
        barrier.wait()
        return torch.mps.current_stream() == streams[index]

    assert in_threads(4, body) == [True] * 4


def test_selecting_a_stream_takes_no_slot(in_threads):
    from rivulet import _load

    stream = torch.mps.Stream()

    def body(index):
        with torch.mps.stream(stream):
            torch.ones(3, device="mps")
        return _load.native().stream_peek()

    assert in_threads(1, body) == [None]


USED = "from rivulet import _load\ndef used(): return len(_load.native().report()['pool']['used'])\n"


def test_releasing_a_slot_lets_another_thread_have_it(run_python):
    run_python(
        USED + "import threading, torch\n"
        "def first():\n"
        "    torch.mps.current_stream()\n"
        "    assert used() == 1\n"
        "    torch.mps.release_current_thread_slot()\n"
        "    torch.mps.release_current_thread_slot()\n"
        "    assert used() == 0\n"
        "    torch.ones(3, device='mps')\n"
        "    assert used() == 1, 'the slot that was taken again was lost'\n"
        "    torch.mps.release_current_thread_slot()\n"
        "    free.set(); gone.wait(10)\n"
        "def second():\n"
        "    free.wait(10)\n"
        "    results.append(torch.ones(3, device='mps').sum().item())\n"
        "    gone.wait(10)\n"
        "results, free, gone = [], threading.Event(), threading.Barrier(2)\n"
        "threads = [threading.Thread(target=work) for work in (first, second)]\n"
        "for t in threads: t.start()\n"
        "for t in threads: t.join()\n"
        "assert results == [3.0]\n",
        env={"MPS_STREAM_POOL_SIZE": "2"},
    )


def test_slot_is_free_when_join_returns(run_python):
    run_python(
        USED + "import threading, torch\n"
        "def work(): torch.ones(4, device='mps').sum().item()\n"
        "def fail():\n"
        "    work()\n"
        "    raise ValueError\n"
        "threading.excepthook = lambda args: None\n"
        "late = 0\n"
        "for i in range(1000):\n"
        "    t = threading.Thread(target=fail if i % 3 == 0 else work); t.start(); t.join()\n"
        "    late += used()\n"
        "assert late == 0, f'{late} of 1000 slots were still held after join'\n",
        env={"MPS_STREAM_POOL_SIZE": "2"},
    )


def test_query_and_synchronize():
    stream = torch.mps.Stream()
    with torch.mps.stream(stream):
        tensor = torch.ones(64, device="mps") * 2
    assert stream.synchronize() is None
    assert stream.query() is True
    assert tensor.sum().item() == 128


def test_plain_torch_stream_query_and_synchronize():
    stream = torch.Stream(device="mps")
    stream.synchronize()
    assert stream.query() is True


def test_streams_wait_for_each_other_and_for_events():
    first, second, plain = torch.mps.Stream(), torch.mps.Stream(), torch.Stream(device="mps")
    with torch.mps.stream(first):
        tensor = torch.full((1000,), 3.0, device="mps")
    second.wait_stream(first)
    plain.wait_stream(second)
    second.wait_stream(plain)
    with torch.mps.stream(second):
        total = tensor.sum()
    assert total.item() == 3000


@pytest.mark.parametrize("kind", [lambda: None, lambda: torch.mps.Event(), lambda: torch.Event(device="mps")])
def test_record_event_and_wait_event(kind):
    first, second = torch.mps.Stream(), torch.mps.Stream()
    given = kind()
    event = first.record_event(given) if given is not None else first.record_event()
    assert given is None or event is given
    second.wait_event(event)
    event.synchronize()
    assert event.query() is True


def test_plain_streams_take_generic_events():
    stream, event = torch.Stream(device="mps"), torch.Event(device="mps", enable_timing=True)
    end = torch.Event(device="mps", enable_timing=True)
    event.record(stream)
    stream.wait_event(event)
    end.record()
    end.wait(stream)
    end.synchronize()
    assert end.query() and event.elapsed_time(end) >= 0


def test_mps_stream_with_generic_event():
    event = torch.Event(device="mps")
    event.record(torch.mps.Stream())
    event.wait(torch.mps.Stream())
    event.synchronize()


def test_record_stream_is_accepted():
    tensor = torch.ones(16, device="mps")
    tensor.record_stream(torch.mps.Stream())
    tensor.record_stream(torch.Stream(device="mps"))


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_stream_cannot_be_pickled_or_copied(duplicate):
    with pytest.raises(TypeError, match="cannot pickle or copy a torch.mps.Stream"):
        duplicate(torch.mps.Stream())


def test_signatures_are_those_of_pytorch_2_15():
    assert list(inspect.signature(torch.mps.stream).parameters) == ["stream"]
    assert list(inspect.signature(torch.mps.set_stream).parameters) == ["stream"]
    assert not inspect.signature(torch.mps.current_stream).parameters
    assert not inspect.signature(torch.mps.default_stream).parameters
    assert set(torch.mps.streams.__all__) == {"Stream", "stream", "current_stream", "default_stream", "set_stream"}
    assert set(torch.mps.streams.__all__) <= set(torch.mps.__all__)


def test_names_of_the_c_module_are_the_same_streams():
    assert torch._C._mps_getCurrentStream() == torch.mps.current_stream()
    assert issubclass(torch.mps.Stream, torch._C._MPSStreamBase)
    own, stream = torch.mps.current_stream(), torch.mps.Stream()
    torch._C._mps_setStream(stream)
    assert torch.mps.current_stream() == stream
    torch._C._mps_setStream(own)
