"""Prefill and decoding speed at growing contexts, ours beside others', in one run.

Each measurement is a process of its own, so that nobody's memory or threads disturb the other's; sides take turns. What is timed: a
prompt of random tokens through the engine up to its first token, then single tokens after it, for one sequence or several different ones
at once. Peers get the same shapes, random weights, no compilation, and the same number of threads. Samples that other processes
disturbed are taken again (quiet.py). A virtual machine's speed also changes from minute to minute with what its neighbours do, which
nothing inside can see: several rounds over all cases, and medians of them, are fair to every side.

Sides: "native" and "reference" are ours on the respective kernels, or one instruction set by its name; "transformers" is the library;
"llama.cpp" runs a given llama-bench on a given file. peak_gb is what the process had resident at its height; on an accelerator, what its
tensors took there.
"""
from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..config import ModelConfig, config_to_dict, parameters, resolve_config
from ..device import choose_device, device_name, max_memory_allocated
from ..engine import Engine, Request, Sampling
from ..errors import UserError
from ..heap import keep_freed_memory
from ..model import KERNELS, Transformer, kernel_rows
from ..ops import DTYPES
from ..plan.size import state_size
from .quiet import Timing, quiet_median

COLUMNS = ("side", "kernels", "precision", "model", "context", "batch", "prefill_tokens_per_second", "decode_tokens_per_second", "peak_gb",
           "clean_samples", "rejected_samples", "threads", "device", "torch", "transformers", "python", "date")
PEERS = ("transformers", "llama.cpp")
DECODED = 4096  # room for tokens after the prompt, where the model's context has it


@dataclass(frozen=True)
class Case:
    """One row to measure."""

    side: str
    model: str
    precision: str
    context: int
    batch: int
    samples: int = 3
    budget: float = 60.0
    decode: int = 32
    device: str = "cpu"


def measure(case: Case) -> dict[str, Any]:
    """One row, measured in this process. Ours treats memory as the `fathom` program does; peers run as they are."""
    if case.side not in PEERS:
        keep_freed_memory()
    prefill, step = (_transformers if case.side == "transformers" else _fathom)(case)
    timing = quiet_median(prefill, samples=case.samples, budget=case.budget, warm_up=int(case.context <= 65536))
    steps = None
    if case.decode:
        most = room(case) // case.decode - 1  # one to warm up
        steps = quiet_median(lambda: [step() for _ in range(case.decode)], samples=case.samples, budget=case.budget / 2, most=most)
    return _row(case, timing, steps)


def _row(case: Case, timing: Timing, steps: Timing | None) -> dict[str, Any]:
    config, device = resolve_config(case.model), choose_device(case.device)
    rows = () if case.side in PEERS else kernel_rows(config, device, case.precision, _choice(case.side))
    kernels = {row.source for row in rows}
    return {
        "side": case.side, "kernels": " ".join(sorted(kernels)) or ("" if case.side in PEERS else "reference"), "precision": case.precision,
        "model": case.model, "context": case.context, "batch": case.batch,
        "prefill_tokens_per_second": round(case.batch * case.context / timing.seconds, 1),
        "decode_tokens_per_second": round(case.batch * case.decode / steps.seconds, 2) if steps else "",
        "peak_gb": round(max_memory_allocated(device) / 1e9, 3), "clean_samples": timing.clean,
        "rejected_samples": timing.rejected, "threads": torch.get_num_threads(), "device": device_name(device),
        "torch": torch.__version__, "transformers": metadata.version("transformers") if case.side == "transformers" else "",
        "python": platform.python_version(), "date": datetime.now(UTC).date().isoformat(),
    }


def room(case: Case) -> int:
    """Tokens that can be decoded after the prompt and its first token."""
    return min(DECODED, resolve_config(case.model).max_position_embeddings - case.context - 1)


def _choice(side: str) -> str:
    return "auto" if side == "native" else side


def _prompts(case: Case, vocabulary: int) -> list[torch.Tensor]:
    return [torch.randint(0, vocabulary, (case.context,), generator=torch.Generator().manual_seed(case.context + i)) for i in range(case.batch)]


