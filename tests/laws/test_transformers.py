"""logits == transformers, for any V4-shaped model: 40 generated configurations, none left out; and the gradients of one."""
from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fathom.config import ModelConfig, Yarn
from fathom.model import Batch, Transformer
from fathom.ops import cross_entropy
from tests.oracle import build_oracle, oracle_tensors, randomise, stable_topk, tiny_config

pytest.importorskip("transformers")
CASES = 44
selective: list[bool] = []  # one a case: did a CSA layer see more entries than it may choose?


@st.composite
def cases(draw: st.DrawFn) -> tuple[ModelConfig, list[int], int]:
    layers = draw(st.integers(1, 4))
    hca = draw(st.sampled_from([8, 16, 32, 128]))
    ratios = draw(st.lists(st.sampled_from([0, 4, 4, hca]), min_size=layers, max_size=layers))
    if draw(st.integers(0, 9)) and 4 not in ratios:
        ratios[-1] = 4
    heads = draw(st.sampled_from([1, 2, 4, 8]))
    head_dim, index_dim = draw(st.sampled_from([8, 16, 24, 40])), draw(st.sampled_from([8, 16, 20]))
    experts = draw(st.integers(1, 12))
    lengths = draw(st.lists(st.integers(1, 700), min_size=1, max_size=3))
    if draw(st.booleans()):
        lengths[0] = max(lengths[0], draw(st.integers(130, 700)))
    yarn = Yarn(factor=draw(st.sampled_from([4.0, 16.0])), original_max_position_embeddings=draw(st.sampled_from([64, 512])))
    config = tiny_config(
        num_hidden_layers=layers, compress_ratios=tuple(ratios), hash_routed=tuple(draw(st.lists(st.booleans(), min_size=layers, max_size=layers))),
        hidden_size=draw(st.sampled_from([16, 32, 48])), num_attention_heads=heads, head_dim=head_dim,
        qk_rope_head_dim=draw(st.sampled_from([2, 4, 8])), o_groups=draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0])),
        o_lora_rank=draw(st.sampled_from([4, 8])), q_lora_rank=draw(st.sampled_from([8, 24])), index_n_heads=draw(st.integers(1, 4)),
        index_head_dim=index_dim, index_topk=draw(st.integers(1, 24)), n_routed_experts=experts,
        num_experts_per_tok=draw(st.integers(1, min(6, experts))), moe_intermediate_size=draw(st.sampled_from([8, 24])),
        sliding_window=draw(st.sampled_from([1, 7, 16, 128])), hc_mult=draw(st.sampled_from([1, 2, 4])),
        hc_sinkhorn_iters=draw(st.sampled_from([1, 3, 20])), routed_scaling_factor=draw(st.sampled_from([1.0, 2.5])),
        swiglu_limit=draw(st.sampled_from([0.5, 10.0])), rope_scaling=yarn if draw(st.booleans()) else None)
    return config, lengths, draw(st.integers(0, 2**16))


@seed(20261123)
@settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_logits_equal(case: tuple[ModelConfig, list[int], int]) -> None:
    config, lengths, number = case
    model = randomise(Transformer(config), number)
    oracle = build_oracle(model)
    g = torch.Generator().manual_seed(number)
    documents = [torch.randint(0, config.vocab_size, (n,), generator=g) for n in lengths]
    with torch.no_grad(), stable_topk():
        theirs = torch.cat([oracle(d.unsqueeze(0), use_cache=False).logits[0] for d in documents])
    with torch.no_grad():
        ours = model.logits(model(Batch.pack(documents)).hidden)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    selective.append(4 in config.compress_ratios and max(lengths) // 4 > config.index_topk)


def test_most_cases_had_to_choose() -> None:
    assert len(selective) >= 40 and sum(selective) >= 30, f"{sum(selective)} of {len(selective)}"


def test_gradients_equal() -> None:
    """Main loss through every parameter but the indexer's, which transformers gives no gradient."""
    config = tiny_config(num_hidden_layers=4, compress_ratios=(0, 4, 16, 4), hash_routed=(True, False, False, False))
    model = randomise(Transformer(config), 3)
    oracle = build_oracle(model)
    ids = torch.randint(0, config.vocab_size, (150,), generator=torch.Generator().manual_seed(5))
    with stable_topk():
        loss = torch.nn.functional.cross_entropy(oracle(ids.unsqueeze(0), use_cache=False).logits[0, :-1], ids[1:])
        loss.backward()
    ours = cross_entropy(model(Batch.pack([ids])).hidden[:-1], model.head.weight, ids[1:])
    ours.backward()
    torch.testing.assert_close(ours, loss, atol=1e-5, rtol=1e-5)
    grads = oracle_tensors({n: p.grad for n, p in model.named_parameters() if "indexer" not in n})
    theirs = dict(oracle.named_parameters())
    assert len(grads) > 60
    for name, grad in grads.items():
        torch.testing.assert_close(grad, theirs[name].grad, atol=2e-5, rtol=2e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_a_wrong_direction_is_noticed() -> None:
    """The comparison can fail: with comb transposed in one place the logits leave the tolerance."""
    config = tiny_config()
    model = randomise(Transformer(config), 1)
    oracle = build_oracle(model)
    ids = torch.arange(40) % config.vocab_size
    with torch.no_grad(), stable_topk():
        theirs = oracle(ids.unsqueeze(0), use_cache=False).logits[0]
        with torch.no_grad():
            n = config.hc_mult
            comb = model.layers[1].hc_attn_fn[2 * n :].view(n, n, -1)
            comb.copy_(comb.transpose(0, 1).clone())
        ours = model.logits(model(Batch.pack([ids])).hidden)
    assert (ours - theirs).abs().max() > 1e-3
