"""Small models' tensors and files for the tests of this room; files are written with the safetensors library, not with our writer."""
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from fathom.config import ModelConfig, Param, config_to_dict, parameters
from tests.quant import independent as ref


def small(**changes: object) -> ModelConfig:
    """Every kind of layer and tensor; all quantisable matrices have sides of whole 128 blocks, some of several."""
    fields = dict(vocab_size=96, hidden_size=256, num_hidden_layers=3, num_attention_heads=2, head_dim=128, qk_rope_head_dim=16,
                  q_lora_rank=128, o_groups=2, o_lora_rank=128, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=128,
                  index_n_heads=4, index_head_dim=32, index_topk=4, compress_ratios=(0, 4, 128, 0), hash_routed=(True, False, False),
                  num_nextn_predict_layers=1, sliding_window=8, max_position_embeddings=512)
    return ModelConfig(**{**fields, **changes})


def tiny(**changes: object) -> ModelConfig:
    """Sides that no block divides."""
    sides = dict(hidden_size=24, head_dim=16, qk_rope_head_dim=4, q_lora_rank=12, o_lora_rank=6, moe_intermediate_size=10, index_head_dim=8)
    return small(**{**sides, **changes})


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """fp32 tensors of every parameter, and routing tables of distinct experts."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for p in parameters(config):
        if p.storage == "int64":
            out[p.name] = torch.rand(p.shape[0], config.n_routed_experts, generator=g).argsort(-1)[:, : p.shape[1]].contiguous()
        else:
            out[p.name] = torch.randn(p.shape, generator=g)
    return out


def empty_like(config: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Targets to load into, filled with what no checkpoint holds."""
    return {p.name: torch.full(p.shape, -7, dtype=torch.int64) if p.storage == "int64" else torch.full(p.shape, -7.5, dtype=dtype)
            for p in parameters(config)}


def published(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under published names, one a matrix."""
    return {name: (tensors[p.name][i] if p.experts else tensors[p.name]).clone()
            for p in parameters(config) for i, name in enumerate(p.tensor_names())}


def write_folder(folder: Path, config: ModelConfig, named: Mapping[str, Tensor], **config_keys: object) -> Path:
    """A single-file checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(named), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config_to_dict(config), **config_keys}))
    return folder


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal in names, dtypes and every bit."""
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


def official(config: ModelConfig, seed: int = 0, experts: str = "fp4", spread: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random tensors of the official layout under published names, and what they mean, by the independent codec, as fp32 parameters.

    `spread` is the number of binades over which the FP4 scales go.
    """
    rng = np.random.default_rng(seed)
    files: dict[str, Tensor] = {}
    means: dict[str, Tensor] = {}
    plain = random_tensors(config, seed)
    for p in parameters(config):
        parts = [_matrix(p, name, files, rng, plain, experts, spread, i) for i, name in enumerate(p.tensor_names())]
        means[p.name] = torch.stack(parts) if p.experts else parts[0]
    return files, means


def _matrix(p: Param, name: str, files: dict[str, Tensor], rng: np.random.Generator, plain: Mapping[str, Tensor], experts: str, spread: int,
            i: int) -> Tensor:
    rows, cols = (p.shape[1:] if p.experts else p.shape) if p.storage in ("fp8", "expert") else (0, 0)
    scale_name = name.removesuffix(".weight") + ".scale"
    if p.storage == "fp8" or (p.storage == "expert" and experts == "fp8"):
        codes = rng.integers(0, 256, (rows, cols), dtype=np.uint8)
        codes[codes % 128 == 127] = 0  # no NaN
        scales = rng.integers(110, 122, (-(-rows // 128), -(-cols // 128)), dtype=np.uint8)
        files[name] = torch.from_numpy(codes).view(torch.float8_e4m3fn)
        files[scale_name] = torch.from_numpy(scales).view(torch.float8_e8m0fnu)
        full = np.kron(scales, np.ones((128, 128)))[:rows, :cols]
        return torch.from_numpy((ref.value(codes, ref.E4M3, 0x80) * 2.0 ** (full - 127)).astype(np.float32))
    if p.storage == "expert":
        packed = rng.integers(0, 256, (rows, cols // 2), dtype=np.uint8)
        scales = rng.integers(118 - spread, 119, (rows, -(-cols // 32)), dtype=np.uint8)
        files[name] = torch.from_numpy(packed).view(torch.int8)
        files[scale_name] = torch.from_numpy(scales).view(torch.float8_e8m0fnu)
        return torch.from_numpy(ref.decode_e2m1(packed, scales).astype(np.float32))
    value = plain[p.name].to({"bf16": torch.bfloat16, "fp32": torch.float32, "int64": torch.int64}[p.storage])
    files[name] = value
    return value if p.storage == "int64" else value.float()
