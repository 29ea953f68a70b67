"""What speculative decoding brings on a trained model: how often the MTP block guesses right, and tokens per second with and without.

The same questions are answered three times, one after the other at batch 1 (or several at once): without guesses, always with, and as the
engine decides by itself. The answers must be the same tokens. Engines take turns question by question, so that the machine's moods
hit all alike.

Command: python -m fathom.bench.speculation --model runs/latest [--questions FILE] [--batch 1] [--tokens 256] [--out bench/speculation.csv]
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ..engine import Engine, Output, Request, Sampling
from ..errors import UserError
from ..model import Transformer
from ..session import Session, load
from ..text import encode_parts
from .machine import machine, write_rows

MODES = ("off", "always", "auto")
MEMORY = 1 << 30
QUESTIONS = ("Hello, my name is Ada. Who are you?", "What is 17 + 25?", "Reverse the word: window", "Sort these numbers: 9, 4, 7, 1",
             "What is the weather in Oslo?", "How many letters has the word engine?", "Write a Python function that doubles a number.",
             "Which of these is the largest: 12, 7, 30?", "Good evening, this is Lena. Can you help me?", "What is 9 times 6?")


def requests(session: Session, questions: list[str], tokens: int, thinking: bool) -> list[Request]:
    """Greedy answers to questions put as a user's messages."""
    found = []
    for question in questions:
        parts = encode_parts([{"role": "user", "content": question}], thinking_mode="thinking" if thinking else "chat")
        ids = tuple(session.tokenizer.encode_parts(parts))
        found.append(Request(ids, tokens, Sampling(temperature=0), frozenset({session.tokenizer.eos_id})))
    return found


def answer(engine: Engine, wanted: list[Request]) -> tuple[list[list[Output]], float]:
    """The answers, computed together, and the seconds from the first token on."""
    tickets = [engine.submit(request) for request in wanted]
    while not all(ticket.usage.output for ticket in tickets):
        engine.step()
    begin = time.perf_counter()
    while engine.step():
        pass
    return [list(ticket) for ticket in tickets], time.perf_counter() - begin


def measure(session: Session, wanted: list[Request], batch: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each mode."""
    model: Transformer = session.engine.model
    engines = {mode: Engine(model, sequences=batch, memory=MEMORY, prefix_cache=False, speculate=mode) for mode in MODES}  # type: ignore[arg-type]
    seconds, tokens = dict.fromkeys(MODES, 0.0), dict.fromkeys(MODES, 0)
    groups = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    for number in range(rounds + 1):
        for group in groups:
            answers = {}
            for mode, engine in engines.items():
                answers[mode], taken = answer(engine, group)
                if number:  # the first round is a warm-up
                    seconds[mode] += taken
                    tokens[mode] += sum(len(outputs) - 1 for outputs in answers[mode])
            told = {mode: [[o.token_id for o in outputs] for outputs in found] for mode, found in answers.items()}
            assert told["off"] == told["always"] == told["auto"], "guessing has changed an answer"
    rows = []
    for mode, engine in engines.items():
        stats = engine.stats()
        rows.append({"mode": mode, "batch": batch, "questions": len(wanted), "tokens": tokens[mode],
                     "tokens_per_second": round(tokens[mode] / seconds[mode], 1), "drafted": stats.drafted, "accepted": stats.accepted,
                     "acceptance": round(stats.accepted / stats.drafted, 3) if stats.drafted else "",
                     "speed": round(tokens[mode] / seconds[mode] * seconds["off"] / tokens["off"], 3)} | machine(model))
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="example: python -m fathom.bench.speculation --model runs/latest")
    parser.add_argument("--model", default="runs/latest", help="a run or checkpoint folder whose model has an MTP block")
    parser.add_argument("--questions", type=Path, help="a file with a question a line, instead of a few of ours")
    parser.add_argument("--thinking", action="store_true", help="let it think first")
    parser.add_argument("--batch", type=int, default=1, help="questions at once")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an answer at most")
    parser.add_argument("--rounds", type=int, default=3, help="times that all questions are asked")
    parser.add_argument("--out", type=Path, default=Path("bench/speculation.csv"))
    options = parser.parse_args()
    session = load(options.model, make_engine=lambda model: Engine(model, sequences=1, memory=MEMORY))
    if not session.config.num_nextn_predict_layers:
        raise UserError("model", options.model, "has no MTP block")
    questions = options.questions.read_text(encoding="utf-8").splitlines() if options.questions else list(QUESTIONS)
    rows = measure(session, requests(session, questions, options.tokens, options.thinking), options.batch, options.rounds)
    for row in rows:
        print("  ".join(f"{name} {row[name]}" for name in list(row)[:9]))
    write_rows(rows, options.out)


if __name__ == "__main__":
    main()
