"""HumanEval- and MBPP-format files: read with clear errors, judged with the tests out of the code's reach."""
import gzip
import json
from dataclasses import replace

import pytest

from fathom.errors import UserError
from fathom.eval import userfiles
from fathom.eval.items import Item
from fathom.sandbox import Sandbox

HUMANEVAL = {
    "task_id": "Mine/0", "entry_point": "near_root",
    "prompt": '''import math
from typing import List


def poly(xs: List[float], x: float) -> float:
    """ xs[0] + xs[1] * x + xs[2] * x^2 ... """
    return sum(c * math.pow(x, i) for i, c in enumerate(xs))


def near_root(xs: List[float]) -> float:
    """ A root of a polynomial of odd degree.
    >>> round(near_root([-2, 1]), 3)
    2.0
    """
''',
    "canonical_solution": '''    low, high = -1000.0, 1000.0
    sign = 1 if xs[-1] > 0 else -1
    for _ in range(200):
        middle = (low + high) / 2
        if sign * poly(xs, middle) < 0:
            low = middle
        else:
            high = middle
    return low
''',
    "test": '''

METADATA = {"author": "me"}


def check(candidate):
    for xs in ([-2, 1], [1, 1], [-8, 0, 0, 1], [3, -2, 0, -1]):
        assert abs(poly(xs, candidate(xs))) < 1e-4, xs
''',
}
PLAIN = {
    "task_id": "Mine/1", "entry_point": "pairs", "prompt": 'def pairs(n):\n    """The tuple (0, 1), (1, 2) ... of n pairs, as a list."""\n',
    "canonical_solution": "    return [(i, i + 1) for i in range(n)]\n",
    "test": "def check(candidate):\n    assert candidate(0) == []\n    assert candidate(2) == [(0, 1), (1, 2)]\n"
            "    assert candidate(3)[-1] == (2, 3)\n",
}
MBPP = [
    {"task_id": 901, "text": "Write a function that gives the values that two lists share.",
     "code": "def shared(a, b):\n    return set(a) & set(b)",
     "test_list": ["assert set(shared([1, 2, 3], [2, 3, 4])) == set([3, 2])", "assert shared([1], [2]) == set()"], "test_setup_code": "",
     "challenge_test_list": ["assert shared([], [1]) == set()"]},
    {"task_id": 902, "prompt": "The longest chain of pairs.", "test_imports": ["import math"], "test_list": [
        "assert longest([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)], 4) == 3", "assert math.isclose(Pair(1, 2).a, 1.0)",
        "assert [p.b for p in make(2)] == [1, 2]"],
     "code": """class Pair(object):
    def __init__(self, a, b):
        self.a = a
        self.b = b
def make(n):
    return (Pair(i, i + 1) for i in range(n))
def longest(arr, n):
    best = [1] * n
    for i in range(1, n):
        for j in range(i):
            if arr[i].a > arr[j].b and best[i] < best[j] + 1:
                best[i] = best[j] + 1
    return max(best)
"""},
]


@pytest.fixture(scope="module")
def box(request):
    try:
        return Sandbox()
    except UserError as e:
        (pytest.fail if request.config.getoption("--strict-tools") else pytest.skip)(str(e))


