"""Which experts a token goes to, and with what weight.

Scores are sqrt(softplus(·)) in fp32. A bias, adjusted from the load and not by gradient, takes part in the choice only; the
weights are the unbiased scores of the chosen. The first layers choose by token id from a fixed table instead. Exact ties go to
the lower expert.

Source: SPEC section 2, MoE.
"""
from torch import Tensor
from torch.nn import functional as F

from .topk import topk_stable


def route(logits: Tensor, *, bias: Tensor | None, chosen: Tensor | None, top_k: int, factor: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, weights and experts of each token.

    Args:
        logits: [T, E], fp32 or wider.
        bias: [E], added for the choice only.  chosen: [T, K] int64 experts of hash-routed layers; exactly one of the two is given.
        top_k: experts per token, K.  factor: routed_scaling_factor.

    Returns:
        scores [T, E] unbiased, weights [T, K] (sum = factor), experts [T, K] int64.
    """
    scores = F.softplus(logits).sqrt()
    experts = chosen if chosen is not None else topk_stable((scores + bias).detach(), top_k)
    weights = scores.gather(1, experts)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * factor
    return scores, weights, experts
