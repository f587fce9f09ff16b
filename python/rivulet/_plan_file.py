"""Plans in files.

A file is a head of 56 bytes, a JSON text, and the bytes of the shared tensors' storages, each at a multiple of 64::

    8   b"RIVPLAN\\0"
    4   format, little-endian as all numbers
    4   nothing
    8   length of the JSON text
    32  SHA-256 of everything that follows

Reading runs no code of the file: there is no pickle in it, classes are looked up among what is imported already, and
only PyTorch's own ops are taken. The checksum finds damage; it is no signature.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from typing import Any

import torch

from . import __version__
from ._plan_tape import Affine, Op, Place, PlanError, Shared, Tape, Value

MAGIC = b"RIVPLAN\0"
FORMAT = 1
_HEAD = struct.Struct("<8sIIQ32s")
_ALIGN = 64

#: Ops that reach outside the tape.
_REFUSED = {"aten::from_file"}


class PlanFileError(ValueError):
    """A file is no plan of this Rivulet, or is damaged."""


def _torch_minor() -> str:
    return ".".join(torch.__version__.split(".")[:2])


# --- to JSON --------------------------------------------------------------------------------------------------


def _argument_to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_argument_to_json(item) for item in value]
    if isinstance(value, Value):
        return {"value": value.number}
    if isinstance(value, Affine):
        return {"affine": [value.base, value.slope]}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value).removeprefix("torch.")}
    if isinstance(value, torch.layout):
        return {"layout": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise PlanError(f"{value!r} cannot be kept in a file")


def _of_torch(name: str, kind: type) -> Any:
    found = getattr(torch, name, None)
    if not isinstance(found, kind):
        raise PlanFileError(f"torch.{name} is no {kind.__name__} of this PyTorch")
    return found


def _argument_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_argument_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "value":
        return Value(int(content))
    if kind == "affine":
        return Affine(int(content[0]), int(content[1]))
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*map(float.fromhex, content))
    if kind in ("dtype", "memory_format", "layout"):
        return _of_torch(content, getattr(torch, kind))
    if kind == "device":
        return torch.device(content)
    raise PlanFileError(f"an argument of the unknown kind {kind!r}")


def _op_to_json(op: Op) -> Any:
    return {
        "name": op.name,
        "overload": op.overload,
        "arguments": _argument_to_json(op.arguments),
        "results": op.results,
        "place": [op.place.file, op.place.line, op.place.text],
        "random": op.random,
    }


def _op_from_json(value: Any) -> Op:
    name = str(value["name"])
    if not name.startswith("aten::") or name in _REFUSED:
        raise PlanFileError(f"it uses {name}; a plan from a file runs PyTorch's own ops on tensors alone")
    file, line, text = value["place"]
    return Op(
        name,
        str(value["overload"]),
        _argument_from_json(value["arguments"]),
        value["results"],
        Place(str(file), int(line), str(text)),
        bool(value["random"]),
    )


class Storages:
    """The storages of shared tensors, each once."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []
        self._places: dict[int, int] = {}

    def describe(self, shared: Shared) -> Any:
        tensor = shared.tensor
        storage = tensor.untyped_storage()
        place = self._places.get(storage._cdata)
        if place is None:
            place = self._places[storage._cdata] = len(self.kept)
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
            self.kept.append(whole)
        return {
            "storage": place,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sizes": list(tensor.shape),
            "strides": list(tensor.stride()),
            "offset": tensor.storage_offset(),
            "constant": shared.constant,
            "written": shared.written,
            "name": shared.name,
        }


def tape_to_json(tape: Tape, storages: Storages) -> Any:
    """A renumbered tape; its shared tensors' bytes are left to `storages`."""
    return {
        "inputs": tape.inputs,
        "batched": tape.batched,
        "written_inputs": tape.written_inputs,
        "shared": [[number, storages.describe(shared)] for number, shared in tape.shared.items()],
        "ops": [_op_to_json(op) for op in tape.ops],
        "outputs": tape.outputs,
        "output_on_device": tape.output_on_device,
    }


def _shared_from_json(value: Any, storages: Sequence[torch.Tensor]) -> Shared:
    whole = storages[int(value["storage"])]
    dtype = _of_torch(value["dtype"], torch.dtype)
    sizes, strides, offset = list(map(int, value["sizes"])), list(map(int, value["strides"])), int(value["offset"])
    if len(sizes) != len(strides) or min([offset, *sizes, *strides], default=0) < 0:
        raise PlanFileError("a tensor has negative sizes or strides")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 not in sizes and (last + 1) * dtype.itemsize > whole.numel():
        raise PlanFileError("a tensor is larger than its memory")
    tensor = torch.empty(0, dtype=dtype, device=whole.device)
    tensor.set_(whole.untyped_storage(), offset, sizes, strides)  # type: ignore[call-overload]
    return Shared(tensor, bool(value["constant"]), bool(value["written"]), str(value["name"]))


