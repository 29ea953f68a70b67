"""A simulated Ascend NPU: tensors say device "npu:0", their memory is host memory and CPU kernels do the arithmetic.

What it proves: the code never assumes a CPU or a CUDA GPU. Tensors made on the wrong device, host tensors mixed in, a dtype the
chip lacks, memory read behind torch's back: each fails here as it would there, and what comes out must be the CPU's bits.
What it can't prove: speed, the chip's own numerics, races (everything is synchronous), kernels missing there (the list of
operators under tests/vectors tells more about that).

How it works. torch keeps one dispatch slot, PrivateUse1, for backends that come from outside; we name it "npu". A DLPack capsule
carries a tensor's memory together with its device, so rewriting the capsule's device turns a CPU tensor into an npu one over the
same bytes, and back, without a copy. One fallback for all operators does that around the CPU's kernel. Operators that return a
view run the CPU's kernel on the npu tensor itself: it only makes new strides, and storage, autograd's view tracking and version
counters stay right. The few operators that allocate or re-seat storage are written out below.

Install once per process, before anything says "npu"; it can't be undone, so it never shares a process with other tests. It leans
on private parts of torch (the python backend registration, `_op_dk`, the capsule functions): a new torch version may move them.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import types
from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

HOST, EXTENSION = 1, 12  # DLDeviceType: kDLCPU, and kDLExtDev, which torch reads as PrivateUse1
CPU_KEY = torch._C.DispatchKey.CPU
aten = torch.ops.aten

operators: Counter[str] = Counter()  # how often each operator reached the device, by "aten::name.overload"
refused: set[torch.dtype] = set()  # dtypes that the device has no room for
_libraries: list[torch.library.Library] = []  # registrations live as long as these


def install(refuse: Iterable[torch.dtype] = ()) -> None:
    """Make "npu" a device of this process. `refuse` lists dtypes that raise on it, for chips without them."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
    if _libraries:
        raise RuntimeError("the simulated npu is already installed in this process")
    refused.update(refuse)
    module = device_module()
    _setup_privateuseone_for_python_backend("npu", backend_module=module)
    sys.modules["torch.npu"] = module  # torch's C++ side imports it by name
    aten_kernels, everything = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    for name, kernel in KERNELS.items():
        aten_kernels.impl(name, kernel, "PrivateUse1")
    for overload in decomposed_elsewhere():
        aten_kernels.impl(overload, functools.partial(fallback, overload), "PrivateUse1")
    everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    everything.fallback(fallback, "PrivateUse1")
    _libraries.extend([aten_kernels, everything])
    torch.serialization.register_package(15, storage_tag, restore_storage)
    torch._tensor_str._str = print_from_host(torch._tensor_str._str)


# Re-tagging: the same memory under another device's name

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def _retag(t: Tensor, device_type: int) -> Tensor:
    capsule = torch._C._to_dlpack(t)
    device = (ctypes.c_int32 * 2).from_address(_pointer(capsule, b"dltensor") + 8)  # DLTensor: void* data, then {type, index}
    device[:] = [device_type, 0]
    return torch._C._from_dlpack(capsule)


def to_host(t: Tensor) -> Tensor:
    """A CPU tensor over an npu tensor's memory."""
    return _retag(t, HOST)


def to_npu(t: Tensor) -> Tensor:
    """An npu:0 tensor over a CPU tensor's memory."""
    if t.dtype in refused:
        raise RuntimeError(f"simulated npu: {t.dtype} is not supported on the device")
    return _retag(t, EXTENSION)


def on_npu(x: object) -> bool:
    return isinstance(x, Tensor) and x.device.type == "npu"


# The fallback: every operator that isn't in KERNELS

TAKES_HOST_INDICES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


