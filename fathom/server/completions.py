"""POST /completions: a text continued, or with `suffix` the gap between two texts filled (FIM). From request to `Ask`s, and the reply.

A prompt is text, which gets BOS in front as in training, or token ids, which are taken as they are: those who send ids (evaluation
harnesses) know what they want. Several prompts are answered side by side, as several choices, each billed on its own row.

`echo` puts the prompt before the completion, and with `logprobs` the log-probabilities of its tokens; the first token of all has none
(null), a text's first one has, after the BOS that isn't shown. max_tokens = 0 with echo scores the prompt alone.
"""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fathom.errors import UserError
from fathom.server.accounts import Usage
from fathom.server.answering import Answer, totals
from fathom.server.asking import FILL, Ask
from fathom.server.chat import sampled, stops, user_of
from fathom.server.chat_reply import Admitted, Form, usage_of
from fathom.server.reader import LEAST_LOGPROB, Piece
from fathom.server.sending import Chunks, encoded
from fathom.server.wire import CompletionRequest
from fathom.text import ContentDelta, Tokenizer, special


def read_completion(request: CompletionRequest, tokenizer: Tokenizer, vocab_size: int) -> list[Ask]:
    """One Ask per prompt.

    Raises:
        UserError: ids that the model doesn't have, several prompts in a stream, an empty prompt of ids.
    """
    prompts: Sequence[str | list[int]] = (
        [request.prompt] if isinstance(request.prompt, str) or isinstance(request.prompt[0], int) else request.prompt)  # type: ignore[list-item]
    if request.stream and len(prompts) > 1:
        raise UserError("stream", True, "takes one prompt", f"send {len(prompts)} requests")
    how = sampled(request.temperature, request.top_p, request.seed)
    return [Ask(tuple(prompt_ids(prompt, request.suffix, tokenizer, vocab_size)), "text", FILL if request.max_tokens is None else request.max_tokens,
                how, stops(request.stop), None, request.logprobs, bool(request.echo) and request.logprobs is not None,
                user_of(request.user_id, request.user)) for prompt in prompts]


def prompt_ids(prompt: str | list[int], suffix: str | None, tokenizer: Tokenizer, vocab_size: int) -> list[int]:
    """Ids of one prompt. Text never becomes control ids; the FIM tokens are put around it here."""
    if isinstance(prompt, list) and (strange := next((token for token in prompt if token >= vocab_size), None)) is not None:
        raise UserError("prompt", f"token {strange}", f"ids below {vocab_size}", "use the model's own tokenizer")
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    if suffix is not None:
        begin, hole, end = (tokenizer.control_id(token) for token in (special.FIM_BEGIN, special.FIM_HOLE, special.FIM_END))
        return [tokenizer.bos_id, begin, *ids, hole, *tokenizer.encode(suffix), end]
    return [tokenizer.bos_id, *ids] if isinstance(prompt, str) else ids


class Choice:
    """One completion being put together. shown: what an echo shows of the prompt."""

    def __init__(self, index: int, request: CompletionRequest, tokenizer: Tokenizer) -> None:
        self.index, self.request, self.tokenizer = index, request, tokenizer
        given = request.prompt if isinstance(request.prompt, str) or isinstance(request.prompt[0], int) else request.prompt[index]
        self.skipped = 2 if request.suffix is not None else int(isinstance(given, str))  # BOS and FIM tokens aren't shown
        self.shown = len(tokenizer.encode(given)) if isinstance(given, str) else len(given)
        self.echoed = (given if isinstance(given, str) else tokenizer.decode(given)) if request.echo else ""
        self.written = 0  # characters so far, for text_offset

    def prompt_pieces(self, answer: Answer) -> list[Piece]:
        """The prompt's tokens that an echo shows, with their log-probabilities."""
        return answer.prompt_pieces()[self.skipped : self.skipped + self.shown] if self.request.echo else []

    def logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        """The legacy form: parallel lists. A token's likeliest are by their text; of two with the same text the likelier counts."""
        if self.request.logprobs is None:
            return None
        tokens = [self.tokenizer.decode([piece.id]) for piece in pieces]
        offsets = []
        for piece, token in zip(pieces, tokens):
            offsets.append(self.written)
            self.written += len(token) if piece.id not in self.tokenizer.control_ids else 0  # those don't show in the text
        return {"tokens": tokens, "token_logprobs": [None if piece.logprob is None else max(piece.logprob, LEAST_LOGPROB) for piece in pieces],
                "top_logprobs": [self._top(piece) for piece in pieces], "text_offset": offsets}

    def _top(self, piece: Piece) -> dict[str, float] | None:
        if piece.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in (*piece.top, (piece.id, piece.logprob)):
            found.setdefault(self.tokenizer.decode([token]), max(logprob, LEAST_LOGPROB))
        return found

    def entry(self, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
        """The choice, or a piece of it."""
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": finish}


async def whole_completion(admit: Callable[[int], Admitted], choices: Sequence[Choice], form: Form) -> Chunks:
    """One body with all choices."""
    async def one(answer: Answer, choice: Choice) -> dict[str, Any]:
        text, pieces, finish = choice.echoed, [], None
        async for batch in answer.batches():
            if batch is not None:
                text += "".join(event.text for event in batch.seen.events if isinstance(event, ContentDelta))
                pieces += batch.seen.content
                finish = batch.finish
        return choice.entry(text, choice.logprobs([*choice.prompt_pieces(answer), *pieces]), finish)

    async with AsyncExitStack() as stack:
        answers = [await stack.enter_async_context(admit(choice.index)) for choice in choices]
        together = asyncio.gather(*(one(answer, choice) for answer, choice in zip(answers, choices)))
        try:
            while not (await asyncio.wait((together,), timeout=form.keep_alive_seconds))[0]:
                yield None
            done = await together
        finally:
            together.cancel()
            await asyncio.gather(together, return_exceptions=True)
        yield encoded({**form.head("text_completion"), "choices": done, "usage": usage_of(totals([answer.usage for answer in answers]))})


async def streamed_completion(admitted: Admitted, choice: Choice, form: Form) -> Chunks:
    """Events; the echo comes first, once its log-probabilities are there if they are wanted."""
    def chunk(text: str, pieces: Sequence[Piece], finish: str | None = None, usage: Usage | None = None) -> bytes:
        data = {**form.head("text_completion"), "choices": [choice.entry(text, choice.logprobs(pieces), finish)]}
        if usage or form.include_usage:
            data["usage"] = usage_of(usage) if usage else None
        return b"data: " + encoded(data) + b"\n\n"

    async with admitted as answer:
        waiting = choice.request.echo
        async for batch in answer.batches():
            if batch is None:
                yield None
                continue
            out = [chunk(choice.echoed, choice.prompt_pieces(answer))] if waiting else []
            waiting = False
            text = "".join(event.text for event in batch.seen.events if isinstance(event, ContentDelta))
            if text or batch.seen.content or batch.finish:
                out.append(chunk(text, batch.seen.content, batch.finish, answer.usage if batch.finish else None))
            if out:
                yield b"".join(out)
    yield b"data: [DONE]\n\n"
