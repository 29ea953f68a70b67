"""The execution kinds: 200 seeds make well-formed, solvable, distinct items; the reference scores full; systematic mistakes and cheats nothing."""
import json
import random
import resource
import sqlite3
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from fathom.bench import judging
from fathom.errors import UserError
from fathom.eval.execution import KINDS, functions, review, sql
from fathom.eval.execution.code import blocks, python_code, sql_query
from fathom.eval.execution.defects import CLASSES, DEFECTS
from fathom.eval.execution.task import call_text, outcomes, same
from fathom.eval.items import Item
from fathom.sandbox import Limits, Sandbox

NAMES = [k.name for k in KINDS]
SEEDS = 200
LEVELS = (1, 2, 3)
PROSE = "The best approach is to iterate over the input and keep track of what has been seen, then return the result. It runs in linear time."


@pytest.fixture(scope="module")
def box(request):
    try:
        return Sandbox()
    except UserError as e:
        (pytest.fail if request.config.getoption("--strict-tools") else pytest.skip)(str(e))


def judged(box, kind, pairs):
    """Verdicts of (item, answer) pairs, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: kind.judge(pair[0], pair[1], sandbox=box), pairs))


def wrapped(item, body):
    """The reference, hidden behind another function of its name: `right(*a)` calls it."""
    entry = item.payload["entry"]
    return f"```python\n{item.payload['reference']}\nright = {entry}\n\ndef {entry}(*a):\n{body}\n```"


def instead(item, body, before=""):
    return f"```python\n{before}\ndef {item.payload['entry']}(*a):\n{body}\n```"


TWEAK = """    r = right(*a)
    if isinstance(r, bool): return not r
    if isinstance(r, (int, float)): return r + 1
    if isinstance(r, str): return r[:-1] if r else "x"
    if isinstance(r, list): return r[:-1] if r else [0]
    if isinstance(r, dict): return dict(list(r.items())[1:]) if r else {"x": 1}
    return 0"""
FORGE = """import json, os, sys
for fd in range(1, 30):
    try: os.write(fd, b'{"value": null, "passed": true}\\n' * 40)
    except OSError: pass
print("ALL TESTS PASSED")
"""
EQUAL = """class Yes(list):
    def __eq__(self, other): return True
    __ne__ = lambda self, other: False
    __hash__ = None
