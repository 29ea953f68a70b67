"""The same bits whatever the batch: on native kernels a token's result depends neither on its company, nor on cuts, nor on threads."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fathom.model import Batch, Run, State, Transformer
from tests.ops.native_isas import ALL, on_native
from tests.oracle import randomise, tiny_config

CONFIG = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4, 4), hash_routed=(True, False, False, False), num_nextn_predict_layers=1,
                     index_topk=12)
LENGTHS = (150, 1, 37, 64, 5, 129, 90, 16, 33, 128, 7, 70, 111, 2, 48, 140)


@pytest.fixture(params=[(isa, precision) for precision in ("bf16", "official") for isa in ALL], ids="-".join, scope="module")
def model(request: pytest.FixtureRequest) -> Transformer:
    return on_native(randomise(Transformer(CONFIG), 11), *request.param)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def prompts(count: int) -> list[torch.Tensor]:
    return [torch.randint(0, CONFIG.vocab_size, (n,), generator=torch.Generator().manual_seed(i)) for i, n in enumerate(LENGTHS[:count])]


def serve(model: Transformer, tokens: list[torch.Tensor], steps: list[list[int]], decode: int = 3) -> list[torch.Tensor]:
    """Hidden states of each sequence: prefilled together in the given cuts, then `decode` tokens one at a time, all in one batch."""
    per = -(-(max(LENGTHS) + decode) // CONFIG.block_size)
    state = State(CONFIG, num_slots=len(tokens), num_blocks=per * len(tokens), precision=model.precision, mtp=True)
    order = np.random.default_rng(len(tokens)).permutation(per * len(tokens)).reshape(len(tokens), per)
    at, out = [0] * len(tokens), [[] for _ in tokens]
    more = [torch.cat((t, torch.full((decode,), 3))) for t in tokens]
    steps = steps + [[1] * len(tokens)] * decode
    for step in steps:
        runs, ids, who = [], [], []
        for i, n in enumerate(step):
            if n:
                runs.append(Run(at[i], n, i, order[i]))
                ids.append(more[i][at[i] : at[i] + n])
                who.append(i)
                at[i] += n
        done = model(Batch(torch.cat(ids), tuple(runs)), state)
        second = model.predict_second(done.streams.clone(), torch.cat(ids), Batch(torch.cat(ids), tuple(runs)), state)[0]
        for i, h, s in zip(who, done.hidden.split([r.length for r in runs]), second.split([r.length for r in runs]), strict=True):
            out[i].append(torch.cat((h, s), 1))
    return [torch.cat(parts) for parts in out]


def whole(tokens: list[torch.Tensor]) -> list[list[int]]:
    return [[len(t) for t in tokens]]


@pytest.fixture(scope="module")
def alone(model: Transformer) -> list[torch.Tensor]:
    return [serve(model, [t], whole([t]))[0] for t in prompts(16)]


@pytest.mark.parametrize("count", [2, 7, 16])
def test_strangers_change_nothing(model: Transformer, alone: list[torch.Tensor], count: int) -> None:
    tokens = prompts(count)
    for got, expected in zip(serve(model, tokens, whole(tokens)), alone, strict=False):
        assert torch.equal(got, expected)
    others = [torch.full_like(t, 1) for t in tokens[1:]]
    assert torch.equal(serve(model, [tokens[0], *others], whole(tokens))[0], alone[0])


@pytest.mark.parametrize("seed", range(4))
def test_cuts_change_nothing(model: Transformer, alone: list[torch.Tensor], seed: int) -> None:
    """Prompts in random pieces, some sequences decoding one token while others prefill."""
    tokens, random = prompts(7), np.random.default_rng(seed)
    left, steps = [len(t) for t in tokens], []
    while any(left):
        step = [int(min(n, random.choice([0, 1, 3, 17, 40]))) for n in left]
        if any(step):
            steps.append(step)
            left = [n - s for n, s in zip(left, step, strict=True)]
    got = serve(model, tokens, steps, decode=0)
    for i, t in enumerate(tokens):
        assert torch.equal(got[i], alone[i][: len(t)]), i


def test_threads_change_nothing(model: Transformer, alone: list[torch.Tensor]) -> None:
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        assert torch.equal(serve(model, prompts(7), whole(prompts(7)))[0], alone[0])


def test_the_law_can_be_broken(model: Transformer, alone: list[torch.Tensor]) -> None:
    """One other token in the past shows."""
    tokens = prompts(1)[0].clone()
    tokens[40] = (tokens[40] + 1) % CONFIG.vocab_size
    got = serve(model, [tokens], whole([tokens]))[0]
    assert torch.equal(got[:40], alone[0][:40]) and not torch.equal(got[41:], alone[0][41:])
