"""Every place of PyTorch that is changed, as one table.

Most of ``torch.mps`` reaches the device through PyTorch's own hooks and is not touched. What is in the table either
is compiled into macOS builds only (``torch._C._mps_get_name`` and its like), is a constant of the build
(``torch._C._has_mps``), or came in a later PyTorch than the oldest one served (``torch.mps.Stream``).

A patch never raises and is applied once. Where PyTorch has another shape than the one a patch was written against,
the patch is skipped and the doctor says so: a missing function is better than a wrong one.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import inspect
import os
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from . import _autograd, _batch_queue, _compile, _events, _fast_path, _refs, _storage, _streams, _takeover
from ._native import Native


class Skip(Exception):
    """PyTorch is not shaped as the patch expects."""


@dataclass(frozen=True)
class Outcome:
    """What became of one patch: "applied", "present" (nothing to do) or "skipped"."""

    name: str
    why: str
    since: str
    state: str
    note: str = ""


@dataclass(frozen=True)
class Patch:
    """One change. `since` is the PyTorch version from which the name exists in PyTorch itself."""

    name: str
    why: str
    since: str
    apply: Callable[[Native], bool]
    """Returns False where there was nothing to do; raises Skip."""


def _set(owner: Any, name: str, value: Any) -> bool:
    if getattr(owner, name, None) is value:
        return False
    setattr(owner, name, value)
    return True


def _add(owner: Any, name: str, value: Any) -> bool:
    """Sets a name only where PyTorch lacks it; with a stock implementation there is nothing to do."""
    if hasattr(owner, name):
        return False
    setattr(owner, name, value)
    return True


def _marked(function: Any) -> bool:
    return getattr(function, "__rivulet__", False) is True


def _replace(owner: Any, name: str, function: Any) -> bool:
    """Sets a name whose stock implementation, where there is one, drives PyTorch's own Metal backend."""
    if _marked(getattr(owner, name, None)):
        return False
    function.__rivulet__ = True
    setattr(owner, name, function)
    return True


def _wrap(owner: type, name: str, wrapper: Callable[[Any], Any], leading: tuple[str, ...] = ()) -> bool:
    """Replaces a method by `wrapper(method)`; `leading` are the parameter names that the wrapper relies on."""
    stock = getattr(owner, name, None)
    if stock is None:
        raise Skip(f"{owner.__name__} has no {name}")
    if _marked(stock):
        return False
    if leading:
        names = tuple(inspect.signature(stock).parameters)[: len(leading)]
        if names != leading:
            raise Skip(f"{owner.__name__}.{name} takes {names}, expected {leading}")
    made = wrapper(stock)
    functools.update_wrapper(made, stock, assigned=("__doc__", "__qualname__", "__module__"), updated=())
    made.__rivulet__ = True
    setattr(owner, name, staticmethod(made) if name == "__new__" else made)
    return True


def _expect_class(module: Any, name: str, methods: set[str]) -> None:
    """A class that grew public methods which ours lacks must not be replaced by ours."""
    stock = getattr(module, name, None)
    if stock is None:
        return
    own = {n for n in vars(stock) if not n.startswith("_")}
    if unknown := own - methods:
        raise Skip(f"{module.__name__}.{name} has {', '.join(sorted(unknown))}, which this Rivulet does not know")


def _public_names(cls: type) -> set[str]:
    return {n for n in dir(cls) if not n.startswith("_")}


# --- one function a patch -------------------------------------------------------------------------------------


def _has_mps(native: Native) -> bool:
    return _set(torch._C, "_has_mps", True)


def _bad_fork(native: Native) -> bool:
    in_bad_fork = native.in_bad_fork
    if getattr(torch.mps._is_in_bad_fork, "__self__", None) is native:
        return False
    torch._C._mps_is_in_bad_fork = in_bad_fork  # type: ignore[attr-defined]
    torch.mps._is_in_bad_fork = in_bad_fork
    return True


def _event(native: Native) -> bool:
    _expect_class(torch.mps, "Event", _public_names(_events.Event))
    changed = _set(torch.mps, "Event", _events.Event)
    return _set(torch.mps.event, "Event", _events.Event) or changed