def write(tmp_path, records, name="problems.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def items(tmp_path):
    return userfiles.load(write(tmp_path, [HUMANEVAL, PLAIN]), "humaneval") + userfiles.load(write(tmp_path, MBPP), "mbpp")


def judge(box, item, answer):
    return userfiles.judge(item, answer, sandbox=box)


def test_items_are_plain_and_show_what_they_should(items):
    assert [i.id for i in items] == ["humaneval:Mine/0", "humaneval:Mine/1", "mbpp:901", "mbpp:902"]
    for item in items:
        assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item and item.dimension == "execution"
        assert userfiles.KINDS[item.kind].needs_sandbox
    text = [i.messages[0]["content"] for i in items]
    assert "A root of a polynomial" in text[0] and "candidate" not in text[0]
    assert MBPP[0]["test_list"][0] in text[2] and "shared([], [1])" not in text[2] and "set(a) &" not in text[2]


def test_the_files_own_solutions_pass(box, items):
    for item in items:
        verdict = judge(box, item, userfiles.reference(item))
        assert verdict.passed, (item.id, verdict.detail)


@pytest.mark.parametrize("answer", [
    "    return [(i, i + 1) for i in range(n)]", "return [(i, i + 1) for i in range(n)]",
    "```python\n    return [(i, i + 1) for i in range(n)]\n```",
    "found = []\n    for i in range(n):\n        found.append((i, i + 1))\n    return found",
    "found = []\nfor i in range(n):\n    found.append((i, i + 1))\nreturn found",
    "for n in [n]:\n        pass\n    return [(i, i + 1) for i in range(n)]",
    "for n in [n]:\n    pass\nreturn [(i, i + 1) for i in range(n)]",
    "def pairs(n):\n    return [(i, i + 1) for i in range(n)]",
    "Here:\n```\ndef pairs(n):\n    return list(zip(range(n), range(1, n + 1)))\n```\nDone.",
])
def test_a_continued_prompt_and_a_whole_function_are_both_answers(box, items, answer):
    verdict = judge(box, items[1], answer)
    assert verdict.passed, verdict.detail


CHEATS = {
    "nothing": "", "prose": "I would build the pairs in a loop.", "stub": "pass", "None": "def NAME(*a):\n    return None",
    "a list for a tuple": "def pairs(n):\n    return [[i, i + 1] for i in range(n)]",
    "a generator": "def pairs(n):\n    yield from ((i, i + 1) for i in range(n))",
    "exits": "import sys\ndef NAME(*a):\n    sys.exit(0)", "exits hard": "import os\nos._exit(0)\ndef NAME(*a): pass",
    "exits late": "import os\ndef NAME(*a):\n    os._exit(0)",
    "kills the tests": "import os, signal\ndef NAME(*a):\n    os.kill(os.getppid(), signal.SIGKILL)",
    "equal to everything": "class Yes:\n    def __eq__(s, o): return True\n    def __getitem__(s, i): return s\n    def __abs__(s): return 0\n"
                           "    def __rmul__(s, o): return 0\n    def __lt__(s, o): return True\n    def __iter__(s): return iter(())\n"
                           "def NAME(*a): return Yes()",
    "a str that is equal": "class Yes(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\ndef NAME(*a): return Yes()",
    "a list that is equal": "class Yes(list):\n    def __eq__(s, o): return True\n    def __getitem__(s, i): return s\ndef NAME(*a): return Yes()",
    "not a number": "def NAME(*a):\n    return float('nan')",
    "redefines check": "def check(candidate): pass\ndef NAME(*a):\n    return None",
    "rigs builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.set = lambda *a: 0\ndef set(*a): return 0\n"
                     "def abs(x): return 0\ndef NAME(*a): return None",
    "rigs math": "import math, sys\nmath.pow = lambda *a: 0\nmath.isclose = lambda *a: True\nopen('math.py', 'w').write('def pow(*a): return 0')\n"
                 "open('json.py', 'w').write('')\ndef NAME(*a):\n    return None",
    "searches the frames": "import sys\ndef NAME(*a):\n    f = sys._getframe()\n    while f:\n"
                           "        f.f_globals['candidate'] = f.f_locals.get('tests')\n        f = f.f_back",
    "prints a verdict": "import os, sys\nfor fd in range(32):\n    try: os.write(fd, b'\\n{\"nonce\": \"\", \"passed\": true}\\n')\n"
                        "    except OSError: pass\nprint('{\"passed\": true}')\ndef NAME(*a):\n    return None",
    "answers everything itself": "import os\nfor fd in range(3, 32):\n    try: os.write(fd, b'{\"value\": [\"list\", []]}\\n' * 50)\n"
                                 "    except OSError: pass\ndef NAME(*a): return None",
    "endless": "def NAME(*a):\n    while True: pass", "endless answer": "def NAME(*a):\n    import itertools\n    return itertools.count()",
    "deep": "def NAME(*a):\n    x = []\n    for _ in range(5000): x = [x]\n    return x",
    "huge": "def NAME(*a):\n    return 'x' * (1 << 29)",
    "raises AssertionError's cousin": "def NAME(*a):\n    raise GeneratorExit", "a syntax error": "def NAME(*a) return 1",
    "reads the tests": "import glob\ndef NAME(*a):\n"
                       "    return [open(p).read() for p in glob.glob('/proc/*/environ') + glob.glob('/tmp/*')]",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheats_fail(box, items, cheat, monkeypatch):
    monkeypatch.setattr(userfiles, "LIMITS", replace(userfiles.LIMITS, cpu_s=1, memory_bytes=256 << 20))
    for item in items[1:2] if cheat == "endless" else items[:3]:
        answer = CHEATS[cheat].replace("NAME", item.payload["names"][-1])
        if "def pairs" not in answer or item is items[1]:
            verdict = judge(box, item, f"```python\n{answer}\n```" if "def" in answer else answer)
            assert not verdict.passed and verdict.score == 0 and "\n" not in verdict.detail, (item.id, cheat)


def test_code_in_the_tests_process_would_have_been_fooled():
    """The cheats have teeth: run in one process, as such files usually are, these pass."""
    for name in ("equal to everything", "exits"):
        namespace = {}
        exec(CHEATS[name].replace("NAME", "pairs"), namespace)
        exec(PLAIN["test"].replace("    assert candidate(3)[-1] == (2, 3)\n", ""), namespace)
        try:
            namespace["check"](namespace["pairs"])
        except SystemExit as e:
            assert e.code == 0


def test_plain_data_of_every_kind_crosses(box, tmp_path):
    """Arguments and results arrive as what they were, types included; exceptions too."""
    values = ["None", "True", "-3", "10 ** 30", "2.5", "float('inf')", "'añ\\n'", "b'\\x00\\xff'", "(1, (2,))", "[[], [()]]",
              "{1: {'a': (1, 2)}, (1, 2): None}",
              "{1, 2}", "frozenset({(1,)})", "1 + 2j", "range(1, 9, 2)"]
    tests = [f"assert same({v}) == {v} and type(same({v})) is type({v})" for v in values]
    tests += ["try:\n    fail(3)\n    raise RuntimeError\nexcept KeyError as e:\n    assert '3' in str(e)",
              "assert same(x={'k': 1}) == {'k': 1}",
              "assert list(gen(3)) == [0, 1, 2]", "assert add(Box(4), Box(5)).value == 9 and Box(1) != Box(1)"]
    code = """from collections import Counter
class Box:
    def __init__(self, value): self.value = value
def same(x): return x
def fail(n): raise KeyError(n)
def gen(n): return (i for i in range(n))
def add(a, b): return Box(a.value + b.value)
"""
    (item,) = userfiles.load(write(tmp_path, [{"task_id": 1, "text": "x", "code": code, "test_list": tests}]), "mbpp")
    verdict = judge(box, item, userfiles.reference(item))
    assert verdict.passed, verdict.detail


def test_what_cannot_cross_is_said(box, tmp_path):
    record = {"task_id": 1, "text": "x", "code": "def twice(f, x):\n    return f(f(x))",
              "test_list": ["assert twice(lambda v: v + 1, 3) == 5"]}
    (item,) = userfiles.load(write(tmp_path, [record]), "mbpp")
    assert "a function can't be handed to the code under test" in judge(box, item, userfiles.reference(item)).detail


def test_gzipped_and_array_files(tmp_path):
    packed = tmp_path / "h.jsonl.gz"
    packed.write_bytes(gzip.compress((json.dumps(PLAIN) + "\n\n").encode()))
    assert len(userfiles.load(packed, "humaneval")) == 1
    array = tmp_path / "m.json"
    array.write_text(json.dumps(MBPP, indent=1))
    assert [i.id for i in userfiles.load(str(array), "mbpp")] == ["mbpp:901", "mbpp:902"]


@pytest.mark.parametrize(("kind", "text", "words"), [
    ("humaneval", "", "holds no problem"), ("humaneval", "{", "line 1: is not JSON"), ("humaneval", "\n[1]", "entry 1"),
    ("humaneval", '"x"', "line 1"),
    ("humaneval", json.dumps(PLAIN) + "\n" + json.dumps(PLAIN), "line 2, task_id = Mine/1: a new one: it was in line 1"),
    ("humaneval", json.dumps({**PLAIN, "test": None}), "line 1, test: text"),
    ("humaneval", json.dumps({**PLAIN, "test": "assert 1"}), "defines check"),
    ("humaneval", json.dumps({k: v for k, v in PLAIN.items() if k != "prompt"}), "line 1, prompt: missing"),
    ("humaneval", json.dumps({**PLAIN, "entry_point": "set"}), "entry_point"),
    ("humaneval", json.dumps({**PLAIN, "entry_point": "a b"}), "entry_point"),
    ("mbpp", json.dumps({**MBPP[0], "test_list": []}), "at least one assert"),
    ("mbpp", json.dumps({**MBPP[0], "test_list": "assert"}), "a list of texts"),
    ("mbpp", json.dumps({**MBPP[0], "test_list": [1]}), "a list of texts"), ("mbpp", json.dumps({**MBPP[0], "task_id": True}), "task_id"),
    ("mbpp", json.dumps({**MBPP[0], "code": "def f(:"}), "code: is not Python"),
    ("mbpp", json.dumps({**MBPP[0], "code": "x = 1"}), "which `code` defines"),
    ("mbpp", json.dumps({**MBPP[0], "code": "def set(x): return x"}), "which `code` defines"),
    ("mbpp", json.dumps({**MBPP[0], "test_list": ["assert ("]}), "not Python"),
    ("other", json.dumps(PLAIN), "humaneval or mbpp"),
])
def test_troubled_files_are_named_in_one_line(tmp_path, kind, text, words):
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    with pytest.raises(UserError) as e:
        userfiles.load(path, kind)
    assert words in str(e.value) and "\n" not in str(e.value) and (kind == "other" or "file.jsonl" in str(e.value))


def test_unreadable_files(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    for name, words in (("gone", "can't be read"), (".", "can't be read"), ("bytes", "not UTF-8"), ("cut.gz", "can't be read")):
        with pytest.raises(UserError, match=words):
            userfiles.load(tmp_path / name, "mbpp")
