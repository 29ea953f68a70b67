"""Muon and AdamW against their formulas, written out slowly."""
import math

import pytest
import torch
from torch import Tensor

from fathom.config import Param, parameters
from fathom.config.recipe import OptimizerRecipe
from fathom.train.optim import Optimizers, muon
from fathom.train.optim.adamw import AdamW
from fathom.train.optim.muon import Muon
from fathom.train.optim.orthogonalize import STEPS, orthogonalize
from tests.train import tiny


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- Newton–Schulz


def test_the_coefficients_are_those_of_the_recipe():
    assert STEPS == ((3.4445, -4.7750, 2.0315),) * 8 + ((2.0, -1.5, 0.5),) * 2


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 0.03), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16, 40), (1, 1, 7), (2, 64, 256)])
def test_singular_values_become_one_and_directions_stay(shape, dtype, off):
    M = randn(*shape) * 1e-3
    O = orthogonalize(M, dtype).float()
    assert (torch.linalg.svdvals(O) - 1).abs().max() < off
    U, _, V = torch.linalg.svd(M, full_matrices=False)
    torch.testing.assert_close(O, U @ V, atol=0.05, rtol=0)


def test_every_matrix_of_a_batch_is_its_own():
    M = randn(4, 6, 9)
    scaled = M * torch.tensor([1.0, 100.0, 1e-4, 3.0]).view(4, 1, 1)
    together = orthogonalize(scaled, torch.float32)
    for i in range(4):
        torch.testing.assert_close(together[i], orthogonalize(M[i:i + 1], torch.float32)[0], atol=1e-4, rtol=1e-3)


def test_zeros_and_rounding_noise_are_not_blown_up():
    M = torch.stack([torch.zeros(4, 6), randn(4, 6) * 1e-25, randn(4, 6)])
    O = orthogonalize(M, torch.float32)
    assert O.isfinite().all() and O[0].eq(0).all() and O[1].abs().max() < 1e-3 and O[2].norm() > 1.9


# ---- Muon


def slow_update(row: Param, W: Tensor, gradients: list[Tensor], lr: float, momentum: float, decay: float) -> Tensor:
    """SPEC 5 on one parameter, one matrix at a time, exact polar factors instead of Newton–Schulz."""
    M = torch.zeros_like(W, dtype=torch.float64)
    W = W.double()
    for G in gradients:
        M = momentum * M + G.double()
        ahead = momentum * M + G.double()
        new = W * (1 - lr * decay)
        borders = [sum(row.row_parts[:i]) for i in range(len(row.row_parts) + 1)] if row.row_parts else [0, len(W)]
        for where in range(row.experts) if row.experts else map(slice, borders, borders[1:]):
            part = ahead[where]
            U, _, V = torch.linalg.svd(part, full_matrices=False)
            new[where] -= lr * 0.18 * math.sqrt(max(part.shape)) * (U @ V)
        W = new
    return W


ROWS = [Param("plain", (6, 10), "bf16"), Param("tall", (10, 6), "bf16"), Param("experts", (3, 8, 6), "expert", experts=3),
        Param("fused", (4 + 4 + 16, 12), "fp32", row_parts=(4, 4, 16)), Param("halves", (12, 10), "bf16", row_parts=(6, 6)),
        Param("twin", (6, 10), "bf16")]


@pytest.mark.parametrize("limit", [None, 100])
def test_muon_is_the_formula_on_every_independent_matrix(limit, monkeypatch):
    """Fused, stacked, tall and equal shapes together; also when a batch must be cut."""
    if limit:
        monkeypatch.setattr(muon, "BATCH_ELEMENTS", limit)
    start = {row.name: randn(*row.shape, seed=i) for i, row in enumerate(ROWS)}
    gradients = {row.name: [randn(*row.shape, seed=100 * step + i) for step in (1, 2, 3)] for i, row in enumerate(ROWS)}
    weights = {name: w.clone().requires_grad_() for name, w in start.items()}
    optimizer = Muon([(row, weights[row.name]) for row in ROWS], momentum=0.95, weight_decay=0.1, update_rms=0.18, dtype=torch.float32)
    for step in range(3):
        for name, w in weights.items():
            w.grad = gradients[name][step].clone()
        optimizer.step(0.05)
    for row in ROWS:
        expected = slow_update(row, start[row.name], gradients[row.name], 0.05, 0.95, 0.1)
        moved = (weights[row.name].detach().double() - start[row.name]).norm()
        assert (weights[row.name].detach().double() - expected).norm() < 0.02 * moved, row.name


def test_an_update_has_the_root_mean_square_of_adamw():
    rows = [Param("wide", (16, 64), "bf16"), Param("tall", (96, 8), "bf16"), Param("experts", (2, 24, 24), "expert", experts=2)]
    weights = [(row, torch.zeros(row.shape, requires_grad=True)) for row in rows]
    for i, (_, w) in enumerate(weights):
        w.grad = randn(*w.shape, seed=i)
    Muon(weights, momentum=0.95, weight_decay=0.1, update_rms=0.18, dtype=torch.float32).step(1.0)
    for row, w in weights:
        assert abs(w.detach().square().mean().sqrt() - 0.18) < 0.01, row.name