def _stream(native: Native) -> bool:
    stock = sys.modules.get("torch.mps.streams")
    known = set(_streams.__all__)
    if stock is None:
        stock = types.ModuleType("torch.mps.streams", _streams.__doc__)
        stock.__all__ = sorted(known)  # type: ignore[attr-defined]
        sys.modules["torch.mps.streams"] = stock
        setattr(torch.mps, "streams", stock)  # by name: a checker knows the attribute on some versions only
    else:
        if unknown := set(getattr(stock, "__all__", ())) - known:
            raise Skip(f"torch.mps.streams has {', '.join(sorted(unknown))}, which this Rivulet does not know")
        _expect_class(stock, "Stream", _public_names(_streams.Stream))
    changed = False
    for name in _streams.__all__:
        value = getattr(_streams, name)
        changed |= _set(stock, name, value)
        changed |= _set(torch.mps, name, value)
        if name not in torch.mps.__all__:
            torch.mps.__all__.append(name)
    return changed


def _stream_internals(native: Native) -> bool:
    # 2.15 on Linux puts a dummy type here that raises when it is made.
    changed = _set(torch._C, "_MPSStreamBase", _streams.Stream)
    changed |= _set(torch._C, "_mps_getCurrentStream", _streams.current_stream)
    return _set(torch._C, "_mps_setStream", _streams.set_stream) or changed


def _release_slot(native: Native) -> bool:
    def release_current_thread_slot() -> None:
        """Gives the calling thread's stream slot back; its next operation takes a slot again. Does nothing on a
        thread that has none."""
        native.thread_release()

    release_current_thread_slot.__module__ = "torch.mps"
    if not _add(torch.mps, "release_current_thread_slot", release_current_thread_slot):
        return False
    torch.mps.__all__.append("release_current_thread_slot")
    return True


def _batch_queues(native: Native) -> bool:
    changed = False
    for name in _batch_queue.__all__:
        if _add(torch.mps, name, getattr(_batch_queue, name)):
            torch.mps.__all__.append(name)
            changed = True
    return changed


def _adapter_facts(native: Native) -> bool:
    def adapter() -> dict[str, Any]:
        return native.adapter()

    def get_name() -> str:
        return str(adapter()["name"])

    def get_core_count() -> int:
        entry = adapter()
        count = entry.get("cores") or (os.cpu_count() if entry.get("backend") == "host" else None)
        if not count:
            raise RuntimeError(f"the driver of adapter {entry['name']!r} does not tell its number of cores")
        return int(count)

    changed = _replace(torch._C, "_mps_get_name", get_name)
    return _replace(torch._C, "_mps_get_core_count", get_core_count) or changed


