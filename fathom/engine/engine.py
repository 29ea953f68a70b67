"""The engine: requests in, tokens out, any number at once.

    submit     checks a request and queues it; from any thread
    step       takes in what was submitted and cancelled, plans (scheduler/), computes (runner.py), logs, hands out
    start      a thread that steps while there is anything to do; `generate` works with and without it

Memory is taken once: the model's State for `sequences` slots and as many blocks as the budget allows. Nothing grows afterwards but the
prefix cache's marks, which have a budget of their own.

What a request gets doesn't depend on the company it has: positions, seeds and masks are its own, and kernels that are the same for every
batch (the native ones) make that exact to the bit. With the reference kernels it holds to their tolerance.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..config import CSA_RATIO
from ..device import memory_info
from ..errors import UserError
from ..model import State, Transformer
from .cache import BlockStore
from .cache.marks import Packing
from .cache.pool import Pool, block_count
from .cache.prefix import PrefixCache
from .fingerprint import fingerprint
from .request import FinishReason, Journal, Output, Overloaded, Request, Ticket, Usage
from .runner import Runner
from .scheduler import Scheduler, Work
from .sequence import Sequence
from .speculative import Mode, Speculation

CHUNK = 2048  # tokens of one step; best of 512, 1024, 2048 and 4096 on two cores (docs/log.md)
PLAIN_CHUNK = 4096  # the same for weights in plain tensors, whose operators are many small calls
SEQUENCES = 64
WAITING = 1024
TOP = 20  # most likeliest tokens that may be asked for
RATE_SECONDS = 10.0
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stats:
    """The engine at one moment, and since it began.

    Attributes:
        running, waiting: requests.  free_blocks, cached_blocks, blocks: of the pool; cached ones are free for whoever needs them.
        mark_bytes: kept beside them.  tokens_per_second: given out, over the last ten seconds.
        prompt_tokens, hit_tokens, output_tokens: of all requests; hit tokens are prompt tokens that the cache spared.
        steps, step_tokens: and the tokens they computed.  preemptions: of running requests.
        drafted, accepted: speculative tokens.
    """

    running: int
    waiting: int
    free_blocks: int
    cached_blocks: int
    blocks: int
    mark_bytes: int
    tokens_per_second: float
    prompt_tokens: int
    hit_tokens: int
    output_tokens: int
    steps: int
    step_tokens: int
    preemptions: int
    drafted: int
    accepted: int


class Engine:
    """Runs requests on one model.

    Args:
        model: its compute_dtype is also the state's.
        chunk: tokens of one step at most, prompts and answers together; unless given what suits the model's kernels.
        sequences: requests that run at once; more wait.  waiting: requests that may wait; more are refused.
        memory: bytes of the model's state; unless given half of what the device has free, a quarter on a CPU, which others use too.
        prefix_cache: keep what was computed for later requests of the same owner that begin alike.
        mark_every: tokens between the states that are kept for hits, a multiple of the block size; 0: none; every block's end unless
            given (cache/prefix.py has the trade-off).  mark_memory: their bytes at most; an eighth of the host's free memory unless given.
        speculate: draft with the MTP block, if the model has one: "auto" while it pays, "always", or "off".
        store: second tier of the prefix cache.  journal: write-ahead log of requests with an id. Both stay the caller's to close.

    Raises:
        UserError: an option out of range, or too little memory.
    """

    def __init__(self, model: Transformer, *, chunk: int | None = None, sequences: int = SEQUENCES, waiting: int = WAITING, memory: int | None = None,
                 prefix_cache: bool = True, mark_every: int | None = None, mark_memory: int | None = None, speculate: Mode = "auto",
                 store: BlockStore | None = None, journal: Journal | None = None) -> None:
        chunk = (CHUNK if model.packer else PLAIN_CHUNK) if chunk is None else chunk
        for name, value in (("chunk", chunk), ("sequences", sequences), ("waiting", waiting)):
            if value < 1:
                raise UserError(name, value, "at least 1")
        if speculate not in ("auto", "always", "off"):
            raise UserError("speculate", speculate, "auto, always or off")
        self.model, self.chunk, self.journal = model.requires_grad_(False).eval(), chunk, journal
        c, device = model.config, model.embed.weight.device
        every = c.block_size if mark_every is None else mark_every
        if every < 0 or every % c.block_size:
            raise UserError("mark_every", every, f"0 or a multiple of {c.block_size} tokens, the model's block size")
        self.speculation = Speculation(speculate) if speculate != "off" and c.num_nextn_predict_layers else None
        precision = model.precision
        mtp = self.speculation is not None
        memory = memory_info(device)[0] // (4 if device.type == "cpu" else 2) if memory is None else memory
        blocks = Pool(block_count(c, precision, slots=sequences, memory=memory, drafts=int(mtp), mtp=mtp))
        self.state = State(c, num_slots=sequences, num_blocks=blocks.count, precision=precision, device=device, drafts=int(mtp), mtp=mtp)
        self.context = min(c.max_position_embeddings, blocks.count * c.block_size)
        """Tokens of the longest sequence, prompt and answer together."""
        packing = Packing(self.state)
        cache = None
        if prefix_cache:
            reach = max(c.sliding_window - 1, CSA_RATIO)  # what is remembered of the last layer's input: a window, CSA's last full window
            mark_memory = memory_info(torch.device("cpu"))[0] // 8 if mark_memory is None else mark_memory
            cache = PrefixCache(blocks, packing, block_size=c.block_size, rebuild=(c.num_hidden_layers - 1) * (c.sliding_window - 1) + reach,
                                every=every, mark_bytes=mark_memory, store=store, namespace=f"{fingerprint(model)} {precision}" if store else "")
        self.cache = cache
        self.scheduler = Scheduler(budget=chunk, block_size=c.block_size, slots=Pool(sequences), blocks=blocks, cache=cache)
        self._runner = Runner(model, self.state, packing, self.speculation)
        self._most_waiting = waiting
        self._stepping = threading.RLock()  # whoever holds it may touch scheduler, cache and runner
        self._busy = False  # in the middle of a step
        self._changed = threading.Condition()  # guards what follows
        self._submitted: deque[Sequence] = deque()
        self._cancelled: set[Ticket] = set()
        self._sequences: dict[Ticket, Sequence] = {}  # unfinished ones
        self._arrivals, self._draining, self._closing = 0, False, False
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        """What ended the engine's thread; nothing more is accepted then."""
        self._totals = {"prompt_tokens": 0, "hit_tokens": 0, "output_tokens": 0, "step_tokens": 0}
        self._given: deque[tuple[float, int]] = deque()

    # --- requests ---

    def submit(self, request: Request, on_output: Callable[[Output], None] | None = None) -> Ticket:
        """Queues a request. A request with an id that the journal knows goes on where it was interrupted: its ticket gives all Outputs
        from the first, those of earlier runs at once.

        Args:
            on_output: see Ticket.

        Raises:
            UserError: a malformed request, one that can never fit, or an id that belongs to another request.
            Overloaded: too many are waiting, or the engine is shutting down.
        """
        limit = self._check(request)
        ticket = Ticket(request, on_output, self._cancel, self._work_for)
        with self._changed:
            if self.failure is not None:
                raise RuntimeError("the engine has failed") from self.failure
            if self._draining or self._closing:
                raise Overloaded("the engine is shutting down")
            if len(self._sequences) - len(self.scheduler.running) >= self._most_waiting:
                raise Overloaded(f"{self._most_waiting} requests are waiting")
            logged = self.journal.open(request).outputs if self.journal and request.id else ()
            seq = Sequence(request, ticket, self._arrivals, limit, logged)
            self._arrivals += 1
            self._sequences[ticket] = seq
            self._submitted.append(seq)
            self._changed.notify_all()
        return ticket

    def generate(self, request: Request) -> Iterator[Output]:
        """The answer, token by token. It ends at a stop token, at max_tokens, or where the engine's context does. Leaving it early
        cancels the request. Without the engine's thread each `next` computes what it needs, for all requests under way.

        Raises:
            UserError, Overloaded: see submit; with the first `next`.
        """
        ticket = self.submit(request)
        try:
            yield from ticket
        finally:
            ticket.cancel()
            if self._thread is None:
                with self._stepping:
                    if not self._busy:  # a generator can be collected in the middle of a step
                        self._take_in()

    def prompt_logprobs(self, prompt: tuple[int, ...]) -> list[float]:
        """Log-probability of each prompt token after the first, given those before it."""
        request = Request(prompt, 0, prompt_logprobs=True)
        ticket = self.submit(request)
        for _ in ticket:
            pass
        return [logprob for logprob, _ in ticket.prompt_logprobs or []]

    def _check(self, request: Request) -> int:
        """Where the answer ends at the latest, exclusive."""
        vocabulary, n = self.model.config.vocab_size, len(request.prompt)
        if not n:
            raise UserError("prompt", None, "empty", "give at least one token, such as BOS")
        bad = [t for t in request.prompt if not 0 <= t < vocabulary]
        if bad:
            raise UserError("prompt", f"token {bad[0]}", f"ids below the model's vocab_size = {vocabulary}", "use the model's own tokenizer")
        if request.max_tokens < (0 if request.prompt_logprobs else 1):
            raise UserError("max_tokens", request.max_tokens, "at least 1, or 0 with prompt_logprobs")
        if not 0 <= request.top_logprobs <= TOP:
            raise UserError("top_logprobs", request.top_logprobs, f"0 to {TOP}")
        if n >= self.context + (request.max_tokens == 0):
            raise UserError("prompt", f"{n} tokens", f"the context is {self.context} tokens, answer included",
                            "shorten it, or use a model with a longer context or more memory")
        return min(n + request.max_tokens, self.context)

    def _cancel(self, ticket: Ticket) -> None:
        with self._changed:
            if ticket in self._sequences:
                self._cancelled.add(ticket)
                self._changed.notify_all()

    def _work_for(self, ticket: Ticket) -> None:
        """Steps until a ticket has something to give, where no thread does that."""
        while self._thread is None and not ticket.ready:
            if not self.step() and not ticket.ready and self._thread is None:
                raise RuntimeError("a request is waiting and there is nothing to compute")

    # --- steps ---

    def step(self) -> bool:
        """Takes in what is new and computes one step; False when there is nothing to compute."""
        with self._stepping:
            self._busy = True
            try:
                self._take_in()
                works = self.scheduler.plan()
                if works:
                    done = self._runner.run(works)
                    self._settle(works, done.outputs, done.marks)
                return bool(works)
            finally:
                self._busy = False

    def _take_in(self) -> None:
        """New requests, with what earlier runs of them gave out, and cancellations."""
        with self._changed:
            submitted, self._submitted = self._submitted, deque()
            tickets, self._cancelled = self._cancelled, set()
            cancelled = [self._sequences[t] for t in tickets if t in self._sequences]
        for seq in submitted:
            self.scheduler.add(seq)
            if seq.logged:
                self._hand_out({seq: seq.replay()}, logged=True)
        self._hand_out({seq: [self._end(seq, "aborted")] for seq in cancelled if not seq.over})

    def _settle(self, works: list[Work], outputs: dict[Sequence, list[Output]], marks: dict[Sequence, dict[int, torch.Tensor]]) -> None:
        """Caches what has become full, and hands out what was drawn."""
        for w in works:
            seq = w.seq
            self._totals["step_tokens"] += w.size
            self.scheduler.extend_cache(seq, marks.get(seq, {}), w.rolling)
            if seq.computed >= seq.prompt_length - 1 and seq.request.prompt_logprobs and seq.ticket.prompt_logprobs is None and not seq.scores_prompt:
                seq.ticket.prompt_logprobs = seq.prompt_scores
            if seq.computed == len(seq.ids) == seq.limit and not seq.finish:  # no token was asked for
                outputs[seq] = [self._end(seq, "length")]
        self._hand_out(outputs)

    def _end(self, seq: Sequence, reason: FinishReason) -> Output:
        """Ends an answer without a token."""
        seq.finish = reason
        return Output(-1, 0.0, reason)

    def _hand_out(self, outputs: dict[Sequence, list[Output]], *, logged: bool = False) -> None:
        """Logs Outputs, frees what those that end held, and delivers them."""
        if not outputs:
            return
        if self.journal and not logged:
            self._log(outputs)
        given = {seq: sum(output.token_id >= 0 for output in found) for seq, found in outputs.items()}
        self._count(sum(given.values()))
        for seq, found in outputs.items():
            if seq.finish:
                self._free(seq)
            seq.given += given[seq]
            seq.ticket.usage = Usage(seq.prompt_length, seq.hit or 0, seq.given)
            try:
                for output in found:
                    seq.ticket.deliver(output)
            except Exception:
                LOG.exception("the receiver of request %r failed; it is cancelled", seq.request.id)
                seq.ticket.cancel()

    def _log(self, outputs: dict[Sequence, list[Output]]) -> None:
        """Appends and commits. Whoever's log can't be written gets nothing more: what was handed out must be in the log."""
        assert self.journal is not None
        named = {seq: found for seq, found in outputs.items() if seq.request.id}
        try:
            for seq, found in named.items():
                for output in found:
                    self.journal.append(seq.request.id, output)
            if named:
                self.journal.commit()
        except OSError:
            for seq in named:
                outputs[seq] = [self._end(seq, "insufficient_system_resource")]

    def _free(self, seq: Sequence) -> None:
        """Everything a sequence held is free; its log is closed."""
        seq.over = True
        self.scheduler.remove(seq)
        self._totals["prompt_tokens"] += seq.prompt_length
        self._totals["hit_tokens"] += seq.hit or 0
        with self._changed:
            del self._sequences[seq.ticket]
            if self.journal and seq.request.id:
                try:
                    self.journal.release(seq.request.id)
                except OSError:
                    LOG.exception("the end of the log of request %r is lost", seq.request.id)
            self._changed.notify_all()

    def _count(self, given: int) -> None:
        now = time.monotonic()
        with self._changed:
            self._totals["output_tokens"] += given
            self._given.append((now, given))
            while self._given[0][0] < now - RATE_SECONDS:
                self._given.popleft()

    # --- the thread ---

    def start(self) -> None:
        """Starts the thread that steps while there is anything to do."""
        assert self._thread is None, "started already"
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Accepts nothing more and waits until all requests have ended, at most `timeout` seconds; whether they have."""
        with self._changed:
            self._draining = True
            if self._thread is not None:
                return self._changed.wait_for(lambda: not self._sequences, timeout)
        while self.step():
            pass
        return not self._sequences

    def close(self) -> None:
        """Stops the thread; requests under way end with "aborted". Closing twice is fine."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._abandon("aborted")

    def stats(self) -> Stats:
        """Counts, from any thread."""
        now = time.monotonic()
        with self._changed:
            recent = [(at, n) for at, n in self._given if at > now - RATE_SECONDS]
            rate = sum(n for _, n in recent) / max(now - recent[0][0], 1.0) if recent else 0.0
            running = len(self.scheduler.running)
            s, cache, spec = self.scheduler, self.cache, self.speculation
            return Stats(running, len(self._sequences) - running, s.blocks.free, cache.idle if cache else 0, s.blocks.count,
                         cache.bytes_of_marks if cache else 0, rate, self._totals["prompt_tokens"], self._totals["hit_tokens"],
                         self._totals["output_tokens"], s.steps, self._totals["step_tokens"], s.preemptions, spec.drafted if spec else 0,
                         spec.accepted if spec else 0)

    def _loop(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closing or self._sequences)
                    if self._closing:
                        return
                self.step()
        except BaseException as failure:
            with self._changed:
                self.failure = failure
            self._abandon("insufficient_system_resource")
            raise

    def _abandon(self, reason: FinishReason) -> None:
        """Ends all requests."""
        with self._stepping, self._changed:
            for seq in list(self._submitted):
                self.scheduler.add(seq)
            self._submitted.clear()
            left = [seq for seq in self._sequences.values() if not seq.over]
            self._hand_out({seq: [self._end(seq, reason)] for seq in left})
