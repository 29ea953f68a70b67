"""The order of data: every token once, nothing too long, any place of reading found again."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.train.data.pack import FimIds, Packer, Position, best_fit, fill_in_the_middle
from fathom.train.data.store import TokenStore, write_store

BOS, EOS = 0, 1
FIM = FimIds(begin=2, hole=3, end=4, bos=BOS, eos=EOS)


@pytest.fixture
def store(tmp_path):
    rng = np.random.default_rng(0)
    documents = [([BOS, *rng.integers(5, 60000, int(n)).tolist(), EOS], "") for n in [1, 2, 5, 15, 16, 17, 31, 33, 100, 7, 3, 64, 200]]
    write_store(tmp_path, "train", documents, 70000)
    return TokenStore(tmp_path, "train")


def packer(store, seed=0, fim_rate=0.0, shuffle_documents=4):
    return Packer(store, seed=seed, shuffle_documents=shuffle_documents, fim_rate=fim_rate, fim=FIM)


def one_epoch(p, length=16, epoch=0):
    """All rows of an epoch."""
    rows, at = [], Position(epoch)
    while at.epoch == epoch:
        taken, at = p.take(at, 1, length)
        rows += taken
    return rows


@pytest.mark.parametrize("length", [16, 33, 512])
def test_every_token_is_a_target_once_an_epoch(store, length):
    rows = one_epoch(packer(store), length)
    assert all(sum(len(piece) - 1 for piece in row) <= length for row in rows)
    targets = np.sort(np.concatenate([piece[1:] for row in rows for piece in row]))
    expected = np.sort(np.concatenate([store[i][1:] for i in range(len(store))]))
    assert np.array_equal(targets, expected)


def test_pieces_are_whole_stretches_of_documents_and_short_documents_are_not_cut(store):
    stretches = {tuple(store[i][a:b].tolist()) for i in range(len(store)) for a in range(len(store[i])) for b in range(a + 2, a + 18)}
    pieces = [tuple(piece.tolist()) for row in one_epoch(packer(store)) for piece in row]
    assert set(pieces) <= stretches
    for i in range(len(store)):
        if len(store[i]) <= 17:
            assert tuple(store[i].tolist()) in pieces


def test_few_tokens_of_a_row_stay_unused(tmp_path):
    rng = np.random.default_rng(1)
    write_store(tmp_path, "train", [([0] * int(n), "") for n in rng.lognormal(6, 1.2, 2000).astype(int) + 2], 100)
    rows = one_epoch(packer(TokenStore(tmp_path, "train"), shuffle_documents=256), 512)
    assert sum(len(piece) - 1 for row in rows for piece in row) / (512 * len(rows)) > 0.98


@given(count=st.integers(1, 9), split=st.integers(0, 40), seed=st.integers(0, 3))
def test_reading_goes_on_anywhere(tmp_path_factory, count, split, seed):
    """Rows taken in other portions, and by another packer from a saved position, are the same rows."""
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, "train", [([BOS, *range(5, 5 + n), EOS], "") for n in range(1, 14)], 100)
    whole, end = packer(TokenStore(folder, "train"), seed).take(Position(), 50, 8)
    first, at = packer(TokenStore(folder, "train"), seed).take(Position(), split, 8)
    rows = list(first)
    while len(rows) < 50:
        new, at = packer(TokenStore(folder, "train"), seed).take(at, min(count, 50 - len(rows)), 8)
        rows += new
    assert at == end
    assert all(len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b)) for a, b in zip(whole, rows))


def test_epochs_and_seeds_give_other_orders(store):
    def texts(seed, epoch):
        return [tuple(piece.tolist()) for row in one_epoch(packer(store, seed), epoch=epoch) for piece in row]

    assert texts(0, 0) == texts(0, 0)
    assert len({tuple(texts(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(texts(0, 0)) == sorted(texts(0, 1)) == sorted(texts(1, 0))


def test_a_new_length_starts_at_the_next_window(store):
    p = packer(store)
    _, at = p.take(Position(), 1, 16)
    assert (at.window, at.row) == (0, 1)
    rows, then = p.take(at, 1, 32)
    assert then.length == 32 and (then.window, then.row) in ((1, 1), (2, 0))
    fresh, _ = packer(store).take(Position(0, 1, 0, 32), 1, 32)
    assert all(np.array_equal(a, b) for a, b in zip(rows[0], fresh[0]))


# ---- fill in the middle


@given(n=st.integers(1, 40), length=st.integers(8, 40), opens=st.booleans(), closes=st.booleans(), counter=st.integers(0, 1000))
def test_a_rearranged_piece_holds_the_same_tokens(n, length, opens, closes, counter):
    body = list(range(10, 10 + min(n, length - 1)))
    piece = np.array([BOS] * opens + body + [EOS] * closes)
    out = fill_in_the_middle(piece, length, FIM, (counter,)).tolist()
    assert len(out) <= length + 1 and out[:2] == [BOS, FIM.begin] and out[-1] == EOS
    hole, end = out.index(FIM.hole), out.index(FIM.end)
    prefix, suffix, middle = out[2:hole], out[hole + 1:end], out[end + 1:-1]
    assert prefix + middle + suffix == body[: length + 1 - 5]


def test_the_rate_is_kept_and_depends_on_the_epoch(tmp_path):
    write_store(tmp_path, "train", [([BOS, *range(5, 40), EOS], "") for _ in range(2000)], 100)
    p = packer(TokenStore(tmp_path, "train"), fim_rate=0.3, shuffle_documents=1000)
    first, second = ([FIM.hole in piece for row in one_epoch(p, 64, epoch) for piece in row] for epoch in (0, 1))
    assert abs(np.mean(first) - 0.3) < 0.04 and abs(np.mean(second) - 0.3) < 0.04
    assert first != second


# ---- best fit


@given(st.lists(st.integers(1, 20), max_size=60))
def test_best_fit_places_everything_once_and_fits(sizes):
    rows = best_fit(sizes, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in row) <= 20 for row in rows)
    if len(rows) > 1:  # no two rows could have been one
        loads = sorted(sum(sizes[i] for i in row) for row in rows)
        assert loads[0] + loads[1] > 20


def test_best_fit_takes_the_tightest_row():
    assert best_fit([6, 5, 3, 4], 10) == [[0, 3], [1, 2]]
