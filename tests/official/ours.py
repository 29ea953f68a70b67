"""Our operators, given the inputs of the simulation's steps (teacher forcing): what the model's modules would call, with the model's weights."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fathom.model import Batch, Transformer
from fathom.ops import Entries
from fathom.quant import decode_entries, decode_index_keys
from tests.official.whole import Step
from tests.quant import independent as codec

BITS = {"mix": (16, 32, 32), "linear_fp32": (32,), "projections": (32,), "index_weights": (32,), "route": (32, 32, 0)}
"""Bits of the results of steps that aren't one bf16 array; 0 for numbers of experts."""


def tensor(x: np.ndarray, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The same values in a type that holds them."""
    out = torch.from_numpy(np.ascontiguousarray(x)).to(dtype)
    assert np.array_equal(out.double().numpy(), x), "the simulation's value isn't one of the format"
    return out


class Ours:
    """The operators of one model, for one document of T tokens."""

    def __init__(self, model: Transformer, T: int) -> None:
        self.config, self.k, self.w = model.config, model.kernels(), model.tensors()
        self.geometry = model._geometry(Batch.pack([torch.zeros(T, dtype=torch.int64)]), None)

    def __call__(self, name: str, step: Step) -> list[np.ndarray]:
        """The results of a step."""
        with torch.no_grad():
            out = getattr(self, step.function.__name__)(name, *step.inputs)
        return [t.double().numpy() if t.is_floating_point() else t.numpy() for t in (out if isinstance(out, tuple) else (out,))]

    def mix(self, name: str, X: np.ndarray, *_: Any) -> tuple[Tensor, ...]:
        """h, post, comb."""
        c, w = self.config, self.w
        return self.k.mhc_mix(tensor(X), w[name + "_fn"], w[name + "_scale"], w[name + "_base"], sinkhorn_steps=c.hc_sinkhorn_iters,
                              norm_eps=c.rms_norm_eps, eps=c.hc_eps)

    def head_mix(self, name: str, X: np.ndarray, *_: Any) -> Tensor:
        """h."""
        c, w = self.config, self.w
        return self.k.mhc_head(tensor(X), w[name + "_fn"], w[name + "_scale"], w[name + "_base"], norm_eps=c.rms_norm_eps, eps=c.hc_eps)

    def expand(self, name: str, X: np.ndarray, out: np.ndarray, post: np.ndarray, comb: np.ndarray) -> Tensor:
        """New streams."""
        return self.k.mhc_expand(tensor(X), tensor(out), tensor(post, torch.float32), tensor(comb, torch.float32))

    def add(self, name: str, x: np.ndarray, y: np.ndarray) -> Tensor:
        """As mtp.py adds."""
        return tensor(x) + tensor(y)

    def rms_norm(self, name: str, x: np.ndarray, *_: Any) -> Tensor:
        """Like x."""
        return self.k.rms_norm(tensor(x), self.w[name + ".weight"], self.config.rms_norm_eps)

    def query_rope(self, name: str, q: np.ndarray, eps: float, cos: np.ndarray, sin: np.ndarray) -> Tensor:
        """Like q."""
        return self.k.norm_rope(tensor(q), None, eps, *angles(cos, sin))

    def norm_rope(self, name: str, x: np.ndarray, weight: np.ndarray, eps: float, cos: np.ndarray, sin: np.ndarray) -> Tensor:
        """Like x."""
        return self.k.norm_rope(tensor(x), self.w[name + "_norm.weight"], eps, *angles(cos, sin))

    def rope(self, name: str, x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> Tensor:
        """Like x."""
        return self.k.rope(tensor(x), *angles(cos, sin))

    def linear_fp8(self, name: str, x: np.ndarray, *_: Any) -> Tensor:
        """[T, out]."""
        return self.k.linear_fp8(tensor(x), self.w[name + ".weight"])

    def linear_fp32(self, name: str, x: np.ndarray, *_: Any) -> Tensor:
        """[T, out] fp32."""
        return self.k.linear_fp32(tensor(x), self.w[name.removeprefix("mtp.0.") + ".weight" if name.endswith("head") else name + ".weight"])

    def linear_grouped(self, name: str, x: np.ndarray, *_: Any) -> Tensor:
        """[T, G·out]."""
        return self.k.linear_grouped(tensor(x), self.w[name + ".weight"])

    def projections(self, name: str, h: np.ndarray, *_: Any) -> Tensor:
        """[T, 2, P] fp32."""
        stem = name.removesuffix(".rows")
        return self.k.linear_fp32_pair(tensor(h), self.w[stem + ".wkv.weight"], self.w[stem + ".wgate.weight"])

    def compress(self, name: str, rows: np.ndarray, ape: np.ndarray, ratio: int, *_: Any) -> Tensor:
        """[E, C]."""
        c = self.geometry.compression(ratio)
        return self.k.compress(tensor(rows, torch.float32), self.w[name + ".ape"], c.own, c.previous, self.w[name + ".norm.weight"],
                               self.config.rms_norm_eps, *c.angles, torch.bfloat16)

    def entry(self, name: str, x: np.ndarray, rope_dims: int) -> Tensor:
        """Like x, through a row of the cache."""
        return decode_entries(self.k.encode_entries(tensor(x)), self.config.head_dim, rope_dims)

    def hadamard_fp4(self, name: str, x: np.ndarray) -> Tensor:
        """Like x, through a row of the cache (keys) or by themselves (queries)."""
        if name.endswith("queries"):
            return self.k.index_queries(tensor(x))
        return decode_index_keys(self.k.encode_keys(tensor(x)), self.config.index_head_dim, torch.bfloat16)

    def index_weights(self, name: str, h: np.ndarray, w: np.ndarray, index_dim: int) -> Tensor:
        """[T, J] fp32, as attention.py makes them."""
        return self.k.linear_fp32(tensor(h), self.w[name + ".weight"]) * (len(w) ** -0.5 * index_dim**-0.5)

    def scores(self, name: str, q: np.ndarray, w: np.ndarray, keys: np.ndarray) -> Tensor:
        """The chosen entries, [T, top_k]."""
        c = self.geometry.compression(4)
        packed, scales = codec.e2m1_groups(keys)  # of FP4 values: loses nothing
        entries = Entries(torch.from_numpy(np.concatenate((packed, scales), 1)), c.places)
        return self.k.index_topk(tensor(q), tensor(w, torch.float32), entries, c.spans, self.config.index_topk)

    def attend(self, name: str, q: np.ndarray, window: np.ndarray, size: int, sink: np.ndarray, entries: np.ndarray,
               seen: list[np.ndarray]) -> Tensor:
        """Like q."""
        rows = self.k.encode_entries(tensor(window))
        sinks, spans = self.w[name.replace("attend", "attn_sink")], self.geometry.window_spans
        if not len(entries):
            return self.k.attend(tensor(q), rows, spans, sinks)
        ratio, chosen = len(q) // len(entries), None
        c = self.geometry.compression(ratio)
        if ratio == 4:
            chosen = torch.full((len(q), self.config.index_topk), -1)
            for t, s in enumerate(seen):
                chosen[t, : len(s)] = torch.from_numpy(np.sort(s))
        return self.k.attend(tensor(q), rows, spans, sinks, Entries(self.k.encode_entries(tensor(entries)), c.places), c.spans, chosen)

    def route(self, name: str, logits: np.ndarray, bias: np.ndarray | None, given: np.ndarray | None, top_k: int,
              factor: float) -> tuple[Tensor, ...]:
        """Scores, weights, experts."""
        stem = name.removesuffix("route")
        return self.k.route(tensor(logits, torch.float32), bias=None if bias is None else self.w[stem + "gate.bias"],
                            chosen=None if given is None else torch.from_numpy(given), top_k=top_k, factor=factor)

    def experts(self, name: str, x: np.ndarray, weights: np.ndarray, chosen: np.ndarray, *_: Any) -> Tensor:
        """[T, D]."""
        stem = name.removesuffix("experts")
        routed = [self.w[f"{stem}experts.w{i}"] for i in (1, 2, 3)]
        shared = tuple(self.w[f"{stem}shared_experts.w{i}.weight"] for i in (1, 2, 3))
        return self.k.experts(tensor(x), tensor(weights, torch.float32), torch.from_numpy(chosen), *routed, shared, self.config.swiglu_limit)


def angles(cos: np.ndarray, sin: np.ndarray) -> tuple[Tensor, Tensor]:
    """In fp32."""
    return tensor(cos, torch.float32), tensor(sin, torch.float32)
