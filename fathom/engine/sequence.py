"""One request on its way through the engine: its tokens, how far they are computed, and what it holds.

    ids       prompt and answer so far; the last one may not be computed yet
    computed  positions whose state is final: what comes next runs from here
    drafts    guesses of what follows ids, run along with the last token and mostly right

While it waits (also after a preemption) it holds nothing, and everything about where it stands is in `ids`: to go on is to compute
them again, or to find them in the prefix cache. The next token is f(logits, sampling, position), so nobody sees the difference.
"""
from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
from torch import Tensor

from .cache.prefix import Hit, Node
from .request import FinishReason, Output, Request, Ticket, Top

LOG = logging.getLogger(__name__)


class Sequence:
    """Made for a submitted request.

    Args:
        number: order of arrival; the older is preempted last.  limit: position where the answer ends at the latest, exclusive.
        logged: what earlier runs of the same request gave out.
    """

    def __init__(self, request: Request, ticket: Ticket, number: int, limit: int, logged: tuple[Output, ...] = ()) -> None:
        self.request, self.ticket, self.number, self.limit, self.logged = request, ticket, number, limit, logged
        self.over = False  # its last Output has been handed out
        self.prompt_length = len(request.prompt)
        self.ids = list(request.prompt)
        self.finish: FinishReason | None = None
        self.hit: int | None = None  # tokens that the cache spared at the first admission
        self.prompt_scores: list[tuple[float, Top]] = []
        self.served = 0  # step in which it last ran
        self.given = 0  # tokens handed out
        self.let_go()

    def let_go(self) -> None:
        """Forgets everything it holds. (Slot, blocks and path go back by the scheduler.)"""
        self.slot = -1
        self.entered = False  # its slot has been prepared for it
        self.mark: Tensor | None = None  # what its slot begins with
        self.table = np.zeros(8, dtype=np.int64)  # block numbers; the first num_blocks count
        self.num_blocks = 0
        self.path: list[Node] = []  # cached nodes of the first blocks, which it shares
        self.computed = self.known = 0  # known: entries before it are in shared blocks, which aren't written
        self.exact = 0  # from here on the windows are those of a cold run
        self.branch = -1  # where it left what was cached, if no mark was there
        self.drafts: tuple[int, ...] = ()
        self.draft_from = -1  # the next position that the MTP block reads; -1: it doesn't follow this sequence
        self.mask: np.ndarray | None = None  # what the constraint allows next, once it was asked

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.ids) - self.computed

    @property
    def blocks(self) -> np.ndarray:
        """Its block table."""
        return self.table[: self.num_blocks]

    @property
    def scores_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be computed, for which all of it must run."""
        return self.request.prompt_logprobs and len(self.prompt_scores) < self.prompt_length - 1

    def begin_from(self, hit: Hit) -> None:
        """Takes over what the cache has found."""
        self.path, self.known, self.computed, self.mark = hit.path, hit.known, hit.start, hit.mark
        self.exact = hit.start if hit.mark is not None or not hit.start else hit.known
        self.branch = hit.known if hit.start < hit.known else -1
        for node in hit.path[self.num_blocks :]:
            self.add_block(node.block)

    def adopt(self, index: int, block: int) -> None:
        """Uses another block that holds the same entries in place of its own."""
        self.table[index] = block

    def add_block(self, block: int) -> None:
        """Appends to the block table."""
        if self.num_blocks == len(self.table):
            self.table = np.concatenate((self.table, np.zeros_like(self.table)))
        self.table[self.num_blocks] = block
        self.num_blocks += 1

    def next_mask(self) -> np.ndarray | None:
        """What the constraint allows next."""
        if self.request.constraint is None:
            return None
        if self.mask is None:
            mask = self.request.constraint.mask()
            self.mask = None if mask is None else mask.copy()
        return self.mask

    def accept(self, token_id: int, logprob: float, top: Top) -> Output:
        """The next token of the answer; sets `finish` if it is the last."""
        self.ids.append(token_id)
        if self.request.constraint is not None:
            self.request.constraint.accept(token_id)
            self.mask = None
        stopped = token_id in self.request.stop_ids
        if self.request.stop is not None and self.request.stop.accept(token_id):
            stopped = True
        self.finish = "stop" if stopped else "length" if len(self.ids) >= self.limit else None
        return Output(token_id, logprob, self.finish, top)

    def replay(self) -> list[Output]:
        """Takes what was logged; gives it to be handed out again."""
        try:
            for output in self.logged:
                if output.token_id >= 0:
                    self.accept(output.token_id, output.logprob, output.top)
                self.finish = output.finish_reason
        except Exception:
            return [*self.logged, self.fail()]
        outputs = list(self.logged)
        if self.finish is None and len(self.ids) >= self.limit:  # an engine with a longer context wrote the log
            self.finish = "length"
            outputs[-1] = replace(outputs[-1], finish_reason=self.finish)
        return outputs

    def fail(self) -> Output:
        """Called while an exception of the constraint or stop is handled: ends this request, and no other."""
        LOG.exception("the constraint or stop of request %r failed", self.request.id)
        self.finish = "insufficient_system_resource"
        return Output(-1, 0.0, self.finish)
