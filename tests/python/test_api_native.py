"""The Python side of the C interface against its header, and its errors."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from rivulet import _load, _native

HEADER = Path(__file__).resolve().parents[2] / "crates" / "rivulet-torch" / "include" / "rivulet.h"

TYPES = {
    "void": None,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "double": ctypes.c_double,
    "const char *": ctypes.c_char_p,
    "char *": ctypes.c_char_p,
    "char **": ctypes.POINTER(ctypes.c_char_p),
    "int32_t *": ctypes.POINTER(ctypes.c_int32),
    "uint32_t *": ctypes.POINTER(ctypes.c_uint32),
    "uint64_t *": ctypes.POINTER(ctypes.c_uint64),
    "double *": ctypes.POINTER(ctypes.c_double),
    "const void *": ctypes.c_void_p,
    "void **": ctypes.POINTER(ctypes.c_void_p),
    "rivulet_block *": ctypes.c_void_p,
    "rivulet_batch_queue *": ctypes.c_void_p,
    "rivulet_batch_queue **": ctypes.POINTER(ctypes.c_void_p),
    "rivulet_batch_ticket *": ctypes.c_void_p,
    "rivulet_batch_ticket **": ctypes.POINTER(ctypes.c_void_p),
    "rivulet_batch_turn *": ctypes.POINTER(_native.BatchTurn),
    "rivulet_memory_stats *": ctypes.POINTER(_native.MemoryStats),
    "void (*)(void)": _native.ThreadCallback,
}


def header_functions():
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    text = text.replace("void (*callback)(void)", "void (*)(void) callback")
    found = {}
    for result, name, arguments in re.findall(r"^([\w ]+?\s?\**)\s*\b(rivulet_\w+)\((.*?)\);", text, flags=re.S | re.M):
        parts = [a.strip() for a in arguments.split(",")] if arguments.strip() != "void" else []
        kinds = [re.sub(r"\s*\b\w+$", "", part) if not part.endswith("*") else part for part in parts]
        found[name] = (re.sub(r"\s*\*", " *", result.strip()), [re.sub(r"\s+", " ", kind) for kind in kinds])
    return found


def test_header_is_read_right():
    functions = header_functions()
    assert functions["rivulet_stream_exchange"] == ("int32_t", ["uint32_t", "uint32_t *"])
    assert functions["rivulet_version"] == ("const char *", [])
    assert functions["rivulet_set_thread_callback"] == ("void", ["void (*)(void)"])


@pytest.mark.parametrize("name", sorted(_native.SIGNATURES))
def test_signature_is_the_headers(name):
    functions = header_functions()
    assert name in functions, f"rivulet.h has no {name}"
    result, arguments = functions[name]
    assert _native.SIGNATURES[name] == (TYPES[result], tuple(TYPES[kind] for kind in arguments))


def test_memory_structure_is_the_headers():
    text = re.search(r"typedef struct \{([^}]*)\} rivulet_memory_stats;", HEADER.read_text())
    body = re.sub(r"/\*.*?\*/", "", text[1], flags=re.S)
    assert re.findall(r"\w+", body.replace("uint64_t", "")) == [field[0] for field in _native.MemoryStats._fields_]


def test_turn_structure_is_the_headers():
    text = re.search(r"typedef struct \{([^}]*)\} rivulet_batch_turn;", HEADER.read_text())
    body = re.sub(r"/\*.*?\*/", "", text[1], flags=re.S)
    assert re.findall(r"(\w+);", body) == [field[0] for field in _native.BatchTurn._fields_]


def test_verdicts_are_the_headers():
    from rivulet import _call_queue

    found = dict(re.findall(r"RIVULET_BATCH_(\w+) = (\d)", HEADER.read_text()))
    assert len(found) == 6
    assert {name: int(value) for name, value in found.items()} == {name: getattr(_call_queue, name) for name in found}


def test_status_codes_are_the_headers():
    found = dict(re.findall(r"RIVULET_(\w+) = (\d)", HEADER.read_text()))
    assert {name: int(found[name]) for name in ("OK", "ERROR", "OUT_OF_MEMORY", "INTERRUPTED", "INVALID")} == {
        "OK": _native.OK,
        "ERROR": _native.ERROR,
        "OUT_OF_MEMORY": _native.OUT_OF_MEMORY,
        "INTERRUPTED": _native.INTERRUPTED,
        "INVALID": _native.INVALID,
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (_native.ERROR, RuntimeError),
        (_native.OUT_OF_MEMORY, "torch.OutOfMemoryError"),
        (_native.INTERRUPTED, KeyboardInterrupt),
        (_native.INVALID, ValueError),
    ],
)
def test_each_status_has_its_exception(status, kind):
    import torch

    with pytest.raises(torch.OutOfMemoryError if isinstance(kind, str) else kind):
        _load.native().fail(status)


def test_message_comes_from_the_library():
    with pytest.raises(ValueError, match="4000000000"):
        _load.native().stream_check(4_000_000_000)


def test_every_call_but_the_slow_openers_keeps_the_gil():
    # A released GIL costs a hand-over at each call; the library gives it up itself where it waits.
    openers = {"rivulet_is_available", "rivulet_adapters_json", "rivulet_adapter_json", "rivulet_report_json"}
    for name, function in _load.native().c.items():
        keeps = function._flags_ & 0x4 != 0  # FUNCFLAG_PYTHONAPI
        assert keeps == (name not in openers), name


def test_library_of_the_wrong_kind_names_what_it_lacks():
    libc = "libc.so.6" if _load.SUFFIX == ".so" else "libSystem.dylib"
    with pytest.raises(_native.LibraryError, match="rivulet_version"):
        _native.Native(libc)
