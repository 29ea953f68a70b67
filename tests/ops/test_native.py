"""Each native operator against the reference, on each instruction set: odd sizes, one token, empty history, ties, nothing visible."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fathom.config.formats import packed_bytes
from fathom.ops import Entries, Places, Runs, Spans, reference
from fathom.ops.native.bank import Packer
from fathom.ops.native.kernels import OPERATORS, Native, Official
from fathom.ops.native.packed import Grouped, Packed, Split
from fathom.ops.reference import official
from fathom.quant import decode_fp4, decode_fp8, encode_entries, encode_fp4, encode_fp8, encode_index_keys
from tests.ops.native_isas import ALL, native

CPU = torch.device("cpu")


@pytest.fixture(params=ALL)
def k(request: pytest.FixtureRequest) -> Native:
    return native(request.param)


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * scale).to(dtype)


def packed(weight: Tensor) -> Packed:
    p = Packed(*weight.shape)
    p.copy_(weight)
    return p


def close(got: Tensor, expected: Tensor, *, scale: float = 1.0) -> None:
    """Within one rounding of the format, plus what sums in another order may move: 1e-5 of `scale`."""
    rounding = {torch.bfloat16: 2**-8, torch.float32: 1e-6}[got.dtype]
    torch.testing.assert_close(got.float(), expected.float(), rtol=rounding, atol=1e-5 * scale)


# --- products ---


SIZES = [(1, 16, 32), (1, 5, 33), (1, 300, 70), (2, 17, 64), (3, 40, 31), (4, 129, 128), (5, 48, 2), (13, 64, 96), (31, 33, 34), (100, 24, 160),
         (257, 130, 65)]


@pytest.mark.parametrize(("T", "out", "columns"), SIZES)
def test_linear(k: Native, T: int, out: int, columns: int) -> None:
    x, w = rand(T, columns), rand(out, columns, seed=1)
    wide = x.float() @ w.float().T
    close(k.linear_fp32(x, packed(w)), wide, scale=columns)
    close(k.linear(x, packed(w)), wide, scale=columns)
    close(k.linear_fp32_pair(x, packed(w), packed(2 * w)), torch.stack((wide, 2 * wide), 1), scale=columns)
    apart = torch.cat((x, x), 1)[:, :columns]  # rows that lie apart
    assert torch.equal(k.linear(apart, packed(w)), k.linear(x, packed(w)))


@pytest.mark.parametrize(("T", "G", "out", "columns"), [(1, 2, 16, 32), (5, 3, 8, 33), (70, 4, 40, 64)])
def test_linear_grouped(k: Native, T: int, G: int, out: int, columns: int) -> None:
    x, w = rand(T, G, columns), rand(G * out, columns, seed=1)
    p = Grouped(G * out, columns, G)
    p.copy_(w)
    assert torch.equal(p.plain(), w)
    close(k.linear_grouped(x, p), reference.linear_grouped(x.float(), w.float()), scale=columns)


MIXTURES = [(1, 32, 16, 4, 2), (1, 40, 24, 3, 3), (3, 64, 33, 8, 2), (12, 32, 16, 4, 1), (13, 48, 40, 5, 2), (150, 64, 32, 6, 3), (300, 33, 17, 4, 2),
            (1400, 384, 32, 5, 3)]  # the last: more rows than caches keep


def mixture(D: int, I: int, E: int, formats: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Plain weights of routed and shared experts (rounded to their formats), and the same packed."""
    packer, plain, holders = Packer(formats), {}, {}
    for part, role, count in (("experts", "expert", E), ("shared_experts", "shared", 0)):
        for i, (name, shape) in enumerate((("w1", (I, D)), ("w2", (D, I)), ("w3", (I, D)))):
            full = f"l.{part}.{name}" + (".weight" if role == "shared" else "")
            shape = (count, *shape) if count else shape
            plain[role + name] = through(rand(*shape, seed=i + 10 * (count == 0), scale=0.3), formats.get(full))
            holders[role + name] = packer.place(full, role, shape, 0)
            holders[role + name].copy_(plain[role + name])
    return plain, holders


def through(w: Tensor, format: str | None) -> Tensor:
    """Rounded to a quantised format and back."""
    if format is None:
        return w
    return decode_fp8(*encode_fp8(w), torch.bfloat16) if format == "fp8" else decode_fp4(*encode_fp4(w), torch.bfloat16)


def choices(T: int, E: int, K: int) -> tuple[Tensor, Tensor]:
    chosen = torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)])
    chosen[T // 2 : T // 2 + 20] = chosen[T // 2]  # experts that many want
    return torch.rand(T, K, generator=torch.Generator().manual_seed(3)), chosen


def run_experts(experts: Callable[..., Tensor], x: Tensor, weights: Tensor, chosen: Tensor, w: dict) -> Tensor:
    shared = (w["sharedw1"], w["sharedw2"], w["sharedw3"])
    return experts(x, weights, chosen, w["expertw1"], w["expertw2"], w["expertw3"], shared, 1.5)


@pytest.mark.parametrize(("T", "D", "I", "E", "K"), MIXTURES)
def test_experts(k: Native, T: int, D: int, I: int, E: int, K: int) -> None:
    plain, packs = mixture(D, I, E, {})
    x, (weights, chosen) = rand(T, D), choices(T, E, K)
    got, expected = run_experts(k.experts, x, weights, chosen, packs), run_experts(reference.experts, x, weights, chosen, plain)
    size = float(expected.float().abs().max())
    torch.testing.assert_close(got.float(), expected.float(), rtol=2**-7, atol=2**-7 * size)  # several roundings on the way, of terms that may cancel


# --- quantised weights and precision `official` ---


@pytest.mark.parametrize("format", ["fp8", "fp4"])
@pytest.mark.parametrize(("T", "out", "columns"), [(1, 16, 32), (1, 130, 70), (5, 300, 256), (40, 129, 160), (2, 17, 416)])
def test_quantised_weights_are_their_values(k: Native, format: str, T: int, out: int, columns: int) -> None:
    """Unpacked in the kernel or beforehand: the same bits. Scales over all of their range."""
    x, w = rand(T, columns), rand(out, columns, seed=1, dtype=torch.float32)
    w *= 2.0 ** torch.randint(-60, 60, (out, 1), generator=torch.Generator().manual_seed(2)).float()
    w[0] = 0
    weight, scale = encode_fp8(w) if format == "fp8" else encode_fp4(w)
    quantised = Packed(out, columns, format)
    quantised[0:out].take(weight, scale)
    plain = packed((decode_fp8 if format == "fp8" else decode_fp4)(weight, scale, torch.bfloat16))
    assert torch.equal(k.linear_fp32(x, quantised), k.linear_fp32(x, plain))
    assert quantised.nbytes == packed_bytes(out, columns, format) and plain.nbytes == packed_bytes(out, columns, "bf16")


@pytest.mark.parametrize(("format", "least", "most"), [("fp8", 10, 246), ("fp4", 2, 252)])
def test_every_code_at_every_scale(k: Native, format: str, least: int, most: int) -> None:
    """As far as bf16 holds the product: read one by one (a single row of the identity) and many at once."""
    out, columns = 128 * (most - least + 1), 256
    codes = torch.arange(256, dtype=torch.uint8)
    codes[codes & 0x7F == 0x7F] = 0  # E4M3's NaN
    weight = codes.repeat(out, columns // 256) if format == "fp8" else codes.view(1, 2, 128).expand(out // 2, 2, 128).flatten(0, 1)
    scale = torch.arange(least, most + 1, dtype=torch.uint8).repeat_interleave(1 if format == "fp8" else 128).unsqueeze(1)
    scale = scale.expand(-1, columns // (128 if format == "fp8" else 32)).contiguous().view(torch.float8_e8m0fnu)
    weight = weight.contiguous().view(torch.float8_e4m3fn if format == "fp8" else torch.uint8)
    quantised = Packed(out, columns, format)
    quantised[0:out].take(weight, scale)
    expected = (decode_fp8 if format == "fp8" else decode_fp4)(weight, scale, torch.bfloat16).float().T
    one = torch.eye(columns).bfloat16()
    assert torch.equal(k.linear_fp32(one, quantised), expected)
    assert all(torch.equal(k.linear_fp32(one[i : i + 1], quantised), expected[i : i + 1]) for i in range(0, columns, 17))


@pytest.mark.parametrize("kinds", [("fp4", "fp8"), ("fp8", "fp8"), ("fp4", None)])
@pytest.mark.parametrize(("T", "D", "I", "E", "K"), [(1, 32, 64, 4, 2), (7, 160, 96, 3, 3), (150, 128, 32, 6, 3)])
def test_official_experts(k: Native, kinds: tuple[str, str | None], T: int, D: int, I: int, E: int, K: int) -> None:
    names = {f"l.experts.{w}": kinds[0] for w in ("w1", "w2", "w3")}
    names |= {f"l.shared_experts.{w}.weight": kinds[1] for w in ("w1", "w2", "w3") if kinds[1]}
    plain, packs = mixture(D, I, E, names)
    x, (weights, chosen) = rand(T, D, scale=3), choices(T, E, K)
    got = run_experts(Official(k.ext, 8).experts, x, weights, chosen, packs)
    expected = run_experts(official.experts, x, weights, chosen, plain)
    size = float(expected.float().abs().max())
    torch.testing.assert_close(got.float(), expected.float(), rtol=2**-7, atol=2**-5 * size)  # an E4M3 rounding may fall to the other side
    unrounded = run_experts(k.experts, x, weights, chosen, packs)  # the same weights, activations left as they are
    torch.testing.assert_close(unrounded.float(), run_experts(reference.experts, x, weights, chosen, plain).float(), rtol=2**-7, atol=2**-7 * size)


@pytest.mark.parametrize(("T", "C", "R"), [(1, 64, 32), (5, 512, 64), (33, 100, 20), (3, 34, 34), (9, 128, 0)])
def test_codecs_are_exact(k: Native, T: int, C: int, R: int) -> None:
    """Bit for bit the slow codecs' numbers: large, tiny, zero, subnormal in the format, and exact ties."""
    x = rand(T, C, scale=4) * (2.0 ** torch.randint(-30, 20, (T, 1), generator=torch.Generator().manual_seed(5))).bfloat16()
    x[0] = torch.linspace(-1, 1, C).bfloat16()
    x[-1, ::3] = 0
    exact = Official(k.ext, R)
    assert torch.equal(exact.encode_entries(x), encode_entries(x, R))
    assert torch.equal(k.ext.quantise(x), official.quantise(x))
    if C & (C - 1) == 0:
        assert torch.equal(exact.encode_keys(x), encode_index_keys(x))
        assert torch.equal(exact.index_queries(x), official.index_queries(x))


def test_every_e4m3_and_tie(k: Native) -> None:
    """All E4M3 numbers and the midpoints between neighbours, at the scale that 448 fixes."""
    numbers = torch.arange(0, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    ties = (numbers[1:] + numbers[:-1]) / 2
    values = torch.cat((numbers, ties, -numbers, -ties)).bfloat16()
    x = torch.full((len(values) // 100 + 1, 128), 448.0, dtype=torch.bfloat16)
    for i, part in enumerate(values.split(100)):
        x[i, 1 : 1 + len(part)] = part
    assert torch.equal(k.ext.quantise(x), official.quantise(x))


@pytest.mark.parametrize("stretches", [((1, 700),), ((35, 130), (3, 400), (20, 0), (1, 77))])
def test_official_attention(k: Native, stretches: tuple[tuple[int, int], ...]) -> None:
    C, R, H, W = 80, 16, 4, 16
    runs = batch(*stretches, window=W, heads=H)
    T, mine, theirs = int(runs.length.sum()), Official(k.ext, R), official.Rows(C, R)
    window_spans = Spans(runs, window=W)
    q, sink = rand(T, H, C, scale=2), rand(H, seed=2, dtype=torch.float32)
    window = mine.encode_entries(rand(int(window_spans.host_last[-1]), C, seed=1))
    for ratio, chosen in ((8, None), (4, 7)):
        places, spans, size = tables(runs, ratio, 8, paged=True)
        entries, picks = Entries(mine.encode_entries(rand(size, C, seed=3)), places), None
        if chosen:
            keys = Entries(mine.encode_keys(rand(size, 32, seed=4)), places)
            iq, w = mine.index_queries(rand(T, 3, 32)), rand(T, 3, seed=1, dtype=torch.float32)
            picks = mine.index_topk(iq, w, keys, spans, chosen)
            assert torch.equal(picks.sort(1).values, theirs.index_topk(iq, w, keys, spans, chosen).sort(1).values)
        got = mine.attend(q, window, window_spans, sink, entries, spans, picks)
        torch.testing.assert_close(got.float(), theirs.attend(q, window, window_spans, sink, entries, spans, picks).float(), rtol=2**-6, atol=2**-6)


# --- rows by themselves ---


@pytest.mark.parametrize(("T", "H", "C", "R"), [(1, 1, 16, 4), (3, 2, 33, 8), (70, 8, 48, 48), (5, 1, 7, 0)])
def test_norms_and_rotation(k: Native, T: int, H: int, C: int, R: int) -> None:
    x, weight = rand(T, H, C), rand(C, seed=1)
    angle = torch.rand(T, R // 2, generator=torch.Generator().manual_seed(1)) * 6
    cos, sin = angle.cos(), angle.sin()
    close(k.rms_norm(x, weight, 1e-6), reference.rms_norm(x.float(), weight.float(), 1e-6))
    close(k.rope(x, cos, sin), reference.rope(x.float(), cos, sin))
    close(k.norm_rope(x, None, 1e-6, cos, sin), reference.norm_rope(x.float(), None, 1e-6, cos, sin))
    close(k.norm_rope(x[:, 0].contiguous(), weight, 1e-6, cos, sin), reference.norm_rope(x[:, 0].float(), weight.float(), 1e-6, cos, sin))


@pytest.mark.parametrize(("T", "E", "K"), [(1, 1, 1), (7, 5, 5), (300, 33, 6)])
def test_route(k: Native, T: int, E: int, K: int) -> None:
    logits, bias = rand(T, E, dtype=torch.float32, scale=4), rand(E, seed=1, dtype=torch.float32)
    logits[:, : E // 2] = logits[:, :1]  # ties
    bias[: E // 2] = 0
    for given in (None, torch.stack([torch.randperm(E, generator=torch.Generator().manual_seed(t))[:K] for t in range(T)])):
        got = k.route(logits, bias=None if given is not None else bias, chosen=given, top_k=K, factor=1.5)
        expected = reference.route(logits, bias=None if given is not None else bias, chosen=given, top_k=K, factor=1.5)
        close(got[0], expected[0])
        close(got[1], expected[1])
        assert torch.equal(got[2], expected[2])


@pytest.mark.parametrize(("T", "N", "D"), [(1, 4, 32), (3, 1, 8), (17, 2, 33), (50, 4, 48), (130, 8, 16), (49, 3, 40)])
@pytest.mark.parametrize("steps", [1, 20])
def test_streams(k: Native, T: int, N: int, D: int, steps: int) -> None:
    X, M = rand(T, N, D), (2 + N) * N
    fn, scale, base = rand(M, N * D, seed=1, dtype=torch.float32), rand(3, seed=2, dtype=torch.float32), rand(M, seed=3, dtype=torch.float32)
    constants = {"norm_eps": 1e-6, "eps": 1e-6}
    split, head = Split(M, N * D), Split(N, N * D)
    split.copy_(fn)
    head.copy_(fn[:N])
    h, post, comb = k.mhc_mix(X, split, scale, base, sinkhorn_steps=steps, **constants)
    expected = reference.mhc_mix(X.float(), fn, scale, base, sinkhorn_steps=steps, **constants)
    for got, wanted in ((post, expected[1]), (comb, expected[2])):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=3e-4)  # fn keeps 16 bits: 2^-17 of each of N·D terms
    torch.testing.assert_close(h.float(), expected[0], rtol=2**-8, atol=3e-3)
    torch.testing.assert_close(k.mhc_head(X, head, scale[:1], base[:N], **constants).float(),
                               reference.mhc_head(X.float(), fn[:N], scale[:1], base[:N], **constants), rtol=2**-8, atol=3e-3)
    out = rand(T, D, seed=4)
    wanted = reference.mhc_expand(X.float(), out.float(), post, comb)
    streams = X.clone()
    assert k.mhc_expand(streams, out, post, comb).data_ptr() == streams.data_ptr()
    close(streams, wanted, scale=10)
    spread = X[:, :1].expand(-1, N, -1)  # streams that share memory, as the embedding's do
    wanted, before = reference.mhc_expand(spread.float(), out.float(), post, comb), X.clone()
    close(k.mhc_expand(spread, out, post, comb), wanted, scale=10)
    assert N == 1 or torch.equal(X, before)


# --- history ---


def batch(*stretches: tuple[int, int], window: int = 16, heads: int = 2) -> Runs:
    """Runs of (length, start); slots in reverse order."""
    return Runs([(n, start, len(stretches) - 1 - i) for i, (n, start) in enumerate(stretches)], heads=heads, window=window, device=CPU)


BATCHES = [((1, 0),), ((40, 0),), ((1, 37), (1, 0), (1, 5)), ((9, 31), (30, 0), (1, 64), (17, 100))]


@pytest.mark.parametrize("stretches", BATCHES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
def test_remember(k: Native, stretches: tuple[tuple[int, int], ...], dtype: torch.dtype) -> None:
    runs, L = batch(*stretches), 12
    values = torch.randint(0, 200, (int(runs.length.sum()), 2, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    ring = torch.randint(0, 200, (len(runs), L, 2, 3), generator=torch.Generator().manual_seed(2)).to(dtype)
    other = ring.clone()
    history = runs.history(np.minimum(runs.start, 7))
    assert torch.equal(k.remember(ring, values, history), reference.remember(other, values, runs.history(np.minimum(runs.start, 7))))
    assert torch.equal(ring, other)


@pytest.mark.parametrize(("n", "m", "C", "overlap"), [(1, 4, 32, True), (5, 4, 20, True), (3, 128, 16, False), (40, 2, 33, False)])
def test_compress(k: Native, n: int, m: int, C: int, overlap: bool) -> None:
    P, R = (2 * C if overlap else C), C // 4 * 2
    rows, ape, norm = rand(n * m, 2, P, dtype=torch.float32, scale=3), rand(m, P, seed=1, dtype=torch.float32), rand(C, seed=2)
    own = torch.arange(n * m).view(n, m)
    previous = torch.cat((torch.full((1, m), -1), own[:-1])) if overlap else None
    angle = torch.rand(n, R // 2, generator=torch.Generator().manual_seed(1)) * 6
    got = k.compress(rows, ape, own, previous, norm, 1e-6, angle.cos(), angle.sin(), torch.bfloat16)
    close(got, reference.compress(rows, ape, own, previous, norm.float(), 1e-6, angle.cos(), angle.sin(), torch.float32), scale=10)


def tables(runs: Runs, ratio: int, per_block: int, paged: bool) -> tuple[Places, Spans, int]:
    """Places of the runs' entries in a scattered pool, and how many rows it has."""
    spans, visible = Spans(runs, ratio=ratio), runs.stop // ratio
    if not paged:
        return Places(spans, None, per_block), spans, int(visible.sum())
    counts = -(-visible // per_block)
    order = np.random.default_rng(1).permutation(int(counts.sum()))
    return Places(spans, np.split(order, np.cumsum(counts)[:-1]), per_block), spans, int(counts.sum()) * per_block


PAST = [((1, 0),), ((1, 3),), ((90, 0),), ((1, 700),), ((1, 63), (1, 500), (1, 0), (1, 200)), ((35, 130), (3, 400), (20, 0), (1, 77), (100, 31))]


LONG = ((150, 4300), (64, 9000))  # more entries than one stretch of the indexer's, more queries than go side by side


@pytest.mark.parametrize("stretches", [*PAST, LONG])
@pytest.mark.parametrize(("J", "C", "top_k"), [(3, 16, 4), (17, 34, 1), (8, 32, 40), (2, 8, 500)])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_index_topk(k: Native, stretches: tuple[tuple[int, int], ...], J: int, C: int, top_k: int, whole_numbers: bool) -> None:
    """Whole numbers make scores exact and ties common: then the choice is the reference's, entry for entry. Otherwise its scores are."""
    runs = batch(*stretches)
    places, spans, size = tables(runs, 4, 8, paged=True)
    T = int(runs.length.sum())
    q, w, pool = rand(T, J, C), rand(T, J, seed=1, dtype=torch.float32), rand(max(size, 1), C, seed=2)
    if whole_numbers:
        q, w, pool = q.round(), w.round(), pool.round()
    entries = Entries(pool, places)
    got, expected = k.index_topk(q, w, entries, spans, top_k), reference.index_topk(q, w, entries, spans, top_k)
    for t in range(T):
        mine, theirs = got[t][got[t] >= 0], expected[t][expected[t] >= 0]
        assert len(mine) == len(theirs) == min(top_k, int(spans.host_last[t] - spans.host_first[t])) == len(mine.unique())
        assert (got[t][len(mine) :] == -1).all() and (mine == mine.sort().values).all()
        if whole_numbers:
            assert torch.equal(mine, theirs.sort().values)
        elif len(mine):
            scores = (torch.relu(q[t].float() @ pool.float().T) * w[t].unsqueeze(1)).sum(0)
            torch.testing.assert_close(scores[entries.at(mine)].sort().values, scores[entries.at(theirs)].sort().values, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("stretches", [*PAST, ((260, 300),)])
@pytest.mark.parametrize(("H", "C"), [(2, 16), (8, 32), (5, 34), (16, 64), (80, 8)])
@pytest.mark.parametrize("kind", ["window", "dense", "chosen"])
def test_attend(k: Native, stretches: tuple[tuple[int, int], ...], H: int, C: int, kind: str) -> None:
    attends_as_the_reference(k, stretches, H, C, kind)


@pytest.mark.parametrize("H", [2, 5, 8, 16, 20])
def test_attend_to_more_chosen_entries_than_a_piece_has(k: Native, H: int) -> None:
    attends_as_the_reference(k, ((13, 1500), (1, 1400)), H, 32, "chosen", picks=300)


def attends_as_the_reference(k: Native, stretches: tuple[tuple[int, int], ...], H: int, C: int, kind: str, picks: int = 7) -> None:
    W = 16
    runs = batch(*stretches, window=W, heads=H)
    T, ratio = int(runs.length.sum()), 4 if kind == "chosen" else 8
    places, spans, size = tables(runs, ratio, 8, paged=True)
    window_spans = Spans(runs, window=W)
    q, window, sink = rand(T, H, C, scale=2), rand(int(window_spans.host_last[-1]), C, seed=1), rand(H, seed=2, dtype=torch.float32)
    pool = rand(max(size, 1), C, seed=3)
    chosen = None
    if kind == "chosen":
        scores = torch.rand(T, int(spans.host_last.max()), generator=torch.Generator().manual_seed(4))
        key = torch.arange(scores.shape[1])
        scores.masked_fill_((key < spans.first.unsqueeze(1)) | (key >= spans.last.unsqueeze(1)), -1)
        best = scores.topk(min(picks, scores.shape[1]), 1)
        chosen = torch.full((T, picks + 2), -1)
        chosen[:, : best.indices.shape[1]] = torch.where(best.values < 0, -1, best.indices)
        chosen[::5] = -1  # nothing chosen
    history = (None, None, None) if kind == "window" else (Entries(pool, places), spans, chosen)
    got = k.attend(q, window, window_spans, sink, *history)
    wide = history if history[0] is None else (Entries(pool.float(), places), spans, chosen)
    expected = reference.attend(q.float(), window.float(), window_spans, sink, *wide)
    torch.testing.assert_close(got.float(), expected, rtol=2**-7, atol=2**-7)  # weights are rounded to bf16 too


# --- the table and its packed weights ---


def test_every_operator_is_in_the_table(k: Native) -> None:
    from fathom.ops import OPERATORS as ALL_OPERATORS

    assert set(ALL_OPERATORS) - set(OPERATORS) == {"index_loss"}  # training only
    assert all(callable(getattr(k, name)) for name in OPERATORS)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (16, 32), (17, 33), (100, 70)])
def test_packing_loses_nothing_in_any_pieces(rows: int, columns: int) -> None:
    w = rand(rows, columns)
    p = Packed(rows, columns)
    cuts = sorted({0, rows, *(c for c in (5, 16, 19, 48) if c < rows)})
    for a, b in zip(cuts, cuts[1:], strict=False):
        p[a:b].copy_(w[a:b])
    assert torch.equal(p.plain(), w) and torch.equal(packed(w).data, p.data)


def test_wrong_tensors_are_refused(k: Native) -> None:
    w = packed(rand(16, 32))
    for wrong in (rand(2, 32, dtype=torch.float32), rand(2, 31), rand(32, 2).T):
        with pytest.raises(ValueError, match="linear"):
            k.linear(wrong, w)
    with pytest.raises(ValueError, match="expert"):
        k.route(rand(1, 4, dtype=torch.float32), bias=None, chosen=torch.tensor([[0, 4]]), top_k=2, factor=1.0)
