"""How the C library treats memory that was freed: a program keeps it for its next step, and gives it back when it has nothing to do."""
import ctypes
import sys
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
MAPPED_FROM = 32 << 20  # bytes; larger blocks are mappings of their own, given back at once. The highest that glibc comes to by itself
KEPT = 1 << 30  # bytes of free memory at the heap's end, at most


def keep_freed_memory() -> bool:
    """Tells this process's C library to keep freed memory. For programs, at their start; a library leaves its host as it is.

    Every layer of a model frees tens of megabytes of temporaries and asks for as many again. glibc by default gives them back and gets
    fresh, zeroed pages: one page fault for 4 KiB, a tenth of the time of a long prompt on the reference kernels. The peak hardly grows.

    Returns:
        Whether it took effect. False on systems without mallopt(3), whose allocators have their own ways.
    """
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, MAPPED_FROM) and mallopt(_TRIM_THRESHOLD, KEPT))


def give_back_freed_memory() -> bool:
    """Gives this process's freed memory back to the system, also from between blocks in use. For long-lived programs, when they fall silent.

    Takes milliseconds; other threads that allocate meanwhile may wait for it.

    Returns:
        Whether there was any. False on systems without malloc_trim(3).
    """
    trim = _function("malloc_trim")
    return trim is not None and bool(trim(0))


def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library, None where it has none of that name."""
    return None if sys.platform == "win32" else getattr(ctypes.CDLL(None), name, None)
