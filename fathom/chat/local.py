"""A model opened here as one that answers: the session's tokenizer and engine, the same encoding and parser as the service."""
from __future__ import annotations

import secrets
from collections.abc import Iterator

from fathom.chat.answers import Asked, End, Trouble
from fathom.engine import Request, Sampling
from fathom.errors import UserError
from fathom.session import Session
from fathom.text import CompletionParser, Event, StreamDecoder, ToolCallStart, encode_parts

LONGEST = {"off": 8192, "thinking": 65536, "max": 131072}  # tokens of an answer, as with the service


class Local:
    """A session. name: what the model is called."""

    def __init__(self, session: Session, name: str) -> None:
        self._session, self.name, self.context = session, name, session.engine.context
        self._last: End | None = None

    def tokens(self, text: str) -> int:
        """See Answers."""
        return len(self._session.tokenizer.encode(text))

    def answer(self, asked: Asked) -> Iterator[Event | End]:
        """See Answers."""
        if asked.choice not in ("auto", "none"):
            raise Trouble(f"Only a service can make a model call a tool; /set choice auto (it is {asked.choice}).")
        mode = "chat" if asked.mode == "off" else "thinking"
        tokenizer, messages = self._session.tokenizer, [dict(m) for m in asked.messages]
        if asked.tools:
            if messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": ""})
            messages[0]["tools"] = asked.tools
        try:
            prompt = tokenizer.encode_parts(encode_parts(messages, thinking_mode=mode, reasoning_effort="max" if asked.mode == "max" else None))
            sampling = Sampling(1.0 if asked.temperature is None else asked.temperature, top_p=1.0 if asked.top_p is None else asked.top_p,
                                seed=secrets.randbits(32) if asked.seed is None else asked.seed)
            request = Request(tuple(prompt), asked.max_tokens or LONGEST[asked.mode], sampling, frozenset({tokenizer.eos_id}), owner="chat")
            yield from self._events(request, mode)
        except UserError as error:
            raise Trouble(error.one_line()) from None

    def receipt(self, asked: Asked) -> End | None:
        """See Answers."""
        return self._last

    def _events(self, request: Request, mode: str) -> Iterator[Event | End]:
        parser, decoder = CompletionParser(mode), StreamDecoder(self._session.tokenizer, skip_control=False)
        ticket = self._session.engine.submit(request)
        reasoning, calls, finish = 0, 0, "aborted"

        def end(why: str) -> End:
            used = ticket.usage
            return End(why, {"hit": used.hit, "miss": used.prompt - used.hit, "output": used.output, "reasoning": reasoning}, None,
                       tuple(f"call_{secrets.token_hex(8)}" for _ in range(calls)))

        try:
            for output in ticket:
                finish = output.finish_reason or finish
                reasoning += parser.in_reasoning and output.token_id >= 0
                for event in parser.feed(decoder.feed(output.token_id)) if output.token_id >= 0 else ():
                    calls += isinstance(event, ToolCallStart)
                    yield event
            for event in [*parser.feed(decoder.finish()), *parser.finish(cut=finish != "stop")]:
                calls += isinstance(event, ToolCallStart)
                yield event
        finally:
            self._last = end("stopped")
            ticket.cancel()
        yield end("tool_calls" if finish == "stop" and calls else finish)
