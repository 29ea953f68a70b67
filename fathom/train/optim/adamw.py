"""AdamW, for what is not a matrix to be made orthogonal: embeddings, output head, norms, biases, scales, sinks, ape.

    m ← β₁m + (1 − β₁)g        v ← β₂v + (1 − β₂)g²
    W ← W(1 − ηλ) − η · m̂ / (√v̂ + eps),  with m̂ and v̂ corrected for starting at zero

eps is 1e-20: small enough that it never shrinks an update; a value whose gradient has always been exactly zero (a token that
never occurred) gives 0 / 1e-20 = 0. Source: Loshchilov and Hutter 2019; constants SPEC 5.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...config import Param


class AdamW:
    """AdamW over rows of the table: (row, fp32 tensor), updated in place by `step`."""

    def __init__(self, parameters: Sequence[tuple[Param, Tensor]], *, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
        self._parameters = list(parameters)
        self._betas, self._eps, self._weight_decay = betas, eps, weight_decay
        self.mean = {row.name: torch.zeros_like(tensor, dtype=torch.float32) for row, tensor in parameters}
        self.square = {row.name: torch.zeros_like(tensor, dtype=torch.float32) for row, tensor in parameters}

    @torch.no_grad()
    def step(self, lr: float, number: int) -> None:
        """Update `number` (counted from 1, for the bias correction) from the gradients in `.grad`; without a gradient nothing moves."""
        beta1, beta2 = self._betas
        lr_corrected = lr / (1 - beta1**number)
        square_correction = 1 - beta2**number
        for row, weight in self._parameters:
            if weight.grad is None:
                continue
            grad = weight.grad.float()
            mean = self.mean[row.name].lerp_(grad, 1 - beta1)
            square = self.square[row.name].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            weight.mul_(1 - lr * self._weight_decay)
            weight.addcdiv_(mean, (square / square_correction).sqrt_().add_(self._eps), value=-lr_corrected)
