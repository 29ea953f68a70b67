"""From logits to a token, and to log-probabilities.

A sampled token is a function of (logits, sampling settings, seed, position) and of nothing else: the random number is counter-based,
made from the seed and the token's position. So batching, preemption, speculation and resuming can't change what comes out.
Temperature 0 is greedy. Ties go to the lower id everywhere.

Filters apply in this order: temperature, top-k, top-p (smallest set of likeliest tokens with at least that much probability), min-p
(tokens at least that fraction as likely as the likeliest). Each keeps a stretch of the ranking from its top, and the random number
walks down the same ranking. The ranking is sorted only where the walk ends: above that, sums of weights are enough.

Rows are numpy vectors on the host, one at a time: numpy sums a row in one fixed order whatever else is in the batch. Weights are fp32,
their sums fp64.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ..errors import UserError

DEPTH = 8.0  # nats below the likeliest token, at the temperature, where the ranking is split first: what matters is mostly above
SORTED = 256  # tokens that are sorted instead of being split further
BELOW_ONE = 1 - 1e-12  # so that sums in different orders agree that the walk ends before its end


@dataclass(frozen=True)
class Sampling:
    """How to choose a token.

    Attributes:
        temperature: 0 (greedy) to 2.  top_k: keep so many likeliest tokens; 0 keeps all.
        top_p: in (0, 1]; 1 keeps all.  min_p: in [0, 1]; 0 keeps all.  seed: any whole number.

    Raises:
        UserError: a value out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise UserError("temperature", self.temperature, "0 (greedy) to 2")
        if self.top_k < 0:
            raise UserError("top_k", self.top_k, "0 (all) or a number of tokens")
        if not 0 < self.top_p <= 1:
            raise UserError("top_p", self.top_p, "above 0, at most 1")
        if not 0 <= self.min_p <= 1:
            raise UserError("min_p", self.min_p, "0 to 1")


def pick(logits: Tensor, sampling: Sampling, position: int) -> int:
    """The token for one position.

    Args:
        logits: [V] fp32, on any device.  position: the new token's position in its sequence; part of the random number.
    """
    return choose(logits.detach().cpu().numpy(), sampling, position)


def choose(row: np.ndarray, sampling: Sampling, position: int) -> int:
    """As `pick`, from logits [V] fp32 on the host; -1 when no token can be taken: all are at -inf, or one isn't a finite number."""
    best = int(row.argmax())  # the first of equals; a NaN, if there is one
    if not -math.inf < row[best] < math.inf or sampling.temperature == 0:
        return best if -math.inf < row[best] < math.inf else -1
    ids = _likeliest(row, best, sampling.top_k) if sampling.top_k else None
    logits = row if ids is None else row[ids]
    weights = np.exp((logits - row[best]) * np.float32(1 / sampling.temperature))  # relative to the likeliest token's
    kept = total = float(weights.sum(dtype=np.float64))
    split = float(row[best]) - DEPTH * sampling.temperature
    if sampling.top_p < 1:
        kept = _walk(logits, weights, sampling.top_p * total, split, "left")[1]
    if sampling.min_p:
        kept = min(kept, float(weights[weights >= sampling.min_p].sum(dtype=np.float64)))
    index, _ = _walk(logits, weights, uniform(sampling.seed, position) * kept * BELOW_ONE, split, "right")
    return index if ids is None else int(ids[index])


def allowed(row: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Logits [V] with everything at -inf that a mask ([ceil(V/32)] uint32, see request.Constraint) doesn't set."""
    bits = np.unpackbits(np.ascontiguousarray(mask, dtype="<u4").view(np.uint8), count=len(row), bitorder="little")
    return np.where(bits.view(bool), row, np.float32(-math.inf))


def log_total(row: np.ndarray) -> float:
    """log Σ exp of logits [V]: what to subtract from one to get its log-probability."""
    top = row.max()
    return float(top) + math.log(float(np.exp(row - top).sum(dtype=np.float64)))


def likeliest(row: np.ndarray, count: int, total: float) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens of logits [V] with their log-probabilities, given log_total; ties to the lower id."""
    if not count:
        return ()
    return tuple((int(i), float(row[i]) - total) for i in _likeliest(row, int(row.argmax()), count))


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the two numbers only."""
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def _walk(logits: np.ndarray, weights: np.ndarray, target: float, split: float, side: Literal["left", "right"]) -> tuple[int, float]:
    """From the likeliest token down until the sum of weights reaches `target` (exceeds it, if side is "right"): the index of the token
    where it does, and the sum there. split: the logit where to look first."""
    ids, above, middle = None, 0.0, np.float32(split)
    while len(logits) > SORTED:
        higher = logits > middle
        chosen = np.flatnonzero(higher)
        if 0 < len(chosen) < len(logits):
            weight = float(weights[chosen].sum(dtype=np.float64))
            if above + weight <= target:
                above += weight
                chosen = np.flatnonzero(~higher)
            ids, logits, weights = chosen if ids is None else ids[chosen], logits[chosen], weights[chosen]
        low, high = logits.min(), logits.max()
        if low == high:
            break
        middle = np.float32((float(low) + float(high)) / 2)
        middle = middle if middle < high else low
    order = np.argsort(-logits, kind="stable")
    sums = above + weights[order].cumsum(dtype=np.float64)
    i = min(int(np.searchsorted(sums, target, side=side)), len(order) - 1)
    return int(order[i] if ids is None else ids[order[i]]), float(sums[i])


def _likeliest(row: np.ndarray, best: int, count: int) -> np.ndarray:
    """Ids of the `count` best tokens, best first, or of all that can be taken if they are fewer."""
    ids = np.flatnonzero(row >= float(row[best]) - DEPTH)
    if len(ids) < count:
        ids = np.flatnonzero(row > -math.inf)
    if len(ids) > count + SORTED:
        ids = ids[row[ids] >= np.partition(row[ids], len(ids) - count)[len(ids) - count]]
    return ids[np.argsort(-row[ids], kind="stable")][:count]
