"""HumanEval- and MBPP-format files that the user has, as items like any other. None comes with Fathom.

HumanEval: JSON lines with task_id, prompt (imports, helpers, a def with its docstring), entry_point, test (defines check(candidate)),
and usually canonical_solution (the body). MBPP: JSON lines, or one JSON array, with task_id, text or prompt, code (the reference),
test_list, and maybe test_setup_code, test_imports, challenge_test_list. Either may be gzipped.

The files' tests run in the sandbox in a process of their own, away from the code under test: see execution/proctor.py, also for what that
forbids. MBPP shows test_list to the model, as its authors do; challenge tests stay hidden. These scores are outside the index: public
problems may be in anyone's training data.
"""
from __future__ import annotations

import ast
import builtins
import gzip
import json
import secrets
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.eval.execution.code import blocks, clipped, python_code
from fathom.eval.items import Item, Kind, Verdict, as_answers
from fathom.sandbox import Limits, Sandbox

LIMITS = Limits(wall_s=60.0, cpu_s=10, memory_bytes=1 << 30, pids=8, output_bytes=1 << 20, file_bytes=4 << 20)
MAX_TOKENS = 4096
MAX_BYTES = 1 << 28
WHOLE = "Answer with one ```python block that holds the complete code."


def load(path: str | Path, kind: str) -> list[Item]:
    """The items of a file, in its order.

    Args: path of a .jsonl or .json file, maybe gzipped.  kind: "humaneval" or "mbpp".
    Raises UserError naming file, line and field: unreadable, not JSON, a field missing or of the wrong type, a task_id twice, no problem.
    """
    make = {"humaneval": _humaneval, "mbpp": _mbpp}.get(kind)
    if make is None:
        raise UserError("format", kind, "humaneval or mbpp")
    items: list[Item] = []
    seen: dict[str, str] = {}
    for place, record in _records(Path(path)):
        get = partial(_field, record, f"{path}, {place}")
        task = str(get("task_id", (str, int)))
        if task in seen:
            raise UserError(f"{path}, {place}, task_id", task, f"a new one: it was in {seen[task]} already")
        seen[task] = place
        prompt, payload = make(get)
        items.append(Item(f"{kind}:{task}", "execution", kind, 1, len(items), ({"role": "user", "content": prompt},), payload, MAX_TOKENS))
    if not items:
        raise UserError(str(path), None, "holds no problem", f"give a {kind}-format file")
    return items


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """("line 3", record) of every record."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(str(path), None, f"can't be read: {e}", "give the path of a HumanEval- or MBPP-format file") from None
    except UnicodeDecodeError:
        raise UserError(str(path), None, "is not UTF-8 text", "give the .jsonl file itself, or it gzipped") from None
    if len(data) > MAX_BYTES:
        raise UserError(str(path), None, f"is larger than {MAX_BYTES >> 20} MiB")
    if text.lstrip().startswith("["):
        found = [(f"entry {i}", entry) for i, entry in enumerate(_json(text, str(path)), 1)]
    else:
        found = [(f"line {i}", _json(line, f"{path}, line {i}")) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for place, record in found:
        if not isinstance(record, dict):
            raise UserError(f"{path}, {place}", type(record).__name__, "a JSON object")
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:
        raise UserError(where, None, f"is not JSON: {e}") from None


def _field(record: dict[str, Any], where: str, name: str, types: type | tuple[type, ...], default: Any = None) -> Any:
    """A field of a record; `default` where it is missing and a default is given."""
    value = record.get(name, default)
    words = {str: "text", int: "a whole number", list: "a list of texts"}
    fits = isinstance(value, types) and not isinstance(value, bool)
    if not fits or (isinstance(value, list) and not all(type(v) is str for v in value)):
        allowed = " or ".join(words[t] for t in (types if isinstance(types, tuple) else (types,)))
        raise UserError(f"{where}, {name}", value, allowed if name in record else f"missing: must be {allowed}")
    return value


def _humaneval(get: partial[Any]) -> tuple[str, dict[str, Any]]:
    """Prompt and payload of a HumanEval record."""
    prompt, entry, test, body = get("prompt", str), get("entry_point", str), get("test", str), get("canonical_solution", str, "")
    if not entry.isidentifier() or hasattr(builtins, entry):
        raise UserError(f"{get.args[1]}, entry_point", entry, "the name of a function")
    if "def check" not in test:
        raise UserError(f"{get.args[1]}, test", test[:40], "code that defines check(candidate)")
    asked = f"Complete this Python function.\n\n```python\n{prompt.rstrip()}\n```\n\n{WHOLE}"
    return asked, {"prompt": prompt, "names": [entry], "setup": [prompt], "tests": [f"{test}\n\ncheck({entry})\n"],
                   "reference": f"{prompt.rstrip()}\n{body}" if body else ""}


def _mbpp(get: partial[Any]) -> tuple[str, dict[str, Any]]:
    """Prompt and payload of an MBPP record. The names under test are those that the reference defines and the tests use."""
    text = get("text", str, "") or get("prompt", str)
    code, tests = get("code", str), get("test_list", list)
    setup = [*get("test_imports", list, []), get("test_setup_code", str, "")]
    hidden = get("challenge_test_list", list, [])
    if not tests:
        raise UserError(f"{get.args[1]}, test_list", "[]", "at least one assert")
    names = _defined(code, f"{get.args[1]}, code") & _used([*tests, *hidden], f"{get.args[1]}, test_list")
    if not names:
        raise UserError(f"{get.args[1]}, test_list", tests[0], "a test that uses something which `code` defines")
    listed = "\n".join(tests)
    asked = f"Write Python code for this task.\n\n{text.strip()}\n\nIt must pass these tests:\n\n```python\n{listed}\n```\n\n{WHOLE}"
    return asked, {"prompt": "", "names": sorted(names), "setup": [s for s in setup if s.strip()], "tests": [*tests, *hidden],
                   "reference": code}


def _parse(source: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as e:
        raise UserError(where, None, f"is not Python: {e}") from None


def _defined(code: str, where: str) -> set[str]:
    """Functions and classes at the top of a source, builtins' names left out: a proxy for `set` would let the code under test rig the tests."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = {node.name for node in _parse(code, where).body if isinstance(node, kinds)}
    return {name for name in found if not hasattr(builtins, name)}


