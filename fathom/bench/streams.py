"""Many streams at once beside one: tokens per second of all together, and how even their shares are.

Each stream is a client of its own on the engine's thread: it submits one request and notes when each token comes. All have prompts of the
same length (different tokens) and ask for equally many tokens. "One" is the same with a single client. The slowest of equal requests
against the median is the fairness figure.

Command: python -m fathom.bench.streams [--streams 64] [--prompt 64] [--tokens 128] [--out bench/streams.csv]
"""
from __future__ import annotations

import argparse
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..config import preset
from ..engine import Engine, Output, Request, Sampling
from ..model import Transformer
from ..plan.size import state_size
from .machine import fresh_model, machine, random_prompt, write_rows


@dataclass
class Stream:
    """One client: when it asked and when each of its tokens came, in seconds."""

    began: float
    times: list[float]

    @property
    def seconds(self) -> float:
        """From asking to the last token."""
        return self.times[-1] - self.began

    @property
    def first(self) -> float:
        """From asking to the first token."""
        return self.times[0] - self.began


def serve(engine: Engine, prompts: list[tuple[int, ...]], tokens: int) -> list[Stream]:
    """All prompts at once, each answered with so many tokens."""
    streams, done = [], threading.Semaphore(0)
    for i, prompt in enumerate(prompts):
        stream = Stream(time.perf_counter(), [])

        def take(output: Output, stream: Stream = stream) -> None:
            stream.times.append(time.perf_counter())
            if output.finish_reason:
                done.release()

        engine.submit(Request(prompt, tokens, Sampling(temperature=0), owner=f"client {i}"), take)
        streams.append(stream)
    for _ in prompts:
        done.acquire()
    return streams


def measure(model: Transformer, streams: int, prompt: int, tokens: int) -> list[dict[str, Any]]:
    """A row for one stream and a row for all of them."""
    c, rows = model.config, []
    engine = Engine(model, sequences=streams, memory=streams * state_size(c, model.precision).at(prompt + tokens + c.block_size), speculate="off")
    engine.start()
    serve(engine, [random_prompt(c, prompt, 999)], tokens)  # warm-up
    for count in (1, streams):
        found = serve(engine, [random_prompt(c, prompt, 1000 * count + i) for i in range(count)], tokens)
        assert all(len(stream.times) == tokens for stream in found), "a stream failed"
        last, begin = max(s.times[-1] for s in found), min(s.began for s in found)
        answered = max(s.times[0] for s in found)
        together = [t for s in found for t in s.times if t > answered]
        rows.append({"streams": count, "prompt": prompt, "tokens": tokens, "tokens_per_second": round(count * tokens / (last - begin), 1),
                     "decode_tokens_per_second": round(len(together) / (last - answered), 1),
                     "first_token_s": round(median(s.first for s in found), 3), "slowest_first_token_s": round(max(s.first for s in found), 3),
                     "median_s": round(median(s.seconds for s in found), 3), "slowest_s": round(max(s.seconds for s in found), 3)} | machine(model))
    engine.close()
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python -m fathom.bench.streams --streams 64")
    parser.add_argument("--model", default="bench-130m", help="a preset; weights are random")
    parser.add_argument("--streams", type=int, default=64, help="requests at once")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each answer")
    parser.add_argument("--out", type=Path, default=Path("bench/streams.csv"))
    options = parser.parse_args()
    rows = measure(fresh_model(preset(options.model)), options.streams, options.prompt, options.tokens)
    for row in rows:
        print("  ".join(f"{name} {row[name]}" for name in list(row)[:9]))
    one, many = rows
    print(f"together {many['tokens_per_second'] / one['tokens_per_second']:.2f} times one stream (decoding alone "
          f"{many['decode_tokens_per_second'] / one['decode_tokens_per_second']:.2f}); "
          f"the slowest took {many['slowest_s'] / many['median_s']:.2f} times the median")
    write_rows(rows, options.out)


if __name__ == "__main__":
    main()
