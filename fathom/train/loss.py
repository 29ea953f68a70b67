"""The loss of a step and what the routers did in it.

    loss = main + w_mtp · MTP + balance

Main and MTP are cross-entropies, each a mean over all its targets of the whole step, whatever the micro-batches. A piece's targets
are its ids shifted by one; MTP's are shifted by two, so the last position has none. An id that is only read (complement, pack.py) is
nobody's target; logits are made only where there is one.

Balance keeps experts in use. Within each sequence (here: each piece) of T tokens, with s the router's unbiased scores,

    f_i = E/(K·T) · count_i      P_i = mean_t s_ti/Σ_j s_tj      balance = weight · Σ_i f_i·P_i

Pieces differ in length, so the step's value is their mean weighted by tokens; layers add up. f counts choices and has no gradient,
P has. Over the whole step a second, gradient-free hand does most of the work: each expert's selection bias is moved a fixed amount
up when the expert got less than the mean load, down when more. Hash-routed layers choose by token and have neither.

Source: SPEC 5.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.recipe import LossRecipe
from ..model import Batch, Routing, Transformer
from ..ops import IGNORE, cross_entropy
from .data.pack import Row


@dataclass(frozen=True)
class Sample:
    """A micro-batch: flat inputs, and per token the next one, its target, the target after (IGNORE: none) and the number of its piece."""

    batch: Batch
    next_ids: Tensor
    targets: Tensor
    second_targets: Tensor
    piece: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> Sample:
        """Every piece of the rows as a document of its own."""
        given = [torch.from_numpy(piece) for row in rows for piece in row]
        pieces = [torch.where(piece < 0, ~piece, piece) for piece in given]
        targets = [piece.masked_fill(piece < 0, IGNORE) for piece in given]
        second = [torch.cat([target[2:], torch.tensor([IGNORE])]) for target in targets]
        number = torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor([len(piece) - 1 for piece in pieces]))
        return cls(Batch.pack([piece[:-1] for piece in pieces]).to(device), torch.cat([piece[1:] for piece in pieces]).to(device),
                   torch.cat([target[1:] for target in targets]).to(device), torch.cat(second).to(device), number.to(device))


@dataclass(frozen=True)
class Sizes:
    """Tokens, targets and MTP's targets of a whole step, over all its micro-batches: what the sums are divided by."""

    tokens: int
    targets: int
    second: int

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Sizes:
        pieces = [piece for row in rows for piece in row]
        return cls(sum(len(p) - 1 for p in pieces), *(sum(int((p[shift:] >= 0).sum()) for p in pieces) for shift in (1, 2)))


@dataclass(frozen=True)
class Losses:
    """A micro-batch's share of the step: `total` to differentiate, the parts (detached), and each router's choices [E] by its name."""

    total: Tensor
    main: Tensor
    mtp: Tensor
    balance: Tensor
    indexer: Tensor
    loads: dict[str, Tensor]


def losses(model: Transformer, sample: Sample, sizes: Sizes, recipe: LossRecipe, mtp_weight: float, *, sparse: bool = True) -> Losses:
    """Forward pass and losses of one micro-batch; over the micro-batches of a step the parts add up to its means.

    Args:
        sparse: CSA attends to what its indexer chooses; else to all visible entries.
    """
    out = model(sample.batch, sparse=sparse, index_loss=recipe.indexer > 0)
    routings = list(out.routing)
    main = summed_nll(model, out.hidden, sample.targets) / max(1, sizes.targets)
    mtp = torch.zeros_like(main)
    if len(model.mtp) and mtp_weight:
        hidden, routing = model.predict_second(out.streams, sample.next_ids, sample.batch)
        routings.append(routing)
        mtp = summed_nll(model, hidden, sample.second_targets) / max(1, sizes.second)
    learned = [routing for routing in routings if not routing.hash_routed]
    balance = sum((balance_loss(r.scores, r.experts, sample.piece) for r in learned), torch.zeros_like(main)) / sizes.tokens
    indexer = sum(out.index_losses, torch.zeros_like(main)) / sizes.tokens
    total = main + mtp_weight * mtp + recipe.balance * balance + recipe.indexer * indexer
    loads = {routing.name: load(routing) for routing in learned}
    return Losses(total, main.detach(), mtp.detach(), balance.detach(), indexer.detach(), loads)


def summed_nll(model: Transformer, hidden: Tensor, targets: Tensor) -> Tensor:
    """Sum of the targets' negative log-likelihoods; hidden [T, D], targets [T]. Where most are IGNORE, the others are picked out first."""
    counts = targets != IGNORE
    if counts.all():
        return cross_entropy(hidden, model.head.weight, targets, reduction="sum")
    places = counts.nonzero().squeeze(1)
    return cross_entropy(hidden[places], model.head.weight, targets[places], reduction="sum")


def balance_loss(scores: Tensor, experts: Tensor, piece: Tensor) -> Tensor:
    """Σ over pieces of T · Σ_i f_i·P_i: scores [T, E] unbiased, experts [T, K], piece [T] (number of each token's piece, ascending)."""
    _, E = scores.shape
    K = experts.shape[1]
    num_pieces = int(piece[-1]) + 1
    count = torch.bincount((piece.unsqueeze(1) * E + experts).flatten(), minlength=num_pieces * E).view(num_pieces, E)
    length = torch.bincount(piece, minlength=num_pieces).unsqueeze(1)
    f = count.to(scores.dtype) * E / (K * length)
    share = scores / scores.sum(-1, keepdim=True)
    return (f[piece] * share).sum()  # Σ_pieces T·Σ_i f_i·mean_t share = Σ_t Σ_i f_i·share_ti


def load(routing: Routing) -> Tensor:
    """How often each expert was chosen, [E] int64."""
    return torch.bincount(routing.experts.flatten(), minlength=routing.scores.shape[1])


@torch.no_grad()
def update_biases(biases: Mapping[str, Tensor], loads: Mapping[str, Tensor], step: float) -> None:
    """Move each router's selection bias [E] by ±step (0 at the mean) toward equal load; `loads` are those of the whole global batch."""
    for name, counts in loads.items():
        counts = counts.to(torch.float32)
        biases[name].add_(torch.sign(counts.mean() - counts), alpha=step)


def imbalance(loads: Mapping[str, Tensor]) -> float:
    """The fullest expert's load over the mean, less 1, averaged over routers; 0 is perfect balance."""
    over = [float(counts.max()) / max(1e-9, float(counts.to(torch.float32).mean())) - 1 for counts in loads.values()]
    return sum(over) / len(over) if over else 0.0
