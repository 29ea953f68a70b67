"""Runs as another user: one JSON order a line in, one JSON answer a line out. See conftest.OtherUser."""
import json
import sys
from dataclasses import asdict

sys.path.insert(0, ".")
from fathom.errors import UserError
from fathom.sandbox import Limits, Sandbox


def main():
    box = None
    for line in sys.stdin:
        order = json.loads(line)
        try:
            box = box or Sandbox(sys.argv[1])
            if order:
                result = box.run(order["what"], files=order["files"], stdin=order["stdin"], limits=Limits(**order["limits"]))
                answer = {**asdict(result), "ok": result.ok}
            else:
                answer = {**asdict(box.containment), "strong": box.containment.strong}
        except UserError as e:
            answer = {"error": str(e)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
