"""Modules get their parameters from the one table (config/params.py): names, shapes, storage and initial values.

Initial values are counter-based: a parameter's numbers depend on the seed and its name only, so a model built in another order,
on another device or in pieces starts from the same weights.
"""
from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig, Param, parameters

MHC_SCALE = 0.01  # the report says "small" and gives no number; streams then start as nearly uniform mixtures


class Builder:
    """Hands out the parameters of one model; every row must be asked for exactly once (`finish`).

    With a packer (see ops.table), weights that take part in products are made by it; `packed` has them by name.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str | None, packer: Any = None) -> None:
        self.rows = {p.name: p for p in parameters(config)}
        self.dtype, self.device, self.packer, self.waiting = dtype, device, packer, set(self.rows)
        self.packed: dict[str, Any] = {}
        self._places: dict[str, tuple[nn.Module, str]] = {}

    def weight(self, name: str) -> nn.Module:
        """A module that holds the table's `name`.weight as its `weight`."""
        holder = nn.Module()
        self.add(holder, name + ".weight")
        return holder

    def add(self, module: nn.Module, name: str) -> None:
        """Registers the table's row `name` on `module` under its last part: a parameter, or a buffer if no optimizer trains it."""
        row, attribute = self.rows[name], name.rsplit(".", 1)[-1]
        self.waiting.remove(name)
        self._places[name] = module, attribute
        if self.packer is not None and row.role:
            self.packed[name] = self.packer.place(name, row.role, row.shape, len(row.row_parts))
            setattr(module, attribute, self.packed[name])
            return
        dtype = torch.int64 if row.storage == "int64" else torch.float32 if row.dtype_fp32 else self.dtype
        values = torch.empty(row.shape, dtype=dtype, device=self.device)
        if row.optimizer == "none":
            module.register_buffer(attribute, values)
        else:
            module.register_parameter(attribute, nn.Parameter(values))

    def places_below(self, prefix: str) -> dict[str, tuple[nn.Module, str]]:
        """Module and attribute of each parameter below a name that was asked for; by the rest of its name, without ".weight"."""
        begin = f"{prefix}."
        return {name.removeprefix(begin).removesuffix(".weight"): place for name, place in self._places.items() if name.startswith(begin)}

    def finish(self) -> None:
        """Every row of the table has a place in the module tree."""
        assert not self.waiting, f"rows without a module: {sorted(self.waiting)[:3]}"


def make_attributes_plain(model: nn.Module) -> None:
    """Lets Python find submodules and parameters at once, where nn.Module has it look everywhere else first: a sixtieth of a decoding step.

    For models whose modules and parameters are never replaced.
    """
    for module in model.modules():
        module.__dict__.update(module._modules | module._parameters | module._buffers)


@torch.no_grad()
def initialise(target: Tensor, row: Param, config: ModelConfig, seed: int) -> None:
    """Fills one parameter or table with its first value. Source: SPEC section 5, initial values."""
    if row.init == "normal":
        values = torch.empty(row.shape, dtype=torch.float32)
        target.copy_(values.normal_(0.0, config.initializer_range, generator=_generator(seed, row.name)))
    elif row.init == "hash":
        target.copy_(hash_table(config.vocab_size, config.num_experts_per_tok, config.n_routed_experts))
    else:
        target.fill_({"zeros": 0.0, "ones": 1.0, "mhc_scale": MHC_SCALE}[row.init])


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def hash_table(vocabulary: int, top_k: int, experts: int) -> Tensor:
    """tid2eid [vocabulary, top_k] int64: a fixed hash of the token id to distinct experts.

    Expert of choice j is (start + j·stride) mod E with a hashed start and a hashed stride that is coprime to E.
    """
    token = torch.arange(vocabulary, dtype=torch.int64)
    mixed = (token * 2654435761 + 0x9E3779B9) % (1 << 32)  # multiplicative hashing; fits in int64
    mixed = ((mixed ^ (mixed >> 15)) * 2246822519) % (1 << 32)
    mixed = mixed ^ (mixed >> 13)
    strides = torch.tensor([s for s in range(1, max(2, experts)) if _coprime(s, experts)], dtype=torch.int64)
    start, stride = mixed % experts, strides[(mixed // experts) % len(strides)]
    return (start.unsqueeze(1) + torch.arange(top_k) * stride.unsqueeze(1)) % experts


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1
