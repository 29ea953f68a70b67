"""What an answer may be, token by token: forced and strict tool calls, JSON, JSON by a schema, and DSML that always parses.

llguidance works out, from a grammar and the tokens so far, which tokens may come next. This file feeds it our tokenizer, keeps
compiled grammars for the next request with the same tools, and wraps them into the object that the engine asks for a mask
(`GrammarConstraint` has the methods of the engine's protocol; this floor doesn't know the engine). What the grammars say is in
dsml_grammar.py.

Reasoning is free: until `</think>` there is no mask. The end-of-sentence token is allowed exactly where the grammar may end, other
control tokens only where the grammar names them. What a grammar can't promise: the bytes of a DSML tag spelled out inside a JSON value.

llguidance is part of the `serve` extra and imported when the first `Grammars` is made.
"""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from fathom.errors import UserError

from . import special
from .dsml_grammar import answer_grammar
from .tokenizer import Tokenizer

KEPT = 64  # compiled grammars; an agent sends the same tools again and again
LONGEST_ERROR = 300  # characters of what llguidance says about a schema
THINK_CLOSE = special.THINK_CLOSE.encode()


class Grammars:
    """Makes constraints for one tokenizer; thread-safe.

    Args:
        tokenizer: the model's.  vocab_size: the model's rows of logits, at least the tokenizer's; decides the mask's length.

    Raises:
        UserError: llguidance isn't installed.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        try:
            import llguidance
        except ImportError:
            raise UserError("llguidance", None, "is not installed", "install it with: pip install 'fathom[serve]'") from None
        self._library, self.tokenizer, self.words = llguidance, tokenizer, -(-vocab_size // 32)
        self._table = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Vocabulary(tokenizer)))
        self._limits = llguidance.LLParserLimits(verbose_errors=False)
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._lock = Lock()

    def constraint(self, *, thinking: bool, tools: Sequence[Mapping[str, Any]] = (), choice: str = "auto", parallel: bool = True,
                   schema: Any = None, prefix: str = "") -> GrammarConstraint:
        """A fresh constraint for one answer. Compiling a large schema takes up to a second; a grammar seen lately is at hand.

        Args:
            thinking: the answer begins with reasoning, which is free.
            tools: functions in OpenAI form (name, parameters, strict). Without `strict` only the form of a call is certain.
            choice: "auto", "none", "required", or a function's name.  parallel: whether there may be more than one call.
            schema: a JSON schema for the content, None for free text.  prefix: the beginning of the answer, written already.

        Raises:
            UserError: a schema that can't be enforced, named, with what llguidance says about it; a prefix that it rules out.
        """
        grammar = answer_grammar(self.tokenizer.control_id(special.DSML), tools, choice, parallel, schema, self._check)
        with self._lock:
            compiled = self._compiled.pop(grammar, None)
        if compiled is None or compiled.broken:
            compiled = Compiled(self._library.LLMatcher(self._table, grammar, log_level=0, limits=self._limits))
            if compiled.matcher.is_error():
                raise UserError("tools" if tools else "response_format", None, f"can't be enforced: {brief(compiled.matcher.get_error())}",
                                "simplify the schema")
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            fresh = compiled.matcher.deep_copy()
        if prefix and not fresh.consume_tokens(self.tokenizer.encode(prefix)):
            raise UserError("prefix", prefix, "isn't the beginning of anything that tools and response_format allow", "change one of them")
        return GrammarConstraint(self.tokenizer, compiled, fresh, self.words, thinking)

    def _check(self, schema: str, field: str) -> None:
        """Raises UserError if one schema, as JSON text, can't be compiled."""
        problem = self._library.LLMatcher.validate_grammar(f"start: %json {schema}", self._table, limits=self._limits)
        if problem and not problem.startswith("WARNING"):
            raise UserError(field, None, f"can't be enforced: {brief(problem)}", "simplify the schema, or ask for it in words")


@dataclass(eq=False)
class Compiled:
    """A grammar at its beginning.

    broken: an answer that began from it came to a limit of llguidance's. All of them share one lexer with the states it was ever in, so
    a long answer that uses them up would break every later one, however short.
    """

    matcher: Any
    broken: bool = False


class Vocabulary:
    """Our tokenizer as llguidance wants to see one. An id without a token has no bytes, so it is never allowed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = tokenizer.encode
        self.eos_token_id, self.bos_token_id = tokenizer.eos_id, tokenizer.bos_id
        self.special_token_ids = sorted(tokenizer.control_ids)
        self.tokens = [tokenizer.decode_bytes([i]) if tokenizer.has(i) else b"" for i in range(tokenizer.vocab_size)]

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


class GrammarConstraint:
    """One answer's grammar, at the place that the tokens so far have reached. For one thread."""

    def __init__(self, tokenizer: Tokenizer, compiled: Compiled, matcher: Any, words: int, thinking: bool) -> None:
        self._tokenizer, self._compiled, self._matcher = tokenizer, compiled, matcher
        self._think_close = tokenizer.control_id(special.THINK_CLOSE)
        self._mask = np.zeros(words, np.uint32)
        self._reasoning: list[int] | None = [] if thinking else None
        self._steps: list[int] = []
        """For each token after the reasoning, how many tokens the matcher took for it: 1, or 0 once it has stopped. The token that ended
        the reasoning counts with what it held beyond `</think>`."""
        self._before: list[int] = []

    def mask(self) -> np.ndarray | None:
        """[ceil(V/32)] uint32, bit t set where token t may come next; None while anything may."""
        if self._reasoning is not None:
            return None
        if self._matcher.is_error():
            self._mask[:] = 0
            self._compiled.broken = True
        else:
            allowed = np.frombuffer(self._matcher.compute_bitmask(), np.uint32)[: len(self._mask)]  # it has room for one token more
            self._mask[: len(allowed)] = allowed
        return self._mask

    def accept(self, token_id: int) -> None:
        """Takes the next token."""
        if self._reasoning is None:
            self._steps.append(self._take([token_id]))
            return
        self._reasoning.append(token_id)
        _, found, rest = self._tokenizer.decode_bytes(self._reasoning[-len(THINK_CLOSE) :]).partition(THINK_CLOSE)
        if token_id == self._think_close or found:
            self._before, self._reasoning = self._reasoning, None
            text = "" if token_id == self._think_close else rest.decode("utf-8", "ignore").lstrip()
            self._steps.append(self._take(self._tokenizer.encode(text)))

    def rollback(self, count: int) -> None:
        """Takes back the last `count` tokens."""
        if self._reasoning is not None:
            del self._reasoning[len(self._reasoning) - count :]
            return
        back = self._steps[max(0, len(self._steps) - count) :]
        del self._steps[len(self._steps) - len(back) :]
        if sum(back):
            self._matcher.rollback(sum(back))
        if not self._steps and self._before:  # back to where the reasoning was still open
            self._reasoning, self._before = self._before[: len(self._before) - (count - len(back)) - 1], []

    @property
    def broken(self) -> str:
        """What went wrong in the matcher, such as a limit on its work; then no token is allowed. "" as long as all is well."""
        return brief(self._matcher.get_error()) if self._matcher.is_error() else ""

    def _take(self, tokens: Sequence[int]) -> int:
        """How many tokens the matcher counts for `tokens`: once stopped it takes EOS without counting it."""
        if not tokens or self._matcher.is_stopped() or tokens[0] == self._tokenizer.eos_id:
            return 0
        self._matcher.consume_tokens(list(tokens))
        return len(tokens)


def brief(problem: str) -> str:
    """The first lines of what llguidance says, on one."""
    text = " ".join(problem.split())
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 1] + "…"
