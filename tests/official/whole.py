"""The whole model in precision `official`, by the operators of simulation.py: every token of a prompt at once, nothing cached.

Names of steps are those of the checkpoint's tensors where a tensor belongs to a step. Each step keeps its function and its inputs beside its
output, so that a test can feed the same inputs to another implementation, or the same function under a noise.

Source: SPEC sections 2 and 4.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fathom.config import ModelConfig
from tests.official import simulation as s
from tests.official.numbers import Numbers, through_fp4, through_fp8_blocks

FP8 = ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", "e_proj", "h_proj")


def stored(name: str, values: np.ndarray) -> np.ndarray:
    """A tensor (experts stacked) with the values that the official layout keeps of it."""
    parts = name.split(".")
    if "experts" in parts:
        return np.array([through_fp4(w) for w in values])
    if "shared_experts" in parts or (parts[-2:-1] and parts[-2] in FP8 and "compressor" not in parts):
        return through_fp8_blocks(values)
    return values


@dataclass(frozen=True)
class Step:
    """One operator at one place: output = function(numbers, *inputs)."""

    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    output: Any


class Simulation:
    """A model of `config`.

    Args:
        tensors: by their names in the table of parameters, plain; rounded here to what the official layout stores.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> None:
        self.config = config
        self.w = {name: stored(name, values) for name, values in tensors.items()}
        self.steps: dict[str, Step] = {}
        yarn = config.rope_scaling
        scaling = None if yarn is None else (yarn.factor, yarn.original_max_position_embeddings, yarn.beta_fast, yarn.beta_slow)
        self.frequency = {False: s.frequencies(config.qk_rope_head_dim, config.rope_theta, None),
                          True: s.frequencies(config.qk_rope_head_dim, config.compress_rope_theta, scaling)}

    def run(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """Takes a step and notes it."""
        output = function(Numbers(), *inputs)
        self.steps[name] = Step(function, inputs, output)
        return output

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """[T, V] of one document; the final streams are in `streams`."""
        c = self.config
        X = np.repeat(self.w["embed.weight"][tokens][:, None], c.hc_mult, 1)
        for layer, ratio in enumerate(c.compress_ratios[: c.num_hidden_layers]):
            X = self._block(f"layers.{layer}.", X, ratio, tokens if c.hash_routed[layer] else None)
        self.streams = X
        return self._head("", X)

    def second_logits(self, next_tokens: np.ndarray) -> np.ndarray:
        """[T, V] of the MTP block, after `logits`."""
        p, eps = "mtp.0.", self.config.rms_norm_eps
        embedded = self.run(p + "enorm", s.rms_norm, self.w["embed.weight"][next_tokens], self.w[p + "enorm.weight"], eps)
        first = self.run(p + "e_proj", s.linear_fp8, embedded, self.w[p + "e_proj.weight"])
        streams = self.run(p + "hnorm", s.rms_norm, self.streams, self.w[p + "hnorm.weight"], eps)
        T, N, D = streams.shape
        streams = self.run(p + "h_proj", s.linear_fp8, streams.reshape(T * N, D), self.w[p + "h_proj.weight"]).reshape(T, N, D)
        X = self.run(p + "sum", s.add, streams, np.repeat(first[:, None], N, 1))
        return self._head(p, self._block(p, X, self.config.compress_ratios[-1], None))

    def _head(self, p: str, X: np.ndarray) -> np.ndarray:
        c, w = self.config, self.w
        h = self.run(p + "hc_head", s.head_mix, X, w[p + "hc_head_fn"], w[p + "hc_head_scale"], w[p + "hc_head_base"], c.rms_norm_eps, c.hc_eps)
        return self.run(p + "head", s.linear_fp32, self.run(p + "norm", s.rms_norm, h, w[p + "norm.weight"], c.rms_norm_eps), w["head.weight"])

    def _block(self, p: str, X: np.ndarray, ratio: int, hashed: np.ndarray | None) -> np.ndarray:
        for sublayer in ("attn", "ffn"):
            c, w, mixer = self.config, self.w, p + "hc_" + sublayer
            h, post, comb = self.run(mixer, s.mix, X, w[mixer + "_fn"], w[mixer + "_scale"], w[mixer + "_base"], c.hc_sinkhorn_iters,
                                     c.rms_norm_eps, c.hc_eps)
            h = self.run(p + sublayer + "_norm", s.rms_norm, h, w[p + sublayer + "_norm.weight"], c.rms_norm_eps)
            out = self._attention(p + "attn.", h, ratio) if sublayer == "attn" else self._ffn(p + "ffn.", h, hashed)
            X = self.run(p + sublayer + "_expand", s.expand, X, out, post, comb)
        return X

    def _attention(self, p: str, h: np.ndarray, ratio: int) -> np.ndarray:
        c, w, T, eps = self.config, self.w, len(h), self.config.rms_norm_eps
        cos, sin = s.angles(np.arange(T), self.frequency[ratio > 0])
        c_q = self.run(p + "q_norm", s.rms_norm, self.run(p + "wq_a", s.linear_fp8, h, w[p + "wq_a.weight"]), w[p + "q_norm.weight"], eps)
        q = self.run(p + "wq_b", s.linear_fp8, c_q, w[p + "wq_b.weight"]).reshape(T, c.num_attention_heads, c.head_dim)
        q = self.run(p + "q", s.query_rope, q, eps, cos, sin)
        kv = self.run(p + "wkv", s.linear_fp8, h, w[p + "wkv.weight"])
        kv = self.run(p + "kv", s.norm_rope, kv, w[p + "kv_norm.weight"], eps, cos, sin)
        window = self.run(p + "window", s.entry, kv, c.qk_rope_head_dim)
        entries, seen = np.zeros((0, c.head_dim)), [np.zeros(0, np.int64)] * T
        if ratio:
            entries = self.run(p + "entries", s.entry, self._compressor(p + "compressor", h, ratio), c.qk_rope_head_dim)
            seen = [np.arange((t + 1) // ratio) for t in range(T)]
        if ratio == 4:
            seen = self._indexer(p + "indexer.", h, c_q, cos, sin)
        out = self.run(p + "attend", s.attend, q, window, c.sliding_window, w[p + "attn_sink"], entries, seen)
        out = self.run(p + "turned_back", s.rope, out, cos, -sin)
        out = self.run(p + "wo_a", s.linear_grouped, out.reshape(T, c.o_groups, -1), w[p + "wo_a.weight"])
        return self.run(p + "wo_b", s.linear_fp8, out, w[p + "wo_b.weight"])

    def _compressor(self, p: str, h: np.ndarray, ratio: int) -> np.ndarray:
        rows = self.run(p + ".rows", s.projections, h, self.w[p + ".wkv.weight"], self.w[p + ".wgate.weight"])
        cos, sin = s.angles(ratio * np.arange(len(h) // ratio), self.frequency[True])
        return self.run(p, s.compress, rows, self.w[p + ".ape"], ratio, ratio == 4, self.w[p + ".norm.weight"], self.config.rms_norm_eps, cos, sin)

    def _indexer(self, p: str, h: np.ndarray, c_q: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> list[np.ndarray]:
        c, w = self.config, self.w
        keys = self.run(p + "keys", s.hadamard_fp4, self._compressor(p + "compressor", h, 4))
        q = self.run(p + "wq_b", s.linear_fp8, c_q, w[p + "wq_b.weight"]).reshape(len(h), c.index_n_heads, c.index_head_dim)
        q = self.run(p + "queries", s.hadamard_fp4, self.run(p + "turned", s.rope, q, cos, sin))
        weights = self.run(p + "weights_proj", s.index_weights, h, w[p + "weights_proj.weight"], c.index_head_dim)
        ranked = self.run(p + "scores", s.scores, q, weights, keys)
        return [s.best(ranked[t, : (t + 1) // 4], c.index_topk) for t in range(len(h))]

    def _ffn(self, p: str, h: np.ndarray, hashed: np.ndarray | None) -> np.ndarray:
        c, w = self.config, self.w
        logits = self.run(p + "gate", s.linear_fp32, h, w[p + "gate.weight"])
        bias, given = (w[p + "gate.bias"], None) if hashed is None else (None, w[p + "gate.tid2eid"][hashed].astype(np.int64))
        _, weights, chosen = self.run(p + "route", s.route, logits, bias, given, c.num_experts_per_tok, c.routed_scaling_factor)
        routed, shared = [w[f"{p}experts.w{i}"] for i in (1, 2, 3)], tuple(w[f"{p}shared_experts.w{i}.weight"] for i in (1, 2, 3))
        return self.run(p + "experts", s.experts, h, weights, chosen, *routed, shared, c.swiglu_limit)
