"""The conversation in a terminal: reads lines, prints answers as they form, and knows a few commands.

Text is printed plainly as it comes; Markdown reads well enough as it is, and drawing it anew while it grows makes terminals flicker.
What a model writes can't steer the terminal: control characters and those that turn the direction of text are shown as �. Without a
terminal at its input it reads questions line by line and prints the answers, for scripts.
"""
from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from fathom.chat.answers import Answers, Asked, End, Trouble
from fathom.chat.conversation import MODES, Conversation, Node, is_empty, load, read_tools
from fathom.errors import UserError
from fathom.prices import dollars
from fathom.text import ContentDelta, Event, Notice, ReasoningDelta, ToolCallDelta, ToolCallStart

UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
NUMBERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "temperature": ("temperature", float, "0 to 2"), "top_p": ("topP", float, "0 to 1"), "max_tokens": ("maxTokens", int, "1 to 393216"),
    "seed": ("seed", int, "a whole number from 0"),
}
BOUNDS = {"temperature": (0, 2), "top_p": (0, 1), "max_tokens": (1, 393216), "seed": (0, 2**63 - 1)}
COMMANDS = """/mode off|thinking|max   how much it reasons       /again            answer once more
/attach FILE             send a text file along    /edit [N] [TEXT]  ask your Nth message otherwise; the last one without N
/tools FILE|off          functions it may call     /system [TEXT]    instructions it reads first; none without TEXT
/set NAME [VALUE]        temperature, top_p, max_tokens, seed, choice (of tools); back to the default without VALUE
/reasoning show|hide     print its reasoning       /cost             tokens and money so far
/new                     another conversation      /save, /open FILE as the chat page exports and imports it
/help                    this                      /quit             the end (or Ctrl-D)
Ctrl-C stops an answer. A line that ends in \\ goes on with the next one. //text sends /text."""


