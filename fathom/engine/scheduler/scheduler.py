"""Which tokens make up the next step, and who holds which slot and blocks.

A step is one forward of at most `budget` tokens. Every answer under way gets its next token (and the drafts that go with it); prompts
share what is left, in pieces, but only a quarter of the budget while others are waiting for their next token. A sequence is admitted
when there is a slot and enough blocks for its prompt; it takes blocks as it grows. When none are left, the cache gives up its least
recently used ones, and then the sequence that arrived last gives up all it holds and waits again. So the oldest always gets on, and
whoever may enter at all fits alone.

A prompt begins only when nobody else is at work on its next block: of several that begin alike the first computes, the others follow
with what it has put into the cache.
"""
from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..cache.pool import Pool
from ..cache.prefix import Hit, Node, PrefixCache
from ..sequence import Sequence
from .fairness import Turns

PROMPT_SHARE = 4  # prompts get 1/4 of the budget in a step that also decodes
NextBlock = tuple[str, Node | None, tuple[int, ...]]


@dataclass(eq=False)
class Work:
    """What a step does for one sequence: tokens start..start+length of ids, then drafts, as one run.

    marks: block ends within it whose state is wanted.  rolling: those of them that are kept only until the next.
    decodes: the next token can be chosen after it.
    """

    seq: Sequence
    start: int
    length: int
    drafts: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    rolling: frozenset[int] = field(default_factory=frozenset)
    decodes: bool = field(init=False)

    def __post_init__(self) -> None:
        self.decodes = self.start + self.length == len(self.seq.ids) < self.seq.limit

    @property
    def size(self) -> int:
        """Tokens of the run."""
        return self.length + len(self.drafts)

    def leave_drafts_out(self) -> None:
        """Runs its own tokens only."""
        self.drafts = ()
        self.marks = tuple(end for end in self.marks if end <= self.start + self.length)


