"""What a DeepSeek-V4 model is: one frozen dataclass with the published field names.

Every number that shapes the network is here and nowhere else; a field that nothing reads is a defect (a test looks for it).
`compress_ratios` decides each layer's attention: 0 = sliding window only, 4 = Compressed Sparse Attention (overlapping
windows and a lightning indexer), any other ratio = Heavily Compressed Attention (dense over its entries). It has one value a
layer, then one for each MTP block. `hash_routed` says which layers choose experts by token id.

Reading and writing config.json is `published.py`; this file only knows what is possible and refuses the rest by name.
Source: SPEC sections 1 and 2; the published config.json files.
"""
from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..errors import UserError

CSA_RATIO = 4  # the ratio that means overlapping windows and an indexer; every other non-zero ratio is dense


@dataclass(frozen=True)
class Yarn:
    """YaRN frequency scaling of the compressed layers' RoPE (SPEC 2, attention item 3). cos/sin are not scaled by its mscale."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a V4 model; the names are those of the published config.json.

    Raises:
        UserError: a value that no V4 model can have, naming the field, the value and what is allowed.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    compress_ratios: tuple[int, ...]
    hash_routed: tuple[bool, ...]
    routed_scaling_factor: float = 1.5
    sliding_window: int = 128
    hc_mult: int = 4
    hc_sinkhorn_iters: int = 20
    hc_eps: float = 1e-6
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    compress_rope_theta: float = 160000.0
    rope_scaling: Yarn | None = None
    swiglu_limit: float = 10.0
    max_position_embeddings: int = 1048576
    num_nextn_predict_layers: int = 0
    initializer_range: float = 0.02
    bos_token_id: int = 0
    eos_token_id: int = 1
    expert_dtype: str | None = None  # "fp4" or "fp8" where the checkpoint stores quantised experts
    quantized: bool = False  # the checkpoint's dense matrices are FP8 with 128×128 block scales

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_layers()
        self._check_dims()

    def _check_counts(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(name, value, "a whole number of at least 1")
        for name in _POSITIVE_FLOATS:
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not (value > 0 and math.isfinite(value)):
                raise UserError(name, value, "a number above 0")
        if self.num_nextn_predict_layers not in (0, 1):
            raise UserError("num_nextn_predict_layers", self.num_nextn_predict_layers, "0 or 1")
        if self.expert_dtype not in (None, "fp4", "fp8"):
            raise UserError("expert_dtype", self.expert_dtype, "fp4, fp8 or absent")
        for name in ("bos_token_id", "eos_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise UserError(name, getattr(self, name), f"a token id below vocab_size = {self.vocab_size}")

    def _check_layers(self) -> None:
        expected = self.num_hidden_layers + self.num_nextn_predict_layers
        if len(self.compress_ratios) != expected:
            raise UserError("compress_ratios", f"{len(self.compress_ratios)} values",
                            f"one a layer and one an MTP block: {expected} values")
        for ratio in self.compress_ratios:
            if not isinstance(ratio, int) or ratio < 0 or ratio == 1:
                raise UserError("compress_ratios", ratio, "0 (window only), 4 (CSA) or a whole number above 1 (HCA)")
        if len(self.hash_routed) != self.num_hidden_layers:
            raise UserError("hash_routed", f"{len(self.hash_routed)} values", f"one a layer: {self.num_hidden_layers} values")

    def _check_dims(self) -> None:
        if self.qk_rope_head_dim % 2 or self.qk_rope_head_dim > min(self.head_dim, self.index_head_dim):
            raise UserError("qk_rope_head_dim", self.qk_rope_head_dim,
                            f"even and at most head_dim = {self.head_dim} and index_head_dim = {self.index_head_dim}")
        if self.num_attention_heads % self.o_groups:
            raise UserError("o_groups", self.o_groups, f"a divisor of num_attention_heads = {self.num_attention_heads}")
        if self.num_experts_per_tok > self.n_routed_experts:
            raise UserError("num_experts_per_tok", self.num_experts_per_tok, f"at most n_routed_experts = {self.n_routed_experts}")
        if self.rope_scaling is not None:
            yarn = self.rope_scaling
            if yarn.factor < 1 or yarn.original_max_position_embeddings < 1 or yarn.beta_fast <= 0 or yarn.beta_slow <= 0:
                raise UserError("rope_scaling", dataclasses.asdict(yarn), "factor >= 1, positive length and betas")

    @property
    def num_blocks(self) -> int:
        """Transformer blocks in all: the layers, then the MTP block where there is one."""
        return self.num_hidden_layers + self.num_nextn_predict_layers

    @property
    def block_size(self) -> int:
        """Tokens in one block of compressed state: the least common multiple of the ratios in use (128 for the published models).

        With window-only layers there is nothing to page; a block is then one window.
        """
        ratios = [r for r in self.compress_ratios if r]
        return math.lcm(*ratios) if ratios else self.sliding_window

    def is_csa(self, block: int) -> bool:
        """Whether block `block` (MTP blocks count on after the layers) is Compressed Sparse Attention."""
        return self.compress_ratios[block] == CSA_RATIO

    @property
    def index_factor(self) -> float:
        """What the indexer's head weights are multiplied by. Source: SPEC section 2, lightning indexer."""
        return self.index_n_heads**-0.5 * self.index_head_dim**-0.5

    def without_mtp(self) -> ModelConfig:
        """The same model with its MTP block dropped."""
        return dataclasses.replace(self, num_nextn_predict_layers=0, compress_ratios=self.compress_ratios[: self.num_hidden_layers])


_POSITIVE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "qk_rope_head_dim", "q_lora_rank",
             "o_groups", "o_lora_rank", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "index_n_heads",
             "index_head_dim", "index_topk", "sliding_window", "hc_mult", "hc_sinkhorn_iters", "max_position_embeddings")
_POSITIVE_FLOATS = ("routed_scaling_factor", "hc_eps", "rms_norm_eps", "rope_theta", "compress_rope_theta", "swiglu_limit",
                    "initializer_range")