class Terminal:
    """One chat.

    Args:
        answers: who answers.  conversation: what was said so far.  file: where it is written after every turn, None for nowhere.
    """

    def __init__(self, answers: Answers, conversation: Conversation, file: Path | None = None) -> None:
        self.answers, self.talk, self.file = answers, conversation, file
        self.out = Console(highlight=False, soft_wrap=True)
        self.live = sys.stdin.isatty()
        self.files: list[dict[str, Any]] = []
        self.show_reasoning = True

    def run(self) -> None:
        """Until the end of the input or /quit."""
        self._prepare_lines()
        if self.live:
            self._note(f"{self.answers.name}, a context of {self.answers.context} tokens. /help shows the commands.")
        for node in self.talk.path():
            if node["role"] == "user":
                self._note(f"> {safe(node['text'])}")
            elif node["role"] == "assistant":
                self.out.out(safe(node["content"]))
        while (line := self._line("> ")) is not None:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if self._command(line) == "quit":
                        break
                elif line.strip() or self.files:
                    self.say(line.removeprefix("/") if line.startswith("//") else line)
            except UserError as error:
                self._bad(error.one_line())
            except Trouble as trouble:
                self._bad(str(trouble))

    # ---- turns

    def say(self, text: str) -> None:
        """Sends a message and prints the answer, and what follows from it."""
        last = self.talk.nodes.get(self.talk.leaf or "")
        if last is not None and is_empty(last):
            self.talk.drop(last)
        node = self.talk.add(self.talk.leaf, "user", text=text, files=self.files)
        self.files = []
        self.ask(node["id"])

    def ask(self, parent: str | None) -> None:
        """Asks for an answer after `parent`; with calls, for their results, and goes on."""
        while True:
            node = self.talk.add_answer(parent)
            self._answer(node)
            if self.file:
                self.talk.save(self.file)
            if node["finish"] != "tool_calls":
                return
            results = []
            for call in node["calls"]:
                result = self._line(f"result of {safe(call['name'])}> ")
                if not result:
                    self._note("No result: the call stays open. /again asks once more.")
                    return
                results.append({"id": call["id"], "name": call["name"], "content": result})
            parent = self.talk.add(node["id"], "tool", results=results)["id"]

    def _answer(self, node: Node) -> None:
        settings = self.talk.settings
        tools = read_tools(settings["tools"])
        asked = Asked(self.talk.messages(node["parent"], reasoning=bool(tools)), tools, node["mode"], node["request"], settings["choice"],
                      settings["temperature"], settings["topP"], settings["maxTokens"], settings["seed"])
        printing = Printing(node, self)
        end: End | None = None
        events = self.answers.answer(asked)
        try:
            for event in events:
                if isinstance(event, End):
                    end = event
                else:
                    printing.take(event)
        except KeyboardInterrupt:
            node["finish"] = "stopped"
        except Trouble as trouble:
            node["finish"] = "refused" if is_empty(node) else "broken"
            node["trouble"] = {"kind": "again", "text": str(trouble), "detail": "", "retryAfter": None}
        finally:
            events.close()  # type: ignore[attr-defined]  # both are generators; closed, they stop the answer
        printing.finish()
        if end is None:
            end = None if node["finish"] == "refused" else self.answers.receipt(asked)
        else:
            node["finish"] = end.finish
            for call, call_id in zip(node["calls"], end.call_ids):
                call["id"] = call_id
        if end is not None:
            self.talk.charge(node, end.usage, end.cost)
        self._figures(node, printing.rate())
        if node["trouble"]:
            self._bad(node["trouble"]["text"])

    def _figures(self, node: Node, rate: float | None) -> None:
        usage, said = node["usage"], []
        if usage:
            thought = f" ({usage['reasoning']} thinking)" if usage["reasoning"] else ""
            said = [f"{usage['output']} tokens{thought}"] + ([f"{rate:.3g} tok/s"] if rate else [])
            if node["firstMs"] is not None:
                said.append(f"first after {node['firstMs'] / 1000:.2f} s")
            prompt = usage["hit"] + usage["miss"]
            said.append(f"{prompt} in" + (f", {usage['hit']} cached" if usage["hit"] else ""))
            said.append(f"context {prompt + usage['output']} / {self.answers.context}")
            if node["cost"] is not None:
                said.append(f"$ {dollars(node['cost'])}, conversation $ {dollars(self.talk.spent['cost'])}")
        if node["finish"] not in ("stop", "tool_calls", "refused", "broken"):
            said.insert(0, {"length": "cut off at the longest answer", "stopped": "stopped"}.get(node["finish"], str(node["finish"])))
        if said:
            self._note(" · ".join(said))

    # ---- commands

    def _command(self, line: str) -> str | None:
        verb, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], Any]] = {
            "help": lambda _: self._note(COMMANDS), "quit": lambda _: "quit", "exit": lambda _: "quit", "mode": self._mode, "again": self._again,
            "edit": self._edit, "attach": self._attach, "tools": self._tools, "system": self._system, "set": self._set, "cost": self._cost,
            "reasoning": self._reasoning, "new": self._new, "save": self._save, "open": self._open_file,
        }
        if verb not in commands:
            raise UserError("command", "/" + verb, f"one of {', '.join('/' + name for name in commands)}", "//text sends text that begins with /")
        return commands[verb](rest.strip())

    def _mode(self, mode: str) -> None:
        if mode and mode not in MODES:
            raise UserError("/mode", mode, f"one of {', '.join(MODES)}")
        self.talk.settings["mode"] = mode or self.talk.settings["mode"]
        self._note(MODES[self.talk.settings["mode"]])

    def _again(self, _: str) -> None:
        last = next((node for node in reversed(self.talk.path()) if node["role"] == "assistant"), None)
        if last is None:
            raise UserError("/again", None, "needs an answer first")
        if is_empty(last):
            self.talk.drop(last)
        self.ask(last["parent"])

    def _edit(self, rest: str) -> None:
        mine = [node for node in self.talk.path() if node["role"] == "user"]
        number, _, text = rest.partition(" ") if re.match(r"\d+( |$)", rest) else (str(len(mine)), "", rest)
        if not 1 <= int(number) <= len(mine):
            raise UserError("/edit", number, f"the number of one of your {len(mine)} messages")
        node = mine[int(number) - 1]
        edited = text or self._line("edit> ", node["text"])
        if edited:
            self.ask(self.talk.add(node["parent"], "user", text=edited, files=node["files"])["id"])

    def _attach(self, rest: str) -> None:
        for name in shlex.split(rest) or [""]:
            try:
                text = Path(name).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError("/attach", name, "a text file in UTF-8", str(error)) from None
            if not text or "\0" in text:
                raise UserError("/attach", name, "a text file that isn't empty")
            count = self.answers.tokens(text)
            self.files.append({"name": Path(name).name, "text": text, "tokens": count})
            self._note(f"{Path(name).name}: {count} tokens, sent with your next message")

    def _tools(self, rest: str) -> None:
        text = "" if rest in ("", "off") else _read(rest)
        names = [tool["function"]["name"] for tool in read_tools(text, rest)]
        self.talk.settings["tools"] = text
        self._note(f"tools: {safe(', '.join(names)) or 'none'}")

    def _system(self, text: str) -> None:
        self.talk.settings["system"] = text
        self._note("instructions: " + (safe(text) or "none"))

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        if name == "choice":
            self.talk.settings["choice"] = value.strip() or "auto"
        elif name in NUMBERS:
            field, read, allowed = NUMBERS[name]
            try:
                number = read(value) if value.strip() else None
            except ValueError:
                raise UserError(f"/set {name}", value, allowed) from None
            if number is not None and not BOUNDS[name][0] <= number <= BOUNDS[name][1]:
                raise UserError(f"/set {name}", value, allowed)
            self.talk.settings[field] = number
        else:
            raise UserError("/set", name, f"one of {', '.join(NUMBERS)}, choice")
        self._note(f"{name}: {value.strip() or 'default'}")

    def _cost(self, _: str) -> None:
        spent = self.talk.spent
        self._note(f"{spent['miss']} in, {spent['hit']} in from the cache, {spent['output']} out: $ {dollars(spent['cost'])}")

    def _reasoning(self, rest: str) -> None:
        if rest not in ("show", "hide"):
            raise UserError("/reasoning", rest, "show or hide")
        self.show_reasoning = rest == "show"

    def _new(self, _: str) -> None:
        if self.file:
            raise UserError("/new", None, f"this chat is kept in {self.file}", "start another without --conversation, or with another file")
        self.talk, self.files = Conversation(dict(self.talk.settings)), []
        self._note("A new conversation.")

    def _save(self, rest: str) -> None:
        if not rest:
            raise UserError("/save", None, "a file")
        self.talk.save(Path(rest))
        self._note(f"saved {rest}")

    def _open_file(self, rest: str) -> None:
        self.talk = load(Path(rest))
        self._note(f"{safe(self.talk.title)}: {len(self.talk.path())} turns")

    # ---- lines

    def _prepare_lines(self) -> None:
        if self.live:
            try:
                import readline  # noqa: F401  # gives input() its editing and history
            except ImportError:
                pass  # lines can be typed all the same

    def _line(self, prompt: str, begun: str = "") -> str | None:
        """A line, or several joined by a backslash at their ends; None at the end of the input."""
        lines, shown = [], prompt if self.live else ""
        while True:
            try:
                lines.append(_input(shown, begun if not lines else ""))
            except EOFError:
                return "\n".join(lines) if lines else None
            except KeyboardInterrupt:
                if not self.live:
                    raise
                self.out.out("")
                lines = []
                if not prompt.startswith(">"):
                    return ""
                continue
            if not lines[-1].endswith("\\"):
                return "\n".join(lines)
            lines[-1], shown = lines[-1][:-1], "… " if self.live else ""

    def _note(self, text: str) -> None:
        self.out.out(text, style="dim")

    def _bad(self, text: str) -> None:
        self.out.out(safe(text), style="red")


