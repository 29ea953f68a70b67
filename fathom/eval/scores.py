"""The YZ Index v6: from verdicts to the published numbers. What the publisher leaves open is decided in choices.py, nowhere else.

    core      = 0.55 × execution + 0.45 × grounding                     each 0–100
    overall   = min(core, 74.0) where integrity fails, else core        integrity >= 60 pass, 40–59 warn, < 40 fail
    stability = max(0, 100 − 2 × deviation)
    availability = share of successful requests;  value = capability ÷ price;  rank = mean of the last 5 runs
    constraint keeping = Σ points / 4n

Everything up to the standard deviation is exact (fractions), so that a threshold is never missed by a rounding error and the
published examples come out to the digit. `shown` rounds for people.

Source: SPEC section 10 (YZ Index v6 as published).
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from fathom.eval import choices
from fathom.eval.pools import is_control

Number = int | float | Fraction
LABELS = {"pass": "recommended", "warn": "neutral", "fail": "not recommended", "not rated": "not rated"}


@dataclass(frozen=True)
class Outcome:
    """One judged asking of one item. score: 0..1.  answered: False where no answer came after all retries (then score is 0).
    refused: the endpoint or the model's context didn't take the question (score 0, and final)."""

    item_id: str
    dimension: str
    kind: str
    level: int
    repeat: int
    score: float
    passed: bool
    answered: bool = True
    refused: bool = False


@dataclass(frozen=True)
class Dimension:
    """score: 0..100, exact.  items: how many were asked.  passed: how many of them in full.  unanswered: how many never got an answer."""

    score: Fraction
    items: int
    passed: int
    unanswered: int


@dataclass(frozen=True)
class Scores:
    """A run's numbers; None is "not rated", never zero. Fractions are 0..100 unless said otherwise.

    integrity_raw: the canaries' mean before the cap on silence.  controls: share 0..1 of the controls that were answered.
    points_per_dollar: overall per US$ of choices.VALUE_MIX.  constraint_keeping: 0..1, as published.
    """

    dimensions: dict[str, Dimension]
    core: Fraction | None
    overall: Fraction | None
    integrity: Fraction | None
    integrity_raw: Fraction | None
    label: str
    controls: Fraction | None
    stability: float | None
    deviation: float | None
    availability: Fraction | None
    points_per_dollar: float | None
    value: float | None
    constraint_keeping: Fraction | None
    complete: bool


def exact(value: Number) -> Fraction:
    """A number as the fraction that its decimal spelling means: exact(76.5) is 153/2."""
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def shown(value: Number | None, places: int = 2) -> float | None:
    """Rounded for people, half up; None stays None."""
    if value is None:
        return None
    value = exact(value)
    step = Decimal(1).scaleb(-places)
    return float((Decimal(value.numerator) / Decimal(value.denominator)).quantize(step, ROUND_HALF_UP))


def core_score(execution: Number, grounding: Number) -> Fraction:
    """0.55 × execution + 0.45 × grounding."""
    weights = choices.CORE_WEIGHTS
    return (weights["execution"] * exact(execution) + weights["grounding"] * exact(grounding)) / 100


def integrity_label(score: Number | None, probes: int) -> str:
    """pass (>= 60), warn (>= 40), fail, or "not rated" below ten probes."""
    if score is None or probes < choices.MIN_PROBES:
        return "not rated"
    value = exact(score)
    return "pass" if value >= choices.PASS_AT else "warn" if value >= choices.WARN_AT else "fail"


def overall_score(core: Number, label: str) -> Fraction:
    """The core, at most 74.0 where integrity fails."""
    return min(exact(core), Fraction(choices.CAP_ON_FAIL)) if label == "fail" else exact(core)


def stability_score(deviation: float) -> float:
    """max(0, 100 − 2 × standard deviation), the deviation in points of 0..100."""
    return max(0.0, 100.0 - 2.0 * deviation)


def availability_score(succeeded: int, failed: int) -> Fraction | None:
    """100 × share of attempts that succeeded; None where nothing was attempted."""
    return Fraction(100 * succeeded, succeeded + failed) if succeeded + failed else None


def value_score(overall: Number, nano_dollars: int) -> tuple[float | None, float | None]:
    """(points per US$, 0..100) for a price in nano-dollars of choices.VALUE_MIX; (None, None) where it costs nothing."""
    if nano_dollars <= 0:
        return None, None
    points = float(exact(overall) * 10**9 / nano_dollars)
    return points, 100 * points / (points + choices.VALUE_HALF)


def rank_mean(overalls: Sequence[Number]) -> Fraction | None:
    """The mean of the last five runs, oldest first in `overalls`; of fewer where there are fewer; None of none."""
    last = [exact(v) for v in overalls[-choices.RANK_RUNS:]]
    return sum(last, Fraction(0)) / len(last) if last else None


def deviation_of(outcomes: Iterable[Outcome]) -> float | None:
    """Mean over the core items asked at least twice of the population standard deviation of their scores, in points of 0..100."""
    repeats: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.dimension in choices.CORE_WEIGHTS:
            repeats.setdefault(outcome.item_id, []).append(100 * outcome.score)
    deviations = []
    for values in repeats.values():
        if len(values) > 1:
            mean = math.fsum(values) / len(values)
            deviations.append(math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values)))
    return math.fsum(deviations) / len(deviations) if deviations else None


def score_run(outcomes: Sequence[Outcome], *, succeeded: int = 0, failed: int = 0, price: int | None = None,
              expected: int | None = None) -> Scores:
    """All numbers of a run.

    Args:
        outcomes: every judged asking; repeats of an item share its id.
        succeeded, failed: attempts at the endpoint (choices.py says which count); both 0 for a local model.
        price: nano-dollars of choices.VALUE_MIX on the run's day, or None.
        expected: how many askings the run has, to tell whether it is complete; None for all that are given.
    """
    asked = [o for o in outcomes if o.dimension == "integrity" and o.answered and not o.refused]
    canaries, controls = [o for o in asked if not is_control(o.kind)], [o for o in asked if is_control(o.kind)]
    others = [o for o in outcomes if o.dimension != "integrity"]
    rated = (*canaries, *others)
    names = [name for name in dict.fromkeys((*choices.FULL, *(o.dimension for o in rated))) if any(o.dimension == name for o in rated)]
    dimensions = {name: _dimension([o for o in rated if o.dimension == name]) for name in names}
    core = None
    if all(name in dimensions for name in choices.CORE_WEIGHTS):
        core = core_score(dimensions["execution"].score, dimensions["grounding"].score)
    probes = dimensions["integrity"].items if "integrity" in dimensions else 0
    raw = dimensions["integrity"].score if probes >= choices.MIN_PROBES else None
    answered = Fraction(sum(o.passed for o in controls), len(controls)) if controls else None
    silent = answered is not None and answered < exact(choices.CONTROL_FLOOR)
    integrity = min(raw, Fraction(choices.SILENCE_CAP)) if raw is not None and silent else raw
    label = integrity_label(integrity, probes)
    overall = None if core is None else overall_score(core, label)
    points, value = (None, None) if overall is None or price is None else value_score(overall, price)
    deviation = deviation_of(outcomes)
    keeping = dimensions.get("constraints")
    return Scores(
        dimensions=dimensions, core=core, overall=overall, integrity=integrity, integrity_raw=raw, label=label, controls=answered,
        stability=None if deviation is None else stability_score(deviation), deviation=deviation,
        availability=availability_score(succeeded, failed), points_per_dollar=points, value=value,
        constraint_keeping=keeping.score / 100 if keeping else None,
        complete=all(o.answered for o in outcomes) and (expected is None or len(outcomes) == expected))


def _dimension(outcomes: Sequence[Outcome]) -> Dimension:
    items: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        items.setdefault(outcome.item_id, []).append(outcome)
    means = [sum((Fraction(o.score).limit_denominator(10_000) for o in group), Fraction(0)) / len(group) for group in items.values()]
    return Dimension(100 * sum(means, Fraction(0)) / len(means), len(items), sum(all(o.passed for o in group) for group in items.values()),
                     sum(any(not o.answered for o in group) for group in items.values()))
