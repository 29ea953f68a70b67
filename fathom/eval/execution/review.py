"""Code review with a verdict that can be checked: no essay, but evidence in JSON that only somebody who read the code can give.

Four forms. `fix`: the number of the wrong line and what should stand there; the mended program is run on hidden cases, so any line
that mends it is right. `calls`: which of eight calls give a wrong result. `versions`: four versions, and for each which of six calls go
wrong. `defects`: a file of small functions, some with a defect from a given list. All or nothing; guessing succeeds in fewer than 1 of 200.
"""
from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from fathom.eval.answers import json_object
from fathom.eval.execution.code import blocks
from fathom.eval.execution.defects import CLASSES, DEFECTS
from fathom.eval.execution.functions import ALGORITHMS, DATA, LEVELS, MAX_TOKENS, about, broken, differing, judge_code
from fathom.eval.execution.task import Task, call_text, outcomes, result_text, same
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.sandbox import Sandbox

FORMS = {1: ("fix", "calls", "defects"), 2: ("fix", "calls", "defects"), 3: ("fix", "versions", "defects")}
NUM_CALLS, NUM_VERSION_CALLS = 8, 6
NUM_FUNCTIONS = {1: 7, 2: 9, 3: 12}
LONGEST_CALL = 160  # characters; longer ones make a list of calls unreadable


def generate(seed: int, level: int) -> Item:
    """One review of the form that the seed draws."""
    rng = item_rng("review", level, seed)
    form = rng.choice(FORMS[level])
    if form == "defects":
        prompt, payload = defects(rng, level)
    else:
        while True:
            task = rng.choice([t for t in (ALGORITHMS + DATA) if t.level == level]).make(rng)
            made = {"fix": fix, "calls": calls, "versions": versions}[form](rng, task)
            if made:
                prompt, payload = made
                break
    payload["form"] = form
    return Item(item_id("review", level, seed), "execution", "review", level, seed, ({"role": "user", "content": prompt},), payload,
                MAX_TOKENS)


def numbered(code: str) -> str:
    """The code with line numbers."""
    return "\n".join(f"{i:2}  {line}".rstrip() for i, line in enumerate(code.splitlines(), 1))


def fix(rng: random.Random, task: Task) -> tuple[str, dict[str, Any]]:
    """Name the wrong line and the right one."""
    expected = outcomes(task.code(), task.entry, task.cases)
    marks, _ = broken(rng, task, expected, 1)
    right, wrong = task.code().splitlines(), task.code(marks).splitlines()
    line = next(i for i, (a, b) in enumerate(zip(right, wrong), 1) if a != b)
    prompt = f"""Review this function. Exactly one of its lines is wrong; mending that line makes it do what its description says.

{about(task, expected)}

```
{numbered(task.code(marks))}
```

Answer with one JSON object: {{"line": the line's number, "replacement": "the line as it should be"}}. The indentation may be left out.
The replacement is put in and the function is run."""
    answer = {"line": line, "replacement": right[line - 1].strip()}
    return prompt, {"entry": task.entry, "cases": task.cases, "expected": [o["value"] for o in expected], "code": task.code(marks),
                    "answer": answer}


def short_cases(task: Task) -> list[int]:
    """Indices of the cases that can stand in a list of calls, repetitions left out."""
    texts = [call_text(task.entry, case) for case in task.cases]
    return [i for i, text in enumerate(texts) if len(text) <= LONGEST_CALL and text not in texts[:i]]


def calls(rng: random.Random, task: Task) -> tuple[str, dict[str, Any]] | None:
    """Which of NUM_CALLS calls go wrong: at least two do and two don't. None where the task's cases don't give that."""
    expected = outcomes(task.code(), task.entry, task.cases)
    marks, found = broken(rng, task, expected, 1)
    bad = set(differing(expected, found))
    usable = short_cases(task)
    wrong, fine = [i for i in usable if i in bad], [i for i in usable if i not in bad]
    if len(wrong) < 2 or len(fine) < 2 or len(usable) < NUM_CALLS:
        return None
    low, high = max(2, NUM_CALLS - len(fine)), min(len(wrong), NUM_CALLS - 2)
    count = rng.randint(low, high)
    chosen = rng.sample(wrong, count) + rng.sample(fine, NUM_CALLS - count)
    rng.shuffle(chosen)
    listed = "\n".join(f"{k}  {call_text(task.entry, task.cases[i])}" for k, i in enumerate(chosen, 1))
    prompt = f"""Review this function: it does not always do what its description says.

{about(task, expected)}

```python
{task.code(marks)}```

Which of these calls do not give the result that the description demands (a wrong value or an exception)?

{listed}

Answer with one JSON object: {{"wrong": [the numbers of those calls]}}."""
    return prompt, {"answer": {"wrong": [k for k, i in enumerate(chosen, 1) if i in bad]}}


