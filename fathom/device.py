"""The only file that names devices.

Everything above works on whatever device its tensors are on: it says `x.device`, passes `device=` along and asks here for the
few things that differ between a CPU, a CUDA GPU and an Ascend NPU (which device to take, streams, memory figures, the name of
the collectives' backend). A test refuses a device name in any other file of the package; that is what keeps one code base
running on all three.

Accelerators are reached through `torch.get_device_module`, never through `torch.cuda` directly: many of that module's functions
do nothing, silently, when the process runs on another accelerator. A CPU has no such module functions; its memory figures
come from the operating system. Nothing is probed at import.
"""
from __future__ import annotations

import contextlib
import importlib
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fathom.errors import UserError


@dataclass(frozen=True)
class _Kind:
    """What differs by device type and can't be asked of torch."""

    collectives: str  # torch.distributed backend for tensors on the device
    plugin: str = ""  # the package that brings the backend to torch, when it isn't torch itself
    remedy: str = ""  # how a user comes to have it


_KINDS = {
    "cpu": _Kind("gloo"),
    "cuda": _Kind("nccl", remedy="needs an NVIDIA or AMD driver and a torch wheel built for it (make setup TORCH_INDEX=...)"),
    "npu": _Kind("hccl", plugin="torch_npu", remedy="needs the Ascend driver, CANN and the torch_npu package of this torch version"),
}


def choose_device(name: str | None = None) -> torch.device:
    """The device a user asked for; without a name, the accelerator if there is one, else the CPU.

    Args:
        name: "cpu", an accelerator's type as in "cuda" or "npu", the same with an index ("cuda:1"), or None or "auto".

    Returns:
        A device equal to the `.device` of tensors made on it: the CPU without an index, an accelerator with one.

    Raises:
        UserError: unknown name, no such device here, or an index beyond the last device.
    """
    if name is None or name == "auto":
        kind = device_type()
        return torch.device(kind) if kind == "cpu" else torch.device(kind, _module(kind).current_device())
    kind, _, index = name.partition(":")
    if kind not in _KINDS or (":" in name and not index.isdecimal()):
        raise UserError("device", name, f"one of auto, {', '.join(_KINDS)}, or an accelerator with its index such as cuda:1")
    count = device_count(kind)
    if count == 0:
        raise UserError("device", name, f"no {kind} device can be used here", f"take --device cpu; {kind} {_KINDS[kind].remedy}")
    if index and int(index) >= count:
        raise UserError("device", name, f"this machine has {count}: the index goes from 0 to {count - 1}")
    if kind == "cpu":
        return torch.device(kind)
    return torch.device(kind, int(index) if index else _module(kind).current_device())


