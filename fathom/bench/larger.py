"""A model larger than its memory: V4-Flash's real dims, a few of its layers, random weights in the official formats.

Writes such a checkpoint (unless it is there), opens it under a budget for weights that it doesn't fit, and measures how it answers: time
to the first token, tokens per second, how many of the experts were in memory, and the process's peak. The file cache of the system helps
where memory is free. Run it twice: the process that writes the checkpoint has a peak of its own.

Command: python -m fathom.bench.larger [--layers 2] [--budget 5GB] [--folder runs/larger] [--tokens 16] [--out bench/larger.csv]
"""
from __future__ import annotations

import argparse
import dataclasses
import resource
import time
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import open_checkpoint
from ..checkpoint.replace import replace_folder
from ..checkpoint.stored import Stored
from ..checkpoint.write import write_weights
from ..config import ModelConfig, parameters, preset
from ..engine import Engine, Request, Sampling
from ..errors import UserError
from ..model import Transformer, kernel_rows
from ..ops.native.bank import LargerBank
from ..plan.packed import packed_size, resident_experts
from ..plan.units import bytes_text, parse_bytes
from .machine import machine, random_prompt, write_rows

PROMPT = 64


class RandomWeights:
    """A source for the writer of checkpoints: each tensor made up when it is asked for, quantised ones straight as bytes."""

    def __init__(self, config: ModelConfig) -> None:
        self._shapes = {name: (p, p.shape[1:] if p.experts else p.shape) for p in parameters(config) for name in p.tensor_names()}
        self._random = torch.Generator().manual_seed(0)
        self._experts = config.n_routed_experts

    def stored(self, tensor_name: str) -> Stored:
        """The tensor in its published format."""
        param, shape = self._shapes[tensor_name]
        if param.storage == "expert":
            scale = torch.full((shape[0], shape[1] // 32), 127 - 7, dtype=torch.uint8)
            return Stored(tensor_name, self._bytes((shape[0], shape[1] // 2), 256).view(torch.int8), scale.view(torch.float8_e8m0fnu))
        if param.storage == "fp8":
            raw = self._bytes(shape, 0x70) | self._bytes(shape, 2) << 7  # no NaN; magnitudes below 224
            scale = torch.full((-(-shape[0] // 128), -(-shape[1] // 128)), 127 - 13, dtype=torch.uint8)
            return Stored(tensor_name, raw.view(torch.float8_e4m3fn), scale.view(torch.float8_e8m0fnu))
        if param.storage == "int64":
            start = torch.randint(0, self._experts, (shape[0], 1), generator=self._random)
            return Stored(tensor_name, (start + torch.arange(shape[1])) % self._experts)
        values = torch.ones(shape) if param.init == "ones" else torch.empty(shape).normal_(0, 0.02, generator=self._random)
        return Stored(tensor_name, values if param.storage == "fp32" else values.bfloat16())

    def _bytes(self, shape: tuple[int, ...], below: int) -> torch.Tensor:
        return torch.randint(0, below, shape, dtype=torch.uint8, generator=self._random)

    def release(self, tensor_name: str) -> None:
        """Nothing is kept."""


def flash(layers: int) -> ModelConfig:
    """V4-Flash with its first layers only: hash-routed ones and, from the fourth on, others; no MTP."""
    config = preset("v4-flash").without_mtp()
    return dataclasses.replace(config, num_hidden_layers=layers, compress_ratios=(4, 128, *config.compress_ratios[2:])[:layers],
                               hash_routed=tuple(i == 0 for i in range(layers)))


def measure(folder: Path, budget: int, tokens: int) -> dict[str, Any]:
    """Opens the checkpoint under the budget and lets it answer; one row."""
    checkpoint = open_checkpoint(folder)
    config, formats = checkpoint.config, checkpoint.formats()
    resident = resident_experts(config, budget, formats)
    if resident is None:
        raise UserError("budget", bytes_text(budget), f"less than the model's {bytes_text(packed_size(config, formats).total)}", "lower it")
    rows = kernel_rows(config, torch.device("cpu"), "bf16")
    model = Transformer(config, dtype=torch.bfloat16, rows=rows, formats=formats, resident=resident)
    begin = time.perf_counter()
    checkpoint.load_into(model.tensors(), formats=formats)
    loaded = time.perf_counter() - begin
    engine = Engine(model, sequences=1, memory=1 << 28, prefix_cache=False, speculate="off")
    answer = engine.generate(Request(random_prompt(config, PROMPT, 1), tokens + 1, Sampling(temperature=0)))
    begin = time.perf_counter()
    next(answer)
    first = time.perf_counter() - begin
    assert model.packer is not None
    banks = [b for b in model.packer.banks.values() if isinstance(b, LargerBank)]
    for bank in banks:
        bank.hits = bank.misses = 0
    begin = time.perf_counter()
    count = sum(1 for _ in answer)
    rate = count / (time.perf_counter() - begin)
    hits, misses = sum(b.hits for b in banks), sum(b.misses for b in banks)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"model": "v4-flash", "layers": config.num_hidden_layers, "weights_gb": round(packed_size(config, formats).total / 1e9, 2),
            "budget_gb": round(budget / 1e9, 2), "resident_experts": resident, "peak_rss_gb": round(peak / 1e9, 2),
            "over_budget_gb": round((peak - budget) / 1e9, 2), "load_s": round(loaded, 1), "first_token_s": round(first, 2),
            "tokens_per_second": round(rate, 3), "hit_rate": round(hits / max(1, hits + misses), 3), "prompt": PROMPT,
            "tokens": count} | machine(model)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure a model larger than its budget for weights.",
                                     epilog="example: python -m fathom.bench.larger --layers 2 --budget 5GB")
    parser.add_argument("--layers", type=int, default=2, help="layers of V4-Flash, about 3.6 GB each")
    parser.add_argument("--budget", default="5GB", help="memory for weights")
    parser.add_argument("--folder", type=Path, default=Path("runs/larger"), help="where the checkpoint is made")
    parser.add_argument("--tokens", type=int, default=16, help="tokens of the answer")
    parser.add_argument("--out", type=Path, default=Path("bench/larger.csv"))
    options = parser.parse_args()
    folder = options.folder / f"flash-{options.layers}"
    if not folder.exists():
        print(f"writing {folder}")
        with replace_folder(folder) as new:
            config = flash(options.layers)
            write_weights(new, config, RandomWeights(config), "fp4-experts")
    row = measure(folder, parse_bytes(options.budget, "budget"), options.tokens)
    for key, value in row.items():
        print(f"{key:20} {value}")
    write_rows([row], options.out)


if __name__ == "__main__":
    main()