"""


def wrong_functions(item, other):
    """Name -> answer: what a judge of functions must not reward."""
    entry, cases, expected = item.payload["entry"], item.payload["cases"], item.payload["expected"]
    shown = repr({json.dumps(c): e for c, e in zip(cases[:2], expected[:2])})
    last = json.dumps(cases[-1])
    made = {
        "nothing": "", "prose": PROSE, "the question": item.messages[0]["content"][:400],
        "another item's code": f"```python\n{other.payload['reference']}```",
        "another item's code under this name": f"```python\n{other.payload['reference']}\n{entry} = {other.payload['entry']}\n```",
        "None": instead(item, "    return None"),
        "its arguments": instead(item, "    return a[0] if len(a) == 1 else list(a)"),
        "the examples by heart": instead(item, f"    import json\n    return {shown}.get(json.dumps(list(a)), {expected[0]!r})"),
        "a syntax error": f"```python\n{item.payload['reference'].replace(':', '', 1)}```" if item.payload["reference"].count(":") else "",
        "off by one": wrapped(item, TWEAK),
        "wrong in the last case only": wrapped(item, f"    import json\n    if json.dumps(list(a)) == {last!r}:\n"
                                                     + TWEAK.replace("\n", "\n    ").replace("    r =", "        r =",
                                                             1) + "\n    return right(*a)"),
        "prints": wrapped(item, "    print(right(*a))"),
        "prints JSON": wrapped(item, "    import json\n    print(json.dumps({'value': right(*a)}))"),
        "exits": "```python\nimport sys\nsys.exit(0)\n" + instead(item, "    return 0")[10:],
        "exits hard when called": instead(item, "    import os\n    os._exit(0)"),
        "forges": instead(item, "    import os\n    os._exit(0)", FORGE),
        "overrides the checker": instead(item, "    return None",
                                         "import json, builtins\njson.dumps = lambda *a, **k: '{\"value\": true}'\nbuiltins.len = lambda x: 0"),
        "equal to everything": instead(item, "    return Yes()", EQUAL),
        "raises": instead(item, "    raise SystemExit(0)"),
        "rigs equality": instead(item, "    return float('nan')"),
    }
    if not functions.differing([{"value": e} for e in expected], outcomes(other.payload["reference"], other.payload["entry"], cases)):
        made = {name: answer for name, answer in made.items() if "another" not in name}  # the same task by chance
    if "broken" in item.payload:
        made["unchanged"] = f"```python\n{item.payload['broken']}```"
    return made


def wrong_queries(item, other):
    """Name -> answer: what a judge of queries must not reward."""
    right, (seen, _) = item.payload["reference"], item.payload["expected"]
    quoted = lambda v: "NULL" if v is None else str(v) if isinstance(v, (int, float)) else "'" + v.replace("'", "''") + "'"
    values = ", ".join("(" + ", ".join(map(quoted, row)) + ")" for row in seen)
    fence = lambda q: f"```sql\n{q}\n```"
    made = {
        "nothing": "", "prose": PROSE, "another item's query": fence(other.payload["reference"]),
        "a syntax error": fence(right.replace("SELECT", "SELCT")),
        "the described database's rows": fence(f"VALUES {values}"),
        "all but one row": fence(f"SELECT * FROM ({right}) LIMIT (SELECT COUNT(*) - 1 FROM ({right}))"),
        "one row more": fence(f"SELECT * FROM ({right}) UNION ALL SELECT * FROM (SELECT * FROM ({right}) LIMIT 1)"),
        "a column more": fence(f"SELECT *, 1 FROM ({right})"), "no rows": fence(f"SELECT * FROM ({right}) WHERE 0"),
        "null": fence("SELECT NULL"),
        "python": "```python\nprint('SELECT 1')\n```", "two statements": fence(right + "; DROP TABLE x"),
        "no question": fence(f"CREATE TABLE t AS {right}"), "pragma": fence("PRAGMA table_info(x)"), "attach": fence("ATTACH 'x.db' AS y"),
        "the schema": item.payload["schema"],
    }
    if not differs(item.payload, other.payload["reference"]):
        del made["another item's query"]  # the same question by chance
    made |= {f"mistake {i}": fence(q) for i, q in enumerate(item.payload["wrong"]) if differs(item.payload, q)}
    return made


def differs(payload, query):
    """Whether a query gives other rows than it should on one of the two databases, or none at all."""
    costume = next(c for c in sql.COSTUMES if sql.schema(c) == payload["schema"])
    try:
        return any(sql.answers_of(costume, data, [query]) != [rows] for data, rows in zip(payload["databases"], payload["expected"]))
    except sqlite3.Error:
        return True


def wrong_reviews(item, other):
    """Name -> answer: what a judge of reviews must not reward."""
    right, form = item.payload["answer"], item.payload["form"]
    made = {"nothing": "", "prose": PROSE, "empty": "{}", "no object": "[1, 2]", "approval": "Looks good to me!",
            "another's": json.dumps(other.payload["answer"]),
            "its own grade": json.dumps({"score": 1, "passed": True}), "as text": json.dumps(str(right)),
            "wrapped": json.dumps({"answer": right}),
            "broken JSON": json.dumps(right)[:-1], "twice": json.dumps(right)[:-1] + ", " + json.dumps(right)[1:]}
    if form == "fix":
        lines = item.payload["code"].count("\n")
        made |= {"another line": json.dumps({**right, "line": right["line"] % lines + 1}), "unchanged": json.dumps(
            {**right, "replacement": item.payload["code"].splitlines()[right["line"] - 1]}),
            "removed": json.dumps({**right, "replacement": "pass"}),
            "the line as text": json.dumps({**right, "line": str(right["line"])}), "line 0": json.dumps({**right, "line": 0}),
            "everything": json.dumps({"line": 1, "replacement": item.payload["code"]}),
            "exit": json.dumps({**right, "replacement": "import os; os._exit(0)"})}
    elif form == "calls":
        rest = [k for k in range(1, 9) if k not in right["wrong"]]
        made |= {"the others": json.dumps({"wrong": rest}), "all": json.dumps({"wrong": list(range(1, 9))}),
                 "none": json.dumps({"wrong": []}),
                 "one missing": json.dumps({"wrong": right["wrong"][1:]}), "one too many": json.dumps({"wrong": right["wrong"] + rest[:1]}),
                 "repeated": json.dumps({"wrong": right["wrong"] * 2}), "as texts": json.dumps({"wrong": [str(k) for k in right["wrong"]]})}
    elif form == "versions":
        made |= {"all right": json.dumps(dict.fromkeys(right, [])), "all wrong": json.dumps(dict.fromkeys(right, [1, 2, 3, 4, 5, 6])),
                 "one version missing": json.dumps(dict(list(right.items())[1:])),
                 "rotated": json.dumps(dict(zip(right, list(right.values())[1:] + list(right.values())[:1])))}
    else:
        made |= {"none missing its letter": json.dumps(dict.fromkeys(right, "a")), "one missing": json.dumps(dict(list(right.items())[1:])),
                 "one more": json.dumps({**right, "other": "a"}), "names only": json.dumps(list(right)),
                 "upper case": json.dumps({k: v.upper() for k, v in right.items()})}
        if len(set(right.values())) == 1 and set(right.values()) == {"a"}:
            del made["none missing its letter"]
    return made


WRONG = {"algorithms": wrong_functions, "debugging": wrong_functions, "data": wrong_functions, "sql": wrong_queries,
         "review": wrong_reviews}


def wrong_pairs(kind, seeds, levels=LEVELS):
    pairs = []
    for level in levels:
        for seed in seeds:
            item, other = kind.generate(seed, level), kind.generate(seed + 7919, level)
            made = WRONG[kind.name](item, other)
            assert len(set(made.values())) >= 10
            if kind.judge is review.judge and other.payload["answer"] == item.payload["answer"]:
                del made["another's"]
            if other.payload.get("reference") == item.payload.get("reference"):  # the same question on other data: a right answer
                made.pop("another item's query", None)
            pairs += [(item, name, answer) for name, answer in made.items()]
    return pairs


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_200_seeds_are_wellformed_and_distinct(kind):
    wellformed(kind, [(seed, LEVELS[seed % 3]) for seed in range(SEEDS)])


@pytest.mark.check
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_200_seeds_of_each_level_are_wellformed_and_distinct(kind):
    for level in kind.levels:
        wellformed(kind, [(seed, level) for seed in range(SEEDS)])


def wellformed(kind, places):
    prints, shapes = set(), Counter()
    for seed, level in places:
        item = kind.generate(seed, level)
        assert (item.kind, item.dimension, item.level, item.seed) == (kind.name, "execution", level, seed)
        assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item and item.turns == 1
        text = item.messages[0]["content"]
        assert not set("«»¦$") & set(text) and len(text) < 12_000 and len(json.dumps(item.payload)) < 100_000
        assert not set("«»¦") & set(json.dumps(item.payload, ensure_ascii=False))
        prints.add(item.fingerprint())
        shapes[item.payload.get("form") or text.split("\n")[2][:60]] += 1
    assert len(prints) == len(places)
    assert len(shapes) >= 3, "one question in many costumes is one question"


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_reference_answers_score_full(box, kind):
    items = [kind.generate(seed, level) for level in kind.levels for seed in range(6)]
    for item, verdict in zip(items, judged(box, kind, [(i, kind.reference(i)) for i in items])):
        assert verdict.passed and verdict.score == 1.0, (item.id, verdict.detail, kind.reference(item))


@pytest.mark.check
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_200_seeds_are_solvable(box, kind):
    for level in kind.levels:
        items = [kind.generate(seed, level) for seed in range(SEEDS)]
        verdicts = judged(box, kind, [(i, kind.reference(i)) for i in items])
        assert [i.id for i, v in zip(items, verdicts) if v.score != 1.0] == []


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_wrong_answers_score_zero(box, kind):
    rewarded(box, kind, wrong_pairs(kind, [3], (1, 3)))


@pytest.mark.check
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_wrong_answers_score_zero_on_many_seeds(box, kind):
    rewarded(box, kind, wrong_pairs(kind, range(20, 28)))


def rewarded(box, kind, triples):
    verdicts = judged(box, kind, [(item, answer) for item, _, answer in triples])
    assert [(item.id, name, v.detail) for (item, name, _), v in zip(triples, verdicts) if v.score or v.passed] == []


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_endless_answers_score_zero(box, kind, monkeypatch):
    for module in (functions, sql):
        monkeypatch.setattr(module, "LIMITS", replace(functions.LIMITS, cpu_s=1, wall_s=20.0))
    item = kind.generate(5, 1)
    if kind.name == "sql":
        answer = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT SUM(x) FROM c"
    elif kind.name == "review":
        item = next(i for i in (kind.generate(s, 1) for s in range(50)) if i.payload["form"] == "fix")
        answer = json.dumps({"line": 1, "replacement": "while True: pass"})
    else:
        answer = instead(item, "    while True: pass")
    verdict = kind.judge(item, answer, sandbox=box)
    assert verdict.score == 0 and "out of time" in verdict.detail


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_dress_costs_nothing(box, kind):
    """Reasoning first, remarks around, Windows line ends: the same verdict."""
    item = kind.generate(4, 2)
    (right,) = kind.reference(item)
    bare = "```" not in right
    talk = (lambda t: f"Here it is:\n\n{t}\n\nHope this helps!") if not bare else (lambda t: f"I found this:\n```json\n{t}\n```\nThat is all.")
    for dress in (talk, lambda t: "<think>def f(): {}</think>\n" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t.removesuffix("```")):
        verdict = kind.judge(item, dress(right), sandbox=box)
        assert verdict.passed, (dress(right), verdict.detail)


NASTY = ["{" * 5000, "[" * 9000, "```python\n" + "(" * 9000, "```" * 9000, "9" * 5000, "\x00", "\ud800", "```python\ndef f(:\x00\ud800",
         "NaN", "```\n" * 4000]


@pytest.mark.parametrize("name", ["algorithms", "sql", "review"])
def test_no_text_breaks_a_judge(box, name):
    kind = next(k for k in KINDS if k.name == name)
    item = kind.generate(1, 1)
    entry = item.payload.get("entry", "f")
    for text in [*NASTY, f"def {entry}(x): return '\ud800'", f"def {entry}(*a): return " + "[" * 150 + "]" * 150,
                 f"def {entry}(*a):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
                 f"def {entry}(*a): return 10 ** 5000", '{"line": 1e99, "replacement": ""}',
                 '{"wrong": [true, 1e400]}', f"{entry} = 5", "SELECT 1", "SELECT zeroblob(1000000000)", "SELECT x'00ff'",
                 "select 1e999, -1e999"]:
        assert kind.judge(item, text, sandbox=box).score == 0


def test_the_same_seed_gives_the_same_item_in_another_process():
    """Nothing depends on hash seeds, on order of making, or on what was made before."""
    code = """
