"""Losses against their formulas, written out slowly; what may and what may not depend on what."""
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fathom.config.recipe import LossRecipe
from fathom.model import Batch, Routing, Transformer
from fathom.ops import IGNORE
from fathom.train.loss import Sample, Sizes, balance_loss, imbalance, load, losses, update_biases
from tests.train import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    model = Transformer(tiny.config(), dtype=torch.float32)
    model.init_weights(3)
    for buffer in model.buffers():  # router biases that choose otherwise than the scores would
        if buffer.is_floating_point():
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=torch.Generator().manual_seed(1)))
    return model


def rows(seed=0, lengths=((9, 5), (14,), (3, 6, 2), (12,))):
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(0, tiny.VOCABULARY, n + 1) for n in row) for row in lengths]


def test_targets_are_shifted_within_a_piece():
    piece, other = np.array([5, 6, 7, 8]), np.array([1, 2])
    sample = Sample.of([(piece, other)], CPU)
    assert sample.batch.token_ids.tolist() == [5, 6, 7, 1] and [run.length for run in sample.batch.runs] == [3, 1]
    assert sample.targets.tolist() == [6, 7, 8, 2]
    assert sample.second_targets.tolist() == [7, 8, IGNORE, IGNORE]
    assert sample.piece.tolist() == [0, 0, 0, 1]
    assert sample.next_ids.tolist() == [6, 7, 8, 2]
    assert Sizes.of([(piece, other)]) == Sizes(4, 4, 2)


def test_main_and_mtp_are_mean_cross_entropies(model):
    """Each document by itself, full logits, a Python loop: the same means."""
    pieces = [torch.from_numpy(piece) for row in rows() for piece in row]
    main, second = [], []
    for ids in pieces:
        batch = Batch.pack([ids[:-1]])
        out = model(batch)
        main.append(F.cross_entropy(out.hidden @ model.head.weight.T, ids[1:], reduction="none"))
        hidden, _ = model.predict_second(out.streams, ids[1:], batch)
        if len(ids) > 2:
            second.append(F.cross_entropy((hidden @ model.head.weight.T)[:-1], ids[2:], reduction="none"))
    found = losses(model, Sample.of(rows(), CPU), Sizes.of(rows()), LossRecipe(), 0.3)
    torch.testing.assert_close(found.main, torch.cat(main).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mtp, torch.cat(second).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.total, found.main + 0.3 * found.mtp + 1e-4 * found.balance + found.indexer, atol=1e-6, rtol=1e-6)


def test_micro_batches_add_up_to_the_step(model):
    """Losses, loads and gradients don't depend on how a step's rows are divided."""
    def gradients(parts):
        model.zero_grad()
        sizes = Sizes.of(rows())
        found = [losses(model, Sample.of(part, CPU), sizes, LossRecipe(balance=0.1), 0.3) for part in parts]
        for part in found:
            part.total.backward()
        totals = [sum(float(getattr(f, name)) for f in found) for name in ("main", "mtp", "balance")]
        loads = {name: sum(f.loads[name] for f in found).tolist() for name in found[0].loads}
        return totals, loads, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, split = gradients([rows()]), gradients([rows()[:1], rows()[1:3], rows()[3:]])
    assert whole[0] == pytest.approx(split[0], rel=1e-5) and whole[1] == split[1]
    for name in whole[2]:
        torch.testing.assert_close(whole[2][name], split[2][name], atol=1e-6, rtol=1e-3)


def test_without_weight_the_mtp_block_does_not_run(model):
    found = losses(model, Sample.of(rows(), CPU), Sizes.of(rows()), LossRecipe(), 0.0)
    assert float(found.mtp) == 0.0 and not any("mtp" in name for name in found.loads)


# ---- balance


def slow_balance(scores, experts, lengths):
    """SPEC 5's formula per sequence, weighted by tokens."""
    total, start = 0.0, 0
    E, K = scores.shape[1], experts.shape[1]
    for T in lengths:
        s, chosen = scores[start:start + T], experts[start:start + T]
        for i in range(E):
            f = E / (K * T) * int((chosen == i).sum())
            P = float((s[:, i] / s.sum(1)).mean())
            total += T * f * P
        start += T
    return total


