"""From logits to a token.

A sampled token is a function of (logits, sampling settings, seed, position) and of nothing else: the random number is counter-based,
made from the seed and the token's position. So batching, preemption and resuming can't change what comes out. Temperature 0 is
greedy. Ties go to the lower id everywhere.

Filters apply in this order: temperature, top-k, top-p (smallest set of likeliest tokens with at least that much probability), min-p
(tokens at least that fraction as likely as the likeliest).
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError


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
    if sampling.temperature == 0:
        return int((logits == logits.max()).nonzero()[0])  # argmax leaves the choice among ties open
    ranked, ids = logits.double().cpu().sort(descending=True, stable=True)
    p = (ranked / sampling.temperature).softmax(0)
    keep = torch.ones_like(p, dtype=torch.bool)
    if sampling.top_k:
        keep[sampling.top_k :] = False
    if sampling.top_p < 1:
        p = p * keep / (p * keep).sum()
        keep &= p.cumsum(0) - p < sampling.top_p
    if sampling.min_p:
        keep &= p >= sampling.min_p * p[0]
    mass = (p * keep).cumsum(0)
    return int(ids[torch.searchsorted(mass, uniform(sampling.seed, position) * mass[-1], right=True).clamp(max=int(keep.sum()) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on the two numbers only."""
    digest = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)
