"""The whole model: embedding → N streams → blocks → head mix → norm → logits.

One forward serves training, prefill and decoding; what differs is the batch (which runs of tokens) and the memory (none, or the
paged state). Precision is two types: `dtype` of the stored matrices and `compute_dtype` of activations. Training keeps fp32 masters
and computes in bf16; inference stores and computes in one type. hc_*, ape, sinks and router biases are fp32 in any case, and logits
are always computed in fp32.

Source: SPEC section 2.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import ModelConfig, parameters
from ..errors import UserError
from ..ops import DTYPES, Kernels, Row, official_rows, select
from .attention import Mode
from .batch import Batch
from .block import Block, run_blocks
from .geometry import Geometry
from .moe import Routing
from .mtp import build_mtp
from .parameter import Builder, initialise, make_attributes_plain
from .rope import frequencies
from .state import Scratch, State

_PRECISION = {dtype: name for name, dtype in DTYPES.items() if name != "official"} | {torch.float64: "fp32"}


@dataclass(frozen=True)
class Output:
    """hidden [T, D] feeds the output matrix; streams [T, N, D] feed the MTP block; routing has one entry a layer.

    index_losses: one scalar a CSA layer, summed over tokens, where they were asked for.
    """

    hidden: Tensor
    streams: Tensor
    routing: list[Routing]
    index_losses: list[Tensor]


class Transformer(nn.Module):
    """A DeepSeek-V4 model. Parameter names are the checkpoint's, routed experts stacked.

    Args:
        dtype: storage of the matrices.  compute_dtype: type of activations; `dtype` unless given.
        precision: "official" computes in the published number formats (in bf16 otherwise); what compute_dtype says unless given.
        device: where the (uninitialised) parameters are made; "meta" makes none.
        formats: "fp8" or "fp4" for weights (by name) that kernels with a layout of their own should hold in that format.
        resident: routed experts of a layer that such kernels keep in memory; all unless given.
        rows: faster kernels to prefer (see ops.table). Kernels with a weight layout of their own make a model for inference only.

    Use `init_weights` for a new model or load a checkpoint into `tensors()`.
    """

    def __init__(self, config: ModelConfig, *, dtype: torch.dtype = torch.float32, compute_dtype: torch.dtype | None = None,
                 precision: str | None = None, device: torch.device | str | None = None, rows: tuple[Row, ...] = (),
                 formats: Mapping[str, str] | None = None, resident: int | None = None) -> None:
        super().__init__()
        self.config, self.dtype, self.compute_dtype, self.rows = config, dtype, compute_dtype or dtype, rows
        self.precision = precision or _PRECISION[self.compute_dtype]
        assert DTYPES[self.precision] == self.compute_dtype or self.compute_dtype == torch.float64
        if self.precision == "official":
            self.rows += tuple(official_rows(config.head_dim, config.qk_rope_head_dim))
        packer = select(torch.device(device or "cpu").type, self.precision, training=False, rows=self.rows)[0].packer
        self.packer = packer(formats or {}, resident) if packer else None
        build = Builder(config, dtype, device, self.packer)
        self.embed = build.weight("embed")
        self.layers = nn.ModuleList(Block(config, i, f"layers.{i}", build) for i in range(config.num_hidden_layers))
        for part in ("fn", "base", "scale"):
            build.add(self, f"hc_head_{part}")
        self.norm, self.head = build.weight("norm"), build.weight("head")
        self.mtp = build_mtp(config, build)
        build.finish()
        self._packed = build.packed
        self._frequency: dict[bool, Tensor] = {}
        self._kernels: dict[tuple[str, bool], Kernels] = {}
        if self._packed:
            make_attributes_plain(self)

    def tensors(self) -> dict[str, Tensor]:
        """Every parameter and table by its name in the table, sharing memory with the model; packed weights are written like tensors."""
        own = {**dict(self.named_parameters()), **dict(self.named_buffers()), **self._packed}
        return {p.name: own[p.name].detach() for p in parameters(self.config)}

    def init_weights(self, seed: int) -> None:
        """First values: f(seed, name), the same on any device and in any order."""
        own = self.tensors()
        for row in parameters(self.config):
            initialise(own[row.name], row, self.config, seed)

    def forward(self, batch: Batch, state: State | None = None, *, sparse: bool = True, index_loss: bool = False) -> Output:
        """Runs the tokens of `batch` through the model; with a state, remembers them in it.

        Args:
            sparse: False lets CSA attend to all visible entries, as early training does.
            index_loss: also compute what teaches the indexers.

        Raises:
            UserError: a token position beyond max_position_embeddings.
        """
        X = self._embed(batch.token_ids).unsqueeze(1).expand(-1, self.config.hc_mult, -1)
        geometry, memory, k, c = self._geometry(batch, state), state or Scratch(), self.kernels(), self.config
        mode = Mode(sparse, [] if index_loss else None)
        X, routing = run_blocks(self, self.layers, X, batch.token_ids, geometry, memory, k, mode)
        h = k.mhc_head(X, self.hc_head_fn, self.hc_head_scale, self.hc_head_base, norm_eps=c.rms_norm_eps, eps=c.hc_eps)
        return Output(k.rms_norm(h, self.norm.weight, c.rms_norm_eps), X, routing, mode.index_losses or [])

    def predict_second(self, streams: Tensor, next_ids: Tensor, batch: Batch, state: State | None = None) -> tuple[Tensor, Routing]:
        """The MTP block: hidden states [T, D] that predict token i+2, from final streams [T, N, D] and token i+1 [T]."""
        assert len(self.mtp), "this model has no MTP block"
        return self.mtp[0].predict(streams, self._embed(next_ids), next_ids, self._geometry(batch, state), state or Scratch(), self.kernels(), Mode())

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V], fp32, of hidden states [..., D]."""
        return self.kernels().linear_fp32(hidden, self.head.weight)

    def kernels(self) -> Kernels:
        """The kernels in use, chosen once; with a backward pass where gradients are on (packed weights and `official` have none)."""
        key = (self.embed.weight.device.type, torch.is_grad_enabled() and not self._packed and self.precision != "official")
        if key not in self._kernels:
            self._kernels[key] = select(key[0], self.precision, training=key[1], rows=self.rows)[0]
        return self._kernels[key]

    def _embed(self, token_ids: Tensor) -> Tensor:
        return nn.functional.embedding(token_ids, self.embed.weight).to(self.compute_dtype)

    def _geometry(self, batch: Batch, state: State | None) -> Geometry:
        limit = self.config.max_position_embeddings
        longest = max(run.stop for run in batch.runs)
        if longest > limit:
            raise UserError("prompt", f"{longest} tokens", f"the model's context is {limit} tokens",
                            "shorten it or use a model with a longer context")
        device = batch.token_ids.device
        if not self._frequency or self._frequency[True].device != device:
            self._frequency = {compressed: frequencies(self.config, compressed).to(device) for compressed in (False, True)}
        return Geometry(self.config, batch, self._frequency, paged=state is not None)
