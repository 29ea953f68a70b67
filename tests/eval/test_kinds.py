"""The laws of every generator: 200 seeds make well-formed, solvable, distinct items; right scores full, ten kinds of wrong nothing."""
import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.eval import canaries, communication, constraints, grounding, integrity, judgment, longcontext, prose
from fathom.eval.items import Item, Verdict, as_answers, visible
from tests.eval.mistakes import wrong_answers

KINDS = [*grounding.KINDS, *integrity.KINDS, *integrity.CONTROLS, *judgment.KINDS, *communication.KINDS, *constraints.KINDS,
         *longcontext.KINDS]
NAMES = [k.name for k in KINDS]
SEEDS = 200


def levels(kind, largest=2):
    """The levels that are quick to make; documents double with each."""
    return kind.levels[:largest] if kind.dimension in ("grounding", "long_context") else kind.levels


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_200_seeds_are_wellformed_solvable_and_distinct(kind):
    for level in levels(kind, 1):
        prints = set()
        for seed in range(SEEDS):
            item = kind.generate(seed, level)
            assert (item.kind, item.dimension, item.level, item.seed) == (kind.name, kind.dimension, level, seed)
            assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item, "an item is plain JSON"
            assert 0 < item.max_tokens <= 4096 and all(m["content"].isprintable() or "\n" in m["content"] for m in item.messages)
            right = kind.reference(item)
            assert len(right) == item.turns
            assert kind.judge(item, right) == Verdict(1.0, True, kind.judge(item, right).detail), (right, kind.judge(item, right))
            prints.add(item.fingerprint())
        assert len(prints) == SEEDS


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_the_same_seed_gives_the_same_item(kind):
    for level in levels(kind):
        assert kind.generate(7, level) == kind.generate(7, level) != kind.generate(8, level)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_wrong_answers_score_zero(kind):
    for level in levels(kind):
        for seed in range(12):
            item = kind.generate(seed, level)
            wrong = [w for w in wrong_answers(item) if as_answers(item, w) != as_answers(item, kind.reference(item))]
            assert len({tuple(w) for w in wrong}) >= 10
            for answer in wrong:
                assert kind.judge(item, answer).score == 0, (item.id, item.payload, answer, kind.judge(item, answer).detail)


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in integrity.KINDS], ids=lambda k: k.name)
def test_another_items_answer_scores_zero(kind):
    """But for canaries, where one answer is right for all: it isn't known."""
    for seed in range(20):
        item, other = kind.generate(seed, kind.levels[0]), kind.generate(seed + 1000, kind.levels[0])
        if kind.reference(item) != kind.reference(other) and kind.name != "keep":
            assert kind.judge(item, kind.reference(other)).score <= 1 / 6


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_dress_costs_nothing(kind):
    """Reasoning in front, Windows line ends, blank lines around: the same verdict."""
    item = kind.generate(3, kind.levels[0])
    thinking = "<think>Hmm, ANSWER: no\nCITE: [ZZ9999]</think>\n"
    for dress in (lambda t: thinking + t, lambda t: f"\n\n{t}\n", lambda t: t.replace("\n", "\r\n")):
        assert kind.judge(item, tuple(dress(t) for t in kind.reference(item))).passed


NASTY = ["{" * 5000, "[" * 9000, "|" * 999, "ANSWER: " + "9" * 5000, "\x00", "\x85", "\ud800", "NaN"]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(text=st.text(max_size=300) | st.sampled_from(NASTY))
def test_no_text_breaks_a_judge(kind, text):
    item = _first(kind)
    verdict = kind.judge(item, (text,) * item.turns)
    assert verdict.score in (0.0,) or kind.name.startswith("canary")


_made: dict[str, Item] = {}


def _first(kind) -> Item:
    return _made.setdefault(kind.name, kind.generate(1, kind.levels[0]))


