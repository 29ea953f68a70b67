"""Text in, text out: a model folder opened for use.

    session = fathom.load("runs/demo")
    print(session.generate("def fib(", max_tokens=64, temperature=0))

A session joins tokenizer, chat encoding and engine. It streams text that never ends inside a character and never shows a stop
string. `path` is a checkpoint folder or a run folder, whose newest checkpoint is taken.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint import open_checkpoint
from .config import ModelConfig
from .device import choose_device, supports_bf16
from .engine import Engine, Request, Sampling
from .errors import UserError
from .model import Transformer, kernel_rows
from .ops import DTYPES
from .plan.packed import packed_size, resident_experts
from .text import StopStrings, StreamDecoder, Tokenizer, encode_parts, parse_completion

_TORCH_NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items() if name != "official"}


def load(path: str | Path, *, device: str | None = None, precision: str | None = None, kernels: str = "auto",
         weights_budget: int | None = None, progress: Any = None, say: Callable[[str], None] = lambda line: None,
         make_engine: Callable[[Transformer], Engine] = Engine) -> Session:
    """Opens a model for generation.

    Args:
        path: a checkpoint folder, or a run folder (its newest checkpoint).
        device: "auto" or None, "cpu", or an accelerator's name.
        precision: "fp32", "bf16", "fp16" (or torch's names), or "official": the published FP8, FP4 and BF16 formats throughout. bf16
            where the device has it, else fp32, unless given.
        kernels: "auto" (the fastest that cover device and precision), "reference", or an instruction set of the native ones.
        weights_budget: bytes that weights may take in memory; a larger model keeps its most used experts there and reads the others when a
            token is routed to them, slowly. Native kernels only.
        progress: called with (done, total) bytes while weights are read.  say: told, a line at a time, what a user should know.
        make_engine: the model → the engine that runs it, for other options than Engine's defaults.

    Raises:
        UserError: no model there, a damaged file, an unknown device, precision or choice of kernels, a budget that is too small.
    """
    folder = model_folder(path)
    where = choose_device(device)
    precision = precision or ("bf16" if supports_bf16(where) else "fp32")
    precision = _TORCH_NAMES.get(precision, precision)
    if precision not in DTYPES:
        raise UserError("precision", precision, f"one of {', '.join(DTYPES)}")
    checkpoint = open_checkpoint(folder)
    tokenizer = Tokenizer.load(folder if (folder / "tokenizer.json").exists() else folder.parent.parent)
    rows = kernel_rows(checkpoint.config, where, precision, kernels)
    formats = checkpoint.formats(official=precision == "official")
    resident = None
    if weights_budget is not None:
        resident = _resident(checkpoint.config, weights_budget, formats, precision, packed=any(row.packer for row in rows), say=say)
    model = Transformer(checkpoint.config, dtype=DTYPES[precision], precision=precision, device=where, rows=rows, formats=formats,
                        resident=resident)
    checkpoint.load_into(model.tensors(), progress, formats=formats)
    return Session(make_engine(model), tokenizer)


def _resident(config: ModelConfig, budget: int, formats: Mapping[str, str], precision: str, *, packed: bool,
              say: Callable[[str], None]) -> int | None:
    """Experts of a layer that stay in memory under a budget; None for all."""
    if not packed:
        raise UserError("weights_budget", budget, "needs the native kernels (a CPU, in bf16 or official)", "build them: fathom doctor --build")
    count = resident_experts(config, budget, formats, precision)
    if count is not None:
        total = packed_size(config, formats, precision).total
        say(f"weights of {total / 1e9:.1f} GB exceed the budget of {budget / 1e9:.1f} GB: {count} of {config.n_routed_experts} experts of each layer "
            "stay in memory, the others are read as they are needed, which is slow")
    return count


def model_folder(path: str | Path) -> Path:
    """The checkpoint folder meant by `path`: itself, or the newest checkpoint of a run folder."""
    path = Path(path)
    if not path.is_dir():
        raise UserError("model", path, "no such folder", "give a run or checkpoint folder, such as runs/latest")
    if (path / "checkpoints").is_dir():
        steps = [(int(m[1]), p) for p in (path / "checkpoints").glob("step-*") if (m := re.fullmatch(r"step-(\d+)", p.name))]
        if not steps:
            raise UserError("model", path, "a run without a checkpoint yet", "wait for its first one, or train on: fathom train --resume")
        return max(steps)[1]
    return path


class Session:
    """A model ready to complete text."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self.engine, self.tokenizer = engine, tokenizer
        if tokenizer.vocab_size > self.config.vocab_size:
            raise UserError("tokenizer.json", f"{tokenizer.vocab_size} tokens", f"at most the model's vocab_size = {self.config.vocab_size}",
                            "use the tokenizer that the model was trained with")

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.engine.model.config

    def generate(self, prompt: str, **options: Any) -> str:
        """The continuation of `prompt`, whole. Options as `stream`."""
        return "".join(self.stream(prompt, **options))

    def stream(self, prompt: str, *, max_tokens: int = 256, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, min_p: float = 0.0,
               seed: int = 0, stop: str | Sequence[str] = (), bos: bool = True) -> Iterator[str]:
        """The continuation of `prompt` in pieces, as they are certain.

        Args:
            max_tokens, temperature, top_p, top_k, min_p, seed: see engine.Sampling and Request.
            stop: strings that end the answer and aren't shown.  bos: put BOS in front, as in training.

        Raises:
            UserError: a value out of range, or a prompt beyond the context.
        """
        ids = [self.tokenizer.bos_id] * bos + self.tokenizer.encode(prompt)
        return self._text(ids, max_tokens, Sampling(temperature, top_k, top_p, min_p, seed), StopStrings(stop), skip_control=True)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, thinking: bool = True, reasoning_effort: str | None = None, max_tokens: int = 1024,
             temperature: float = 1.0, top_p: float = 1.0, seed: int = 0) -> dict[str, Any]:
        """The assistant's next message: content, reasoning_content and tool_calls in OpenAI form.

        Args:
            messages: the conversation in OpenAI form; must not end in a system message.  reasoning_effort: None, "low", "high" or "max".
        """
        if messages and messages[-1].get("role") == "system":
            raise UserError("messages", None, "ends in a system message, after which nobody is asked", "add a user message")
        mode = "thinking" if thinking else "chat"
        ids = self.tokenizer.encode_parts(encode_parts(messages, thinking_mode=mode, reasoning_effort=reasoning_effort))
        text = "".join(self._text(ids, max_tokens, Sampling(temperature, top_p=top_p, seed=seed), StopStrings(), skip_control=False))
        return parse_completion(text, thinking_mode=mode)

    def _text(self, ids: Sequence[int], max_tokens: int, sampling: Sampling, stops: StopStrings, *, skip_control: bool) -> Iterator[str]:
        request = Request(tuple(ids), max_tokens, sampling, frozenset({self.tokenizer.eos_id}))
        decoder = StreamDecoder(self.tokenizer, skip_control=skip_control)
        for output in self.engine.generate(request):
            if output.finish_reason == "stop":
                break
            if piece := stops.feed(decoder.feed(output.token_id)):
                yield piece
            if stops.matched:
                return
        if piece := stops.feed(decoder.finish()) + stops.finish():
            yield piece

    def logprobs(self, text: str, *, bos: bool = True) -> list[float]:
        """Natural-log probability of each token of `text` (after the first, without BOS)."""
        return self.engine.prompt_logprobs(tuple([self.tokenizer.bos_id] * bos + self.tokenizer.encode(text)))
