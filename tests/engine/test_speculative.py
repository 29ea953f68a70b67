"""When guessing pauses and when it is tried again, from given times."""
from __future__ import annotations

from fathom.engine.speculative import FIRST_PAUSE, PROBE, Mode, Speculation


def play(mode: Mode, steps: int, *, acceptance: float, plain: float, guessed: float, guessing: float, batch: int = 1) -> list[str]:
    """What each of `steps` steps did, with steps that take these times."""
    speculation, did, right = Speculation(mode), [], 0.0
    for _ in range(steps):
        if not speculation.guesses(batch):
            did.append("off")
            speculation.record(batch, drafted=0, accepted=0, forward=plain, guessing=None)
            continue
        out = speculation.leaves_out(batch)
        right += 0 if out else acceptance
        accepted, right = int(right), right - int(right)
        did.append("probe" if out else "guess")
        speculation.count(0 if out else 1, accepted)
        speculation.record(batch, drafted=0 if out else 1, accepted=accepted, forward=plain if out else guessed, guessing=guessing)
    return did


def test_it_goes_on_while_it_pays() -> None:
    did = play("auto", 2000, acceptance=0.7, plain=1.0, guessed=1.2, guessing=0.2)
    assert "off" not in did and did.count("probe") < 2000 / PROBE + 20


def test_it_pauses_when_it_costs_more_than_it_gives_and_tries_again() -> None:
    did = play("auto", 3 * FIRST_PAUSE, acceptance=0.4, plain=1.0, guessed=1.3, guessing=0.2)
    assert did.count("off") >= 2 * FIRST_PAUSE and did[-1] == "off"
    starts = [i for i in range(1, len(did)) if did[i] != "off" and did[i - 1] == "off"]
    assert starts, "it looks again after the pause"
    longer = play("auto", 20 * FIRST_PAUSE, acceptance=0.4, plain=1.0, guessed=1.3, guessing=0.2)
    assert longer.count("off") / len(longer) > did.count("off") / len(did), "pauses grow"


def test_guesses_that_are_never_right_need_no_clock() -> None:
    did = play("auto", 100, acceptance=0.0, plain=1.0, guessed=0.5, guessing=0.0)
    assert did.index("off") < 20


def test_always_is_always_and_batches_are_judged_apart() -> None:
    assert set(play("always", 300, acceptance=0.0, plain=1.0, guessed=9.0, guessing=9.0)) == {"guess"}
    speculation = Speculation("auto")
    for _ in range(50):
        for batch, guessed in ((1, 1.1), (16, 2.5)):
            if speculation.guesses(batch):
                out = speculation.leaves_out(batch)
                speculation.count(0 if out else 10, 0 if out else 5)
                speculation.record(batch, drafted=0 if out else batch, accepted=0, forward=1.0 if out else guessed, guessing=0.1)
    assert speculation.guesses(1) and not speculation.guesses(16)
