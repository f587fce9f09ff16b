"""The environment variables that matter, and what each does here."""

from __future__ import annotations

import os
from collections.abc import Mapping

#: Read by the engine or this package. The engine checks the values and names the bad ones in its errors.
IN_FORCE = {
    "MPS_STREAM_POOL_SIZE": "stream slots, one of them the main thread's; fixed once the first is taken",
    "MPS_POOL_BACKPRESSURE": "1: a thread that finds no slot waits for one",
    "MPS_POOL_TIMEOUT_MS": "a thread that finds no slot waits so many milliseconds for one, then raises",
    "MPS_STREAM_POOL_WAIT_TIMEOUT_MS": "the same with 0 for raising at once and -1 for waiting without end",
    "MPS_POOL_SHARE": "1: threads beyond the slots share streams",
    "PYTORCH_ENABLE_MPS_FALLBACK": "0: an op without a kernel for the GPU raises instead of running on the CPU",
    "PYTORCH_MPS_DEBUG": "1: verbose logging to stderr",
    "PYTORCH_MPS_HIGH_WATERMARK_RATIO": "limit of memory use, as a multiple of the recommended size",
    "RIVULET_ACCELERATOR": "mps or cuda: which of the two has autograd where both are there",
    "RIVULET_ADAPTER": "which adapter to run on",
    "RIVULET_CACHE_DIR": "folder for compiled kernels; empty: none are kept",
    "RIVULET_DISABLE": "1: Rivulet stays off",
    "RIVULET_LIBRARY": "native library to load instead of the package's",
    "RIVULET_METAL_ENCODERS": "threads that may encode for Metal at the same time, 1 to 64; as many as queues where not set",
    "RIVULET_MIRROR": "1: memory that CPU and device share is used as if it were not, for tests",
    "RIVULET_QUEUES": "hardware queues to use instead of the adapter's own choice",
    "RIVULET_VALIDATION": "1: Vulkan's validation layer looks on",
    "TORCH_DEVICE_BACKEND_AUTOLOAD": "0: import torch loads no backends, so not Rivulet either",
}

#: Variables of Apple's MPS or of other projects that change nothing here.
WITHOUT_EFFECT = {
    "MPS_DISABLE_ENCODING_MUTEX": "there is no global encoding lock",
    "MPS_ENABLE_COMMIT_AND_CONTINUE": "work is submitted by the engine's own policy",
    "MPS_FORCE_GRAPH_PATH": "there is no MPSGraph",
    "MPS_USE_AGX_SWIZZLE_FIX": "nothing needs it",
    "PYTORCH_DEBUG_MPS_ALLOCATOR": "see the doctor for the allocator's figures",
    "PYTORCH_MPS_ALLOC_CONF": "the engine's allocator has no such option",
    "PYTORCH_MPS_FAST_MATH": "kernels keep PyTorch's accuracy",
    "PYTORCH_MPS_LOG_PROFILE_INFO": "use torch.profiler",
    "PYTORCH_MPS_LOW_WATERMARK_RATIO": "the engine frees what it must when it must",
    "PYTORCH_MPS_METAL_VERSION": "there is no Metal",
    "PYTORCH_MPS_PREFER_METAL": "there is no Metal",
    "PYTORCH_MPS_TRACE_SIGNPOSTS": "use torch.profiler",
}

_PREFIXES = ("MPS_", "PYTORCH_MPS_", "RIVULET_")

#: Used by the build and by ./run, so not a mistake.
_OF_THE_BUILD = {"RIVULET_TORCH", "RIVULET_TORCH_DIR", "RIVULET_SKIP_NATIVE"}


def survey(environ: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The variables that are set, each with "name", "value", "effect" and "state": "read", "no effect" or "unknown"."""
    found = []
    for name, value in sorted((os.environ if environ is None else environ).items()):
        if name in IN_FORCE:
            found.append({"name": name, "value": value, "state": "read", "effect": IN_FORCE[name]})
        elif name in WITHOUT_EFFECT:
            found.append({"name": name, "value": value, "state": "no effect", "effect": WITHOUT_EFFECT[name]})
        elif name.startswith(_PREFIXES) and name not in _OF_THE_BUILD:
            found.append({"name": name, "value": value, "state": "unknown", "effect": "nothing reads it; misspelt?"})
    return found