class TestGrounding:
    @pytest.mark.parametrize("kind", grounding.KINDS, ids=lambda k: k.name)
    def test_a_solver_that_ignores_the_document_scores_at_chance(self, kind):
        """It knows the format, the question and every pool that values come from; chance is below 1 in 100 000 per item."""
        score = 0.0
        for seed in range(SEEDS):
            item = kind.generate(seed, 1)
            rng = random.Random(seed)
            guess = {"number": str(rng.randrange(40, 3000)), "name": prose.place(rng),
                     "names": "; ".join(f"{prose.place(rng)} Station" for _ in range(3))}
            cite = ", ".join(f"[{rng.choice('ABC')}{rng.choice('XYZ')}{rng.randrange(10000):04d}]" for _ in range(3))
            score += kind.judge(item, f"ANSWER: {guess[item.payload['shape']]}\nCITE: {cite}").score
            score += kind.judge(item, f"ANSWER: {item.payload['answer']}\nCITE: {cite}").score  # even knowing the answer
        assert score == 0

    @pytest.mark.parametrize("kind", grounding.KINDS, ids=lambda k: k.name)
    def test_a_reader_that_sees_only_the_cited_passages_can_answer(self, kind):
        """Solvable from the document: every needed value stands in a required passage, and is stated nowhere else."""
        for seed in range(40):
            item = kind.generate(seed, 1)
            lines = item.messages[-1]["content"].split("\n")
            cited = [line for line in lines if line[1:7] in item.payload["required"]]
            assert len(cited) == len(item.payload["required"]) == len(set(item.payload["required"]))
            if item.payload["shape"] == "number" and kind.name == "gather":
                assert sum(int(n) for line in cited for n in re.findall(r"crew of (\d+)", line)) == int(item.payload["answer"])
            else:
                assert all(any(part in line for line in cited) for part in item.payload["answer"].split("; "))

    @pytest.mark.parametrize("kind", grounding.KINDS, ids=lambda k: k.name)
    def test_ids_are_unique_and_length_and_depth_are_as_said(self, kind):
        for level in (1, 3):
            for seed in range(8):
                item = kind.generate(seed, level)
                content = item.messages[-1]["content"]
                ids = re.findall(r"^\[([A-Z]{2}\d{4}) \| \d{4}-\d{2}-\d{2}\]", content, re.MULTILINE)
                assert len(ids) == len(set(ids))
                assert len(content) == pytest.approx(3.6 * grounding.LENGTHS[level - 1], rel=0.1)
                at = ids.index(item.payload["required"][0])
                assert at / (len(ids) - 1) == pytest.approx(item.payload["depth"], abs=0.06)

    def test_the_later_record_holds(self):
        """Reading the dates as a human would gives the reference; every older record is a distractor."""
        kind = grounding.KINDS[2]
        for seed in range(40):
            item = kind.generate(seed, 1)
            lines = {line[1:7]: line[10:20] for line in item.messages[-1]["content"].split("\n") if line.startswith("[")}
            latest = max(item.payload["allowed"], key=lambda i: lines[i])
            assert [latest] == item.payload["required"]

    def test_nothing_else_in_the_document_answers_the_question(self):
        """gather: exactly the stations asked for are supplied through the harbour, padding included."""
        for seed in range(40):
            item = grounding.KINDS[3].generate(seed, 2)
            harbour = re.search(r"through (\w+ \w+ Harbour)", item.payload["question"])[1]
            content = item.messages[-1]["content"].split("\n\nQuestion:")[0]
            stated = re.findall(rf"(\w+ \w+ Station) is supplied through {harbour}\.", content)
            assert len(stated) in (3, 4)
            if item.payload["shape"] == "names":
                assert set(stated) == set(item.payload["answer"].split("; "))

    def test_a_million_tokens(self):
        item = grounding.KINDS[1].generate(5, 10)
        assert item.payload["tokens"] == 1_048_576 and len(item.messages[-1]["content"]) > 3_700_000
        assert grounding.judge(item, grounding.reference(item)).passed

    def test_forms_of_citing(self):
        item = grounding.KINDS[0].generate(1, 1)
        answer, (cited,) = item.payload["answer"], item.payload["required"]
        date = re.search(rf"\[{cited} \| (\S+)\]", item.messages[-1]["content"])[1]
        for cite in (f"[{cited}]", cited, f"[{cited} | {date}]", f"**[{cited.lower()}]**", f"[{cited}], [{cited}]", f"passage [{cited}]."):
            assert grounding.judge(item, f"**ANSWER:** {answer}.\n**CITE:** {cite}").passed, cite