import hashlib, json, sys
from fathom.eval.execution import KINDS
items = [k.generate(s, level).to_dict() for k in KINDS for level in k.levels for s in (11, 3)]
print(hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest())
"""
    root = Path(__file__).parents[2]
    runs = [subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": h}, cwd=root, capture_output=True,
                           text=True) for h in ("1", "2")]
    assert runs[0].stdout and runs[0].stdout == runs[1].stdout, runs[0].stderr


@pytest.mark.parametrize("template", functions.ALGORITHMS + functions.DATA, ids=lambda t: t.name)
def test_every_mistake_of_a_task_shows_somewhere(template):
    """A mark that no case notices is no mistake; and the right code answers every case with plain JSON, in time."""
    shown, tried = Counter(), Counter()
    for seed in range(25):
        task = template.make(random.Random(f"{template.name}/{seed}"))
        right = outcomes(task.code(), task.entry, task.cases)
        assert all("value" in o for o in right) and task.num_marks >= 1
        assert len({json.dumps(c) for c in task.cases[:2]}) == 2 and len(task.cases) >= 12
        assert max(Counter(map(str, right)).values()) < len(right), "a constant would pass"
        assert not any(name in task.text.lower() for name in ("todo", "$"))
        for mark in range(task.num_marks):
            wrong_code = task.code(frozenset([mark]))
            assert wrong_code.count("\n") == task.code().count("\n"), "reviews count lines"
            tried[mark] += 1
            shown[mark] += bool(functions.differing(right, outcomes(wrong_code, task.entry, task.cases)))
    assert all(shown[m] >= tried[m] // 5 for m in tried), (shown, tried)


def test_every_mistake_of_a_query_shows():
    """On the databases of the items that ask it: nearly always, and every question is asked."""
    shown, tried, asked = Counter(), Counter(), Counter()
    for level in LEVELS:
        for seed in range(60):
            payload = sql.generate(seed, level).payload
            asked[payload["question"]] += 1
            for i, query in enumerate(payload["wrong"]):
                tried[payload["question"], i] += 1
                shown[payload["question"], i] += differs(payload, query)
    assert set(asked) == {q.name for q in sql.QUESTIONS} and min(asked.values()) >= 3
    assert all(shown[key] >= 0.9 * tried[key] for key in tried), {key: (shown[key], tried[key]) for key in tried if shown[key] < tried[key]}


def test_a_solution_that_hides_from_the_checker_only_its_values_count(box):
    """It may take over the harness completely; it still has to know the hidden results."""
    kind = KINDS[0]
    item = kind.generate(9, 1)
    entry = item.payload["entry"]
    spy = f"import sys\ndef {entry}(*a):\n    f = sys._getframe(1).f_locals\n    return f.get('order', {{}}).get('expected', f.get('case'))"
    assert not kind.judge(item, spy, sandbox=box).passed
    lines = "".join(json.dumps({"value": value}) + "\n" for value in item.payload["expected"])
    knows = f"import os\nos.write(3, {lines!r}.encode())\nos._exit(0)\ndef {entry}(): pass"
    assert kind.judge(item, knows, sandbox=box).passed, "whoever knows every hidden result has solved it"


def test_verdicts_say_why(box):
    kind = KINDS[0]
    item = kind.generate(2, 1)
    details = {name: kind.judge(item, answer, sandbox=box).detail for name, answer in wrong_functions(item, kind.generate(5, 1)).items()}
    assert details["nothing"] == f"no code that defines {item.payload['entry']}"
    assert "SyntaxError" in details["a syntax error"] and call_text(item.payload["entry"], item.payload["cases"][0])[:30] in details["None"]
    assert all(len(d) < 450 and "\n" not in d for d in details.values())


@pytest.mark.parametrize(("a", "b", "equal"), [
    (1, 1, True), (1, 1.0, True), (1, True, False), (0, False, False), (True, True, True), (1, 2, False), (0.1 + 0.2, 0.3, True),
    (0.3, 0.3001, False),
    ("1", 1, False), (None, None, True), (None, 0, False), ([1, [2]], [1, [2]], True), ([1], [1, 1], False), ({"a": 1}, {"a": 1.0}, True),
    ({"a": 1}, {"b": 1}, False), ({}, [], False), (1.0, float("nan"), False), (10**400, 1.0, False), (1.0, 10**400, False),
    (10**400, 10**400, True),
])
def test_same(a, b, equal):
    assert same(a, b) is equal


class TestCode:
    def test_the_last_block_that_defines_it(self):
        answer = ("First try:\n```python\ndef f(x):\n    return 1\n```\nBetter:\n```python\ndef f(x):\n    return 2\n```\n"
                  "Use it:\n```python\nprint(f(1))\n```\n")
        assert python_code(answer, "f") == "def f(x):\n    return 2\n"
        assert python_code(answer, "g") == ""

    def test_without_a_fence_or_an_end(self):
        assert python_code("def f(x):\n    return 1", "f") == "def f(x):\n    return 1"
        assert python_code("```py\ndef f(x):\n    return 1", "f") == "def f(x):\n    return 1"
        assert python_code("f = lambda x: x", "f") == "f = lambda x: x"

    def test_prose_is_no_code(self):
        assert python_code("You could define f as follows: take x.", "f") == "" and python_code("", "f") == ""

    def test_indented_fences_and_other_languages(self):
        answer = "1. So:\n   ```python\n   def f(x):\n       return 1\n   ```\n"
        assert python_code(answer, "f") == "def f(x):\n    return 1\n"
        assert python_code("```sql\ndef f\n```", "f") == ""
        assert blocks("~~~python\na\n```\nb\n~~~") == [("python", "a\n```\nb\n")]

    def test_queries(self):
        assert sql_query("```sql\nSELECT 1;\n```") == "SELECT 1;" and sql_query(" select 1") == "select 1"
        assert sql_query("Take\n```\nSELECT 2\n```\n") == "SELECT 2" and sql_query("I would select all.") == ""
        assert sql_query("```sql\nSELECT 1\n```\nor rather\n```sql\nSELECT 2\n```") == "SELECT 2"


class TestReview:
    def test_any_line_that_mends_it_is_right(self, box):
        """Not only ours: an equal expression scores too, with or without its indentation."""
        item = next(i for i in (review.generate(s, 1) for s in range(60)) if i.payload["form"] == "fix")
        right = item.payload["answer"]
        for text in (right["replacement"], "    " + right["replacement"], right["replacement"] + "  # mended"):
            assert review.judge(item, json.dumps({**right, "replacement": text}), sandbox=box).passed

    @pytest.mark.filterwarnings("ignore::SyntaxWarning")
    @pytest.mark.parametrize("defect", DEFECTS, ids=lambda d: d.names[0])
    def test_the_two_versions_are_python_and_differ(self, defect):
        good, bad = (defect.text("f", bad=b, rng=random.Random(1)) for b in (False, True))
        for text in (good, bad):
            assert "$" not in text
            compile(text, "defect", "exec", dont_inherit=True)
        assert good != bad and defect.kind in CLASSES and len(defect.names) >= 3

    def test_no_two_functions_share_a_name(self):
        names = [n for d in DEFECTS for n in d.names]
        assert len(names) == len(set(names)) and {d.kind for d in DEFECTS} == set(CLASSES)

    def test_a_guess_is_rarely_right(self):
        """Whoever always gives the most frequent answer, knowing them all: below 1 in 25."""
        answers = Counter(json.dumps(review.generate(s, LEVELS[s % 3]).payload["answer"], sort_keys=True) for s in range(SEEDS))
        assert answers.most_common(1)[0][1] <= SEEDS // 25


@pytest.mark.check
def test_judging_leaves_room_for_200_solutions_a_minute(box):
    """By processor time, which a busy machine doesn't change: two cores have 120 seconds a minute. The rate itself: fathom.bench.judging."""
    spent = lambda: sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    work = judging.solutions(60)
    before = spent()
    assert judging.judge_all(work, box) == [right for *_, right in work]
    assert 0 < (spent() - before) / len(work) <= 120 / 200


def test_limits_of_a_judge_are_sane():
    assert functions.LIMITS.cpu_s <= 10 and functions.LIMITS.wall_s >= 5 * functions.LIMITS.cpu_s and isinstance(functions.LIMITS, Limits)
