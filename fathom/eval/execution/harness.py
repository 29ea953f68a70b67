"""Runs inside the sandbox: calls a model's function on the cases and writes down what came back. It knows no expected result.

There is nothing to forge here. The judge compares outside, with values that never come in; whatever a solution does to this process,
to `print`, to `json` or to the exit status, it scores only by the right values for the hidden cases. What it prints goes to stderr.
Started as `python main.py`, the order on stdin as JSON: solution, entry, cases; one JSON line per case on stdout: {"value": …} or
{"error": …}.
"""
import json
import os
import sys


def main() -> None:
    """Obey the order on stdin."""
    order = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    dumps = json.dumps
    sys.setrecursionlimit(5000)
    namespace = {"__name__": "solution"}
    try:
        exec(compile(order["solution"], "solution.py", "exec"), namespace)
        function = namespace[order["entry"]]
    except BaseException as e:
        answers.write(dumps({"error": f"{type(e).__name__}: {e}"[:300]}) + "\n")
        answers.close()
        os._exit(0)
    for case in order["cases"]:
        try:
            line = dumps({"value": function(*case)})
        except BaseException as e:
            line = dumps({"error": f"{type(e).__name__}: {e}"[:300]})
        answers.write(line + "\n")
        answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
