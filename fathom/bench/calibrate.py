"""This machine as a chip of the planner: what it reaches, measured in a few seconds, instead of what a datasheet promises.

    flops.X          a large matrix product in each precision
    bandwidth        a matrix too large for any cache times a vector
    layer_overhead   a decode step of a model so small that only calling its operators takes time, by layers
    memory           a decode step of a middle-sized model: the share of the bandwidth at which its weights must stream to explain the
                     time that calling doesn't
    traffic          a prompt through the same model: what the arithmetic leaves unexplained when activations cost nothing is put down
                     to activations, in units of what fused kernels would move

The last three are properties of our kernels on this machine as much as of the machine. Of several repetitions the fastest counts:
other processes can only add time. Links can't be measured on one machine and stay estimates.
"""
from __future__ import annotations

import argparse
import csv
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .. import device as devices
from ..config import ModelConfig, preset
from ..engine import Engine, Output, Request, Sampling
from ..model import Transformer, kernel_rows
from ..plan.chips import Chip, Efficiency, chip_toml
from ..plan.profile import profile
from ..plan.serving import Layout, Load, predict
from .quiet import quiet_median

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REPEATS = 5
PRODUCT, SMALL_PRODUCT = 1024, 128  # rows, columns and depth of the products that are timed; the small one where the format is slow
SLOW = 5e9  # FLOP/s below which only the small one is
STREAMED = 1 << 26  # fp32 values of the matrix that is streamed: 256 MB
PROMPT, STEPS = 1024, 8  # tokens of the prompt that is timed, and decode steps
LINK = 1.25e9  # bytes/s of a 10 Gbit/s network, where nothing better is known

# Shapes of the benchmark model with its dims shrunk: every operator is called as often, on next to nothing or a good half.
TINY: dict[str, Any] = {"vocab_size": 512, "hidden_size": 64, "num_attention_heads": 2, "head_dim": 32, "qk_rope_head_dim": 8,
                        "q_lora_rank": 32, "o_groups": 2, "o_lora_rank": 16, "moe_intermediate_size": 32, "index_n_heads": 2,
                        "index_head_dim": 16, "index_topk": 16, "sliding_window": 16}
MIDDLE: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 6, "o_groups": 3, "q_lora_rank": 192, "moe_intermediate_size": 192,
                          "index_n_heads": 6}


def calibrate(device: torch.device | None = None, precision: str | None = None) -> Chip:
    """This machine as chip "here"; takes some ten seconds on a CPU.

    Args:
        device: what to measure; the accelerator if there is one, else the CPU.
        precision: of the models that are timed; the faster of fp32 and bf16 if not given.
    """
    device = device or devices.choose_device()
    flops = {name: product_rate(dtype, device) for name, dtype in DTYPES.items() if name != "bf16" or devices.supports_bf16(device)}
    precision = precision or max(("fp32", "bf16"), key=lambda name: flops.get(name, 0.0))
    memory = float(devices.memory_info(device)[1])
    name = devices.device_name(device)
    measured = f"measured on {name}, {torch.get_num_threads()} threads, torch {torch.__version__}, {precision} models"
    assumed = "not measured: one machine has no link"
    chip = Chip("here", f"this machine, {name}", memory, stream_rate(device), flops, 1, LINK, LINK, LINK, 0.0,
                Efficiency(compute=1.0, memory=1.0, links=1.0, usable=0.9, traffic=0.0, layer_overhead=0.0, hop=1e-4),
                sources={**dict.fromkeys(("memory", "bandwidth", "domain", "efficiency", *(f"flops.{f}" for f in flops)), measured),
                         **dict.fromkeys(("scale_up", "scale_out", "host"), assumed), "price": "your own machine; give a price in your own file"},
                estimates=frozenset(("scale_up", "scale_out", "host", "price")))
    tiny, middle = (replace(preset("bench-130m"), **changes) for changes in (TINY, MIDDLE))
    step = time_model(tiny, precision, device, prompt=64).token
    chip = with_efficiency(chip, layer_overhead=step / tiny.num_hidden_layers)
    times = time_model(middle, precision, device, prompt=PROMPT)
    chip = with_efficiency(chip, memory=memory_share(chip, middle, precision, times.token))
    return with_efficiency(chip, traffic=traffic(chip, middle, precision, times.prompt))


