"""A model's fingerprint: what a record or log made by one model holds for, and for no other.

It is a digest of the configuration, of which kernels compute, and of a sample of every tensor. Hashing all of the weights would take
minutes where opening the model takes seconds; a sample tells checkpoints of one run apart, whose every tensor has moved.
"""
from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import torch

from .. import __version__
from ..model import Transformer
from ..ops import select

SAMPLE = 4096  # values of each tensor


@torch.no_grad()
def fingerprint(model: Transformer) -> str:
    """64 hexadecimal digits. Models of the same weights under other kernels or another version of torch differ: their last bits may."""
    digest = hashlib.blake2b(digest_size=32)
    device = model.embed.weight.device.type
    kernels = [row.source for row in select(device, model.precision, training=False, rows=model.rows)[1]]
    place = [__version__, torch.__version__, device, model.precision]
    digest.update(repr((dataclasses.astuple(model.config), place, kernels)).encode())
    for name, weight in model.tensors().items():
        digest.update(name.encode())
        for values in _plain(weight):
            flat = values.flatten()
            digest.update(flat[:: max(1, len(flat) // SAMPLE)].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(weight: Any) -> Iterator[torch.Tensor]:
    """The tensors behind a weight, which may be packed: one matrix, two parts of one, or one an expert."""
    if isinstance(weight, torch.Tensor):
        yield weight
    elif hasattr(weight, "packed"):
        yield from _plain(weight.packed)
    elif hasattr(weight, "data"):
        yield from (part for part in (weight.data, weight.scale) if part is not None)
    else:
        for expert in weight:
            yield from _plain(expert)