def fallback(op, *args, **kwargs):
    schema = op._schema
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    operators[name] += 1
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return op._op_dk(CPU_KEY, *args, **kwargs)  # a view
    outs = {a.name for a in schema.arguments if a.kwarg_only and a.alias_info is not None and a.alias_info.is_write}
    lent: dict[int, tuple[Tensor, Tensor, torch.Size]] = {}  # id of the host alias → alias, npu tensor, shape before the call

    def lend(x, written=False):
        if on_npu(x):
            # an empty out= tensor may be resized, and borrowed memory can't grow: the kernel gets one that can
            alias = torch.empty(x.shape, dtype=x.dtype) if written and x.numel() == 0 else to_host(x)
            lent[id(alias)] = alias, x, alias.shape
            return alias
        if isinstance(x, Tensor) and x.dim() and schema.name not in TAKES_HOST_INDICES:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found npu:0 and {x.device}")
        if isinstance(x, torch.device) and x.type == "npu":
            only_first(x)
            return torch.device("cpu")
        return x

    def give_back(x):
        if not isinstance(x, Tensor):
            return x
        return lent[id(x)][1] if id(x) in lent else to_npu(x)

    host_args = pytree.tree_map(lend, numbers_as_tensors(schema, args))
    host_kwargs = {name: pytree.tree_map(lambda x, w=name in outs: lend(x, w), value) for name, value in kwargs.items()}
    out = op(*host_args, **host_kwargs)
    for alias, original, shape in lent.values():
        if alias.shape != shape:
            adopt(original, alias)
    return pytree.tree_map(give_back, out)


def numbers_as_tensors(schema, args):
    """Python numbers that stand for tensors (`x % 4` arrives so) as tensors, where the operator won't take them itself."""
    if torch._C._should_allow_numbers_as_tensors(schema.name.removeprefix("aten::")):
        return args
    wide = torch.float64 if any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in args) else torch.float32

    def as_tensor(value, parameter):
        if isinstance(value, (int, float)) and isinstance(parameter.type, torch.TensorType):
            return torch.tensor(value, dtype=wide if isinstance(value, float) else None)  # 0-dim: doesn't widen the other operand
        return value

    return tuple(as_tensor(value, parameter) for value, parameter in zip(args, schema.arguments))


def decomposed_elsewhere() -> list[torch._ops.OpOverload]:
    """Operators that the CPU computes whole but that torch, given no kernel, would take apart: silu_backward, native_layer_norm...

    The parts round differently, and an NPU has most of them whole; with a kernel of their own they keep the CPU's bits.
    """
    def has(name: str, key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)

    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::") and has(name, "CPU")]
    taken_apart = [name for name in names if has(name, "CompositeImplicitAutograd") or has(name, "CompositeExplicitAutograd")]
    return [
        getattr(getattr(aten, base), overload or "default")
        for base, _, overload in (name.removeprefix("aten::").partition(".") for name in taken_apart)
    ]


def only_first(device: torch.device | None) -> None:
    if device is not None and device.index not in (None, 0):
        raise RuntimeError(f"simulated npu: there is one device, npu:0, not {device}")


def adopt(t: Tensor, host: Tensor) -> None:
    """Seat the npu tensor `t` on the memory, shape and strides of `host`."""
    new = to_npu(host)
    aten.set_.source_Storage_storage_offset._op_dk(CPU_KEY, t, new.untyped_storage(), 0, new.size(), new.stride())


# Operators that allocate, copy between devices or re-seat storage

def empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    only_first(device)
    return to_npu(torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format or torch.contiguous_format))


def empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None):
    only_first(device)
    t = to_npu(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))
    if tuple(t.stride()) == tuple(stride):
        return t
    return aten.as_strided.default._op_dk(CPU_KEY, t, size, stride, 0)  # DLPack normalises the strides of size-1 dims


def copy_from(source, target, non_blocking=False):
    host_target = to_host(target) if on_npu(target) else target
    host_target.copy_(to_host(source) if on_npu(source) else source)
    return target


def copy_from_and_resize(source, target):
    target.resize_(source.shape)
    return copy_from(source, target)


def to_copy(t, **kwargs):
    kwargs["non_blocking"] = False  # to the CPU it would ask for pinned memory
    if kwargs.get("device") is not None and kwargs["device"].type == "npu":
        only_first(kwargs["device"])
    return aten._to_copy.default._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, t, **kwargs)


