"""Runs the works of a step through the model and draws tokens.

One forward for all works, whatever they are; then the logits of the rows that end in a token to choose, on the host, one row at a time.
A work with a draft has two such rows: the second counts if the token drawn from the first is the draft. After that the MTP block reads
what has become certain and drafts again.
"""
from __future__ import annotations

import math
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..model import Batch, Run, State, Transformer
from ..model import Output as Streams
from .cache.marks import Packing
from .request import Output
from .sampler import allowed, choose, likeliest, log_total
from .scheduler import Work
from .sequence import Sequence
from .speculative import Speculation

SCORED = 256  # prompt rows whose logits exist at once


@dataclass
class Done:
    """What came of a step: the Outputs of each sequence that drew tokens, and the marks that were captured, by sequence and position."""

    outputs: dict[Sequence, list[Output]] = field(default_factory=dict)
    marks: dict[Sequence, dict[int, Tensor]] = field(default_factory=dict)


class Runner:
    """The model's side of the engine.

    Args:
        packing: of `state`.  speculation: None where nothing is ever drafted.
    """

    def __init__(self, model: Transformer, state: State, packing: Packing, speculation: Speculation | None) -> None:
        self.model, self.state, self.packing, self.speculation = model, state, packing, speculation
        self.device = model.embed.weight.device
        self._batch = 1  # sequences that choose a token in this step
        c = model.config
        self._window_only_mtp = bool(c.num_nextn_predict_layers) and not c.compress_ratios[-1]

    @torch.no_grad()
    def run(self, works: list[Work]) -> Done:
        """Computes a step; afterwards its sequences stand where it left them."""
        began, done = time.perf_counter(), Done()
        self._batch = sum(w.decodes for w in works) or 1
        only_decodes = all(w.decodes and w.length == 1 for w in works)
        if only_decodes and self.speculation and self.speculation.leaves_out(len(works)):
            for w in works:
                w.leave_drafts_out()
        for w in works:
            if not w.seq.entered:
                self._enter(w.seq)
        out, captured = self._forward(works)
        self._score_prompts(works, out.hidden)
        drafted = sum(len(w.drafts) for w in works)
        self._draw(works, out.hidden, done)
        drawn = time.perf_counter()
        followed = self._draft(works, out.streams, captured)
        for w, rows in captured.items():
            done.marks[w.seq] = {end: self.packing.pack_mark(parts) for end, parts in rows.items() if end <= w.seq.computed}
        if self.speculation:
            accepted = sum(len(outputs) for outputs in done.outputs.values()) - len(done.outputs)
            self.speculation.count(drafted, accepted)
            if only_decodes:
                self.speculation.record(len(works), drafted=drafted, accepted=accepted, forward=drawn - began,
                                        guessing=time.perf_counter() - drawn if followed else None)
        return done

    # --- the slot of a sequence that was admitted ---

    def _enter(self, seq: Sequence) -> None:
        """Puts into the slot what the sequence begins with."""
        seq.entered, mtp = True, False
        if seq.mark is not None:
            rows = self.packing.unpack_mark(seq.mark)
            mtp, seq.mark = self.packing.has_mtp(seq.mark), None
            ahead = {name: rows.pop(name) for name in list(rows) if name.startswith("mtp")}
            self.state.restore(seq.slot, seq.computed, rows)
            if mtp and self._follows(seq):
                self.state.buffers["mtp.0.streams"][seq.slot] = ahead.pop("mtp.0.streams").to(self.device)
                self.state.restore(seq.slot, seq.computed - 1, ahead)
                seq.draft_from = seq.computed - 1
                return
        elif seq.computed:
            self.state.clear(seq.slot)
        self._follow(seq)

    def _follows(self, seq: Sequence) -> bool:
        return self.speculation is not None and seq.request.speculate and self.speculation.guesses(self._batch)

    def _follow(self, seq: Sequence) -> None:
        """Lets the MTP block follow a sequence from here on. Where it hasn't seen what came before, its first drafts are worse, no more;
        only entries of its own it can't do without."""
        if self._follows(seq) and (self._window_only_mtp or not seq.computed):
            if seq.computed:
                self.state.buffers["mtp.0.window"][seq.slot] = 0
            seq.draft_from = seq.computed

    # --- forward ---

    def _forward(self, works: list[Work]) -> tuple[Streams, dict[Work, dict[int, dict[str, Tensor]]]]:
        """The main model on all works; and what was captured, by work, position and buffer."""
        ids = [t for w in works for t in (*w.seq.ids[w.start : w.start + w.length], *w.drafts)]
        runs = tuple(Run(w.start, w.size, w.seq.slot, w.seq.blocks, w.seq.known, w.marks) for w in works)
        self.state.captured = {}
        out = self.model(Batch(torch.tensor(ids, dtype=torch.int64, device=self.device), runs), self.state)
        for w in works:
            w.seq.computed += w.length
        return out, self._take_captured([(w, w.marks) for w in works])

    def _take_captured(self, marks: Seq[tuple[Work, Seq[int]]]) -> dict[Work, dict[int, dict[str, Tensor]]]:
        found: dict[Work, dict[int, dict[str, Tensor]]] = {}
        number = 0
        for w, ends in marks:
            for end in ends:
                found.setdefault(w, {})[end] = {name: rows[number] for name, rows in self.state.captured.items()}
                number += 1
        self.state.captured = {}
        return found

    # --- tokens ---

    def _draw(self, works: list[Work], hidden: Tensor, done: Done) -> None:
        """The next token, and the one after a draft that was right."""
        rows, offset, first = [], 0, {}
        for w in works:
            if w.decodes:
                first[w] = len(rows)
                rows += range(offset + w.length - 1, offset + w.size)
            offset += w.size
        if not rows:
            return
        logits = self._logits(hidden, rows)
        for w, row in first.items():
            seq, outputs = w.seq, done.outputs.setdefault(w.seq, [])
            for draft in (*w.drafts, -1):
                outputs.append(self._next(seq, logits[row]))
                row += 1
                if seq.finish or outputs[-1].token_id != draft:
                    break
                seq.computed += 1
            seq.drafts = ()

    def _next(self, seq: Sequence, row: np.ndarray) -> Output:
        """The token that follows a sequence, of logits [V]; it is then part of it."""
        try:
            token = self._choose(seq, row)
            if token < 0:  # the constraint allows nothing more, or the logits aren't numbers
                seq.finish = "stop" if row.max() < math.inf else "insufficient_system_resource"
                return Output(-1, 0.0, seq.finish)
            total = log_total(row)
            return seq.accept(token, float(row[token]) - total, likeliest(row, seq.request.top_logprobs, total))
        except Exception:
            return seq.fail()

    def _choose(self, seq: Sequence, row: np.ndarray) -> int:
        mask = seq.next_mask()
        return choose(row if mask is None else allowed(row, mask), seq.request.sampling, len(seq.ids))

    def _logits(self, hidden: Tensor, rows: list[int]) -> np.ndarray:
        """Logits [n, V] of some rows of hidden states, on the host."""
        chosen = hidden if len(rows) == len(hidden) else hidden[torch.tensor(rows, device=hidden.device)]
        return self.model.logits(chosen).cpu().numpy()

    def _score_prompts(self, works: list[Work], hidden: Tensor) -> None:
        """Log-probabilities of prompt tokens, of those who asked for them."""
        offset = 0
        for w in works:
            seq = w.seq
            if seq.request.prompt_logprobs:
                first, last = max(w.start, len(seq.prompt_scores)), min(w.start + w.length, seq.prompt_length - 1)
                for a in range(first, last, SCORED):
                    b = min(a + SCORED, last)
                    logits = self._logits(hidden, list(range(offset + a - w.start, offset + b - w.start)))
                    for row, token in zip(logits, seq.ids[a + 1 : b + 1], strict=True):
                        total = log_total(row)
                        seq.prompt_scores.append((float(row[token]) - total, likeliest(row, seq.request.top_logprobs, total)))
            offset += w.size

    # --- drafts ---

    def _draft(self, works: list[Work], streams: Tensor, captured: dict[Work, dict[int, dict[str, Tensor]]]) -> bool:
        """Runs the MTP block over what has become certain; new drafts for those who chose a token. False where nobody is followed."""
        if not self.speculation:
            return False
        guesses = self.speculation.guesses(self._batch)
        parts, next_ids, runs, marks, drafting, offset = [], [], [], [], [], 0
        for w in works:
            seq, flat = w.seq, offset - w.start
            offset += w.size
            if not guesses:
                seq.draft_from = -1
            elif seq.draft_from < 0 and w.decodes and not seq.finish:
                self._follow(seq)
                continue
            a, b = seq.draft_from, min(seq.computed, len(seq.ids) - 1)
            if a < 0 or seq.finish or b <= a:
                continue
            if a < w.start:
                parts.append(self.state.buffers["mtp.0.streams"][seq.slot].to(streams.dtype).unsqueeze(0))
            parts.append(streams[flat + max(a, w.start) : flat + b])
            next_ids += seq.ids[a + 1 : b + 1]
            ends = [end for end in captured.get(w, ()) if self._window_only_mtp and a < end <= b]
            for end in ends:
                captured[w][end]["mtp.0.streams"] = streams[flat + end - 1]
            runs.append(Run(a, b - a, seq.slot, seq.blocks, 0, tuple(end - 1 for end in ends)))
            marks.append((w, ends))
            seq.draft_from = b
            if w.decodes and len(seq.ids) + 1 < seq.limit:
                drafting.append((seq, sum(r.length for r in runs) - 1))
        if not runs:
            return False
        ids = torch.tensor(next_ids, dtype=torch.int64, device=self.device)
        hidden, _ = self.model.predict_second(torch.cat(parts), ids, Batch(ids, tuple(runs)), self.state)
        for w, rows in self._take_captured(marks).items():
            for end, named in rows.items():
                captured[w][end] |= named
        if drafting:
            logits = self._logits(hidden, [row for _, row in drafting])
            for (seq, _), row in zip(drafting, logits, strict=True):
                seq.drafts = self._guess(seq, row)
        return True

    def _guess(self, seq: Sequence, row: np.ndarray) -> tuple[int, ...]:
        """A draft of the next token, drawn as the token itself will be; none where there is no choice."""
        try:
            token = self._choose(seq, row)
        except Exception:  # it will happen again when the token is due, and end the request there
            return ()
        return (token,) if token >= 0 else ()
