"""One sequence at a time: prefill in chunks, then one token a step, on the paged state.

The state is allocated for what the request can use at most, once, so nothing grows and nothing is copied. Prefill goes in chunks:
activations are bounded by the chunk, whatever the prompt's length.

Today's engine serves one request; scheduler, prefix cache and speculation belong in this room, behind the same Request and Output.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..model import Batch, Run, State, Transformer
from .request import Output, Request
from .sampler import pick

CHUNK = 2048  # prompt tokens of one step; best of 512, 1024, 2048 and 4096 on two cores (docs/log.md)


class Engine:
    """Runs requests on one model.

    Args:
        model: its compute_dtype is also the state's.  chunk: prompt tokens of one step.
    """

    def __init__(self, model: Transformer, *, chunk: int = CHUNK) -> None:
        self.model, self.chunk = model.requires_grad_(False).eval(), chunk
        self._precision = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[model.compute_dtype]

    def generate(self, request: Request) -> Iterator[Output]:
        """The answer, token by token. It ends at a stop token, at max_tokens, or where the model's context does.

        Raises:
            UserError: an empty prompt, an id outside the vocabulary, max_tokens below 1, or a prompt that fills the context.
        """
        limit = self._check(request)
        state, blocks = self._allocate(limit)
        position = len(request.prompt)
        hidden = self._prefill(request.prompt, state, blocks)
        while True:
            logits = self.model.logits(hidden)
            token = pick(logits, request.sampling, position)
            position += 1
            last: Literal["stop", "length"] | None = "stop" if token in request.stop_ids else "length" if position == limit else None
            yield Output(token, float(logits.log_softmax(0)[token]), last)
            if last:
                return
            hidden = self._run((token,), position - 1, state, blocks)[-1]

    def prompt_logprobs(self, prompt: tuple[int, ...]) -> list[float]:
        """Log-probability of each prompt token after the first, given those before it."""
        self._check(Request(prompt, 1))
        state, blocks = self._allocate(len(prompt))
        found: list[float] = []
        for a in range(0, len(prompt), self.chunk):
            b = min(a + self.chunk, len(prompt))
            logits = self.model.logits(self._run(prompt[a:b], a, state, blocks)).log_softmax(-1)
            nexts = torch.tensor(prompt[a + 1 : b + 1], device=logits.device)
            found += logits[: len(nexts)].gather(1, nexts.unsqueeze(1)).squeeze(1).tolist()
        return found

    def _check(self, request: Request) -> int:
        """Positions the answer may reach, exclusive."""
        c = self.model.config
        if not request.prompt:
            raise UserError("prompt", None, "empty", "give at least one token, such as BOS")
        bad = [t for t in request.prompt if not 0 <= t < c.vocab_size]
        if bad:
            raise UserError("prompt", f"token {bad[0]}", f"ids below the model's vocab_size = {c.vocab_size}", "use the model's own tokenizer")
        if request.max_tokens < 1:
            raise UserError("max_tokens", request.max_tokens, "at least 1")
        if len(request.prompt) >= c.max_position_embeddings:
            raise UserError("prompt", f"{len(request.prompt)} tokens", f"the model's context is {c.max_position_embeddings} tokens, answer included",
                            "shorten it or use a model with a longer context")
        return min(len(request.prompt) + request.max_tokens, c.max_position_embeddings)

    def _allocate(self, tokens: int) -> tuple[State, tuple[int, ...]]:
        count = -(-tokens // self.model.config.block_size)
        device = self.model.embed.weight.device
        return State(self.model.config, num_slots=1, num_blocks=count, precision=self._precision, device=device), tuple(range(count))

    def _prefill(self, prompt: tuple[int, ...], state: State, blocks: tuple[int, ...]) -> Tensor:
        for a in range(0, len(prompt), self.chunk):
            hidden = self._run(prompt[a : a + self.chunk], a, state, blocks)
        return hidden[-1]

    @torch.no_grad()
    def _run(self, ids: tuple[int, ...], start: int, state: State, blocks: tuple[int, ...]) -> Tensor:
        tokens = torch.tensor(ids, dtype=torch.int64, device=self.model.embed.weight.device)
        return self.model(Batch(tokens, (Run(start, len(ids), 0, blocks),)), state).hidden
