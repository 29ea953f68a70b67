"""Which dtype to compute in, and arithmetic that repeats.

bf16 halves the bytes and doubles the rate of a matrix product where the processor has instructions for it, and is many times slower
than fp32 where it hasn't. No list of processors stays true, so "auto" measures once, at the start of a run; the answer goes into
the resolved recipe, so that a resumed run doesn't choose again.
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from .. import device as devices

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def faster_dtype(device: torch.device) -> str:
    """"bfloat16" where matrix products are faster in it than in fp32 on this device, else "float32"."""
    if not devices.supports_bf16(device):
        return "float32"
    seconds = {name: min(_product_seconds(dtype, device) for _ in range(5)) for name, dtype in DTYPES.items()}
    return "bfloat16" if seconds["bfloat16"] < seconds["float32"] else "float32"


def _product_seconds(dtype: torch.dtype, device: torch.device, size: int = 512) -> float:
    x = torch.ones(size, size, dtype=dtype, device=device)
    devices.synchronize(device)
    start = time.perf_counter()
    _ = x @ x
    devices.synchronize(device)
    return time.perf_counter() - start


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Inside, torch takes algorithms whose result doesn't depend on how threads were scheduled; afterwards its settings are as before.

    Without it the gradient of an indexing operation is summed by threads in the order in which they come. An operator of an
    accelerator that has no such algorithm warns and runs.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every new tensor twice; we read none before writing it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill
