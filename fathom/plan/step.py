"""What one training step holds in memory at its fullest, with the reference kernels: a ledger, operator by operator.

Between steps a trainer keeps weights and optimizer state (`training.persistent_bytes`). A step adds, first, everything that the
forward pass leaves for the backward pass, and that is most of it: each operator's row below says what it saves for a token. The last
thing that the forward pass does is the cross-entropy, whose slice of logits comes on top. Then the gradients take over, and the
optimizer works with directions and Newton–Schulz iterates. The step's peak is the larger of the two.

    fp32 compute   an operator that widens its input to fp32 saves the input itself
    bf16 compute   it saves an fp32 copy, so bf16 is not smaller: it is faster

This follows the kernels line by line, so a kernel that saves more or less changes a row here; a test compares with the allocator.

Letters: D hidden size, S = N·D streams, H heads, C head_dim, E experts, I their width, K chosen, T tokens of a micro-batch.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import ModelConfig, parameters
from ..errors import UserError
from .training import gradient_bytes, persistent_bytes

TILE_QUERIES, TILE_CELLS = 256, 1 << 20  # of one attention tile at most (ops/spans.py)
GATHER_FROM, QUERIES, FEW = 6, 64, 1 << 16  # when chosen entries are gathered, and how many queries look at many entries (ops/reference/attention.py)
LOGITS = 1 << 22  # logits of one slice of the cross-entropy (ops/reference/loss.py)
ORTHOGONALIZED = 1 << 24  # values of one Newton–Schulz batch (train/optim/muon.py)
WIDE, ITEM = 4, {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Micro:
    """One micro-batch: `rows` documents of `length` tokens, computed in `precision`.

    Attributes:
        mtp, indexer: whether the MTP loss and the indexers' loss take part.  sparse: CSA attends to chosen entries.
    """

    length: int
    rows: int
    precision: str = "fp32"
    mtp: bool = True
    indexer: bool = True
    sparse: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ITEM:
            raise UserError("precision", self.precision, f"training computes in {' or '.join(ITEM)}")
        if self.length < 2 or self.rows < 1:
            raise UserError("micro-batch", f"{self.rows} × {self.length}", "rows of at least 2 tokens")

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.length * self.rows

    @property
    def item(self) -> int:
        """Bytes of an activation between operators."""
        return ITEM[self.precision]


def step_memory(config: ModelConfig, micro: Micro, *, micro_batches: int = 1, orthogonalize: str = "bf16") -> dict[str, int]:
    """Bytes at the fullest moment of a training step, by part, and what each of its two candidates would be.

    Args:
        orthogonalize: dtype of the Newton–Schulz iterates, fp32 or bf16.

    Returns:
        persistent; activations, casts, loss (the backward pass's stock when it begins), logits (at work just before) and gradients (of
        earlier micro-batches); optimizer (gradients, directions, iterates); peak = persistent + the larger sum.
    """
    c = config if micro.mtp else config.without_mtp()
    gradients = gradient_bytes(config, mtp=micro.mtp, indexer=micro.indexer)
    parts = {
        "persistent": sum(persistent_bytes(config).values()),
        "activations": int(sum(saved_by_operator(c, micro).values()) * micro.tokens),
        "casts": cast_bytes(c) if micro.precision == "bf16" else 0,
        "loss": (1 + c.num_nextn_predict_layers) * WIDE * c.vocab_size * c.hidden_size,  # each forms its gradient of the output matrix
        "logits": _logit_bytes(c, micro),
        "gradients": gradients if micro_batches > 1 else 0,
        "optimizer": gradients + _muon_bytes(config, micro, orthogonalize),
    }
    stock = sum(parts[name] for name in ("activations", "casts", "loss", "logits", "gradients"))
    return {**parts, "peak": parts["persistent"] + max(stock, parts["optimizer"])}


def saved_by_operator(c: ModelConfig, m: Micro) -> dict[str, float]:
    """Bytes a token that the whole forward pass saves, by operator."""
    out: dict[str, float] = defaultdict(float)
    for block, ratio in enumerate(c.compress_ratios):
        for operator, size in _block(c, m, ratio):
            out[operator] += size
        if block >= c.num_hidden_layers:  # what MTP puts before its block; in fp32 its norm shares the streams with the head mix
            shared = c.hc_mult if m.precision == "fp32" else 0
            out["mtp"] += ((2 * WIDE + m.item) * (c.hc_mult + 1) - WIDE * shared) * c.hidden_size
    if m.precision == "fp32":
        out["streams"] += WIDE * c.hidden_size  # the first layer reads N views of the embedding
    heads = 1 + c.num_nextn_predict_layers
    out["head mix"] += heads * WIDE * c.hc_mult * c.hidden_size
    out["norm"] += heads * 2 * WIDE * c.hidden_size
    out["cross-entropy"] += heads * m.item * c.hidden_size
    return dict(out)


def _block(c: ModelConfig, m: Micro, ratio: int) -> Iterator[tuple[str, float]]:
    D, S, wide_copy = c.hidden_size, c.hc_mult * c.hidden_size, WIDE if m.precision == "bf16" else 0
    N = c.hc_mult
    mixing = 1 + (2 + N) * N + 7 * N + 2 * N + 2 * N * N + N + N * N  # coefficients on their way through the sigmoids and Sinkhorn
    yield "streams", 2 * ((WIDE + wide_copy) * S + WIDE * D + WIDE * mixing)  # mix and expand both widen the streams
    yield "norm", 2 * 2 * WIDE * D
    yield from _attention(c, m, ratio, wide_copy)
    yield from _experts(c, m)


def _attention(c: ModelConfig, m: Micro, ratio: int, wide_copy: int) -> Iterator[tuple[str, float]]:
    D, C, q = c.hidden_size, c.head_dim, c.num_attention_heads * c.head_dim
    yield "projections", m.item * D + (2 * WIDE + m.item) * c.q_lora_rank + WIDE * q + 2 * WIDE * C + m.item * c.o_groups * c.o_lora_rank
    yield "attend", m.item * (3 * q + C)  # q, output, and its grouped copy
    if not ratio:
        return
    series = 2 if ratio == 4 else 1
    yield "attend", m.item * C / ratio
    yield "compress", 2 * wide_copy * D + series * 2 * WIDE * C + 2 * WIDE * C / ratio
    if ratio == 4 and m.indexer:
        yield "compress", 2 * wide_copy * D + 4 * WIDE * c.index_head_dim + 2 * WIDE * c.index_head_dim / ratio
        yield "index loss", wide_copy * D + _index_loss(c, m)


def _index_loss(c: ModelConfig, m: Micro) -> float:
    """Bytes a token: index products, scores and their masks, tile by tile of queries; keys too where they are gathered."""
    most = max(16, min(TILE_QUERIES, TILE_CELLS // (c.num_attention_heads * c.sliding_window)))
    total, start = WIDE * c.index_n_heads * c.index_head_dim * m.length, 0
    while start < m.length:
        seen = min(start + most, m.length) // 4
        gathered = m.sparse and seen > GATHER_FROM * c.index_topk
        size = min(most, m.length - start, max(QUERIES, 0 if gathered else FEW // max(1, seen) // QUERIES * QUERIES))
        reach, start = (start + size) // 4, start + size
        width = c.index_topk if gathered else reach
        total += size * width * (WIDE * c.index_n_heads + 2 * WIDE + 1)
        if gathered:
            total += size * width * c.index_head_dim * WIDE
    return total / m.length


def _experts(c: ModelConfig, m: Micro) -> Iterator[tuple[str, float]]:
    D, I, K, E = c.hidden_size, c.moe_intermediate_size, c.num_experts_per_tok, c.n_routed_experts
    yield "route", WIDE * (D + 3 * E) + 28 * K + (m.item * D if m.precision == "bf16" else 0)
    yield "experts", (K + 1) * (m.item * (D + 3 * I) + WIDE + 3 * 8)  # rows of the routed and the shared; three numbers a row


def cast_bytes(c: ModelConfig) -> int:
    """Bytes of the BF16 copies of fp32 masters that matrix products save."""
    kept = ("wq_a.weight", "wq_b.weight", "wkv.weight", "wo_a.weight", "wo_b.weight", "e_proj.weight", "h_proj.weight")
    return sum(2 * p.numel for p in parameters(c) if (p.name.endswith(kept) and ".compressor." not in p.name) or ".ffn.experts." in p.name
               or ".ffn.shared_experts." in p.name)


def _logit_bytes(c: ModelConfig, m: Micro) -> int:
    """Bytes at work in the cross-entropy of one slice: logits with their log-probabilities, or those with the gradient; from the second
    slice on the one before is still there. The output matrix's new gradient, and its cast, come on top.
    """
    slice_tokens = min(m.tokens, max(1, LOGITS // c.vocab_size))
    cells = slice_tokens * c.vocab_size
    rounded = m.item if m.precision == "bf16" else 0
    before = (WIDE + m.item) * cells if m.tokens > slice_tokens else 0
    return before + (2 * WIDE + rounded * (not before)) * cells + (m.item + rounded) * c.vocab_size * c.hidden_size


def _muon_bytes(config: ModelConfig, micro: Micro, orthogonalize: str) -> int:
    """Bytes of all directions (fp32) and of the largest Newton–Schulz batch: matrices of one shape, n ≤ m, at most ORTHOGONALIZED values.

    A batch holds its fp32 input and, in the iterates' dtype, the old iterate, the new one and an n × n product, or the old one and two
    products; or, before the first iteration, the normalised input in fp32 and its rounded copy.
    """
    values: dict[tuple[int, int], int] = defaultdict(int)
    for p in parameters(config):
        reached = micro.mtp or not p.name.startswith("mtp.")
        if p.optimizer == "muon" and reached and (micro.indexer or ".indexer." not in p.name):
            for part in p.row_parts or (p.shape[-2],):
                n, m = sorted((part, p.shape[-1]))
                values[n, m] += max(1, p.experts) * n * m
    size = ITEM[orthogonalize]
    largest = 0
    for (n, m), total in values.items():
        batch = min(total, max(1, ORTHOGONALIZED // (n * m)) * n * m)
        square = batch * n // m
        iterates = size * max(2 * batch + square, batch + 2 * square)
        largest = max(largest, WIDE * batch + max(iterates, WIDE * batch + (size * batch if size < WIDE else 0)))
    return WIDE * sum(values.values()) + largest
