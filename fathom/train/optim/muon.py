"""Muon: momentum, made orthogonal matrix by matrix, so that every direction of a matrix learns at the same rate.

    M ← μM + G                       momentum
    O = orthogonalize(μM + G)        Nesterov's look ahead
    W ← W(1 − ηλ) − η·0.18·√max(n, m)·O

An orthogonal n × m matrix has a root mean square of √(1/max(n, m)), so every update has one of 0.18 whatever the shape: about AdamW's,
whose learning rate therefore fits.

What counts as one matrix is decided here, from the table: each expert's is its own, and fused ones are split into their independent
parts (mHC's fn into pre, post and res, CSA's series a and b, wo_a by group). Parts of equal shape, wherever they come from, go
through Newton–Schulz in one batch; tall ones are transposed first.

Source: SPEC 5.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from ...config import Param
from .orthogonalize import orthogonalize

BATCH_ELEMENTS = 1 << 24  # of one Newton–Schulz call: bounds its memory, far above what fills a device


class Muon:
    """Muon over matrices of the table.

    Args:
        parameters: (row of the table, the fp32 tensor it describes); updated in place by `step`.
        momentum, weight_decay, update_rms: μ, λ and 0.18 above.
        dtype: of the Newton–Schulz steps.
    """

    def __init__(self, parameters: Sequence[tuple[Param, Tensor]], *, momentum: float, weight_decay: float, update_rms: float,
                 dtype: torch.dtype) -> None:
        self._parameters = list(parameters)
        self._momentum, self._weight_decay, self._update_rms, self._dtype = momentum, weight_decay, update_rms, dtype
        self.state = {row.name: torch.zeros_like(tensor, dtype=torch.float32) for row, tensor in parameters}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the gradients in `.grad`; a parameter without one (it took no part) stays as it is."""
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)  # (n, m) → (direction, weight), [k, n, m]
        for row, weight in self._parameters:
            if weight.grad is None:
                continue
            M = self.state[row.name].mul_(self._momentum).add_(weight.grad)
            ahead = weight.grad.float().add(M, alpha=self._momentum)
            weight.mul_(1 - lr * self._weight_decay)
            for direction, part in zip(matrices(row, ahead), matrices(row, weight)):
                by_shape[direction.shape[1:]].append((direction, part))
        for (n, m), group in by_shape.items():
            scale = -lr * self._update_rms * max(n, m) ** 0.5
            for batch in _batches(group, max(1, BATCH_ELEMENTS // (n * m))):
                O = orthogonalize(torch.cat([direction for direction, _ in batch]), self._dtype)
                for part, update in zip((w for _, w in batch), O.split([len(w) for _, w in batch])):
                    part.add_(update, alpha=scale)


def matrices(row: Param, tensor: Tensor) -> list[Tensor]:
    """Views [k, n, m], n ≤ m, of the independent matrices in a parameter: stacked experts, the parts of a fused matrix, or itself."""
    if row.experts:
        parts = [tensor]
    elif row.row_parts:
        parts = [part.unsqueeze(0) for part in tensor.split(list(row.row_parts))]
    else:
        parts = [tensor.unsqueeze(0)]
    return [part.mT if part.shape[1] > part.shape[2] else part for part in parts]


def _batches(group: list[tuple[Tensor, Tensor]], limit: int) -> list[list[tuple[Tensor, Tensor]]]:
    """Cut a group into runs of at most `limit` matrices, splitting stacks where needed."""
    whole = [(d, w) for direction, weight in group for d, w in zip(direction.split(limit), weight.split(limit))]
    batches: list[list[tuple[Tensor, Tensor]]] = []
    size = limit
    for d, w in whole:
        if size + len(d) > limit:
            batches.append([])
            size = 0
        batches[-1].append((d, w))
        size += len(d)
    return batches