def with_efficiency(chip: Chip, **changes: float) -> Chip:
    """The chip with some of its efficiencies changed."""
    return dataclasses.replace(chip, efficiency=dataclasses.replace(chip.efficiency, **changes))


def memory_share(chip: Chip, config: ModelConfig, precision: str, seconds: float) -> float:
    """The `memory` efficiency with which the planner predicts `seconds` for a token after PROMPT; at least 0.01 and at most 1."""
    step = predict(profile(config, precision), chip, Layout(), Load(PROMPT + 1, 1, 1)).decode  # chip: memory 1, traffic 0
    left = seconds - step.overhead
    return min(1.0, max(0.01, step.memory / left)) if left > 0 else 1.0


def traffic(chip: Chip, config: ModelConfig, precision: str, seconds: float) -> float:
    """The `traffic` with which the planner predicts `seconds` for a prompt of PROMPT tokens; 0 where it predicts more without any."""
    load = Load(PROMPT + 1, 1, 1)
    without, once = (predict(profile(config, precision), with_efficiency(chip, traffic=t), Layout(), load).prefill.total for t in (0.0, 1.0))
    return max(0.0, (seconds - without) / (once - without))


def product_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a matrix product."""
    rate = 0.0
    for size in (SMALL_PRODUCT, PRODUCT):
        x = torch.ones(size, size, dtype=dtype, device=device)
        times = 1 if device.type == "cpu" else 20  # enough work for the clock
        rate = 2.0 * size**3 * times / fastest(lambda x=x, times=times: [x @ x for _ in range(times)], device)
        if device.type == "cpu" and rate < SLOW:
            break
    return rate


def stream_rate(device: torch.device) -> float:
    """Bytes/s at which a matrix that fits no cache is read to multiply a vector."""
    matrix, vector = torch.ones(STREAMED >> 12, 1 << 12, device=device), torch.ones(1 << 12, device=device)
    return 4.0 * STREAMED / fastest(lambda: matrix @ vector, device)


def fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of REPEATS runs, after one that doesn't count."""
    best = float("inf")
    for run in range(REPEATS + 1):
        devices.synchronize(device)
        start = time.perf_counter()
        work()
        devices.synchronize(device)
        best = min(best, time.perf_counter() - start) if run else best
    return best


@dataclass(frozen=True)
class Times:
    """Seconds for a whole prompt up to its first token, and for one further token."""

    prompt: float
    token: float


def time_model(config: ModelConfig, precision: str, device: torch.device, *, prompt: int) -> Times:
    """The fastest prompt and decode step of a model with fresh weights, through the engine."""
    return time_engine(fresh_engine(config, precision, device), prompt)


def fresh_engine(config: ModelConfig, precision: str, device: torch.device) -> Engine:
    """An engine on fresh weights with the kernels that a user gets, where every prompt is computed and every token is one step."""
    model = Transformer(config, dtype=DTYPES[precision], device=device, rows=kernel_rows(config, device, precision))
    model.init_weights(0)
    return Engine(model, sequences=1, prefix_cache=False, speculate="off")


