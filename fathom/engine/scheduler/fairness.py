"""Turns between owners: whoever has been served least goes first.

Each owner has an account of tokens computed for it. An owner that comes (back) starts at the least account of those present, so nobody
saves up turns by staying away, and nobody is punished for having worked while the machine was idle. Within an owner, order of arrival.

Prompts under way are ordered a little differently: an owner's prompts that have come far stand behind those that have just begun (in
powers of two), so one very long prompt doesn't hold up the short ones of an operator who gives all users one key.
"""
from __future__ import annotations

from ..sequence import Sequence

QUANTUM = 8192  # tokens up to which prompts go strictly in order of arrival


class Turns:
    """Accounts of the owners present, and the waiting sequences."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Sequence]] = {}  # by owner, in order of arrival
        self._served: dict[str, int] = {}
        self._present: dict[str, int] = {}  # unfinished sequences of each owner

    def __len__(self) -> int:
        return sum(len(queue) for queue in self.waiting.values())

    def enter(self, seq: Sequence) -> None:
        """A new sequence waits."""
        owner = seq.request.owner
        if owner not in self._served:
            self._served[owner] = min(self._served.values(), default=0)
        self._present[owner] = self._present.get(owner, 0) + 1
        self.wait(seq)

    def wait(self, seq: Sequence) -> None:
        """A sequence waits (again), at the place of its arrival."""
        queue = self.waiting.setdefault(seq.request.owner, [])
        queue.append(seq)
        queue.sort(key=lambda s: s.number)

    def stop_waiting(self, seq: Sequence) -> None:
        """It was admitted, or has ended."""
        queue = self.waiting[seq.request.owner]
        queue.remove(seq)
        if not queue:
            del self.waiting[seq.request.owner]

    def leave(self, seq: Sequence) -> None:
        """A sequence has ended."""
        owner = seq.request.owner
        self._present[owner] -= 1
        if not self._present[owner]:
            del self._present[owner], self._served[owner]

    def charge(self, seq: Sequence, tokens: int) -> None:
        """Tokens were computed for a sequence."""
        self._served[seq.request.owner] += tokens

    def next(self) -> Sequence | None:
        """Whose turn it is among the waiting."""
        heads = [queue[0] for queue in self.waiting.values()]
        return min(heads, key=lambda s: (self._served[s.request.owner], s.number), default=None)

    def prompt_order(self, sequences: list[Sequence]) -> list[Sequence]:
        """Sequences in the order in which their prompts should go on."""
        return sorted(sequences, key=lambda s: (self._served[s.request.owner], (s.computed // QUANTUM).bit_length(), s.number))