def tape_from_json(value: Any, storages: Sequence[torch.Tensor]) -> Tape:
    """The tape of :func:`tape_to_json`. csrc/plan checks that its values fit together."""
    return Tape(
        [int(number) for number in value["inputs"]],
        {int(number): _shared_from_json(shared, storages) for number, shared in value["shared"]},
        [_op_from_json(op) for op in value["ops"]],
        [int(number) for number in value["outputs"]],
        [bool(one) for one in value["output_on_device"]],
        [bool(one) for one in value["batched"]],
        [bool(one) for one in value["written_inputs"]],
    )


def leaf_to_json(value: Any) -> Any:
    """An argument or output that is no tensor."""
    return _argument_to_json(list(value) if isinstance(value, torch.Size) else value)


def leaf_from_json(value: Any) -> Any:
    """The value of :func:`leaf_to_json`."""
    return _argument_from_json(value)


# --- files ----------------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], content: dict[str, Any], storages: Sequence[torch.Tensor]) -> None:
    """Writes a file, in one step: a reader sees the old one or the new one."""
    hosts = [tensor.cpu().contiguous() for tensor in storages]
    header = {
        "rivulet": __version__,
        "torch": _torch_minor(),
        **content,
        "storages": [{"bytes": host.numel(), "device": t.device.type} for host, t in zip(hosts, storages, strict=True)],
    }
    text = json.dumps(header, allow_nan=False).encode()
    parts: list[bytes] = [text, _padding(_HEAD.size + len(text))]
    for host in hosts:
        data = ctypes.string_at(host.data_ptr(), host.numel()) if host.numel() else b""
        parts += [data, _padding(len(data))]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    fresh = f"{os.fspath(path)}.new"
    try:
        with open(fresh, "wb") as file:
            file.write(_HEAD.pack(MAGIC, FORMAT, 0, len(text), digest.digest()))
            for part in parts:
                file.write(part)
        os.replace(fresh, path)
    except BaseException:
        with_suffix = fresh
        if os.path.exists(with_suffix):
            os.unlink(with_suffix)
        raise


def _padding(length: int) -> bytes:
    return b"\0" * (-length % _ALIGN)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """The content of a file and its storages, as bytes on their devices.

    Raises:
        PlanFileError: where the file is no plan, of another format or PyTorch, or damaged.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if len(data) < _HEAD.size or data[: len(MAGIC)] != MAGIC:
        raise PlanFileError(f"{name} is no plan of Rivulet")
    _, version, _, length, digest = _HEAD.unpack_from(data)
    if version != FORMAT:
        raise PlanFileError(f"{name} has format {version}; this Rivulet reads format {FORMAT}")
    if hashlib.sha256(memoryview(data)[_HEAD.size :]).digest() != digest:
        raise PlanFileError(f"{name} is damaged: its checksum does not fit its {len(data)} bytes")
    start = _HEAD.size + length
    if start > len(data):
        raise PlanFileError(f"{name} is damaged: it ends within its description")
    try:
        content = json.loads(data[_HEAD.size : start].decode())
        if content["torch"] != _torch_minor():
            raise PlanFileError(
                f"{name} was saved with torch {content['torch']}, and this is torch {torch.__version__}: ops differ "
                "between versions, so capture the plan again"
            )
        start += len(_padding(start))
        storages = []
        for storage in content["storages"]:
            size = int(storage["bytes"])
            if size < 0 or start + size > len(data):
                raise PlanFileError(f"{name} is damaged: it ends within its tensors")
            host = torch.frombuffer(data, dtype=torch.uint8, count=size, offset=start) if size else torch.empty(0)
            storages.append(torch.empty(size, dtype=torch.uint8, device=storage["device"]).copy_(host))
            start += size + len(_padding(size))
    except (KeyError, TypeError, IndexError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PlanFileError(f"{name} is no plan of Rivulet: {type(error).__name__}: {error}") from error
    return content, storages


def check(body: Any, name: str) -> Any:
    """Runs a reader of the content; what does not fit becomes a PlanFileError."""
    try:
        return body()
    except PlanFileError as error:
        raise PlanFileError(f"{name}: {error}") from error
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, RuntimeError) as error:
        raise PlanFileError(f"{name} is no plan of this Rivulet: {type(error).__name__}: {error}") from error


__all__ = ["PlanFileError", "Storages", "check", "read", "tape_from_json", "tape_to_json", "write"]
