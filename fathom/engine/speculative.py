"""Whether guessing ahead pays.

The MTP block guesses the token after the next one; the guess runs along with the next step's token, and where it was right the step
gives two tokens. Since a token is f(logits, sampling, position), a guess is right when it equals the token that is drawn anyway: the
answer stays what it would have been, greedy or sampled.

It costs a longer forward and a pass through the MTP block. With a acceptance, T₂ and T₁ the time of a step with and without guesses,
and G that of guessing, it pays while (1 + a)·T₁ > T₂ + G. All four are measured as the engine runs, by size of the batch, since a large
batch has no idle arithmetic to spend; T₁ from a step now and then that leaves its guesses out. When it doesn't pay, guessing pauses,
for longer each time.
"""
from __future__ import annotations

from typing import Literal

Mode = Literal["auto", "always", "off"]

PROBE = 32  # every so many steps one leaves its guesses out
FIRST_PAUSE, LONGEST_PAUSE = 256, 8192  # steps
ENOUGH = 8  # samples of each before anything is decided
LEAST_ACCEPTANCE = 0.05  # below this no timing is needed
WEIGHT = 0.1  # of a sample in a running mean


class Mean:
    """A running mean that begins as the plain mean of its first samples."""

    def __init__(self) -> None:
        self.value, self.count = 0.0, 0

    def add(self, sample: float) -> None:
        """One more sample."""
        self.count += 1
        self.value += (sample - self.value) * max(WEIGHT, 1 / self.count)


class _Costs:
    """Seconds of steps of one size of batch."""

    def __init__(self) -> None:
        self.plain, self.guessed, self.guessing = Mean(), Mean(), Mean()
        self.steps, self.pause_until, self.pause = 0, 0, FIRST_PAUSE


class Speculation:
    """Decides, step by step, whether sequences guess and whether guesses run along."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.acceptance = Mean()
        self.drafted = self.accepted = 0
        self._costs: dict[int, _Costs] = {}

    def guesses(self, batch: int) -> bool:
        """Whether sequences should guess at this number of decoding sequences."""
        return self.mode == "always" or (self.mode == "auto" and self._of(batch).steps >= self._of(batch).pause_until)

    def leaves_out(self, batch: int) -> bool:
        """Whether this step should run without its guesses, to see what that takes."""
        costs = self._of(batch)
        return self.mode == "auto" and (costs.steps % PROBE == PROBE - 1 or (costs.plain.count < ENOUGH <= costs.guessed.count))

    def record(self, batch: int, *, drafted: int, accepted: int, forward: float, guessing: float | None) -> None:
        """A step that only decoded.

        Args:
            drafted, accepted: guesses that ran along, and those that were right.
            forward: seconds of the step.  guessing: seconds of the MTP block in it; None where it didn't run.
        """
        costs = self._of(batch)
        costs.steps += 1
        if drafted:
            costs.guessed.add(forward)
        else:
            costs.plain.add(forward)
        if guessing is not None:
            costs.guessing.add(guessing)
        if drafted and not self._pays(costs):
            costs.pause_until, costs.pause = costs.steps + costs.pause, min(2 * costs.pause, LONGEST_PAUSE)
            costs.guessed, costs.guessing = Mean(), Mean()  # measured again after the pause
        elif costs.guessed.count > FIRST_PAUSE:
            costs.pause = FIRST_PAUSE

    def count(self, drafted: int, accepted: int) -> None:
        """Guesses that ran along in any step."""
        self.drafted += drafted
        self.accepted += accepted
        if drafted:
            self.acceptance.add(accepted / drafted)

    def _pays(self, costs: _Costs) -> bool:
        if costs.guessed.count < ENOUGH or self.acceptance.count < ENOUGH:
            return True
        if self.acceptance.value < LEAST_ACCEPTANCE:
            return False
        if costs.plain.count < ENOUGH or not costs.guessing.count:
            return True
        return (1 + self.acceptance.value) * costs.plain.value > costs.guessed.value + costs.guessing.value

    def _of(self, batch: int) -> _Costs:
        return self._costs.setdefault(batch.bit_length(), _Costs())
