"""The conversation in a terminal: reads lines, asks, prints answers as they form (printing.py), and obeys commands (commands.py).

Without a terminal at its input it reads questions line by line and prints the answers, for scripts.
"""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from fathom.chat.answers import Answers, Asked, End, Trouble
from fathom.chat.commands import carry_out
from fathom.chat.conversation import Conversation, Node, is_empty, read_tools
from fathom.chat.printing import Printing, safe, usd
from fathom.errors import UserError


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
            self.note(f"{self.answers.name}, a context of {self.answers.context} tokens. /help shows the commands.")
        for node in self.talk.path():
            if node["role"] == "user":
                self.note(f"> {safe(node['text'])}")
            elif node["role"] == "assistant":
                self.out.out(safe(node["content"]))
        while (line := self.line("> ")) is not None:
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not carry_out(self, line):
                        break
                elif line.strip() or self.files:
                    self.say(line.removeprefix("/") if line.startswith("//") else line)
            except UserError as error:
                self.bad(error.one_line())
            except Trouble as trouble:
                self.bad(str(trouble))
            except KeyboardInterrupt:  # once more, after an answer was stopped
                if not self.live:
                    raise
                self.note("stopped")

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
                result = self.line(f"result of {safe(call['name'])}> ")
                if not result:
                    self.note("No result: the call stays open. /again asks once more.")
                    return
                results.append({"id": call["id"], "name": call["name"], "content": result})
            parent = self.talk.add(node["id"], "tool", results=results)["id"]

    def _answer(self, node: Node) -> None:
        settings = self.talk.settings
        tools = read_tools(settings["tools"])
        asked = Asked(self.talk.messages(node["parent"], reasoning=bool(tools)), tools, node["mode"], node["request"], settings["choice"],
                      settings["temperature"], settings["topP"], settings["maxTokens"], settings["seed"])
        printing = Printing(node, self.out, self.show_reasoning)
        end: End | None = None
        events = self.answers.answer(asked)
        try:
            for event in events:
                if isinstance(event, End):
                    end = event
                else:
                    printing.take(event)
        except KeyboardInterrupt:
            if not self.live:
                raise  # a script is stopped, not an answer
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
            self.bad(node["trouble"]["text"])

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
                said.append(f"{usd(node['cost'])}, conversation {usd(self.talk.spent['cost'])}")
        if node["finish"] not in ("stop", "tool_calls", "refused", "broken"):
            said.insert(0, {"length": "cut off at the longest answer", "stopped": "stopped"}.get(node["finish"], str(node["finish"])))
        if said:
            self.note(" · ".join(said))

    def _prepare_lines(self) -> None:
        if self.live:
            try:
                import readline  # noqa: F401  # gives input() its editing and history
            except ImportError:
                pass  # lines can be typed all the same

    def line(self, prompt: str, begun: str = "") -> str | None:
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

    def note(self, text: str) -> None:
        """Prints something of our own."""
        self.out.out(text, style="dim")

    def bad(self, text: str) -> None:
        """Prints what went wrong."""
        self.out.out(safe(text), style="red")


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