def device_type() -> str:
    """The type that `choose_device()` takes by itself: an accelerator that is present and that Fathom knows, else "cpu"."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found.type if found is not None and found.type in _KINDS else "cpu"


def device_count(kind: str) -> int:
    """How many devices of a type this process can use; 1 for the CPU, 0 when the type's driver or package is missing or doesn't load."""
    if kind == "cpu":
        return 1
    plugin = _KINDS[kind].plugin
    if plugin and not hasattr(torch, kind):  # torch loads plugins by itself unless told not to; this is for when it was
        try:
            importlib.import_module(plugin)
        except (ImportError, OSError):  # OSError: the package is there, the driver's libraries are not
            return 0
    module = _module(kind)
    return int(module.device_count()) if module.is_available() else 0


def local_device(local_rank: int, name: str | None = None) -> torch.device:
    """The device of one process of several on a machine, made the current one of its type: rank r takes device r modulo the count.

    Args:
        local_rank: rank of the process on its machine, from 0.
        name: a device type as in `choose_device`, without an index; None takes what is there.

    Raises:
        UserError: as `choose_device`; also for a name with an index, since the rank decides.
    """
    if name is not None and ":" in name:
        raise UserError("device", name, "a type without an index when several processes share the machine: the rank chooses it")
    device = choose_device(name)
    if device.type == "cpu":
        return device
    device = torch.device(device.type, local_rank % device_count(device.type))
    _module(device.type).set_device(device)
    return device


def dist_backend(device: torch.device) -> str:
    """The `backend` argument of `torch.distributed.init_process_group`: CPU tensors (objects, offloaded states) always have one too."""
    own = _KINDS[device.type].collectives
    return own if device.type == "cpu" else f"cpu:{_KINDS['cpu'].collectives},{device.type}:{own}"


def device_name(device: torch.device) -> str:
    """What a person calls the device: the product name of the chip, or the machine's architecture where the system hides it."""
    if device.type != "cpu":
        return str(_module(device.type).get_device_name(device))
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def supports_bf16(device: torch.device) -> bool:
    """Whether bfloat16 can be computed with on the device; every CPU can, those without the instructions slowly."""
    return True if device.type == "cpu" else bool(_function(device, "is_bf16_supported", True)())


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on the device is done; returns at once on the CPU."""
    _function(device, "synchronize")(device)


def empty_cache(device: torch.device) -> None:
    """Hand the allocator's unused blocks back to the device; the CPU's allocator keeps none."""
    _function(device, "empty_cache")()


def memory_info(device: torch.device) -> tuple[int, int]:
    """Bytes (free, total) of the device's memory; on the CPU what the system or its container (cgroup v2) can still give.

    (0, 0) where nobody tells: a device whose torch module has no such function, a system without /proc.
    """
    if device.type != "cpu":
        free, total = _function(device, "mem_get_info", (0, 0))(device)
        return int(free), int(total)
    figures = {key: int(value.split()[0]) * 1024 for key, value in _fields("/proc/meminfo") if value.split()}
    free, total = figures.get("MemAvailable", 0), figures.get("MemTotal", 0)
    limit, used = (_lines(f"/sys/fs/cgroup/memory.{file}") for file in ("max", "current"))
    if limit and used and limit[0].isdecimal() and int(limit[0]) < total:  # a container's share, smaller than the machine
        total = int(limit[0])
        free = min(free, max(total - int(used[0]), 0))
    return free, total


def max_memory_allocated(device: torch.device) -> int:
    """Peak bytes since the last reset: of tensors on an accelerator, of the whole process (resident set) on the CPU."""
    if device.type != "cpu":
        return int(_function(device, "max_memory_allocated", 0)(device))
    for key, value in _fields("/proc/self/status"):
        if key == "VmHWM":
            return int(value.split()[0]) * 1024
    import resource  # not on every system; the figure below can't be reset
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_memory_stats(device: torch.device) -> bool:
    """Start `max_memory_allocated` anew from the present amount. False where the system keeps the peak for the process's whole life."""
    if device.type != "cpu":
        _function(device, "reset_peak_memory_stats")(device)
        return True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): 5 resets the peak resident set
    except OSError:
        return False
    return True


def stream(device: torch.device) -> torch.Stream | None:
    """A new side stream of the device, or None on the CPU, which has none."""
    return None if device.type == "cpu" else _module(device.type).Stream(device=device)


def use_stream(device: torch.device, side: torch.Stream | None) -> contextlib.AbstractContextManager[Any]:
    """Context in which work on `device` is queued on `side`; with None, the current stream stays."""
    return contextlib.nullcontext() if side is None else _module(device.type).stream(side)


def _module(kind: str) -> Any:
    """torch's module of functions for a device type."""
    return torch.get_device_module(kind)


def _function(device: torch.device, name: str, default: Any = None) -> Callable[..., Any]:
    """A function of the device's module; backends differ in what they have, so a missing one answers `default`."""
    return getattr(_module(device.type), name, None) or (lambda *args: default)


def _lines(path: str) -> list[str]:
    """Lines of a system file, none where the system has no such file."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _fields(path: str) -> list[tuple[str, str]]:
    """The "key: value" lines of a system file."""
    return [(key, value.strip()) for key, _, value in (line.partition(":") for line in _lines(path))]
