"""A model larger than its budget for weights: the same bits as with all of it in memory, and never more experts there than fit."""
from __future__ import annotations

from pathlib import Path

import pytest

import fathom
from fathom.checkpoint import save_checkpoint
from fathom.config import parameters
from fathom.engine import Request, Sampling
from fathom.errors import UserError
from fathom.model import Transformer
from fathom.ops.native.bank import LargerBank
from fathom.plan.packed import packed_size, resident_experts
from fathom.session import Session
from fathom.text import train_tokenizer
from tests.ops.native_isas import available
from tests.oracle import randomise, tiny_config

pytestmark = pytest.mark.skipif(not available(), reason="needs the native kernels")


@pytest.fixture(scope="module", params=["bfloat16", "official"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of plain matrices, and one of FP8 and FP4."""
    tokenizer = train_tokenizer(["def fib(n):\n    return n\n"] * 20, 300)
    config = tiny_config(vocab_size=tokenizer.vocab_size, hidden_size=128, moe_intermediate_size=128, n_routed_experts=9, num_experts_per_tok=2,
                         expert_dtype="fp4" if request.param == "official" else None, quantized=request.param == "official")
    path = tmp_path_factory.mktemp("larger") / request.param
    save_checkpoint(path, config, randomise(Transformer(config), 3).tensors(), quantize="fp4-experts" if request.param == "official" else None)
    tokenizer.save(path)
    return path


def answer(session: Session) -> list[tuple[int, float]]:
    prompt = tuple(i * 7 % session.config.vocab_size for i in range(60))
    return [(o.token_id, o.logprob) for o in session.engine.generate(Request(prompt, 12, Sampling(temperature=0)))]


@pytest.mark.parametrize("precision", ["bf16", "official"])
@pytest.mark.parametrize("experts", [2, 5])
def test_the_same_bits_within_the_budget(folder: Path, precision: str, experts: int) -> None:
    whole = fathom.load(folder, device="cpu", precision=precision)
    said: list[str] = []
    size = packed_size(whole.config, fathom.checkpoint.open_checkpoint(folder).formats(official=precision == "official"), precision)
    budget = size.dense + experts * size.expert + size.expert // 2
    small = fathom.load(folder, device="cpu", precision=precision, weights_budget=budget, say=said.append)
    assert answer(small) == answer(whole)
    banks = small.engine.model.packer.banks.values()
    assert all(isinstance(b, LargerBank) and len(b.held) <= experts and b.misses > experts for b in banks) and any(b.hits for b in banks)
    dense = sum(t.nbytes for name, t in small.engine.model.tensors().items() if ".experts." not in name and ".shared_experts." not in name)
    assert dense + sum(b.nbytes for b in banks) <= budget
    assert f"{experts} of 9 experts" in said[0] and "slow" in said[0]


def test_a_large_budget_keeps_all(folder: Path) -> None:
    session = fathom.load(folder, device="cpu", precision="bf16", weights_budget=10**12, say=pytest.fail)
    assert not any(isinstance(b, LargerBank) for b in session.engine.model.packer.banks.values())


def test_planned_bytes_are_allocated_bytes(folder: Path) -> None:
    for precision in ("bf16", "official"):
        session = fathom.load(folder, device="cpu", precision=precision)
        held = fathom.checkpoint.open_checkpoint(folder).formats(official=precision == "official")
        assert sum(t.nbytes for t in session.engine.model.tensors().values()) == packed_size(session.config, held, precision).total


def test_too_small_a_budget_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="weights_budget.*at least"):
        fathom.load(folder, device="cpu", precision="bf16", weights_budget=1000)
    with pytest.raises(UserError, match="native kernels"):
        fathom.load(folder, device="cpu", precision="fp32", weights_budget=10**9)


def test_the_published_models_need() -> None:
    """V4-Flash in its own formats: dense weights and six experts a layer take a small part of the whole."""
    config = fathom.config.preset("v4-flash")
    kinds = {p.name: {"fp8": "fp8", "expert": "fp4"}[p.storage] for p in parameters(config) if p.storage in ("fp8", "expert")}
    size = packed_size(config, kinds)
    assert 140e9 < size.total < 175e9 and size.dense < 15e9 and size.expert == 44 * 3 * (4096 * 2048 // 2 + 4096 * 2048 // 32)
    assert resident_experts(config, 40 * 10**9, kinds) == (40 * 10**9 - size.dense) // size.expert