def versions(rng: random.Random, task: Task) -> tuple[str, dict[str, Any]] | None:
    """Four versions, the right one among them; for each the calls that go wrong. None where the task has too few mistakes that show."""
    expected = outcomes(task.code(), task.entry, task.cases)
    single = [frozenset([m]) for m in range(task.num_marks)]
    double = [frozenset([m, n]) for m in range(task.num_marks) for n in range(m)]
    usable = short_cases(task)
    if len(usable) < NUM_VERSION_CALLS:
        return None
    chosen = rng.sample(usable, NUM_VERSION_CALLS)
    seen: list[tuple[frozenset[int], list[int]]] = [(frozenset(), [])]
    for marks in rng.sample(single, len(single)) + rng.sample(double, len(double)):
        found = outcomes(task.code(marks), task.entry, task.cases)
        bad = [k for k, i in enumerate(chosen, 1) if i in set(differing(expected, found))]
        if len(seen) < 4 and bad and bad not in [b for _, b in seen]:
            seen.append((marks, bad))
    if len(seen) < 3:
        return None
    rng.shuffle(seen)
    names = "ABCD"[:len(seen)]
    texts = "\n".join(f"Version {name}\n```python\n{task.code(marks)}```\n" for name, (marks, _) in zip(names, seen))
    listed = "\n".join(f"{k}  {call_text(task.entry, task.cases[i])} should give {result_text(expected[i])}" for k,
                       i in enumerate(chosen, 1))
    prompt = f"""Review {len(seen)} versions of a function; one of them is right.

{about(task, expected)}

{texts}
Which of these calls do not give what they should (a wrong value or an exception), in each version?

{listed}

Answer with one JSON object that has every version's letter as a key and the list of its wrong calls (empty for the right version) as the
value, like {{"A": [1, 3], "B": []}}."""
    return prompt, {"answer": {name: bad for name, (_, bad) in zip(names, seen)}}


def defects(rng: random.Random, level: int) -> tuple[str, dict[str, Any]]:
    """A file of functions, each clean or with one defect of a given class."""
    count = NUM_FUNCTIONS[level]
    chosen = rng.sample(DEFECTS, count)
    guilty = set(rng.sample(range(count), rng.randint(2, count - 2)))
    letters = dict(zip(rng.sample(sorted({d.kind for d in DEFECTS}), len({d.kind for d in DEFECTS})), "abcdefghijklmnopqrstuvwxyz"))
    parts, answer, used = [], {}, set()
    for i, defect in enumerate(chosen):
        name = rng.choice([n for n in defect.names if n not in used])
        used.add(name)
        parts.append(defect.text(name, bad=i in guilty, rng=rng))
        if i in guilty:
            answer[name] = letters[defect.kind]
    legend = "\n".join(f"{letter}  {CLASSES[kind]}" for kind, letter in sorted(letters.items(), key=lambda p: p[1]))
    prompt = f"""Review this file. Imports are left out; arguments come from users of a web service unless their name says otherwise. Which
functions have one of these defects?

{legend}

```python
{chr(10).join(parts)}```

Judge only by this list; a function has at most one of them. Answer with one JSON object that maps the name of each defective function to
the letter of its defect, like {{"some_function": "b"}}. Functions without a defect are not mentioned."""
    return prompt, {"answer": answer}


def given(answer: str) -> dict[str, Any] | None:
    """The JSON object of an answer: in its last block, or the first one in its text."""
    for _, text in reversed(blocks(answer)):
        found = json_object(text)
        if found is not None:
            return found
    return json_object(answer)


def judge(item: Item, answers: str | Sequence[str], *, sandbox: Sandbox | None = None) -> Verdict:
    """Whether the evidence is right, all of it."""
    said = given(as_answers(item, answers)[0])
    if said is None:
        return Verdict(0.0, False, "no JSON object")
    if item.payload["form"] == "fix":
        return judge_fix(item, said, sandbox)
    want = item.payload["answer"]
    if item.payload["form"] == "defects":
        right = said == want
    else:  # the order within a list doesn't matter, repetition does
        right = said.keys() == want.keys() and all(isinstance(said[k], list) and same_numbers(v, said[k]) for k, v in want.items())
    return Verdict(1.0 if right else 0.0, right, "right" if right else f"not {json.dumps(want)}"[:300])


def same_numbers(want: list[int], said: list[Any]) -> bool:
    """The same numbers in any order; true is not 1."""
    return all(type(x) is int for x in said) and same(want, sorted(said))


def judge_fix(item: Item, said: dict[str, Any], sandbox: Sandbox | None) -> Verdict:
    """Put the line in, keep the old indentation unless it brings its own, run the cases."""
    number, text = said.get("line"), said.get("replacement")
    lines = item.payload["code"].splitlines()
    if type(number) is not int or not 1 <= number <= len(lines) or not isinstance(text, str) or "\n" in text.strip() or not text.strip():
        return Verdict(0.0, False, "no line number and one-line replacement")
    old = lines[number - 1]
    indent = old[:len(old) - len(old.lstrip())]
    lines[number - 1] = indent + text.strip()
    return judge_code(item, "\n".join(lines) + "\n", sandbox)


def reference(item: Item) -> tuple[str, ...]:
    """The evidence as it is in the payload."""
    return (json.dumps(item.payload["answer"]),)


KINDS = (Kind("review", "execution", LEVELS, generate, judge, reference, needs_sandbox=True),)
