"""Long context: can the model use what stands far back? Haystacks of plain prose, 4K to 1M nominal tokens.

Four kinds: `needle` (one number at a known depth, among needles of the same form for other places: the heat map of depth × length),
`needles` (six numbers at once), `trace` (which variables hold a value after a chain of assignments) and `tally` (add up all
deliveries to one depot). The level is the length: 1 is 4K, 9 is 1M. The depth comes from the seed, so that a grid of cells is a
range of seeds (`cell_seed`).
"""
from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from fathom.eval import answers as read
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.eval.prose import PROSE_CHARS, chars, distinct, filler, place

LENGTHS = tuple(4096 * 2**i for i in range(9))  # nominal tokens of levels 1..9
LEVELS = tuple(range(1, len(LENGTHS) + 1))
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LEAD = "The text below is long and mostly idle talk. One question about it follows at its end.\n\n"
ASK = "\n\nThe text ends here. {question}\nEnd with one line:\nANSWER: {shape}"


def cell_seed(sample: int, depth: int) -> int:
    """The seed of a heat map's cell: sample number and index into DEPTHS."""
    return sample * len(DEPTHS) + depth


def needle(seed: int, level: int) -> Item:
    """One six-digit number at the depth that the seed says; others of its form stand elsewhere."""
    rng = item_rng("needle", level, seed)
    towns = distinct(rng, place, 5, set())
    codes = [str(n) for n in rng.sample(range(100_000, 1_000_000), 5)]
    depth = DEPTHS[seed % len(DEPTHS)]
    lines = [f"The signal number of {town} is {code}." for town, code in zip(towns, codes)]
    spots = [depth, *(rng.random() for _ in lines[1:])]
    payload = {"values": codes[:1], "depth": depth, "others": codes[1:]}
    return _item("needle", seed, level, rng, list(zip(spots, lines)), f"What is the signal number of {towns[0]}?", "the number", payload)


def needles(seed: int, level: int) -> Item:
    """Six numbers among twelve, all asked for at once, in the order of the question. Each right one is a sixth of the score."""
    rng = item_rng("needles", level, seed)
    towns = distinct(rng, place, 12, set())
    codes = [str(n) for n in rng.sample(range(100_000, 1_000_000), 12)]
    lines = [(rng.random(), f"The signal number of {town} is {code}.") for town, code in zip(towns, codes)]
    text = f"What are the signal numbers of {', '.join(towns[:5])} and {towns[5]}, in this order?"
    payload = {"values": codes[:6], "others": codes[6:]}
    return _item("needles", seed, level, rng, lines, text, "the six numbers, separated by commas", payload)


def trace(seed: int, level: int) -> Item:
    """Chains of assignments; which names hold one value at the end? Each name is set once, and the lines stand in order."""
    rng = item_rng("trace", level, seed)
    names = distinct(rng, lambda r: "".join(r.choice("BCDFGHJKLMNPQRSTVWXZ") for _ in range(4)), 15, set())
    values = [str(n) for n in rng.sample(range(10_000, 100_000), 3)]
    chains = [names[i * 5:i * 5 + 5] for i in range(3)]
    spots = sorted(rng.random() for _ in names)
    turns = [i for i in range(3) for _ in range(5)]
    rng.shuffle(turns)
    placed, at = [], [0, 0, 0]
    for spot, chain in zip(spots, turns):
        step, mine = at[chain], chains[chain]
        value = f"the same as {mine[step - 1]}" if step else values[chain]
        placed.append((spot, f"Note: let {mine[step]} be {value}."))
        at[chain] += 1
    text = f"Which names stand for {values[0]} according to the notes?"
    return _item("trace", seed, level, rng, placed, text, "the names, separated by commas", {"set": chains[0], "others": chains[1]})


def tally(seed: int, level: int) -> Item:
    """Eight deliveries to one depot among those to three others; how many crates in all?"""
    rng = item_rng("tally", level, seed)
    depots = distinct(rng, place, 4, set())
    amounts = [[rng.randrange(3, 60) for _ in range(8)] for _ in depots]
    lines = [(rng.random(), f"The depot at {depot} took in {n} crates.") for depot, row in zip(depots, amounts) for n in row]
    text = f"How many crates did the depot at {depots[0]} take in, all deliveries together? The same number may come more than once."
    totals = [str(sum(row)) for row in amounts]
    return _item("tally", seed, level, rng, lines, text, "the number", {"values": totals[:1], "others": totals[1:]})


def _item(kind: str, seed: int, level: int, rng: random.Random, placed: Sequence[tuple[float, str]], question: str, shape: str,
          payload: Mapping[str, object]) -> Item:
    """The haystack: `placed` sentences at their depths (0..1, equal depths keep their order) in prose, then the question."""
    tokens = LENGTHS[level - 1]
    room = chars(tokens, PROSE_CHARS) - sum(len(line) + 1 for _, line in placed)
    hay: list[str] = []
    while room > 0:
        hay.append(filler(rng))
        room -= len(hay[-1]) + 1
    total, out, at = len(hay), [], 0
    for depth, line in sorted(placed, key=lambda p: p[0]):
        stop = round(depth * total)
        out += [*hay[at:stop], line]
        at = stop
    out += hay[at:]
    text = "\n".join(" ".join(out[i:i + 12]) for i in range(0, len(out), 12))
    message = {"role": "user", "content": LEAD + text + ASK.format(question=question, shape=shape)}
    return Item(item_id(kind, level, seed), "long_context", kind, level, seed, (message,), {**payload, "tokens": tokens}, 768)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: object = None) -> Verdict:
    """Numbers by their place in the list; names as a set, all or nothing."""
    (text,) = as_answers(item, answers)
    given = read.marked(text, "ANSWER")
    if given is None:
        return Verdict(0.0, False, "no ANSWER line")
    if "set" in item.payload:
        got = re.findall(r"\b[A-Z]{4}\b", given)
        right = sorted(got) == sorted(item.payload["set"])
        return Verdict(float(right), right, "all and only these" if right else f"named {', '.join(got)[:80] or 'none'}")
    want = item.payload["values"]
    got = [n.replace(",", "") for n in re.findall(r"\d{1,3}(?:,\d{3})+(?!\d)|\d+", given)]
    if len(got) != len(want):
        return Verdict(0.0, False, f"{len(got)} numbers, {len(want)} asked for")
    hits = sum(a == b for a, b in zip(got, want))
    return Verdict(hits / len(want), hits == len(want), f"{hits} of {len(want)} right")


def reference(item: Item) -> tuple[str, ...]:
    """The line that the item asks for."""
    return ("ANSWER: " + ", ".join(item.payload.get("set") or item.payload["values"]),)


KINDS = tuple(Kind(make.__name__, "long_context", LEVELS, make, judge, reference) for make in (needle, needles, trace, tally))
