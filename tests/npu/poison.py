"""Poison: any use of torch.cuda from Fathom's own code raises, wherever it runs.

Many functions of torch.cuda answer quietly on a machine without CUDA (is_available, empty_cache, memory_allocated, manual_seed...),
so a test on another device doesn't notice them. Here the attribute `torch.cuda` is replaced by a module that looks at who is
asking: torch itself and the libraries get the real thing, and so does the device layer, which may ask about any device; any other
frame of the poisoned package gets an error. `import torch.cuda` or `from torch.cuda import x` goes past the attribute; the lint in
tests/laws/test_device_names.py is for those.
"""
from __future__ import annotations

import sys
import types

import torch


def poison_cuda(package: str = "fathom", device_layer: str = "fathom.device") -> None:
    """From now on in this process, `torch.cuda.anything` evaluated in a module of `package` raises AssertionError."""
    real = torch.cuda

    class Guard(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            caller = sys._getframe(1)
            module = caller.f_globals.get("__name__", "")
            if module.partition(".")[0] == package and module != device_layer:
                raise AssertionError(f"torch.cuda.{name} used by {module}:{caller.f_lineno}; go through fathom/device.py")
            return getattr(real, name)

    torch.cuda = Guard("torch.cuda")  # sys.modules keeps the real one