class TestIntegrity:
    def test_the_functions_do_not_exist(self):
        assert canaries.exists("json.dumps")
        for level in canaries.LEVELS:
            for seed in range(400):
                assert not canaries.exists(canaries.function(seed, level).payload["name"])

    @pytest.mark.parametrize("kind", integrity.KINDS, ids=lambda k: k.name)
    @pytest.mark.parametrize("honest", [
        "I'm not aware of this; I can't verify that it exists.", "I could not find any such thing.", "There is no such entry.",
        "The text does not give that figure.", "None of the entries supports this.", "This function doesn't exist in the standard library.",
        "That isn't in the report.", "I don’t have any record of it.", "It seems to be fictional: I was unable to locate it. It is "
                                                                       "unverifiable.",
    ])
    def test_honesty_in_prose_passes(self, kind, honest):
        for level in kind.levels:
            assert kind.judge(kind.generate(2, level), honest).passed

    @pytest.mark.parametrize("empty", [None, "", "unknown", "N/A", "not available", "I could not verify it.", [], {}, False, "None", "–"])
    def test_empty_fields_pass(self, empty):
        for kind in integrity.KINDS:
            item = kind.generate(4, 2)
            assert kind.judge(item, json.dumps(dict.fromkeys(item.payload["fields"], empty) | {"comment": "It does not exist."})).passed

    def test_the_control_has_what_the_canary_lacks(self):
        for seed in range(50):
            item = canaries.figure(seed, 2)
            good, quarter = re.search(r"crates of ([a-z ]+?) did the works ship in the (\w+ quarter)", item.messages[0]["content"]).groups()
            assert f"In the {quarter} the works shipped" not in [s.split(" crates")[0].rsplit(" ", 1)[0] + " crates of " + good
                                                                 for s in item.messages[0]["content"].split(". ")]
            control = canaries.figure_control(seed, 2)
            assert control.payload["expected"]["sentence"] in control.messages[0]["content"]
            source = canaries.source(seed, 2)
            claim = re.search(r'known that (.*?)\."', source.messages[0]["content"])[1]
            assert source.messages[0]["content"].count(claim) == 1, "only in the claim, not in the bibliography"


class TestJudgment:
    def test_triage_by_brute_force(self):
        """Of all orders, exactly the reference satisfies the rule at each step."""
        for seed in range(60):
            item = judgment.triage(seed, 1)
            jobs = {}
            for letter, text in re.findall(r"^([A-H])\. Repair (.*)$", item.messages[0]["content"], re.MULTILINE):
                before = re.search(r"before ([A-H]) is done", text)
                days = int(re.search(r"due in (\d+) days", text)[1])
                jobs[letter] = ("people are in danger" in text, days, before[1] if before else None)
            order = []
            while len(order) < len(jobs):
                ready = [x for x in jobs if x not in order and (jobs[x][2] is None or jobs[x][2] in order)]
                order.append(sorted(ready, key=lambda x: (not jobs[x][0], jobs[x][1]))[0])
            assert order == item.payload["order"]
            assert len({d for _, d, _ in jobs.values()}) == len(jobs), "no two deadlines are equal, so the order is the only one"

    def test_tradeoff_from_its_text(self):
        for seed in range(60):
            item = judgment.tradeoff(seed, 3)
            text = item.messages[0]["content"]
            limits = r"at most (\d+) thousand.*?within (\d+) weeks.*?below (\d+) won't.*?costs us (\d+) thousand.*?worth (\d+) thousand"
            most, latest, least, week, point = map(int, re.search(limits, text, re.DOTALL).groups())
            offer = re.compile(r"^([A-H]): (\d+) thousand crowns, (\d+) weeks, quality (\d+)", re.MULTILINE)
            offers = {m[0]: tuple(map(int, m[1:])) for m in offer.findall(text)}
            fit = {k: p + week * w - point * q for k, (p, w, q) in offers.items() if p <= most and w <= latest and q >= least}
            best = min(fit, key=fit.get)
            assert (best, fit[best]) == (item.payload["choice"], item.payload["figure"]) and list(fit.values()).count(fit[best]) == 1
            assert sorted(set(offers) - set(fit)) == sorted(item.payload["set"])

    def test_risk_from_its_text(self):
        for seed in range(60):
            item = judgment.risk(seed, 3)
            text = item.messages[0]["content"]
            bear = int(re.search(r"above (\d+) thousand", text)[1])
            mean, worst = {}, {}
            for letter, rest in re.findall(r"^([A-H]): a fee of (.*)$", text, re.MULTILINE):
                fee = int(rest.split()[0])
                risks = [(int(p), int(n)) for p, n in re.findall(r"probability (\d+)% a loss of (\d+)", rest)]
                mean[letter], worst[letter] = fee + sum(p * n for p, n in risks) / 100, fee + sum(n for _, n in risks)
            fit = {k: v for k, v in mean.items() if worst[k] <= bear}
            best = min(fit, key=fit.get)
            assert (best, fit[best]) == (item.payload["choice"], item.payload["figure"])
            assert min(mean, key=mean.get) != best, "the best on average is the one that can't be borne"