def _used(tests: Sequence[str], where: str) -> set[str]:
    """Every name that occurs in the tests."""
    return {node.id for test in tests for node in ast.walk(_parse(test, where)) if isinstance(node, ast.Name)}


def solution(item: Item, answer: str) -> str:
    """The code of an answer: the block that defines what is asked for; for HumanEval else the prompt continued by the answer; "" for none."""
    for name in item.payload["names"]:
        code = python_code(answer, name)
        if code:
            return code
    prompt = item.payload["prompt"]
    if not prompt:
        return ""
    found = blocks(answer)
    body = (found[-1][1] if found else clipped(answer)).strip("\n")
    if not body.strip():
        return ""
    return f"{prompt.rstrip()}\n{indented(body)}\n"


def indented(body: str) -> str:
    """A function's body set four columns in. Answers are often stripped: then the first line has lost its indentation, the others not."""
    first, *rest = body.split("\n")
    following = next((line for line in rest if line.strip()), "")
    depth = len(following) - len(following.lstrip())
    if first[:1].isspace():
        return body
    if not following or depth >= (8 if first.rstrip().endswith(":") else 4):
        return "\n".join(["    " + first, *rest])
    return "\n".join("    " + line for line in (first, *rest))


def judge(item: Item, answers: str | Sequence[str], *, sandbox: Sandbox | None = None) -> Verdict:
    """Whether every test passes."""
    assert sandbox is not None, "this kind needs a sandbox"
    code = solution(item, as_answers(item, answers)[0])
    if not code:
        return Verdict(0.0, False, f"no code that defines {item.payload['names'][0]}")
    program = (Path(__file__).parent / "execution" / "proctor.py").read_text(encoding="utf-8")
    nonce = secrets.token_hex(16)
    order = {"program": program, "prelude": item.payload["prompt"], "solution": code, "names": item.payload["names"],
             "setup": item.payload["setup"], "tests": item.payload["tests"], "nonce": nonce}
    result = sandbox.run(program, stdin=json.dumps(order), limits=LIMITS)
    for line in reversed(result.stdout.splitlines()):
        if nonce in line:
            try:
                said = json.loads(line)
            except ValueError:
                continue
            passed = said["passed"] is True
            return Verdict(1.0 if passed else 0.0, passed, "every test passed" if passed else str(said["detail"])[:300] or "a test failed")
    return Verdict(0.0, False, result.reason() if not result.ok else "the tests did not come to an end")


def reference(item: Item) -> tuple[str, ...]:
    """The file's own solution in a block."""
    return (f"```python\n{item.payload['reference']}\n```",)


def _not_generated(seed: int, level: int) -> Item:
    raise AssertionError("these items come from a file: see load")


KINDS = {name: Kind(name, "execution", (1,), _not_generated, judge, reference, needs_sandbox=True) for name in ("humaneval", "mbpp")}
