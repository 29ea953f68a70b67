"""However a sequence is cut, continued or mixed with others, it computes the same; and the past never learns of the future."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.config import ModelConfig
from fathom.model import Batch, Run, Scratch, State, Transformer
from tests.oracle import randomise, tiny_config

LENGTH = 300
CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 4), hash_routed=(True, False, False, False), num_nextn_predict_layers=1)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return randomise(Transformer(CONFIG), 11).requires_grad_(False)


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(0, CONFIG.vocab_size, (LENGTH,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def whole(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    return model(Batch.pack([tokens])).hidden


def new_state(config: ModelConfig = CONFIG, slots: int = 4, blocks: int = 64, **options: object) -> State:
    state = State(config, num_slots=slots, num_blocks=blocks, precision="fp32", **options)
    for buffer in state.buffers.values():
        buffer.fill_(float("nan"))  # whoever reads what nobody wrote is noticed
    return state


def table(seed: int, length: int = LENGTH) -> tuple[int, ...]:
    """Scattered, distinct blocks."""
    return tuple(np.random.default_rng(seed).permutation(64)[: -(-length // CONFIG.block_size)].tolist())


def feed(model: Transformer, tokens: torch.Tensor, cuts: list[int], state: State, slot: int, blocks: tuple[int, ...]) -> torch.Tensor:
    ends = [0, *sorted(set(cuts) - {0, len(tokens)}), len(tokens)]
    return torch.cat([model(Batch(tokens[a:b], (Run(a, b - a, slot, blocks),)), state).hidden for a, b in zip(ends, ends[1:], strict=False)])


@settings(max_examples=15)
@given(st.lists(st.integers(1, LENGTH - 1), max_size=12), st.integers(0, 1000))
def test_chunks_equal_whole(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor, cuts: list[int], number: int) -> None:
    got = feed(model, tokens, cuts, new_state(), number % 4, table(number))
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


def test_token_by_token_equals_whole(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """And never by recomputing: the stateless memory is forbidden meanwhile."""
    for name in ("window", "tail", "entries"):
        monkeypatch.setattr(Scratch, name, None)
    got = feed(model, tokens, list(range(LENGTH)), new_state(), 2, table(1))
    torch.testing.assert_close(got, whole, atol=1e-5, rtol=1e-5)


def test_room_for_drafts_allows_taking_back(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor) -> None:
    """Five wrong tokens after every step, overwritten by the right ones, leave no trace."""
    state, blocks, rows = new_state(drafts=5), table(3, LENGTH + 16), []
    for t in range(0, LENGTH, 3):
        step = tokens[t : t + 3]
        rows.append(model(Batch(step, (Run(t, len(step), 0, blocks),)), state).hidden)
        model(Batch(torch.full((5,), 7), (Run(t + len(step), 5, 0, blocks),)), state)
    torch.testing.assert_close(torch.cat(rows), whole, atol=1e-5, rtol=1e-5)


def test_mixed_batches_equal_alone(model: Transformer, tokens: torch.Tensor) -> None:
    """Four sequences of different lengths, prefilled and decoded in one call each, some steps with only some of them."""
    documents = [tokens[:n] for n in (37, 1, 150, 64)]
    alone = [model(Batch.pack([d])).hidden for d in documents]
    state, blocks = new_state(), np.arange(64).reshape(4, 16)
    got: list[list[torch.Tensor]] = [[] for _ in documents]
    at, rng = [0] * 4, np.random.default_rng(0)
    while any(a < len(d) for a, d in zip(at, documents, strict=True)):
        steps = [(i, min(int(rng.choice([1, 1, 5, 40])), len(d) - at[i])) for i, d in enumerate(documents) if at[i] < len(d) and rng.random() < 0.8]
        if not steps:
            continue
        batch = Batch(torch.cat([documents[i][at[i] : at[i] + n] for i, n in steps]),
                      tuple(Run(at[i], n, 3 - i, tuple(blocks[i].tolist())) for i, n in steps))
        for (i, n), rows in zip(steps, model(batch, state).hidden.split([n for _, n in steps]), strict=True):
            got[i].append(rows)
            at[i] += n
    for rows, expected in zip(got, alone, strict=True):
        torch.testing.assert_close(torch.cat(rows), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cuts", [[], [32, 48], list(range(7, LENGTH, 7)), list(range(LENGTH))])
def test_a_sequence_goes_on_from_what_was_captured_at_a_mark(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor, cuts: list[int]) -> None:
    """However the run was cut in which the mark lay, and with a stranger's run beside it; blocks are shared with the first sequence."""
    state, blocks, size = new_state(mtp=True), table(5), CONFIG.block_size
    kept: dict[int, dict[str, torch.Tensor]] = {}
    ends = sorted({0, *cuts, LENGTH})
    for a, b in zip(ends, ends[1:], strict=False):
        marks = tuple(p for p in range(size, LENGTH, size) if a < p <= b)
        stranger = Run(0, 3, 3, (63,))
        model(Batch(torch.cat((tokens[:3], tokens[a:b])), (stranger, Run(a, b - a, 0, blocks, marks=marks))), state)
        for i, p in enumerate(marks):
            kept[p] = {name: rows[i].clone() for name, rows in state.captured.items()}
    for p, captured in kept.items():
        state.restore(1, p, captured)
        own = (*blocks[: p // size], *(b for b in range(64) if b not in blocks and b != 63))
        got = model(Batch(tokens[p:], (Run(p, LENGTH - p, 1, own[: len(blocks)]),)), state).hidden
        torch.testing.assert_close(got, whole[p:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("step", [LENGTH, 50, 16, 3])
def test_windows_and_tails_come_back_from_entries_alone(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor, step: int) -> None:
    """Rings are lost, blocks are kept: the last layers·(W - 1) tokens make the rings again and leave the blocks as they are."""
    state, blocks, known = new_state(), table(6), 256
    model(Batch(tokens[:known], (Run(0, known, 0, blocks),)), state)
    before = {b.name: state.buffers[b.name][list(blocks[: known // CONFIG.block_size])].clone() for b in state.layout if b.per == "block"}
    start = known - CONFIG.num_hidden_layers * (CONFIG.sliding_window - 1)
    state.clear(2)
    rows = [model(Batch(tokens[a : a + step], (Run(a, min(step, LENGTH - a), 2, blocks, known=known),)), state).hidden
            for a in range(start, LENGTH, step)]
    torch.testing.assert_close(torch.cat(rows)[known - start :], whole[known:], atol=1e-5, rtol=1e-5)
    for name, rows in before.items():
        assert torch.equal(rows, state.buffers[name][list(blocks[: known // CONFIG.block_size])])
    state.clear(2)
    late = start + 2 * (CONFIG.sliding_window - 1)
    got = model(Batch(tokens[late:], (Run(late, LENGTH - late, 2, blocks, known=known),)), state).hidden
    assert (got[known - late :] - whole[known:]).abs().max() > 1e-4, "fewer tokens don't suffice, so the count is no luck"


def test_packed_equals_alone(model: Transformer, tokens: torch.Tensor) -> None:
    documents = [tokens[:100], tokens[100:103], tokens[3:4], tokens[90:290]]
    packed = model(Batch.pack(documents)).hidden.split([len(d) for d in documents])
    for rows, document in zip(packed, documents, strict=True):
        torch.testing.assert_close(rows, model(Batch.pack([document])).hidden, atol=1e-5, rtol=1e-5)


def test_the_future_does_not_move_the_past(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor) -> None:
    for t in (1, 15, 16, 17, 150, LENGTH - 1):
        changed = tokens.clone()
        changed[t:] = (changed[t:] + 1 + torch.arange(LENGTH - t)) % CONFIG.vocab_size
        got = model(Batch.pack([changed])).hidden
        torch.testing.assert_close(got[:t], whole[:t], atol=1e-5, rtol=1e-5)
        assert (got[t:] - whole[t:]).abs().amax(1).min() > 1e-4, "the future itself must move"


def test_every_token_reaches_far_ahead(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor) -> None:
    """A change in the first, long out of every window, is still felt at the end."""
    changed = tokens.clone()
    changed[:16] = (changed[:16] + 5) % CONFIG.vocab_size
    assert (model(Batch.pack([changed])).hidden[-1] - whole[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("fault", ["drop", "repeat", "swap"])
def test_a_wrong_block_is_noticed(model: Transformer, tokens: torch.Tensor, whole: torch.Tensor, fault: str) -> None:
    """Any one block emptied, read twice, or exchanged with a stranger's block changes the next tokens.

    (Two complete blocks of the same sequence may change places: entries carry their positions in their rotation.)
    """
    last = LENGTH - 4
    shuffled = tuple(np.random.default_rng(5).permutation(64).tolist())
    count = -(-LENGTH // CONFIG.block_size)
    blocks, stranger = shuffled[:count], shuffled[count : 2 * count]
    for i in range(last // CONFIG.block_size - 1):
        state = new_state()
        feed(model, tokens[:last], [], state, 0, blocks)
        feed(model, tokens[:last].flip(0), [], state, 1, stranger)
        bad = list(blocks)
        if fault == "drop":
            bad[i] = shuffled[-1]
            for name in (b.name for b in state.layout if b.per == "block"):
                state.buffers[name][bad[i]] = 0
        elif fault == "repeat":
            bad[i + 1] = bad[i]
        else:
            bad[i] = stranger[i]
        got = model(Batch(tokens[last:], (Run(last, 4, 0, tuple(bad)),)), state).hidden
        assert (got - whole[last:]).abs().max() > 1e-4, f"{fault} of block {i} went unnoticed"


def test_mtp_with_state_equals_whole(model: Transformer, tokens: torch.Tensor) -> None:
    batch = Batch.pack([tokens])
    expected, _ = model.predict_second(model(batch).streams[:-1], tokens[1:], Batch.pack([tokens[:-1]]))
    state, blocks, rows = new_state(mtp=True), table(9), []
    for a, b in ((0, 100), (100, 101), (101, 103), (103, LENGTH - 1)):
        step = Batch(tokens[a:b], (Run(a, b - a, 1, blocks),))
        rows.append(model.predict_second(model(step, state).streams, tokens[a + 1 : b + 1], step, state)[0])
    torch.testing.assert_close(torch.cat(rows), expected, atol=1e-5, rtol=1e-5)


def test_allocated_bytes_are_planned_bytes() -> None:
    from fathom.plan.layout import block_bytes, sequence_bytes, state_layout

    for precision in ("fp32", "bf16", "fp16"):
        state = State(CONFIG, num_slots=3, num_blocks=11, precision=precision, drafts=2, mtp=True)
        layout = state_layout(CONFIG, precision, drafts=2, mtp=True)
        assert state.nbytes == 3 * sequence_bytes(layout) + 11 * block_bytes(layout)
