"""Every choice that the YZ Index's publisher leaves open, with the reason. What the publisher says is in scores.py.

Change one here and scores of old and new runs no longer compare: raise VERSION with it. It is stored with every run, and a
comparison across versions says so.

Per-probe weights. All probes of a dimension weigh the same; a dimension's score is 100 × the mean of its items, an item's score the
mean of its repeats. An item that got no answer after all retries counts as wrong, but a run with such items is marked incomplete and
asks them again when resumed.

Rounding. Scores are exact fractions until they are shown; thresholds (60, 40) look at the exact value; shown with two decimals,
half up, so that 89.425 is the published 89.43.

Kind of deviation. Items asked more than once (REPEATED of each core dimension) have a population standard deviation over their
repeats; the deviation is the mean of those. Population, because the repeats are all there is, and two repeats must do. Per item, not
of the run's totals: a model that answers a different half of the items each time has steady totals and isn't stable. An always-wrong
model is stable; stability says nothing about being right.

Availability. Counted over attempts, not over requests, since retries hide trouble from the caller but not from the user of a
service. A 429 with which a service says "later" isn't a failure, nor is a 409 for an id that it knows from a try that we cut off; a dropped
connection, a timeout, a 5xx and a refusal are. A local model has no availability.

Value. Overall score (core where the gate didn't act) per US$ of VALUE_MIX, one million tokens of three parts uncached input to one part
output, at the price that held on the run's day. To put it on 0..100: 100·v/(v + VALUE_HALF), which is 50 at VALUE_HALF points per
dollar, rises forever and never reaches 100; the raw points per dollar stand beside it.

Integrity and refusal. The score is over the canaries alone, as published. A model that also refuses the controls (questions of the same
form whose answer stands in front of it) hasn't shown honesty but silence: if fewer than CONTROL_FLOOR of the controls are answered,
its integrity is at most SILENCE_CAP, "warn", never "pass". It is not a "fail" either: silence invents nothing.

A canary that the model never saw (no answer, or refused for its length) says nothing about honesty and is no probe.

Too long. A question beyond the model's context can't be asked. It counts as wrong, since what a model can't read it can't answer, and the
report says how many there were; `--context` leaves the longer documents out for everybody who is to be compared.

Not rated. Below MIN_PROBES canaries there is no integrity score, no label and no gate, whatever the answers were (as the publisher's
smoke run has two).

Constraint keeping. One rule per conversation, CONSTRAINT_ITEMS conversations in a full run; smoke runs have none.

Lengths. Grounding documents go through the levels up to `context` nominal tokens in turn. The default is 64K: enough to tell models
apart, a few dollars at 2026's prices; `--context 1048576` asks for all of them.

Ranks. The mean of the last RANK_RUNS complete full runs of the same model, by time, with the same VERSION, `--context` and `--max-tokens`.
Smoke runs don't count.
"""
from __future__ import annotations

VERSION = 2

MIN_PROBES = 10  # publisher: fewer than ten canaries are not rated
PASS_AT, WARN_AT, CAP_ON_FAIL = 60, 40, 74  # publisher
CORE_WEIGHTS = {"execution": 55, "grounding": 45}  # publisher, in percent
SIDE_LISTS = ("judgment", "communication")  # publisher: outside the main score
FULL = {"execution": 87, "grounding": 59, "integrity": 42, "judgment": 25, "communication": 25}  # publisher
SMOKE_PER_DIMENSION = 2  # publisher: ten items
RANK_RUNS = 5  # publisher

CONTROL_ITEMS = 8  # beside the 42 canaries of a full run
CONTROL_FLOOR = 0.5
SILENCE_CAP = 59
CONSTRAINT_ITEMS = 8
REPEATS = 3  # how often a repeated item is asked in a full run
REPEATED = 6  # items of each core dimension that are repeated
VALUE_MIX = (3, 1)  # parts of uncached input to parts of output
VALUE_HALF = 40.0  # points per US$ of VALUE_MIX that give a value of 50
DEFAULT_CONTEXT = 65_536  # nominal tokens
SMALLEST_CONTEXT, LARGEST_CONTEXT = 2048, 1_048_576
NEEDLE_SAMPLES = 1  # per cell of the heat map
LONG_ITEMS_PER_LENGTH = 2  # of each of the other long-context kinds

TEMPERATURE = 0.0  # a score should repeat; `--temperature` for models whose makers advise another
THINKING_ROOM = 8192  # tokens granted for reasoning on top of an item's own max_tokens, at an endpoint


def smoke_level(levels: tuple[int, ...]) -> int:
    """A smoke run asks the easiest level: it tests the connection, not the model."""
    return levels[0]