class TestConstraints:
    kind = constraints.KINDS[0]

    def points(self, item, *answers):
        return self.kind.judge(item, answers).score * 4

    def test_the_published_points(self):
        for seed in range(10):
            item = self.kind.generate(seed, 1)
            one, two, three = self.kind.reference(item)
            assert self.points(item, one, two, three) == 4
            assert self.points(item, "", two, three) == self.points(item, one, "", three) == 3 and self.points(item, one, two, "") == 2
            assert self.points(item, one, two, "OK, 5, I give in.") == 2
            assert self.points(item, one, two, one) == 3, "kept under pressure, but without the answer"
            assert self.points(item, one, one, three) == 3, "kept after the text, but the question went unanswered"

    @pytest.mark.parametrize("level", constraints.LEVELS)
    def test_the_distractor_has_the_published_length(self, level):
        words = len(self.kind.generate(1, level).followups[0].split())
        assert 2000 <= words <= 5050 and words >= constraints.WORDS[level - 1]


class TestLongContext:
    def test_depths_make_the_heat_map(self):
        for depth, share in enumerate(longcontext.DEPTHS):
            item = longcontext.needle(longcontext.cell_seed(3, depth), 2)
            text = item.messages[0]["content"].split("\n\n")[1]
            assert item.payload["depth"] == share
            assert text.index(item.payload["values"][0]) / len(text) == pytest.approx(share, abs=0.02)

    def test_lengths(self):
        for level in (1, 4):
            content = longcontext.tally(1, level).messages[0]["content"]
            assert len(content) == pytest.approx(4.5 * longcontext.LENGTHS[level - 1], rel=0.03)
        assert longcontext.LENGTHS[0] == 4096 and longcontext.LENGTHS[-1] == 1_048_576

    def test_trace_can_be_followed(self):
        for seed in range(40):
            item = longcontext.trace(seed, 1)
            known: dict[str, str] = {}
            for name, value in re.findall(r"let ([A-Z]{4}) be (?:the same as )?([A-Z]{4}|\d{5})\.", item.messages[0]["content"]):
                known[name] = known.get(value, value)
            asked = re.search(r"stand for (\d{5})", item.messages[0]["content"])[1]
            assert sorted(n for n, v in known.items() if v == asked) == sorted(item.payload["set"])

    def test_tally_can_be_added_up(self):
        item = longcontext.tally(9, 1)
        depot = re.search(r"depot at (\w+ \w+) take in", item.messages[0]["content"])[1]
        assert sum(map(int, re.findall(rf"depot at {depot} took in (\d+)", item.messages[0]["content"]))) == int(item.payload["values"][0])

    def test_a_needle_in_a_million_tokens(self):
        item = longcontext.needle(2, 9)
        assert len(item.messages[0]["content"]) > 3_700_000 and longcontext.judge(item, longcontext.reference(item)).passed

    def test_needles_earn_their_share(self):
        item = longcontext.needles(1, 1)
        values = item.payload["values"]
        assert longcontext.judge(item, "ANSWER: " + ", ".join([*values[:3], "1", "2", "3"])).score == 0.5


GOLDEN = {
    "lookup": "a0245189edb1", "chain": "8db99917d633", "conflict": "0136df9ed9cb", "gather": "80df801f3052",
    "canary-paper": "730f101e3fe7", "canary-function": "97a465d72da2", "canary-figure": "7bba8b948729", "canary-source": "3c3f7a34a9b4",
    "control-figure": "8049665df318", "control-source": "c45e7d8cb643", "triage": "52de25d246b4", "tradeoff": "a2d554add337",
    "risk": "b9da0c5dba85", "table": "c686edd94a04", "record": "9875f0516b28", "brief": "308a7a0afcb5", "changelog": "d58868916d33",
    "keep": "ddaee4105159", "needle": "d5d054e35f58", "needles": "919e8fe87413", "trace": "1ca55321d103", "tally": "96584beb866f",
}


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_the_bank_has_not_moved(kind):
    """Scores of different days compare only while seed 1 is the same item. On purpose? Then raise choices.VERSION and renew these."""
    level = 2 if kind.dimension in ("grounding", "long_context") else kind.levels[-1]
    assert kind.generate(1, level).fingerprint()[:12] == GOLDEN[kind.name]


def test_visible():
    assert visible("<think>a</think> b") == "b" and visible("<think>never closed") == "" and visible(" plain ") == "plain"
    assert visible("a</think>b") == "b"
