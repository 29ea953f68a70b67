"""Random numbers without a generator: the value is a hash of the seed and of what the number is for.

So the order of an epoch or the cut points of a document don't depend on what was drawn before, and a resumed run needs no saved
generator. The hash is splitmix64's finaliser (Steele, Lea, Flood 2014), chained over the parts; the same on every machine and
with every version of numpy.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser on every element: a bijection of 64-bit words without visible structure."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draw(*parts: int | NDArray[np.integer]) -> NDArray[np.uint64]:
    """64 random bits for each combination of the parts (whole numbers, or arrays that broadcast); shape: that of the broadcast parts."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(p) for p in parts)) or (1,), dtype=np.uint64)
    for part in parts:
        state = mix64((state + _GOLDEN) ^ mix64(np.atleast_1d(np.asarray(part)).astype(np.uint64)))
    return state


def draw_unit(*parts: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """As `draw`, uniform in [0, 1)."""
    return (draw(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(size: int, *parts: int) -> NDArray[np.int64]:
    """A random order of 0 … size − 1, a function of the parts alone."""
    return np.argsort(draw(*parts, np.arange(size)), kind="stable")
