"""Chains in one native call against their composition of native operators: the same bits, on each instruction set and in both precisions."""
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fathom.ops import Kernels, chains, reference
from fathom.ops.native.bank import Packer
from fathom.ops.native.kernels import Native, Official
from fathom.ops.native.packed import Grouped, Packed, Split
from fathom.ops.table import CHAINS
from tests.ops.native_isas import ALL, native

TOKENS = [1, 2, 7, 40]
C, R, D, L, H, G, EPS = 96, 32, 160, 70, 6, 3, 1e-6


@pytest.fixture(params=[(isa, precision) for isa in ALL for precision in ("bf16", "official")], ids="-".join)
def k(request: pytest.FixtureRequest) -> Native:
    isa, precision = request.param
    kernels = native(isa)
    return kernels if precision == "bf16" else Official(kernels.ext, R)


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def matrix(rows: int, columns: int, format: str | None = None, seed: int = 0) -> Packed:
    packed = Packed(rows, columns, format)
    packed.copy_(rand(rows, columns, seed=seed))
    return packed


def angles(T: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    angle = rand(T, R // 2, seed=seed)
    return angle.cos(), angle.sin()


def same(got: Any, expected: Any) -> None:
    got, expected = ((x,) if isinstance(x, Tensor) else x for x in (got, expected))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("T", TOKENS)
def test_attention_inputs(k: Native, T: int) -> None:
    h = rand(T, D).bfloat16()
    norms = [1 + rand(n, seed=n).bfloat16() / 4 for n in (L, C)]
    arguments = (h, matrix(L, D, "fp8"), norms[0], matrix(H * C, L, seed=1), matrix(C, D, seed=2), norms[1], H, EPS, *angles(T))
    same(k.attention_inputs(*arguments), chains.attention_inputs(k, *arguments))


@pytest.mark.parametrize("T", TOKENS)
def test_attention_output(k: Native, T: int) -> None:
    first = Grouped(G * 24, H * C // G, G)
    first.copy_(rand(G * 24, H * C // G))
    arguments = (rand(T, H, C).bfloat16(), *angles(T), first, matrix(D, G * 24, "fp8"), G)
    same(k.attention_output(*arguments), chains.attention_output(k, *arguments))


@pytest.mark.parametrize("T", TOKENS)
def test_index_inputs(k: Native, T: int) -> None:
    J, K = 5, 64
    arguments = (rand(T, D).bfloat16(), rand(T, L).bfloat16(), matrix(J * K, L), matrix(J, D), J, *angles(T), J**-0.5 * K**-0.5)
    same(k.index_inputs(*arguments), chains.index_inputs(k, *arguments))


@pytest.mark.parametrize("T", TOKENS)
def test_mhc_read(k: Native, T: int) -> None:
    N = 4
    fn = Split((2 + N) * N, N * D, 3)
    fn.copy_(rand((2 + N) * N, N * D))
    arguments = (rand(T, N, D).bfloat16(), fn, rand(3), rand((2 + N) * N), 1 + rand(D).bfloat16() / 4)
    constants = {"sinkhorn_steps": 20, "norm_eps": EPS, "eps": 1e-6}
    same(k.mhc_read(*arguments, **constants), chains.mhc_read(k, *arguments, **constants))


@pytest.mark.parametrize("resident", [None, 2], ids=["all in memory", "two in memory"])
@pytest.mark.parametrize("by_hash", [False, True])
@pytest.mark.parametrize("T", TOKENS)
def test_moe(k: Native, T: int, by_hash: bool, resident: int | None) -> None:
    E, I, K = 5, 48, 3
    packer = Packer({f"l.experts.{w}": "fp4" for w in ("w1", "w2", "w3")}, resident)
    shapes = {"w1": (I, D), "w2": (D, I), "w3": (I, D)}
    routed = {w: packer.place(f"l.experts.{w}", "expert", (E, *shape), 1) for w, shape in shapes.items()}
    shared = {w: packer.place(f"l.shared_experts.{w}.weight", "shared", shape, 1) for w, shape in shapes.items()}
    for which, shape in shapes.items():
        shared[which].copy_(rand(*shape))
        values = rand(E, *shape, seed=1)
        if resident is None:
            routed[which].copy_(values)
        else:
            routed[which].attach(lambda expert, target, values=values: target.copy_(values[expert]))
    h, gate = rand(T, D).bfloat16(), matrix(E, D)
    chosen = torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)]) if by_hash else None
    arguments = (h, gate, *routed.values(), tuple(shared.values()))
    options = {"bias": None if by_hash else rand(E), "chosen": chosen, "top_k": K, "factor": 1.5, "limit": 1.5}
    same(k.moe(*arguments, **options), chains.moe(k, *arguments, **options))


def test_what_no_kernel_serves_is_composed() -> None:
    plain = Kernels()
    x, weight = rand(3, 4, D), rand(D)
    fn, scale, base = rand(24, 4 * D), rand(3), rand(24)
    constants = {"sinkhorn_steps": 20, "norm_eps": EPS, "eps": 1e-6}
    h, post, comb = reference.mhc_mix(x, fn, scale, base, **constants)
    same(plain.mhc_read(x, fn, scale, base, weight, **constants), (reference.rms_norm(h, weight, EPS), post, comb))
    assert all(callable(getattr(plain, name)) and hasattr(chains, name) for name in CHAINS)


def test_wrong_tensors_are_refused() -> None:
    k = native("portable")
    h, (cos, sin) = rand(2, D).bfloat16(), angles(2)
    norms = [torch.ones(n, dtype=torch.bfloat16) for n in (L, C)]
    right = [h, matrix(L, D), norms[0], matrix(H * C, L), matrix(C, D), norms[1], H, EPS, cos, sin]
    for place, wrong in ((0, h.float()), (1, matrix(L, D + 1)), (2, norms[1]), (3, matrix(H * C, L + 1)), (5, norms[0]), (6, H + 1), (8, cos[:1])):
        with pytest.raises(ValueError, match="attention_inputs"):
            k.attention_inputs(*right[:place], wrong, *right[place + 1 :])
