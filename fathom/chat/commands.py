"""What can be said to the terminal itself: lines that begin with a slash."""
from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fathom.chat.conversation import MODES, Conversation, is_empty, load, read_tools
from fathom.chat.printing import safe, usd
from fathom.errors import UserError

if TYPE_CHECKING:
    from fathom.chat.terminal import Terminal

NUMBERS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "temperature": ("temperature", float, "0 to 2"), "top_p": ("topP", float, "0 to 1"), "max_tokens": ("maxTokens", int, "1 to 393216"),
    "seed": ("seed", int, "a whole number from 0"),
}
BOUNDS = {"temperature": (0, 2), "top_p": (0, 1), "max_tokens": (1, 393216), "seed": (0, 2**63 - 1)}
HELP = """/mode off|thinking|max   how much it reasons       /again            answer once more
/attach FILE             send a text file along    /edit [N] [TEXT]  ask your Nth message otherwise; the last one without N
/tools FILE|off          functions it may call     /system [TEXT]    instructions it reads first; none without TEXT
/set NAME [VALUE]        temperature, top_p, max_tokens, seed, choice (of tools); back to the default without VALUE
/reasoning show|hide     print its reasoning       /cost             tokens and money so far
/new                     another conversation      /save, /open FILE as the chat page exports and imports it
/help                    this                      /quit             the end (or Ctrl-D)
Ctrl-C stops an answer. A line that ends in \\ goes on with the next one. //text sends /text."""


def carry_out(terminal: Terminal, line: str) -> bool:
    """Does what a line that begins with / says; whether the chat goes on. Raises UserError, Trouble."""
    verb, _, rest = line[1:].partition(" ")
    if verb not in COMMANDS:
        raise UserError("command", "/" + verb, f"one of {', '.join('/' + name for name in COMMANDS)}", "//text sends text that begins with /")
    COMMANDS[verb](terminal, rest.strip())
    return verb not in ("quit", "exit")


def mode(terminal: Terminal, wanted: str) -> None:
    """How much the model reasons; without a word, what is set."""
    if wanted and wanted not in MODES:
        raise UserError("/mode", wanted, f"one of {', '.join(MODES)}")
    terminal.talk.settings["mode"] = wanted or terminal.talk.settings["mode"]
    terminal.note(MODES[terminal.talk.settings["mode"]])


def again(terminal: Terminal, _: str) -> None:
    """One more answer to the same."""
    last = next((node for node in reversed(terminal.talk.path()) if node["role"] == "assistant"), None)
    if last is None:
        raise UserError("/again", None, "needs an answer first")
    if is_empty(last):
        terminal.talk.drop(last)
    terminal.ask(last["parent"])


def edit(terminal: Terminal, rest: str) -> None:
    """Asks one of the user's messages otherwise; the old one stays in the file."""
    mine = [node for node in terminal.talk.path() if node["role"] == "user"]
    number, _, text = rest.partition(" ") if re.match(r"\d+( |$)", rest) else (str(len(mine)), "", rest)
    if not 1 <= int(number) <= len(mine):
        raise UserError("/edit", number, f"the number of one of your {len(mine)} messages")
    node = mine[int(number) - 1]
    edited = text or terminal.line("edit> ", node["text"])
    if edited:
        terminal.ask(terminal.talk.add(node["parent"], "user", text=edited, files=node["files"])["id"])


def attach(terminal: Terminal, rest: str) -> None:
    """Reads text files that go along with the next message."""
    for name in shlex.split(rest) or [""]:
        try:
            text = Path(name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("/attach", name, "a text file in UTF-8", str(error)) from None
        if not text or "\0" in text:
            raise UserError("/attach", name, "a text file that isn't empty")
        count = terminal.answers.tokens(text)
        terminal.files.append({"name": Path(name).name, "text": text, "tokens": count})
        terminal.note(f"{Path(name).name}: {count} tokens, sent with your next message")


def tools(terminal: Terminal, rest: str) -> None:
    """Functions that the model may call."""
    text = "" if rest in ("", "off") else _read(rest)
    names = [tool["function"]["name"] for tool in read_tools(text, rest)]
    terminal.talk.settings["tools"] = text
    terminal.note(f"tools: {safe(', '.join(names)) or 'none'}")


def system(terminal: Terminal, text: str) -> None:
    """Instructions that the model reads first."""
    terminal.talk.settings["system"] = text
    terminal.note("instructions: " + (safe(text) or "none"))


def set_value(terminal: Terminal, rest: str) -> None:
    """A number for sampling, or how tools are chosen."""
    name, _, value = rest.partition(" ")
    if name == "choice":
        terminal.talk.settings["choice"] = value.strip() or "auto"
    elif name in NUMBERS:
        field, read, allowed = NUMBERS[name]
        try:
            number = read(value) if value.strip() else None
        except ValueError:
            raise UserError(f"/set {name}", value, allowed) from None
        if number is not None and not BOUNDS[name][0] <= number <= BOUNDS[name][1]:
            raise UserError(f"/set {name}", value, allowed)
        terminal.talk.settings[field] = number
    else:
        raise UserError("/set", name, f"one of {', '.join(NUMBERS)}, choice")
    terminal.note(f"{name}: {value.strip() or 'default'}")


def cost(terminal: Terminal, _: str) -> None:
    """What the conversation took so far."""
    spent = terminal.talk.spent
    terminal.note(f"{spent['miss']} in, {spent['hit']} in from the cache, {spent['output']} out: {usd(spent['cost'])}")


def reasoning(terminal: Terminal, rest: str) -> None:
    """Whether reasoning is printed."""
    if rest not in ("show", "hide"):
        raise UserError("/reasoning", rest, "show or hide")
    terminal.show_reasoning = rest == "show"


def new(terminal: Terminal, _: str) -> None:
    """Another conversation, with the same settings."""
    if terminal.file:
        raise UserError("/new", None, f"this chat is kept in {terminal.file}", "start another without --conversation, or with another file")
    terminal.talk, terminal.files = Conversation(dict(terminal.talk.settings)), []
    terminal.note("A new conversation.")


def save(terminal: Terminal, rest: str) -> None:
    """Writes the conversation to a file."""
    if not rest:
        raise UserError("/save", None, "a file")
    terminal.talk.save(Path(rest))
    terminal.note(f"saved {rest}")


def open_file(terminal: Terminal, rest: str) -> None:
    """Goes on with the conversation of a file."""
    terminal.talk = load(Path(rest))
    terminal.note(f"{safe(terminal.talk.title)}: {len(terminal.talk.path())} turns")


def _read(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("/tools", name, f"cannot be read: {error}") from None


COMMANDS: dict[str, Callable[[Terminal, str], None]] = {
    "help": lambda terminal, _: terminal.note(HELP), "quit": lambda terminal, _: None, "exit": lambda terminal, _: None, "mode": mode, "again": again,
    "edit": edit, "attach": attach, "tools": tools, "system": system, "set": set_value, "cost": cost, "reasoning": reasoning, "new": new,
    "save": save, "open": open_file,
}