def _fathom(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    config, device = resolve_config(case.model), choose_device(case.device)
    formats = _official_formats(config) if case.precision == "official" else None
    model = Transformer(config, dtype=DTYPES[case.precision], precision=case.precision, formats=formats, device=device,
                        rows=kernel_rows(config, device, case.precision, _choice(case.side)))
    model.init_weights(0)
    size, more = state_size(config, case.precision), 1 + room(case)
    engine = Engine(model, sequences=case.batch, memory=case.batch * size.at(case.context + more + config.block_size), prefix_cache=False,
                    speculate="off")
    prompts = [tuple(p.tolist()) for p in _prompts(case, config.vocab_size)]
    answers: list[Iterator[Any]] = []

    def prefill() -> None:
        for answer in answers:
            answer.close()  # type: ignore[attr-defined]
        answers[:] = [engine.generate(Request(prompt, more, Sampling(temperature=0))) for prompt in prompts]
        for answer in answers:
            next(answer)

    return prefill, lambda: [next(answer) for answer in answers]


def _official_formats(config: ModelConfig) -> dict[str, str]:
    return {p.name: {"fp8": "fp8", "expert": "fp4"}[p.storage] for p in parameters(config) if p.storage in ("fp8", "expert")}


def _transformers(case: Case) -> tuple[Callable[[], object], Callable[[], object]]:
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    torch.manual_seed(0)
    config = DeepseekV4Config(**config_to_dict(resolve_config(case.model).without_mtp()))
    config._attn_implementation = "eager"
    device = choose_device(case.device)
    model = DeepseekV4ForCausalLM(config).to(device, DTYPES[case.precision]).eval()
    prompt = torch.stack(_prompts(case, config.vocab_size)).to(device)
    kept: dict[str, Any] = {}

    @torch.no_grad()
    def prefill() -> None:
        out = model(prompt, use_cache=True, logits_to_keep=1)
        kept.update(cache=out.past_key_values, token=_picked(out.logits))

    @torch.no_grad()
    def step() -> None:
        out = model(kept["token"], past_key_values=kept["cache"], use_cache=True)
        kept.update(cache=out.past_key_values, token=_picked(out.logits))

    return prefill, step


def _picked(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest next tokens, waited for: what an accelerator was told and hasn't done isn't measured."""
    token = logits[:, -1:].argmax(-1)
    return token.cpu().to(token.device)


def llama_cpp(program: str, file: str, case: Case) -> dict[str, Any]:
    """A row from llama-bench's own JSON: average tokens per second of a prompt and of answers.

    Raises:
        UserError: the program fails or prints something else.
    """
    command = [program, "-m", file, "-p", str(case.context), "-n", str(case.decode), "-t", str(torch.get_num_threads()), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        found = {("n_prompt" if test["n_prompt"] else "n_gen"): float(test["avg_ts"]) for test in json.loads(done.stdout)}
        prompt, answer = found["n_prompt"], found["n_gen"]
    except (ValueError, KeyError, TypeError):
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise UserError("llama-bench", program, f"its JSON on standard output, not: {said[-1][:200]}") from None
    row = _row(case, Timing(case.context / prompt, 1, 0), Timing(case.decode / answer, 1, 0))
    return row | {"peak_gb": "", "torch": "", "model": Path(file).name}


def run_cases(cases: Sequence[Case], say: Callable[[dict[str, Any]], None], llama: tuple[str, str] | None = None,
              rounds: int = 1) -> list[dict[str, Any]]:
    """A row for each case, the median of so many rounds over all of them. Each measurement is a fresh process, told as it comes.

    Raises:
        UserError: no round, an unknown side, or llama.cpp without its program and file or on an accelerator.
    """
    if rounds < 1:
        raise UserError("rounds", rounds, "at least 1")
    for case in cases:
        if case.side not in ("native", *KERNELS[1:], *PEERS):
            raise UserError("side", case.side, f"one of native, {', '.join(KERNELS[1:])}, {', '.join(PEERS)}")
        if case.side == "llama.cpp" and llama is None:
            raise UserError("side", "llama.cpp", "needs --llama-bench PROGRAM and --llama-model FILE")
        if room(case) < 2 * case.decode:
            raise UserError("context", case.context, f"with the first token and {2 * case.decode} more at least within the model's context",
                            "take a shorter one, or a smaller --decode")
        if case.side == "llama.cpp" and case.device != "cpu":
            raise UserError("side", "llama.cpp", "is measured on the CPU only", "leave out --device")
    measured: list[list[dict[str, Any]]] = [[] for _ in cases]
    for _ in range(rounds):
        for case, rows in zip(cases, measured, strict=True):
            rows.append(_measured_apart(case, llama))
            say(rows[-1])
    return [median_row(rows) for rows in measured]


def _measured_apart(case: Case, llama: tuple[str, str] | None) -> dict[str, Any]:
    """One row, measured in a process of its own."""
    if case.side == "llama.cpp":
        assert llama is not None
        return llama_cpp(*llama, case)
    done = subprocess.run([sys.executable, "-m", __name__, json.dumps(vars(case))], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{case.side} at {case.context} tokens", None, (done.stderr.strip().splitlines() or ["failed"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def median_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of one case as one: median speeds, the highest peak, all samples."""
    measured = [key for key in ("prefill_tokens_per_second", "decode_tokens_per_second") if rows[0][key] != ""]
    speeds = {key: round(median(row[key] for row in rows), 2) for key in measured}
    peak = {} if rows[0]["peak_gb"] == "" else {"peak_gb": max(row["peak_gb"] for row in rows)}
    return rows[0] | speeds | peak | {key: sum(row[key] for row in rows) for key in ("clean_samples", "rejected_samples")}


if __name__ == "__main__":
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))