def resize(t, size, memory_format=None):
    room = t.untyped_storage().nbytes() // t.itemsize - t.storage_offset()
    if torch.Size(size).numel() <= room:
        strides = torch.empty(size, device="meta", memory_format=memory_format or torch.contiguous_format).stride()
        aten.set_.source_Storage_storage_offset._op_dk(CPU_KEY, t, t.untyped_storage(), t.storage_offset(), size, strides)
    else:
        grown = torch.empty(size, dtype=t.dtype)
        grown.view(-1)[: t.numel()].copy_(to_host(t).reshape(-1))
        adopt(t, grown)
    return t


def clear(t):
    adopt(t, torch.empty(0, dtype=t.dtype))
    return t


def on_metadata(overload):
    """The CPU's kernel run on the npu tensors themselves: it touches sizes, strides and storage only."""
    return lambda *args, **kwargs: overload._op_dk(CPU_KEY, *args, **kwargs)


KERNELS = {
    "empty.memory_format": empty,
    "empty_strided": empty_strided,
    "_copy_from": copy_from,
    "_copy_from_and_resize": copy_from_and_resize,
    "_to_copy": to_copy,
    "resize_": resize,
    "record_stream": lambda t, stream: None,
    "set_": clear,
    "set_.source_Storage": on_metadata(aten.set_.source_Storage),
    "set_.source_Storage_storage_offset": on_metadata(aten.set_.source_Storage_storage_offset),
    "set_.source_Tensor": on_metadata(aten.set_.source_Tensor),
}


# Saving and loading. UntypedStorage(n, device="npu") would crash the process (there is no C++ allocator), so torch.load may not make one

def storage_tag(storage):
    return "npu:0" if storage.device.type == "npu" else None


def restore_storage(storage, location):
    if not location.startswith("npu"):
        return None
    only_first(torch.device(location))
    return to_npu(torch.empty(0, dtype=torch.uint8).set_(storage)).untyped_storage()


def print_from_host(original):
    """torch's text of a tensor, with an npu tensor's values formatted on the host: torch does that in float64."""
    def text(t, *, tensor_contents=None):
        if on_npu(t) and tensor_contents is None:
            tensor_contents = torch._tensor_str._tensor_str(to_host(t.detach()), 0)
        return original(t, tensor_contents=tensor_contents)
    return text


# torch.npu: what torch and a device layer ask of a backend's module

class Stream:
    """Work is done when the call returns, so a stream has nothing to wait for."""

    def __init__(self, device=None, priority=0):
        self.device = torch.device("npu:0")

    def synchronize(self):
        pass

    def wait_stream(self, other):
        pass

    def query(self):
        return True


def device_module() -> types.ModuleType:
    """The module that becomes `torch.npu`: one device, always there; the CPU's random generator is the device's; no memory figures."""
    module, stream = types.ModuleType("torch.npu"), None

    def current_stream(device=None):
        nonlocal stream
        stream = stream or Stream()
        return stream

    def set_device(device):
        only_first(torch.device("npu", device) if isinstance(device, int) else torch.device(device))

    vars(module).update(
        Stream=Stream,
        current_stream=current_stream,
        default_stream=current_stream,
        stream=contextlib.nullcontext,
        device=lambda device: contextlib.nullcontext(),
        init=lambda: None,
        _lazy_init=lambda: None,
        _is_in_bad_fork=lambda: False,
        is_available=lambda: True,
        is_initialized=lambda: True,
        is_bf16_supported=lambda: True,
        device_count=lambda: 1,
        current_device=lambda: 0,
        set_device=set_device,
        get_device_name=lambda device=None: "simulated Ascend",
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        synchronize=lambda device=None: None,
        empty_cache=lambda: None,
        manual_seed=lambda seed: None,
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: torch.set_rng_state(state),
        memory_allocated=lambda device=None: 0,
        max_memory_allocated=lambda device=None: 0,
        reset_peak_memory_stats=lambda device=None: None,
        mem_get_info=lambda device=None: (1 << 36, 1 << 36),
    )
    return module
