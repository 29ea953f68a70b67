"""From logits to a token, and to log-probabilities.

A sampled token is a function of (logits, sampling settings, seed, position) and of nothing else: the random number is counter-based,
made from the seed and the token's position. So batching, preemption, speculation and resuming can't change what comes out.
Temperature 0 is greedy. Ties go to the lower id everywhere.

Filters apply in this order: temperature, top-k, top-p (smallest set of likeliest tokens with at least that much probability), min-p
(tokens at least that fraction as likely as the likeliest). Each keeps a stretch of the ranking from its top, and the random number
walks down the same ranking. So only the head of the ranking is ever sorted, and deeper down only when the walk may get there.

Rows are numpy vectors on the host, one at a time: numpy sums a row in one fixed order whatever else is in the batch.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import UserError

DEPTH = 8.0  # nats below the likeliest token, at the temperature, down to which the ranking is sorted at first


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
    """As `pick`, from logits [V] fp32 on the host; -1 when no token can be taken: all are at -inf, or one isn't a number."""
    best = int(row.argmax())  # the first of equals; a NaN, if there is one
    if not row[best] > -math.inf or sampling.temperature == 0:
        return best if row[best] > -math.inf else -1
    ids = _likeliest(row, best, sampling.top_k) if sampling.top_k else np.zeros(0, np.int64)
    total, depth, u = math.nan, max(DEPTH, -math.log(sampling.min_p) if sampling.min_p else 0.0), uniform(sampling.seed, position)
    while True:
        if not sampling.top_k:
            ids = _ranking(row, float(row[best]) - depth * sampling.temperature)
        weight = np.exp((row[ids].astype(np.float64) - float(row[best])) / sampling.temperature)  # relative to the likeliest token's
        mass = weight.cumsum()
        whole = bool(sampling.top_k) or depth == math.inf
        if math.isnan(total) and not whole and (sampling.top_p < 1 or not sampling.min_p):
            total = float(np.exp((row - row[best]) * np.float32(1 / sampling.temperature)).sum(dtype=np.float64))
        kept = len(ids)
        if sampling.top_p < 1:
            kept = int(np.count_nonzero(mass - weight < sampling.top_p * (mass[-1] if whole else total)))
        if sampling.min_p:
            kept = min(kept, int(np.count_nonzero(weight >= sampling.min_p)))
        if whole or kept < len(ids) or sampling.min_p:  # everything that the filters keep is in sight
            return int(ids[min(int(np.searchsorted(mass, u * mass[kept - 1], side="right")), kept - 1)])
        if sampling.top_p == 1 and u * total < mass[-1]:
            return int(ids[int(np.searchsorted(mass, u * total, side="right"))])
        depth = 1.5 * depth if depth < 64 else math.inf


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


def _ranking(row: np.ndarray, floor: float) -> np.ndarray:
    """Ids of the tokens with at least this logit (finite ones), best first, ties to the lower id."""
    ids = np.flatnonzero(row >= floor if floor > -math.inf else row > -math.inf)
    return ids[np.argsort(-row[ids], kind="stable")]


def _likeliest(row: np.ndarray, best: int, count: int) -> np.ndarray:
    """Ids of the `count` best tokens, or of all that can be taken if they are fewer."""
    ids = _ranking(row, float(row[best]) - DEPTH)
    if len(ids) < count:
        ids = _ranking(row, float(np.partition(row, len(row) - count)[len(row) - count]) if count < len(row) else -math.inf)
    return ids[:count]
