"""What the engine adds to the model: a decode step through the engine beside the same forward and head called directly.

Both sides have the same model, contexts and number of sequences. They take turns step by step, so that whatever else the machine does
hits both alike; the figure is the median of each side. The engine's side is all of it: plan, sampling, log-probabilities, cache, delivery.

Command: python -m fathom.bench.overhead [--context 2048] [--batch 1 16] [--steps 100] [--out bench/overhead.csv]
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from ..config import preset
from ..engine import Engine, Request, Sampling
from ..model import Batch, Run, State, Transformer
from ..plan.size import state_size
from .machine import fresh_model, machine, random_prompt, write_rows


def direct(model: Transformer, prompts: list[tuple[int, ...]], room: int) -> Callable[[], None]:
    """Prefills; gives what computes the next greedy token of every sequence."""
    c, count, at = model.config, len(prompts), len(prompts[0])
    per = -(-(at + room) // c.block_size)
    state = State(c, num_slots=count, num_blocks=per * count, precision=model.precision)
    tables = np.arange(per * count, dtype=np.int32).reshape(count, per)
    chosen = torch.zeros(count, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            model(Batch(torch.tensor(prompt), (Run(0, at, i, tables[i]),)), state)

    @torch.no_grad()
    def step() -> None:
        nonlocal at, chosen
        out = model(Batch(chosen, tuple(Run(at, 1, i, tables[i]) for i in range(count))), state)
        chosen, at = model.logits(out.hidden).argmax(-1), at + 1

    return step


def through_engine(model: Transformer, prompts: list[tuple[int, ...]], room: int) -> Callable[[], object]:
    """The same by an engine as a server runs it."""
    c, length = model.config, len(prompts[0])
    memory = len(prompts) * state_size(c, model.precision).at(length + room + c.block_size)
    engine = Engine(model, sequences=len(prompts), memory=memory, speculate="off")
    tickets = [engine.submit(Request(prompt, room, Sampling(temperature=0)), lambda output: None) for prompt in prompts]
    while not all(ticket.usage.output for ticket in tickets):
        engine.step()
    return engine.step


def measure(model: Transformer, context: int, batch: int, steps: int) -> dict[str, Any]:
    """One row."""
    prompts = [random_prompt(model.config, context, i) for i in range(batch)]
    sides: dict[str, Callable[[], object]] = {"model": direct(model, prompts, steps + 8), "engine": through_engine(model, prompts, 2 * steps)}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(steps):
        for name, step in sides.items():
            begin = time.perf_counter()
            step()
            if number >= 4:
                times[name].append(time.perf_counter() - begin)
    found = {name: median(seconds) for name, seconds in times.items()}
    return {"context": context, "batch": batch, "model_ms": round(1e3 * found["model"], 3), "engine_ms": round(1e3 * found["engine"], 3),
            "model_tokens_per_second": round(batch / found["model"], 1), "engine_tokens_per_second": round(batch / found["engine"], 1),
            "engine_loses_percent": round(100 * (1 - found["model"] / found["engine"]), 2)} | machine(model)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python -m fathom.bench.overhead --batch 1 16")
    parser.add_argument("--model", default="bench-130m", help="a preset; weights are random")
    parser.add_argument("--context", type=int, default=2048, help="tokens of each prompt")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="sequences at once")
    parser.add_argument("--steps", type=int, default=100, help="tokens that each side decodes")
    parser.add_argument("--out", type=Path, default=Path("bench/overhead.csv"))
    options = parser.parse_args()
    model, rows = fresh_model(preset(options.model)), []
    for batch in options.batch:
        rows.append(measure(model, options.context, batch, options.steps))
        print("  ".join(f"{name} {value}" for name, value in list(rows[-1].items())[:7]), flush=True)
    write_rows(rows, options.out)


if __name__ == "__main__":
    main()
