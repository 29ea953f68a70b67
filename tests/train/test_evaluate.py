"""Bits per byte: every token once, the end included, and the figure that the formula gives."""
import gzip
import lzma
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from fathom.model import Batch, Transformer
from fathom.ops import IGNORE
from fathom.train import evaluate
from fathom.train.data.store import TokenStore, write_store
from fathom.train.evaluate import choose_documents, compressors, score
from tests.train import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model():
    model = Transformer(tiny.config(), dtype=torch.float32)
    model.init_weights(0)
    return model


@pytest.fixture
def store(tmp_path):
    rng = random.Random(0)
    documents = [([0, *rng.choices(range(20, 300), k=n), 1], "x" * (3 * n)) for n in (1, 7, 40, 100)]
    write_store(tmp_path, "held_out", documents, 300, texts=True)
    return TokenStore(tmp_path, "held_out")


@given(n=st.integers(2, 200), length=st.integers(8, 64))
def test_windows_score_every_token_once_with_half_a_window_before_it(n, length):
    ids = torch.arange(n)
    scored = []
    for inputs, targets in evaluate._windows(ids, length):
        assert len(inputs) == len(targets) <= length
        for at, target in enumerate(targets.tolist()):
            if target != IGNORE:
                assert inputs[at] == target - 1  # predicted from the token before it
                assert at >= min(target - 1, length // 2 - 1)
                scored.append(target)
    assert scored == list(range(1, n))


def test_the_score_is_the_formula(model, store):
    """Documents that fit in the window: each alone, full logits."""
    nats = 0.0
    for i in range(3):
        ids = torch.tensor(store[i].tolist())
        with torch.no_grad():
            hidden = model(Batch.pack([ids[:-1]])).hidden
            nats += float(F.cross_entropy(hidden @ model.head.weight.T, ids[1:], reduction="sum"))
    found = score(model, store, store.texts(), [0, 1, 2], 64, CPU)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert (found.bytes, found.tokens, found.documents) == (3 * 48, 51, 3)
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / 144)


def test_batching_changes_nothing(model, store, monkeypatch):
    whole = score(model, store, store.texts(), range(4), 16, CPU)
    monkeypatch.setattr(evaluate, "BATCH_TOKENS", 1)
    alone = score(model, store, store.texts(), range(4), 16, CPU)
    assert whole.nats == pytest.approx(alone.nats, rel=1e-6) and whole.tokens == alone.tokens == 1 + 7 + 40 + 100 + 4


def test_a_uniform_model_costs_the_logarithm_of_the_vocabulary(store):
    model = Transformer(tiny.config(), dtype=torch.float32)
    model.init_weights(0)
    with torch.no_grad():
        model.head.weight.zero_()
    found = score(model, store, store.texts(), range(4), 32, CPU)
    assert found.nats == pytest.approx(found.tokens * math.log(tiny.VOCABULARY), rel=1e-5)


def test_compressors_are_summed_file_by_file():
    texts = [b"hello hello hello " * 20, b"x = 1\n" * 50, b"!"]
    found = compressors(texts)
    total = sum(map(len, texts))
    assert found["gzip -9"] == 8 * sum(len(gzip.compress(t, 9)) for t in texts) / total
    assert found["xz -9"] == 8 * sum(len(lzma.compress(t, preset=9)) for t in texts) / total
    assert found["gzip -9"] > compressors([b"".join(texts)])["gzip -9"]


def test_a_sample_fits_its_limit():
    texts = [b"x" * n for n in (500, 10, 20, 30, 400)]
    assert choose_documents(texts, 0) == [0, 1, 2, 3, 4]
    for limit in (35, 100, 450, 2000):
        assert 0 < sum(len(texts[i]) for i in choose_documents(texts, limit)) <= limit
    assert choose_documents(texts, 5) == [1]
    assert choose_documents(texts, 100) == choose_documents(texts, 100)