def test_balance_loss_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    lengths, E, K = [5, 1, 9], 6, 2
    scores = torch.rand(15, E, generator=generator) + 0.01
    experts = torch.rand(15, E, generator=generator).topk(K).indices
    piece = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    assert float(balance_loss(scores, experts, piece)) == pytest.approx(slow_balance(scores, experts, lengths), rel=1e-5)


def test_balance_is_one_per_token_when_even_and_pushes_toward_it():
    T, E = 12, 4
    even = torch.full((T, E), 0.5)
    experts = torch.arange(T).view(T, 1) % E
    piece = torch.zeros(T, dtype=torch.int64)
    assert float(balance_loss(even, experts, piece)) == pytest.approx(T)
    scores = torch.rand(T, E, generator=torch.Generator().manual_seed(0)).add(0.1).requires_grad_()
    crowded = torch.zeros(T, 1, dtype=torch.int64)
    balance_loss(scores, crowded, piece).backward()
    assert (scores.grad[:, 0] > 0).all() and (scores.grad[:, 1:] < 0).all()  # a step downhill takes from the crowded expert


def test_hash_routed_layers_have_no_balance(model):
    found = losses(model, Sample.of(rows(), CPU), Sizes.of(rows()), LossRecipe(), 0.3)
    assert sorted(found.loads) == ["layers.1.ffn", "layers.2.ffn", "mtp.0.ffn"]
    tokens = sum(len(piece) - 1 for row in rows() for piece in row)
    assert all(int(counts.sum()) == 2 * tokens for counts in found.loads.values())


def test_biases_move_by_one_step_toward_the_mean():
    biases = {"a": torch.tensor([0.5, 0.0, 0.0, -1.0]), "b": torch.zeros(2)}
    update_biases(biases, {"a": torch.tensor([10, 2, 5, 3]), "b": torch.tensor([4, 4])}, 0.001)
    torch.testing.assert_close(biases["a"], torch.tensor([0.499, 0.001, 0.0, -0.999]))
    assert biases["b"].eq(0).all()


def test_the_bias_alone_balances_a_skewed_router():
    """Two hundred steps of the rule bring a router with a strong preference to nearly even load, without touching its scores."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(500, 8, generator=generator) * 0.2 + torch.linspace(0, 0.1, 8)
    bias = {"r": torch.zeros(8)}
    before = None
    for _ in range(200):
        counts = torch.bincount((scores + bias["r"]).topk(2).indices.flatten(), minlength=8)
        before = before if before is not None else imbalance({"r": counts})
        update_biases(bias, {"r": counts}, 0.001)
    assert before > 0.5 and imbalance({"r": counts}) < 0.1


def test_load_counts_choices():
    routing = Routing("r", torch.zeros(3, 4), torch.tensor([[0, 1], [1, 3], [1, 0]]), hash_routed=False)
    assert load(routing).tolist() == [2, 3, 0, 1]


# ---- the indexers


@pytest.mark.parametrize("sparse", [True, False])
def test_the_indexer_loss_teaches_the_indexers_and_nothing_else(model, sparse):
    """Its weight changes the indexers' gradients and no other; without it they have none."""
    def gradients(weight):
        model.zero_grad()
        found = losses(model, Sample.of(rows(), CPU), Sizes.of(rows()), LossRecipe(indexer=weight), 0.3, sparse=sparse)
        found.total.backward()
        return float(found.indexer), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    (zero, without), (value, once), (_, twice) = gradients(0.0), gradients(1.0), gradients(2.0)
    assert zero == 0.0 < value
    indexers = {name for name, _ in model.named_parameters() if ".indexer." in name and not name.startswith("mtp.")}
    assert set(once) - set(without) <= indexers and any(once[name].any() for name in indexers)
    for name in once:
        expected = 2 * once[name] if name in indexers else without[name]
        torch.testing.assert_close(twice[name], expected, atol=1e-7, rtol=1e-5)