def time_engine(engine: Engine, prompt: int, repeats: int = 3) -> Times:
    """The fastest prompt and decode step of `repeats` requests, after one that doesn't count."""
    config, device = engine.model.config, engine.model.embed.weight.device
    request = Request(tuple((i * 7919) % config.vocab_size for i in range(prompt)), STEPS + 1, Sampling(temperature=0))
    first, token = float("inf"), float("inf")
    for run in range(repeats + 1):
        stamps = [time.perf_counter()]
        for _ in engine.generate(request):
            devices.synchronize(device)
            stamps.append(time.perf_counter())
        if run:
            gaps = [b - a for a, b in zip(stamps, stamps[1:])]
            first, token = min(first, gaps[0]), min(token, *gaps[1:])
    return Times(first, token)


@dataclass(frozen=True)
class Comparison:
    """What the planner predicted for a model on this machine and what was measured: tokens/s of the prompt and of decoding."""

    prompt: int
    predicted_prefill: float
    measured_prefill: float
    predicted_decode: float
    measured_decode: float
    clean_samples: int


class Answer:
    """One request on an engine, in the parts that are timed."""

    def __init__(self, engine: Engine, request: Request, device: torch.device) -> None:
        self.engine, self.request, self.device = engine, request, device
        self.outputs: Iterator[Output] | None = None

    def begin(self) -> None:
        """The prompt, up to the first token; an answer that was begun before is given up."""
        self.end()
        self.outputs = self.engine.generate(self.request)
        self.go_on(1)

    def go_on(self, tokens: int = STEPS) -> None:
        """Further tokens."""
        assert self.outputs is not None
        for _ in range(tokens):
            next(self.outputs)
        devices.synchronize(self.device)

    def end(self) -> None:
        """Gives the answer up."""
        if self.outputs is not None:
            self.outputs.close()  # type: ignore[attr-defined]  # a generator, which ends the request


def compare(chip: Chip, config: ModelConfig, precision: str, prompts: Sequence[int], device: torch.device | None = None, *, samples: int = 3,
            budget: float = 60.0) -> list[Comparison]:
    """Predictions with a calibrated chip against measurements (medians of quiet samples) of a model that took no part in calibrating."""
    device = device or devices.choose_device()
    engine, out = fresh_engine(config, precision, device), []
    for prompt in prompts:
        found = predict(profile(config, precision), chip, Layout(), Load(prompt + 1, 1, 1))
        request = Request(tuple((i * 7919) % config.vocab_size for i in range(prompt)), 4096, Sampling(temperature=0))
        answer = Answer(engine, request, device)

        first, further = (quiet_median(work, samples=samples, budget=budget) for work in (answer.begin, answer.go_on))
        answer.end()
        out.append(Comparison(prompt, found.prefill_rate, prompt / first.seconds, found.decode_rate, STEPS / further.seconds,
                              min(first.clean, further.clean)))
    return out


def main() -> None:
    """Command: python -m fathom.bench.calibrate [--lengths 512 2048 8192] [--threads N] [--out bench/plan.csv]."""
    parser = argparse.ArgumentParser(description="Calibrate, then predict the benchmark model's speed and measure it.",
                                     epilog="example: python -m fathom.bench.calibrate --lengths 2048 --threads 1")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 2048, 8192], help="prompt lengths")
    parser.add_argument("--threads", type=int, default=0, help="threads to compute with; 0 leaves it to torch")
    parser.add_argument("--out", type=Path, default=Path("bench/plan.csv"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    chip = calibrate()
    precision = max(("fp32", "bf16"), key=lambda name: chip.flops.get(name, 0.0))
    print(chip_toml(chip))
    machine = {"precision": precision, "threads": torch.get_num_threads(), "device": chip.name, "torch": torch.__version__,
               "python": platform.python_version(), "date": datetime.now(UTC).date().isoformat()}
    rows = [{**dataclasses.asdict(row), **machine} for row in compare(chip, preset("bench-130m"), precision, options.lengths)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(f"{row['prompt']:>6} tokens: prefill {row['predicted_prefill']:.0f} predicted, {row['measured_prefill']:.0f} measured; "
              f"decode {row['predicted_decode']:.1f} predicted, {row['measured_decode']:.1f} measured (tokens/s)")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
