"""Kinds whose answer is a Python function: algorithms, data handling, debugging. Judged by calling it on hidden cases in the sandbox.

All cases must come out right: an answer that handles most of them is a wrong program, and partial credit would pay for guessing. So an
item scores 1 or 0, and the dimension's score is the pass rate.
"""
from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

from fathom.eval.execution import documents, grids, sequences, strings, tables
from fathom.eval.execution.code import python_code
from fathom.eval.execution.task import NUM_SHOWN, Task, Template, call_text, outcomes, result_text, same
from fathom.eval.items import Item, Kind, Verdict, as_answers, item_id, item_rng
from fathom.sandbox import Limits, Result, Sandbox

LEVELS = (1, 2, 3)
LIMITS = Limits(wall_s=30.0, cpu_s=4, memory_bytes=512 << 20, pids=8, output_bytes=1 << 20, file_bytes=4 << 20)
MAX_TOKENS = 4096
ALGORITHMS = (*sequences.TEMPLATES, *strings.TEMPLATES, *grids.TEMPLATES)
DATA = (*tables.TEMPLATES, *documents.TEMPLATES)
RULES = """Use only Python's standard library. The arguments are always valid in the sense of the description. Return the result, do not
print it. Answer with one ```python block that holds the complete function."""


def draw(rng: random.Random, templates: tuple[Template, ...], level: int) -> Task:
    """A task of that level: the level's own templates."""
    return rng.choice([t for t in templates if t.level == level]).make(rng)


def about(task: Task, expected: list[dict[str, Any]]) -> str:
    """What the function must do, with the shown cases as Python calls with their results."""
    shown = "\n".join(f"{call_text(task.entry, case)} -> {result_text(outcome)}" for case, outcome in zip(task.cases, expected[:NUM_SHOWN]))
    return f"Description of {task.entry}({task.params}):\n{task.text}\n\nExamples of what is right:\n{shown}"


def make_item(kind: str, level: int, seed: int, prompt: str, task: Task, expected: list[dict[str, Any]], **more: Any) -> Item:
    """The item around a task: cases with expected values, and the reference, go into the payload."""
    payload = {"entry": task.entry, "cases": task.cases, "expected": [o["value"] for o in expected], "reference": task.code(), **more}
    return Item(item_id(kind, level, seed), "execution", kind, level, seed, ({"role": "user", "content": prompt},), payload, MAX_TOKENS)


def generate_function(kind: str, templates: tuple[Template, ...], seed: int, level: int) -> Item:
    """Write a function to a description with examples."""
    rng = item_rng(kind, level, seed)
    task = draw(rng, templates, level)
    expected = outcomes(task.code(), task.entry, task.cases)
    prompt = f"Write a Python function.\n\n{about(task, expected)}\n\n{RULES}"
    return make_item(kind, level, seed, prompt, task, expected)


def broken(rng: random.Random, task: Task, expected: list[dict[str, Any]], count: int) -> tuple[frozenset[int], list[dict[str, Any]]]:
    """Up to `count` marks that make the task fail, each on its own, on at least one case; and what the function then gives on all cases."""
    harmful = []
    for mark in rng.sample(range(task.num_marks), task.num_marks):
        wrong = outcomes(task.code(frozenset([mark])), task.entry, task.cases)
        if differing(expected, wrong):
            harmful.append(mark)
    assert harmful, f"no mark of {task.entry} shows on its cases"
    marks = frozenset(harmful[:count])
    found = outcomes(task.code(marks), task.entry, task.cases)
    if not differing(expected, found):  # two mistakes that cancel out
        marks = frozenset(harmful[:1])
        found = outcomes(task.code(marks), task.entry, task.cases)
    return marks, found


def differing(expected: list[dict[str, Any]], got: list[dict[str, Any]]) -> list[int]:
    """Indices of the cases with another result."""
    return [i for i, (a, b) in enumerate(zip(expected, got)) if "value" not in b or not same(a["value"], b["value"])]


def generate_debugging(seed: int, level: int) -> Item:
    """Repair a function: its description, its text with one mistake (two at level 3), and one call that goes wrong."""
    rng = item_rng("debugging", level, seed)
    task = draw(rng, ALGORITHMS + DATA, level)
    expected = outcomes(task.code(), task.entry, task.cases)
    marks, found = broken(rng, task, expected, 2 if level == 3 else 1)
    failing = min(differing(expected, found), key=lambda i: len(json.dumps(task.cases[i])))
    mistakes = "its mistakes" if len(marks) > 1 else "its mistake"
    prompt = f"""The function below does not do what its description says. Find and repair {mistakes}.

{about(task, expected)}

```python
{task.code(marks)}```

But {call_text(task.entry, task.cases[failing])} gives {result_text(found[failing])} and should give {result_text(expected[failing])}.

{RULES}"""
    return make_item("debugging", level, seed, prompt, task, expected, broken=task.code(marks))


def call_in_sandbox(sandbox: Sandbox, solution: str, entry: str, cases: list[list[Any]]) -> tuple[list[str], Result]:
    """What the function gives on the cases, one answer line each (anything, if the solution wrote them itself), and how the run ended."""
    harness = Path(__file__).with_name("harness.py").read_text(encoding="utf-8")
    order = json.dumps({"solution": solution, "entry": entry, "cases": cases})
    result = sandbox.run(harness, stdin=order, limits=LIMITS)
    return result.stdout.splitlines()[:len(cases)], result


def parsed(line: str) -> dict[str, Any]:
    """An answer line of the harness, or of whoever wrote in its place: {} if it isn't one."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def judge_code(item: Item, code: str, sandbox: Sandbox | None) -> Verdict:
    """Whether the code's function gives the expected value on every case of the item's payload."""
    assert sandbox is not None, "this kind needs a sandbox"
    entry, cases, expected = item.payload["entry"], item.payload["cases"], item.payload["expected"]
    if not code:
        return Verdict(0.0, False, f"no code that defines {entry}")
    lines, result = call_in_sandbox(sandbox, code, entry, cases)
    for i, want in enumerate(expected):
        got = parsed(lines[i]) if i < len(lines) else {}
        if "value" not in got or not same(want, got["value"]):
            why = f"gave {lines[i]}" if i < len(lines) else result.reason() if not result.ok else "no answer"
            call = shortened(call_text(entry, cases[i]))
            return Verdict(0.0, False, f"case {i + 1} of {len(cases)}, {call}: {shortened(why)}, not {shortened(repr(want))}")
    return Verdict(1.0, True, f"{len(cases)} of {len(cases)} cases")


def shortened(text: str) -> str:
    """One line of at most 120 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def judge_function(item: Item, answers: Any, *, sandbox: Sandbox | None = None) -> Verdict:
    """Whether the function in the answer is right on every case."""
    return judge_code(item, python_code(as_answers(item, answers)[0], item.payload["entry"]), sandbox)


def reference_function(item: Item) -> tuple[str, ...]:
    """The right function in a block."""
    return (f"```python\n{item.payload['reference']}```",)


KINDS = (
    Kind("algorithms", "execution", LEVELS, partial(generate_function, "algorithms", ALGORITHMS), judge_function, reference_function,
         needs_sandbox=True),
    Kind("debugging", "execution", LEVELS, generate_debugging, judge_function, reference_function, needs_sandbox=True),
    Kind("data", "execution", LEVELS, partial(generate_function, "data", DATA), judge_function, reference_function, needs_sandbox=True),
)