class Scheduler:
    """Waiting and running sequences of one engine. One thread calls it.

    Args:
        budget: tokens of a step.  slots, blocks: free numbers of both.  cache: where blocks come from if prefixes are cached.
    """

    def __init__(self, *, budget: int, block_size: int, slots: Pool, blocks: Pool, cache: PrefixCache | None) -> None:
        self.budget, self.block_size, self.slots, self.blocks, self.cache = budget, block_size, slots, blocks, cache
        self.turns = Turns()
        self.running: list[Sequence] = []
        self.steps = self.preemptions = 0
        self._stuck: tuple[Sequence, int, int] | None = None  # who didn't fit, and when it is worth trying again
        self._freed = 0

    @property
    def available(self) -> int:
        """Blocks that could be had without preempting anybody."""
        return self.cache.available if self.cache else self.blocks.free

    def add(self, seq: Sequence) -> None:
        """A sequence wants to run."""
        self.turns.enter(seq)

    def remove(self, seq: Sequence) -> None:
        """A sequence has ended; all it holds is free."""
        if seq.slot >= 0:
            self._let_go(seq)
        else:
            self.turns.stop_waiting(seq)
        self.turns.leave(seq)

    def plan(self) -> list[Work]:
        """The next step; empty when there is nothing to do."""
        self.steps += 1
        self._admit()
        works: dict[Sequence, Work] = {}
        left = self.budget
        decoding = sorted((s for s in self.running if s.pending == 1), key=lambda s: s.served)
        for seq in decoding:
            drafts = seq.drafts[: max(0, min(left - 1, seq.limit - 1 - len(seq.ids)))]
            left -= self._put(works, Work(seq, seq.computed, min(1, left), drafts))
        left = min(left, self.budget // PROMPT_SHARE) if works else left
        prompts = [s for s in self.running if s.pending > 1]
        under_way = {self._next_block(s) for s in prompts if s.entered}
        for seq in self.turns.prompt_order(prompts):
            if left > 0 and seq.slot >= 0 and (seq.entered or self._may_begin(seq, under_way)):
                left -= self._put(works, Work(seq, seq.computed, min(seq.pending, left)))
        for work in works.values():
            work.seq.served = self.steps
            if work.seq.hit is None:
                work.seq.hit = min(work.start, work.seq.prompt_length)
            self.turns.charge(work.seq, work.size)
            self._choose_marks(work)
        return list(works.values())

    def extend_cache(self, seq: Sequence, marks: dict[int, Tensor], rolling: frozenset[int]) -> None:
        """Hands the blocks that have become full over to the cache, and the marks, by position, that were captured."""
        if self.cache is None:
            return
        size = self.block_size
        for end, mark in marks.items():
            if end <= len(seq.path) * size:
                self.cache.add_mark(seq.path[end // size - 1], mark, rolling=end in rolling)
        while (len(seq.path) + 1) * size <= seq.computed:
            i, end = len(seq.path), (len(seq.path) + 1) * size
            block = self.cache.extend(seq.request.owner, seq.path, tuple(seq.ids[end - size : end]), int(seq.table[i]), marks.get(end),
                                      rolling=end in rolling)
            if block != seq.table[i]:
                seq.adopt(i, block)

    # --- admission ---

    def _admit(self) -> None:
        while self.slots.free and (seq := self.turns.next()) is not None:
            now = self.cache.released if self.cache else self._freed
            if self._stuck == (seq, now, len(self.running)) or not self._try(seq):
                self._stuck = (seq, now, len(self.running))
                return
            self._stuck = None
            self.turns.stop_waiting(seq)
            self.running.append(seq)

    def _try(self, seq: Sequence) -> bool:
        """Admits a sequence if its tokens so far and one more fit, beside what those that run have still to take for theirs, or a block."""
        promised = sum(max(1, self._blocks_for(s) - s.num_blocks) for s in self.running)
        hit = self._find(seq)
        if self._blocks_for(seq) - len(hit.path) + promised > self.available:
            if self.cache:
                before = self.cache.released
                self.cache.release(hit.path)
                self.cache.released = before  # what this attempt held doesn't make a second one worth while
            return False
        slot = self.slots.take()
        assert slot is not None, "only asked when one is free"
        seq.slot = slot
        seq.begin_from(hit)
        return True

    def _find(self, seq: Sequence) -> Hit:
        """What of a sequence is cached, beyond what it holds already. (Whose prompt is scored must compute all of it.)"""
        if self.cache is None or seq.scores_prompt:
            return Hit([], 0, 0, None)
        return self.cache.find(seq.request.owner, seq.ids, (len(seq.ids) - 1) // self.block_size, seq.path)

    def _may_begin(self, seq: Sequence, under_way: set[NextBlock]) -> bool:
        """Whether an admitted sequence can start, with what has been cached since; not while somebody is at work on its next block."""
        if self.cache is None or seq.scores_prompt:
            return True
        held = len(seq.path)
        seq.begin_from(self._find(seq))
        if len(seq.path) > held:
            self._stuck = None  # it needs fewer blocks of its own
        block = self._next_block(seq)
        if block in under_way and (len(seq.path) + 1) * self.block_size < len(seq.ids):
            return False
        under_way.add(block)
        return True

    def _next_block(self, seq: Sequence) -> NextBlock:
        """The block that a sequence will hand over next: owner, node before it, tokens."""
        begin = len(seq.path) * self.block_size
        return seq.request.owner, seq.path[-1] if seq.path else None, tuple(seq.ids[begin : begin + self.block_size])

    # --- blocks ---

    def _blocks_for(self, seq: Sequence) -> int:
        """Blocks for a sequence's tokens so far and one more."""
        return -(-min(len(seq.ids) + 1, seq.limit) // self.block_size)

    def _put(self, works: dict[Sequence, Work], work: Work) -> int:
        """Adds work if it has tokens and its blocks can be had; gives its size."""
        if work.length <= 0 or work.seq.slot < 0 or not self._grow(work, works):
            return 0
        works[work.seq] = work
        return work.size

    def _grow(self, work: Work, works: dict[Sequence, Work]) -> bool:
        """Blocks for a run. Others that arrived later may lose theirs, and their part of the step; False: this one has lost its own."""
        seq = work.seq
        while seq.num_blocks * self.block_size < work.start + work.size:
            block = self.cache.take() if self.cache else self.blocks.take()
            if block is not None:
                seq.add_block(block)
                continue
            victim = max(self.running, key=lambda s: s.number)
            works.pop(victim, None)
            self._preempt(victim)
            if victim is seq:
                return False
        return True

    def _preempt(self, seq: Sequence) -> None:
        self.preemptions += 1
        self._let_go(seq)
        self.turns.wait(seq)

    def _let_go(self, seq: Sequence) -> None:
        """Frees slot and blocks; what is cached stays."""
        own = [int(b) for b in seq.blocks[len(seq.path) :]]
        for block in own:
            self.cache.give(block) if self.cache else self.blocks.give(block)
        self._freed += len(own)
        if self.cache:
            self.cache.release(seq.path)
        self.slots.give(seq.slot)
        self.running.remove(seq)
        seq.let_go()

    # --- marks ---

    def _choose_marks(self, work: Work) -> None:
        """The block ends of a run whose state the cache's policy wants; the newest of an answer is kept until the next one."""
        if self.cache is None or not self.cache.every:
            return
        seq, size = work.seq, self.block_size
        prompt_end = (seq.prompt_length - 1) // size * size
        first = max(work.start, seq.exact - 1) // size * size + size
        marks, rolling = [], set()
        for end in range(first, work.start + work.size + 1, size):
            if end <= len(seq.path) * size and seq.path[end // size - 1].mark is not None:
                continue
            if self.cache.keeps(end) or end in (prompt_end, seq.branch):
                marks.append(end)
            elif end > prompt_end:
                marks.append(end)
                rolling.add(end)
        work.marks, work.rolling = tuple(marks), frozenset(rolling)
