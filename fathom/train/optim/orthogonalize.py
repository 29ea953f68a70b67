"""Newton–Schulz: the orthogonal factor of a matrix by ten matrix products, no decomposition.

For X = U S Vᵀ the step X ← aX + b(XXᵀ)X + c(XXᵀ)²X applies the odd polynomial s ↦ as + bs³ + cs⁵ to every singular value and
leaves U and V alone. Eight steps with coefficients that lift small values fast bring all of them near 1, two with a polynomial
that is flat at 1 hold them there. Small errors shrink in the next step, so bf16 does.

Source: SPEC 5 (technical report, Muon); the idea of tuned coefficients is Jordan et al. 2024.
"""
from __future__ import annotations

import torch
from torch import Tensor

LIFT, HOLD = (3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)
STEPS = (LIFT,) * 8 + (HOLD,) * 2
NOISE = 1e-12  # Frobenius norm below which a direction is rounding noise: it is not blown up to a full step


def orthogonalize(M: Tensor, dtype: torch.dtype) -> Tensor:
    """Orthogonal factors of a batch of matrices [B, n, m], n ≤ m: singular values near 1, computed and returned in `dtype`.

    A matrix of zeros stays zero. One whose norm is below NOISE stays small: the first layer's streams are equal copies, so its `comb` has
    no effect and its gradient is nothing but rounding errors.
    """
    assert M.dim() == 3 and M.shape[1] <= M.shape[2], "pass the transpose of a tall matrix: the products are n × n"
    norm = M.float().square().sum((1, 2), keepdim=True).sqrt()
    X = (M / norm.clamp_min(NOISE)).to(dtype)  # all singular values at most 1: the iteration converges
    for a, b, c in STEPS:
        A = X @ X.mT
        A = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, A, X, beta=a)
    return X
