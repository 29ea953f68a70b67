"""Judgment: put things in order and choose between them when not everything can be had. The right answer is computed, not opined.

Three kinds: `triage` orders incidents by stated priorities and prerequisites; `tradeoff` rules options out by hard limits and
picks the best of the rest by what the asker says a week or a point is worth; `risk` weighs premiums against probable losses
under a limit on the worst case. Each is built so that exactly one answer is right, that the tempting one (the cheapest, the most
urgent, the best on average) is wrong, and that a guess seldom hits: the answer names the choice and the figure behind it.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from fathom.eval import answers as read
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.eval.prose import phrases

LEVELS = (1, 2, 3)
LETTERS = "ABCDEFGH"
INCIDENTS = phrases("""
the loading crane's brake|the cold store's alarm|the north gate's lock|the ferry's bilge pump|the mill's dust filter|the archive's roof|
the boiler's gauge|the payroll run|the visitors' lift|the harbour lights|the seed dryer|the telephone exchange|the water meter|
the weighbridge|the workshop's wiring|the yard's drain
""")
PROJECTS = phrases("""
the new footbridge|the ferry's engine|the school's heating|the market hall's roof|the town archive's move|the tram depot|the flood wall|
the library's catalogue|the observatory's dome|the theatre's stage|the water tower|the grain store
""")


def triage(seed: int, level: int) -> Item:
    """Incidents with danger, deadline, cost of delay and prerequisites; the stated priorities leave exactly one order."""
    rng = item_rng("triage", level, seed)
    count = 4 + level
    names = rng.sample(INCIDENTS, count)
    danger = [rng.random() < 0.35 for _ in names]
    deadline = rng.sample(range(2, 31), count)
    after = _prerequisites(rng, count, level)
    jobs = list(zip(LETTERS, names, danger, deadline, strict=False))
    order = _order(danger, deadline, after)
    lines = []
    for i, (letter, name, dangerous, days) in enumerate(jobs):
        state = "people are in danger until it is done" if dangerous else "nobody is in danger"
        text = f"{letter}. Repair {name}: {state}, due in {days} days"
        lines.append(text + (f", can't begin before {LETTERS[after[i]]} is done." if i in after else "."))
    text = (f"One crew does these {count} jobs one after another:\n" + "\n".join(lines) + "\n\nPriorities: a job never goes before its "
            "prerequisite. Of the jobs that can be begun, one that ends a danger to people goes first, whatever the deadlines; between "
            "equals the earlier deadline goes first. A job gains no priority from what depends on it. In which order are they "
            "done?\n\nEnd with one line:\nORDER: all the letters, separated by commas")
    return _item("triage", seed, level, text, {"order": [LETTERS[i] for i in order]}, f"ORDER: {', '.join(LETTERS[i] for i in order)}")


def _prerequisites(rng: random.Random, count: int, level: int) -> dict[int, int]:
    """{job: the job that must be done before}, `level` of them, without cycles."""
    rank = rng.sample(range(count), count)
    later = rng.sample(range(1, count), level)
    return {rank[i]: rank[rng.randrange(i)] for i in later}


def _order(danger: Sequence[bool], deadline: Sequence[int], after: dict[int, int]) -> list[int]:
    done: list[int] = []
    while len(done) < len(danger):
        ready = [i for i in range(len(danger)) if i not in done and (i not in after or after[i] in done)]
        done.append(min(ready, key=lambda i: (not danger[i], deadline[i])))
    return done


def tradeoff(seed: int, level: int) -> Item:
    """Offers with price, weeks and quality under hard limits; of those within, the least price + weeks × rate − quality × worth."""
    rng = item_rng("tradeoff", level, seed)
    count, project = 3 + level, rng.choice(PROJECTS)
    while True:
        offers = [(rng.randrange(60, 240), rng.randrange(4, 40), rng.randrange(1, 10)) for _ in range(count)]  # thousands, weeks, quality
        most, latest, least = rng.randrange(140, 230), rng.randrange(18, 36), rng.randrange(2, 5)
        week, point = rng.randrange(1, 7), rng.randrange(3, 15)
        out = [LETTERS[i] for i, (price, weeks, quality) in enumerate(offers) if price > most or weeks > latest or quality < least]
        net = {LETTERS[i]: price + week * weeks - point * quality for i, (price, weeks, quality) in enumerate(offers)}
        net = {name: value for name, value in net.items() if name not in out}
        if len(net) < 2 or not out:
            continue
        best, second = sorted(net, key=lambda name: net[name])[:2]
        cheapest = min(net, key=lambda name: offers[LETTERS.index(name)][0])
        if net[second] - net[best] >= 3 and best != cheapest:
            break
    lines = [f"{LETTERS[i]}: {price} thousand crowns, {weeks} weeks, quality {quality} of 10"
             for i, (price, weeks, quality) in enumerate(offers)]
    text = (f"Offers for {project}:\n" + "\n".join(lines) + f"\n\nWe can pay at most {most} thousand, it must be done within {latest} "
            f"weeks, and quality below {least} won't do. Among the offers that keep all "
            f"three, each week costs us {week} thousand more, and each point of quality "
            f"is worth {point} thousand to us. Which offer has the lowest net cost "
            "(price + weeks − quality, each in thousands), and what is it?\n\nEnd with "
            "three lines:\nRULED OUT: the letters of the offers that break a limit, "
            "separated by commas\nCHOICE: one letter\nNET: the number, in thousands")
    answer = f"RULED OUT: {', '.join(out)}\nCHOICE: {best}\nNET: {net[best]}"
    return _item("tradeoff", seed, level, text, {"set": out, "choice": best, "figure": net[best], "label": "NET"}, answer)


def risk(seed: int, level: int) -> Item:
    """Ways to insure against independent events; the least expected cost among those whose worst case is bearable."""
    rng = item_rng("risk", level, seed)
    project = rng.choice(PROJECTS)
    events = 1 + (level > 1)
    while True:
        plans = [(rng.randrange(2, 60), [(10 * rng.randrange(1, 8), 10 * rng.randrange(2, 50)) for _ in range(events)])
                 for _ in range(2 + level)]
        bear = rng.randrange(120, 420)
        worst = {LETTERS[i]: fee + sum(loss for _, loss in risks) for i, (fee, risks) in enumerate(plans)}
        mean = {LETTERS[i]: fee + sum(share * loss for share, loss in risks) // 100 for i, (fee, risks) in enumerate(plans)}
        out = [name for name in worst if worst[name] > bear]
        kept = sorted((name for name in mean if name not in out), key=lambda name: mean[name])
        if not out or len(kept) < 2 or mean[kept[1]] - mean[kept[0]] < 3:
            continue
        if min(mean, key=lambda name: mean[name]) in out:  # the best on average must be the one we can't bear
            break
    lines = []
    for i, (fee, risks) in enumerate(plans):
        parts = " and, independently, ".join(f"with probability {share}% a loss of {loss} thousand" for share, loss in risks)
        lines.append(f"{LETTERS[i]}: a fee of {fee} thousand now; then {parts}")
    text = (f"Ways to go about {project}:\n" + "\n".join(lines) + f"\n\nA total above {bear} thousand, fee included, would ruin us, "
            "however unlikely. Of the ways that can't ruin us, which has the lowest expected total, and what is it?\n\nEnd with three "
            "lines:\nRULED OUT: the letters of the ways that could ruin us, separated by commas\nCHOICE: one letter\nEXPECTED: the "
            "number, in thousands")
    answer = f"RULED OUT: {', '.join(out)}\nCHOICE: {kept[0]}\nEXPECTED: {mean[kept[0]]}"
    return _item("risk", seed, level, text, {"set": out, "choice": kept[0], "figure": mean[kept[0]], "label": "EXPECTED"}, answer)


def _item(kind: str, seed: int, level: int, text: str, payload: dict[str, Any], answer: str) -> Item:
    messages = ({"role": "user", "content": text},)
    return Item(item_id(kind, level, seed), "judgment", kind, level, seed, messages, payload | {"answer": answer}, 1536)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: object = None) -> Verdict:
    """Full score when every asked line is right, else zero."""
    (text,) = as_answers(item, answers)
    want = item.payload
    if "order" in want:
        got = letters(read.marked(text, "ORDER"))
        right = got == want["order"]
        return Verdict(float(right), right, "in order" if right else f"ordered {''.join(got) or 'nothing'}, not {''.join(want['order'])}")
    choice = letters(read.marked(text, "CHOICE"))
    if choice != [want["choice"]]:
        return Verdict(0.0, False, f"chose {''.join(choice) or 'nothing'}, not {want['choice']}")
    if sorted(letters(read.marked(text, "RULED OUT"))) != sorted(want["set"]):
        return Verdict(0.0, False, f"the right choice, but the offers ruled out are {', '.join(want['set'])}")
    figure = read.number(read.marked(text, want["label"]))
    if figure != want["figure"]:
        return Verdict(0.0, False, f"the right choice, but {want['label']} is {want['figure']}, not {figure}")
    return Verdict(1.0, True, "the right choice for the right reason")


def letters(line: str | None) -> list[str]:
    """The single capital letters of a line, in order: `C, A and B` or `C > A > B`; a word among them is no letter."""
    words = "".join(c if c.isalnum() else " " for c in line or "").split()
    return [w for w in words if len(w) == 1 and w in LETTERS]


def reference(item: Item) -> tuple[str, ...]:
    """The lines that the item asks for."""
    return (item.payload["answer"],)


KINDS = tuple(Kind(make.__name__, "judgment", LEVELS, make, judge, reference) for make in (triage, tradeoff, risk))