class Printing:
    """Puts one answer's events into its node and on the screen."""

    def __init__(self, node: Node, terminal: Terminal) -> None:
        self.node, self.out, self.show = node, terminal.out, terminal.show_reasoning
        self.began, self.last, self.part = time.monotonic(), 0.0, ""
        self.first: float | None = None

    def take(self, event: Event) -> None:
        """One more event."""
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last
            self.node["firstMs"] = 1000 * (self.last - self.began)
        match event:
            case ReasoningDelta(text=text):
                self._enter("reasoning")
                self.node["reasoning"] += text
                self.node["reasoningMs"] = 1000 * (self.last - self.first)
                if self.show:
                    self.out.out(safe(text), style="dim italic", end="")
            case ContentDelta(text=text):
                self._enter("content")
                self.node["content"] += text
                self.out.out(safe(text), end="")
            case ToolCallStart(name=name):
                self._enter("call")
                self.node["calls"].append({"id": "", "name": name, "arguments": ""})
            case ToolCallDelta(index=index, arguments=text):
                self.node["calls"][index]["arguments"] += text
            case Notice():
                pass  # what wasn't well-formed shows as it was read

    def finish(self) -> None:
        """Ends the last line, and shows the calls whole."""
        self._enter("")
        self.node["ms"] = 1000 * (time.monotonic() - self.began)
        for call in self.node["calls"]:
            self.out.out(f"calls {safe(call['name'])} {safe(pretty(call['arguments']))}", style="cyan")

    def rate(self) -> float | None:
        """Tokens a second, from the first to the last."""
        output = (self.node["usage"] or {}).get("output", 0)
        return (output - 1) / (self.last - self.first) if self.first is not None and output > 1 and self.last > self.first else None

    def _enter(self, part: str) -> None:
        """Says where one part ends and the next begins."""
        if part == self.part:
            return
        if self.part == "reasoning":
            end = "\n" if self.show and not self.node["reasoning"].endswith("\n") else ""
            self.out.out(f"{end}Thought for {self.node['reasoningMs'] / 1000:.1f} s", style="dim")
        elif self.part == "content" and not self.node["content"].endswith("\n"):
            self.out.out("")
        self.part = part


def safe(text: str) -> str:
    """Text that can't steer a terminal."""
    return UNSAFE.sub("\ufffd", text)


def pretty(arguments: str) -> str:
    """JSON with line breaks; what isn't whole JSON, as it is."""
    try:
        return json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("/tools", name, f"cannot be read: {error}") from None


def _input(prompt: str, begun: str) -> str:
    """input(), with text to begin from where the line editor can do that."""
    readline = sys.modules.get("readline")
    if begun and readline is not None:
        readline.set_startup_hook(lambda: readline.insert_text(begun.replace("\n", " ")))
    try:
        return input(prompt)
    finally:
        if readline is not None:
            readline.set_startup_hook(None)