def _refuse(native: Native, what: str, on_metal: str) -> Callable[..., NoReturn]:
    """`on_metal` says why an adapter of Metal refuses too."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        adapter = native.adapter()
        if adapter.get("backend") == "metal":
            raise RuntimeError(f"{what} is not served on {adapter['name']}: {on_metal}")
        raise RuntimeError(
            f"{what} needs Apple's Metal, and this mps device runs on {adapter['name']} ({adapter.get('backend')}). "
            "See rivulet.adapter()"
        )

    return refuse


_OWN_STREAM = (
    "PyTorch encodes such kernels into a stream of its own mps backend and takes a tensor's address for a Metal buffer, "
    "and in this process Rivulet serves mps instead. RIVULET_DISABLE=1 gives PyTorch's own back"
)


def _shaders(native: Native) -> bool:
    changed = _replace(torch._C, "_mps_compileShader", _refuse(native, "torch.mps.compile_shader", _OWN_STREAM))
    refuse_library = _refuse(native, "torch.mps.load_metallib", _OWN_STREAM)
    changed |= _replace(torch._C, "_mps_loadMetalllib", refuse_library)
    changed |= _replace(torch._C, "_mps_loadMetallibFromPath", refuse_library)
    return _add(torch.mps, "load_metallib", refuse_library) or changed


def _capture(native: Native) -> bool:
    def is_enabled() -> bool:
        return native.capture_state()[0]

    def is_capturing() -> bool:
        return native.capture_state()[1]

    def start(name: str) -> None:
        native.capture_start(name)

    def stop() -> None:
        native.capture_stop()

    changed = _replace(torch._C, "_mps_isCaptureEnabled", is_enabled)
    changed |= _replace(torch._C, "_mps_isCapturing", is_capturing)
    changed |= _replace(torch._C, "_mps_startCapture", start)
    return _replace(torch._C, "_mps_stopCapture", stop) or changed


def _host_alias(native: Native) -> bool:
    changed = _set(torch._C, "_mps_host_alias_storage", _storage.host_alias_storage)
    return _add(torch.mps, "_host_alias_storage", _storage.host_alias_storage) or changed


def _storage_new(native: Native) -> bool:
    return _wrap(torch.UntypedStorage, "__new__", _storage.storage_new)


def _storage_resize(native: Native) -> bool:
    return _wrap(torch.UntypedStorage, "resize_", _storage.storage_resize)


def _storage_sharing(native: Native) -> bool:
    changed = False
    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        changed |= _wrap(torch.UntypedStorage, name, _storage.refuse_sharing)
    return changed


def _inductor(native: Native) -> bool:
    wrapper = getattr(torch, "_TorchCompileInductorWrapper", None)
    if wrapper is None:
        raise Skip("torch has no _TorchCompileInductorWrapper; torch.compile needs backend='eager' for mps")
    return _wrap(wrapper, "__call__", _compile.wrap_inductor, leading=("self", "model_", "inputs_"))


def _backend(native: Native) -> bool:
    return _compile.watch()


def _engine(native: Native) -> bool:
    owners = [torch.autograd.graph, torch.autograd]
    if not all(hasattr(owner, "_engine_run_backward") for owner in owners):
        raise Skip("torch.autograd has no _engine_run_backward; an error of the other device is less clear")
    stock = torch.autograd.graph._engine_run_backward
    if _marked(stock):
        return False
    made = _autograd.explain_assertion(stock)
    made.__rivulet__ = True  # type: ignore[attr-defined]
    for owner in owners:
        owner._engine_run_backward = made  # type: ignore[attr-defined]
    return True


# PyTorch has no way to ask for the state of its switch.
_silenced = False


def _gradient_streams(native: Native) -> bool:
    switch = getattr(torch._C, "_set_warn_on_accumulate_grad_stream_mismatch", None)
    if switch is None:
        raise Skip("torch has no such warning")
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type != "mps":
        raise Skip("mps is not the accelerator; the warning means something to the other device")
    global _silenced
    if _silenced:
        return False
    switch(False)
    _silenced = True
    return True


def _library_loads(native: Native) -> bool:
    loader = importlib.machinery.ExtensionFileLoader
    changed = _wrap(ctypes.CDLL, "__init__", _takeover.after_ctypes(native))
    return _wrap(loader, "create_module", _takeover.after_extension(native)) or changed


_IMPL_PARAMETERS = ("self", "op_name", "fn", "dispatch_key")


def _library_registrations(native: Native) -> bool:
    library, namespace = torch.library.Library, getattr(torch._ops, "_OpNamespace", None)
    collect = getattr(torch.library, "_del_library", None)
    if namespace is None or collect is None:
        raise Skip("torch has no _OpNamespace or _del_library; kernels for mps are found when a library is loaded")
    changed = _wrap(library, "impl", _takeover.around_registration(native), leading=_IMPL_PARAMETERS)
    changed |= _wrap(library, "_destroy", _takeover.after_withdrawal(native))
    if not _marked(collect):
        changed |= _replace(torch.library, "_del_library", _takeover.after_collection(native, collect))
    return _wrap(namespace, "__getattr__", _takeover.after_lookup(native)) or changed


def _python_kernels(native: Native) -> bool:
    return _refs.watch()


def _fused_call(owner: type, op: str, parameters: tuple[str, ...], call: Callable[[Any], Any]) -> bool:
    if not hasattr(torch, op):
        raise Skip(f"torch has no {op}; the layers of mps run op by op")
    names = tuple(inspect.signature(owner.forward).parameters)  # type: ignore[attr-defined]
    if names != parameters:
        raise Skip(f"{owner.__name__}.forward takes {names}, expected {parameters}; it runs op by op")
    if missing := _fast_path.missing():
        raise Skip(f"torch has no {missing}; {owner.__name__} runs op by op")
    return _wrap(owner, "__call__", lambda stock: call(owner.forward))  # type: ignore[attr-defined]


def _encoder_layer(native: Native) -> bool:
    owner, parameters = torch.nn.TransformerEncoderLayer, _fast_path.ENCODER_PARAMETERS
    return _fused_call(owner, "_transformer_encoder_layer_fwd", parameters, _fast_path.encoder_layer_call)


def _attention(native: Native) -> bool:
    owner, parameters = torch.nn.MultiheadAttention, _fast_path.ATTENTION_PARAMETERS
    return _fused_call(owner, "_native_multi_head_attention", parameters, _fast_path.attention_call)


PATCHES: tuple[Patch, ...] = (
    Patch("torch._C._has_mps", "constant False in Linux builds; is_built(), device_count() read it", "1.12", _has_mps),
    Patch("torch.mps._is_in_bad_fork", "PyTorch tracks forks of its own MPS only", "2.0", _bad_fork),
    Patch("torch.mps.streams", "missing before 2.15, a dummy class in Linux builds since", "2.15", _stream),
    Patch("torch._C._MPSStreamBase", "what torch.mps.Stream stands on; macOS builds only", "2.15", _stream_internals),
    Patch("torch.mps.Event", "stock events work on the default stream only", "2.0", _event),
    Patch("torch.mps.release_current_thread_slot", "gives a thread's slot back early", "none", _release_slot),
    Patch("torch.mps.BatchQueue", "joins requests, with batch_inference, configure_batch_queue", "none", _batch_queues),
    Patch("torch._C._mps_get_name", "macOS builds only, with _mps_get_core_count", "2.9", _adapter_facts),
    Patch("torch._C._mps_compileShader", "macOS builds only, with load_metallib: refused", "2.6", _shaders),
    Patch("torch._C._mps_startCapture", "macOS builds only, with its relatives; records on Metal", "2.6", _capture),
    Patch("torch._C._mps_host_alias_storage", "macOS builds only, and missing before 2.13", "2.13", _host_alias),
    Patch(
        "torch.UntypedStorage.__new__",
        "refuses mps in Linux builds; deepcopy and torch.load use it",
        "2.0",
        _storage_new,
    ),
    Patch("torch.UntypedStorage.resize_", "PyTorch has no case for mps", "2.0", _storage_resize),
    Patch(
        "torch.UntypedStorage._share_*_cpu_",
        "would turn an mps storage into a CPU one in place",
        "2.0",
        _storage_sharing,
    ),
    Patch(
        "torch._TorchCompileInductorWrapper",
        "inductor needs Metal's compiler for mps: such graphs become plans",
        "2.0",
        _inductor,
    ),
    Patch("torch._dynamo.backends", 'adds the backend "rivulet" of torch.compile', "none", _backend),
    Patch(
        "torch.autograd._engine_run_backward",
        "an assertion beside a live CUDA device: said in words",
        "none",
        _engine,
    ),
    Patch(
        "torch._C._set_warn_on_accumulate_grad_stream_mismatch",
        "warns of threads that train one model; their streams are ordered here without being asked",
        "none",
        _gradient_streams,
    ),
    Patch(
        "torch.nn.TransformerEncoderLayer.__call__",
        "its one-op way names the devices that may take it, and mps is not among them",
        "none",
        _encoder_layer,
    ),
    Patch("torch.nn.MultiheadAttention.__call__", "the same", "none", _attention),
    Patch(
        "ctypes.CDLL.__init__",
        "a library may bring kernels for mps; with the loader of extension modules",
        "none",
        _library_loads,
    ),
    Patch("torch.library.Library.impl", "the same of Python; with torch.ops", "none", _library_registrations),
    Patch("torch._refs.linalg", "registers a kernel of its own at mps in 2.11", "none", _python_kernels),
)


def apply_all(native: Native) -> list[Outcome]:
    """Applies the table. Never raises; safe to call again."""
    return [_apply(patch, native) for patch in PATCHES]


def _apply(patch: Patch, native: Native) -> Outcome:
    try:
        state, note = ("applied" if patch.apply(native) else "present"), ""
    except Skip as skip:
        state, note = "skipped", str(skip)
    except Exception as error:
        state, note = "skipped", f"{type(error).__name__}: {error}"
    return Outcome(patch.name, patch.why, patch.since, state, note)
