"""Runs inside the sandbox: somebody's tests against a model's code, in two processes, so that the code can't meddle with the tests.

HumanEval and MBPP files bring their tests as Python asserts. Run in one process with the code under test, those can be cheated by any program that
exits early, redefines `check`, returns objects that are equal to everything, or looks for the expected values in the caller's frames.
So the tests run here, in the proctor, and the code in a second interpreter, the examinee. For the names under test the tests get
proxies; arguments and results cross a pipe as plain data, rebuilt on this side from exact types. What is not plain data stays over there
and is known here by a number: it can be passed back, called, iterated and asked for attributes, and equals nothing but itself.

The proctor is not dumpable (Linux), so that the examinee, the same user, can't trace it or read its memory; it imports nothing from the
shared folder; and it signs its verdict with a number that the examinee never sees. Functions can't be handed to the code as arguments,
and changes that the code makes to its arguments in place are not seen by the tests.

Started as `python main.py` with the order on stdin (JSON: program, this text; prelude and solution, run one after the other by the
examinee; names, to proxy; setup, list of sources that the proctor runs first; tests, list of sources, each a test; nonce). Prints
{"nonce", "passed", "detail"}.
"""
import builtins
import json
import os
import subprocess
import sys
from collections import deque

PR_SET_DUMPABLE = 4


class Remote:
    """Something that lives with the examinee; `number` names it there."""

    def __init__(self, pipe, number):
        self.__dict__.update(_pipe=pipe, _number=number)

    def __call__(self, *args, **kwargs):
        return self._pipe.ask({"do": "call", "on": self._number, "args": self._pipe.pack(args), "kwargs": self._pipe.pack(kwargs)})

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._pipe.ask({"do": "get", "on": self._number, "name": name})

    def __iter__(self):
        return iter(self._pipe.ask({"do": "list", "on": self._number}))


class Pipe:
    """One end: packs values to JSON, unpacks them, keeps what can't be packed. `keep`: the examinee's end, which may refer to things by number."""

    def __init__(self, reading, writing, keep):
        self.reading, self.writing = reading, writing
        self.kept = [] if keep else None

    def pack(self, value):
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Remote):
            return ["remote", value._number]
        for kind in (bool, int, float, str):
            if isinstance(value, kind):
                return kind(value)
        for name, kind in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset), ("deque", deque)):
            if isinstance(value, kind):
                return [name, [self.pack(v) for v in kind.__iter__(value)]]
        if isinstance(value, dict):
            return ["dict", [[self.pack(k), self.pack(v)] for k, v in dict.items(value)]]
        if isinstance(value, (bytes, bytearray)):
            return ["bytes", bytes(value).hex()]
        if isinstance(value, complex):
            return ["complex", [value.real, value.imag]]
        if isinstance(value, range):
            return ["range", [value.start, value.stop, value.step]]
        if self.kept is None:
            raise TypeError(f"a {type(value).__name__} can't be handed to the code under test")
        self.kept.append(value)
        return ["remote", len(self.kept) - 1]

    def unpack(self, data):
        if not isinstance(data, list):
            return data
        name, inner = data
        if name == "remote":
            return Remote(self, int(inner)) if self.kept is None else self.kept[inner]
        if name == "dict":
            return {self.unpack(k): self.unpack(v) for k, v in inner}
        if name == "bytes":
            return bytes.fromhex(inner)
        kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque}
        if name in kinds:
            return kinds[name]([self.unpack(v) for v in inner])
        return {"complex": complex, "range": range}[name](*inner)

    def send(self, message):
        self.writing.write(json.dumps(message) + "\n")
        self.writing.flush()

    def receive(self):
        line = self.reading.readline()
        if not line:
            raise EOFError("the code under test ended its process")
        return json.loads(line)

    def ask(self, message):
        """The proctor's question; raises what the examinee raised, if Python has an exception of that name, else RuntimeError."""
        self.send(message)
        answer = self.receive()
        if "error" in answer:
            kind = getattr(builtins, str(answer["error"]), None)
            raise (kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError)(str(answer.get("text", "")))
        return self.unpack(answer["value"])


def examinee() -> None:
    """The side of the code: load it, then obey until the pipe closes."""
    pipe = Pipe(os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8"), keep=True)
    order = pipe.receive()
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    namespace = {"__name__": "solution"}

    def load():
        for source in (order["prelude"], order["solution"]):
            exec(compile(source, "solution.py", "exec"), namespace)
        missing = [name for name in order["names"] if name not in namespace]
        if missing:
            raise NameError(f"{missing[0]} is not defined")
        return [namespace[name] for name in order["names"]]

    def obey(message):
        if message["do"] == "load":
            found = load()
            pipe.kept.extend(found)
            return list(range(len(pipe.kept) - len(found), len(pipe.kept)))
        thing = pipe.kept[message["on"]]
        if message["do"] == "call":
            return thing(*pipe.unpack(message["args"]), **pipe.unpack(message["kwargs"]))
        if message["do"] == "get":
            return getattr(thing, message["name"])
        return [value for value, _ in zip(thing, range(100_000))]

    message = {"do": "load"}
    while True:
        try:
            answer = {"value": pipe.pack(obey(message))}
        except BaseException as e:
            answer = {"error": type(e).__name__, "text": str(e)[:300]}
        pipe.send(answer)
        try:
            message = pipe.receive()
        except EOFError:
            return


def proctor() -> None:
    """The side of the tests."""
    order = json.loads(sys.stdin.read())
    hide()
    here = os.getcwd()
    sys.path[:] = [p for p in sys.path if p and os.path.realpath(p) != os.path.realpath(here)]
    child = subprocess.Popen([sys.executable, "-S", "-s", "-B", "-c", order["program"], "examinee"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, encoding="utf-8", cwd=here)
    os.chdir("/")
    pipe = Pipe(child.stdout, child.stdin, keep=False)
    passed, detail = False, ""
    try:
        run_tests(order, pipe)
        passed = True
    except BaseException as e:
        detail = f"{type(e).__name__}: {e}".rstrip(": ")[:300]
    print("\n" + json.dumps({"nonce": order["nonce"], "passed": passed, "detail": detail}), flush=True)
    child.kill()
    os._exit(0)


def run_tests(order: dict, pipe: "Pipe") -> None:
    """Set up, proxy the names, run every test; raises what the first failing one raises."""
    pipe.send({"prelude": order["prelude"], "solution": order["solution"], "names": order["names"]})
    answer = pipe.receive()
    if "error" in answer:
        raise RuntimeError(f"{answer['error']}: {answer.get('text', '')}")
    numbers = pipe.unpack(answer["value"])
    if [type(n) for n in numbers] != [int] * len(order["names"]):
        raise RuntimeError("not an answer")
    namespace: dict = {"__name__": "tests"}
    for source in order["setup"]:
        exec(compile(source, "setup.py", "exec"), namespace)
    namespace.update(zip(order["names"], [Remote(pipe, n) for n in numbers]))
    for source in order["tests"]:
        exec(compile(source, "tests.py", "exec"), namespace)


def hide() -> None:
    """Keep other processes of this user from reading or tracing this one, where the system can do that."""
    if sys.platform == "linux":
        import ctypes
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    examinee() if sys.argv[1:] == ["examinee"] else proctor()
