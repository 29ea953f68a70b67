"""The sampler against one that sorts everything; masks; log-probabilities."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from fathom.engine.sampler import Sampling, allowed, choose, likeliest, log_total, pick, uniform


def by_sorting(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    """The same rules on the whole ranking, in fp64."""
    if sampling.temperature == 0:
        return int((logits == logits.max()).nonzero()[0])
    ranked, ids = logits.double().sort(descending=True, stable=True)
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


@pytest.mark.parametrize("size", [2, 5, 300, 4096])
def test_the_head_of_the_ranking_is_enough(size: int) -> None:
    """Flat and steep logits, few and many ties, all filters alone and together."""
    random = np.random.default_rng(size)
    for i in range(600):
        logits = torch.from_numpy((random.standard_normal(size) * random.choice([0.3, 1, 3, 8, 30])).astype(np.float32))
        if random.random() < 0.3:
            logits = (logits * 2).round() / 2
        sampling = Sampling(float(random.choice([0, 0.05, 0.5, 1, 1.7])), int(random.choice([0, 0, 1, 7, 100, 9999])),
                            float(random.choice([1, 1, 0.31, 0.87, 0.999])), float(random.choice([0, 0, 0.013, 0.47, 1])), int(random.integers(99)))
        assert pick(logits, sampling, i) == by_sorting(logits, sampling, i), (i, sampling)


def test_other_rows_have_no_part_in_it() -> None:
    """A row is a row wherever it lies in memory: at odd addresses, among others."""
    rows = np.random.default_rng(0).standard_normal((7, 1001)).astype(np.float32)
    for i, row in enumerate(rows):
        alone, shifted = row.copy(), np.concatenate(([np.float32(0)], row))[1:]
        for other in (alone, shifted):
            assert log_total(row) == log_total(other) and likeliest(row, 5, 0.0) == likeliest(other, 5, 0.0)
            assert choose(row, Sampling(1.0, seed=i), 3) == choose(other, Sampling(1.0, seed=i), 3)


def test_masks() -> None:
    row = np.arange(70, dtype=np.float32)
    mask = np.zeros(3, np.uint32)
    for token in (0, 31, 32, 64):
        mask[token // 32] |= np.uint32(1 << (token % 32))
    masked = allowed(row, mask)
    assert np.flatnonzero(np.isfinite(masked)).tolist() == [0, 31, 32, 64]
    assert choose(masked, Sampling(0), 0) == 64
    assert {choose(masked, Sampling(2.0, seed=s), 0) for s in range(50)} <= {0, 31, 32, 64}
    assert [t for t, _ in likeliest(masked, 20, 0.0)] == [64, 32, 31, 0], "what is masked is nobody's alternative"
    for sampling in (Sampling(0), Sampling(1.0), Sampling(1.0, top_k=3), Sampling(1.0, top_p=0.5, min_p=0.1)):
        assert choose(allowed(row, 0 * mask), sampling, 0) == -1
        assert choose(np.where(row == 5, np.float32("nan"), row), sampling, 0) == -1
        assert choose(np.where(row == 5, np.float32("inf"), row), sampling, 0) == -1


def test_a_walk_to_the_very_end_stays_among_what_can_be_taken() -> None:
    """The largest random number there is, on rows that are split often, with most tokens masked."""
    random = np.random.default_rng(5)
    for i in range(300):
        row = (random.standard_normal(3000) * random.choice([0.0, 0.1, 3.0])).astype(np.float32)
        row[random.random(3000) < random.choice([0.1, 0.9, 0.99])] = -np.inf
        for sampling in (Sampling(1.0), Sampling(0.3, top_p=0.9), Sampling(1.5, min_p=0.2), Sampling(1.0, top_k=50)):
            for u in (0.0, 1 - 2**-53):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("fathom.engine.sampler.uniform", lambda seed, position, u=u: u)
                    token = choose(row, sampling, i)
                assert np.isfinite(row[token])
                assert u or token == row.argmax()


def test_log_probabilities() -> None:
    row = (np.random.default_rng(1).standard_normal(5000) * 10).astype(np.float32)
    assert log_total(row) == pytest.approx(float(torch.from_numpy(row).double().logsumexp(0)), abs=1e-6)
    assert log_total(row + np.float32(1e4)) == pytest.approx(log_total(row) + 1e4, abs=2e-3)
    tied = np.zeros(50, np.float32)
    assert likeliest(tied, 3, log_total(tied)) == tuple((i, pytest.approx(-np.log(50))) for i in range(3))
    assert likeliest(row, 0, 0.0) == ()