def test_what_got_no_gradient_stays():
    rows = [Param("a", (4, 6), "bf16"), Param("b", (4, 6), "bf16")]
    weights = [(row, randn(4, 6).requires_grad_()) for row in rows]
    weights[0][1].grad = randn(4, 6)
    before = weights[1][1].detach().clone()
    optimizer = Muon(weights, momentum=0.95, weight_decay=0.1, update_rms=0.18, dtype=torch.float32)
    optimizer.step(0.1)
    assert torch.equal(weights[1][1].detach(), before) and optimizer.state["b"].eq(0).all()


# ---- AdamW


def test_adamw_equals_torch():
    row = Param("w", (5, 7), "bf16", optimizer="adamw")
    ours, theirs = randn(5, 7).requires_grad_(), randn(5, 7).requires_grad_()
    mine = AdamW([(row, ours)], betas=(0.9, 0.95), eps=1e-20, weight_decay=0.1)
    torchs = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-20, weight_decay=0.1)
    for step in range(1, 6):
        ours.grad, theirs.grad = randn(5, 7, seed=step), randn(5, 7, seed=step)
        mine.step(0.01, step)
        torchs.step()
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_value_that_never_had_a_gradient_only_decays():
    row = Param("w", (3,), "bf16", optimizer="adamw")
    w = torch.ones(3, requires_grad=True)
    optimizer = AdamW([(row, w)], betas=(0.9, 0.95), eps=1e-20, weight_decay=0.1)
    w.grad = torch.tensor([0.0, 1e-9, 1.0])
    optimizer.step(0.1, 1)
    torch.testing.assert_close(w.detach(), torch.tensor([0.99, 0.89, 0.89]))


# ---- both


def model_like(seed: int = 0) -> dict[str, Tensor]:
    table = parameters(tiny.config())
    return {row.name: randn(*row.shape, seed=seed + i).requires_grad_() for i, row in enumerate(table) if row.optimizer != "none"}


def with_gradients(tensors: dict[str, Tensor], seed: int, scale: float = 1.0) -> None:
    for i, tensor in enumerate(tensors.values()):
        tensor.grad = randn(*tensor.shape, seed=seed + i) * scale


def test_groups_are_those_of_the_recipe():
    """SPEC 5: Muon for every matrix except embedding, head, norms, mHC biases and scales, sinks, ape."""
    groups = Optimizers(parameters(tiny.config()), model_like(), OptimizerRecipe(), torch.float32)
    adamw = set(groups.adamw.mean)
    exceptions = ("embed.weight", "head.weight", "norm.weight", "base", "scale", "sink", "ape")
    assert adamw == {name for name in model_like() if name.endswith(exceptions)}
    assert set(groups.muon.state) == set(model_like()) - adamw
    with pytest.raises(AssertionError):
        Optimizers(parameters(tiny.config()), {**model_like(), "extra": torch.zeros(2)}, OptimizerRecipe(), torch.float32)


def test_clipping_scales_all_gradients_together():
    """AdamW's first mean holds a tenth of the clipped gradient: a gradient ten times too long is a tenth of itself."""
    tensors = model_like()
    groups = Optimizers(parameters(tiny.config()), tensors, OptimizerRecipe(clip=1.0), torch.float32)
    with_gradients(tensors, 7)
    whole = torch.cat([t.grad.flatten() for t in tensors.values()]).norm()
    expected = {name: 0.1 * tensors[name].grad / whole for name in groups.adamw.mean}
    assert abs(groups.step(1e-3, 1) - float(whole)) < 1e-3 * float(whole)
    for name, mean in groups.adamw.mean.items():
        torch.testing.assert_close(mean, expected[name], atol=1e-7, rtol=1e-4)
    assert all(t.grad is None for t in tensors.values())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    tensors = model_like()
    groups = Optimizers(parameters(tiny.config()), tensors, OptimizerRecipe(), torch.float32)
    before = {name: t.detach().clone() for name, t in tensors.items()}
    with_gradients(tensors, 7)
    tensors["head.weight"].grad[0, 0] = bad
    assert not math.isfinite(groups.step(1e-3, 1))
    assert all(torch.equal(t.detach(), before[name]) for name, t in tensors.items())
    assert all(t.eq(0).all() for t in groups.state().values())


def test_weights_and_state_are_all_there_is():
    """An optimizer given another's weights and state goes on bit for bit as that one would have."""
    recipe = OptimizerRecipe()
    first = model_like()
    one = Optimizers(parameters(tiny.config()), first, recipe, torch.float32)
    for step in range(1, 4):
        with_gradients(first, step)
        one.step(1e-2, step)
    second = {name: t.detach().clone().requires_grad_() for name, t in first.items()}
    other = Optimizers(parameters(tiny.config()), second, recipe, torch.float32)
    for name, tensor in other.state().items():
        tensor.copy_(one.state()[name])
    for tensors, groups in ((first, one), (second, other)):
        with_gradients(tensors, 99)
        groups.step(1e-2, 4)
    assert all(torch.equal(first[name], second[name]) for name in first)
