"""Prefill and decoding speed of bench-130m in bf16, beside transformers in the same run.

Each measurement is a process of its own, so that nobody's memory or threads disturb the other's; peers take turns. What is timed:
a prompt of random tokens through the model, up to the last token's logits; then single tokens after it. Both sides have random
weights of the same shapes, no compilation, and the same number of threads.

Claim (issue: foundation): with the reference kernels alone, 2.5 times transformers' prefill at 2 048 tokens and 12 times at 8 192;
32 768 tokens in under 3 GB of process memory.
"""
from __future__ import annotations

import argparse
import csv
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..config import config_to_dict, preset
from ..device import choose_device, device_name
from ..engine import Engine, Request, Sampling
from ..model import Transformer
from .quiet import quiet_median

MODEL = "bench-130m"
COLUMNS = ("side", "length", "prefill_tokens_per_second", "decode_tokens_per_second", "peak_rss_gb", "clean_samples", "rejected_samples", "threads",
           "device", "torch", "transformers", "python", "date")


def measure(side: str, length: int, samples: int, budget: float, decode: int) -> dict[str, Any]:
    """One row, measured in this process."""
    prefill, step = (_fathom if side == "fathom" else _transformers)(length)
    timing = quiet_median(prefill, samples=samples, budget=budget)
    steps = quiet_median(lambda: [step() for _ in range(decode)], samples=samples, budget=budget / 2) if decode else None
    return {
        "side": side, "length": length, "prefill_tokens_per_second": round(length / timing.seconds, 1),
        "decode_tokens_per_second": round(decode / steps.seconds, 2) if steps else "",
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3), "clean_samples": timing.clean,
        "rejected_samples": timing.rejected, "threads": torch.get_num_threads(), "device": device_name(choose_device("cpu")),
        "torch": torch.__version__, "transformers": metadata.version("transformers") if side == "transformers" else "",
        "python": platform.python_version(), "date": datetime.now(UTC).date().isoformat(),
    }


def _prompt(length: int) -> torch.Tensor:
    return torch.randint(0, preset(MODEL).vocab_size, (length,), generator=torch.Generator().manual_seed(length))


def _fathom(length: int) -> tuple[Callable[[], object], Callable[[], object]]:
    model = Transformer(preset(MODEL), dtype=torch.bfloat16)
    model.init_weights(0)
    prompt = tuple(_prompt(length).tolist())
    answer: Any = None

    def prefill() -> None:
        nonlocal answer
        answer = Engine(model).generate(Request(prompt, 4096, Sampling(temperature=0)))
        next(answer)

    return prefill, lambda: next(answer)


def _transformers(length: int) -> tuple[Callable[[], object], Callable[[], object]]:
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    torch.manual_seed(0)
    config = DeepseekV4Config(**config_to_dict(preset(MODEL)))
    config._attn_implementation = "eager"
    model = DeepseekV4ForCausalLM(config).to(torch.bfloat16).eval()
    prompt = _prompt(length).unsqueeze(0)
    kept: dict[str, Any] = {}

    @torch.no_grad()
    def prefill() -> None:
        out = model(prompt, use_cache=True, logits_to_keep=1)
        kept.update(cache=out.past_key_values, token=out.logits[:, -1:].argmax(-1))

    @torch.no_grad()
    def step() -> None:
        out = model(kept["token"], past_key_values=kept["cache"], use_cache=True)
        kept.update(cache=out.past_key_values, token=out.logits[:, -1:].argmax(-1))

    return prefill, step


def run(lengths: Sequence[int], ours_only: Sequence[int], samples: int, budget: float, decode: int) -> list[dict[str, Any]]:
    """All rows: both sides at `lengths`, Fathom alone at `ours_only`; each in a fresh process, printed as it comes."""
    rows = []
    for length in [*lengths, *ours_only]:
        for side in ("transformers", "fathom") if length in lengths else ("fathom",):
            command = [sys.executable, "-m", "fathom.bench.prefill", "--worker", side, "--lengths", str(length), "--samples", str(samples),
                       "--budget", str(budget), "--decode", str(decode)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print("  ".join(f"{key} {rows[-1][key]}" for key in COLUMNS[:7]), flush=True)
    return rows


def main() -> None:
    """Command: python -m fathom.bench.prefill [--lengths 2048 8192] [--alone 32768] [--out bench/prefill.csv]."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python -m fathom.bench.prefill --lengths 2048 8192 --alone 32768")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192], help="prompt lengths of both sides")
    parser.add_argument("--alone", type=int, nargs="*", default=[32768], help="prompt lengths of Fathom alone")
    parser.add_argument("--samples", type=int, default=3, help="clean samples wanted")
    parser.add_argument("--budget", type=float, default=60, help="seconds to try for them")
    parser.add_argument("--decode", type=int, default=16, help="tokens of one decoding sample; 0 leaves decoding out")
    parser.add_argument("--out", type=Path, default=Path("bench/prefill.csv"))
    parser.add_argument("--worker", choices=("fathom", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker, options.lengths[0], options.samples, options.budget, options.decode)))
        return
    rows = run(options.lengths, options.alone, options.samples, options.budget, options.decode)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    for length in options.lengths:
        speed = {row["side"]: row["prefill_tokens_per_second"] for row in rows if row["length"] == length}
        print(f"{length:>8} tokens: {speed['fathom'] / speed['transformers']:.2f} times transformers")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
