"""What an operator can set, with its defaults. The command line (command.py) fills it in; nothing here reads the environment."""
from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from fathom.errors import UserError


@dataclass(frozen=True)
class Settings:
    """The service's behaviour and bounds.

    Attributes:
        name: what the model is called; in GET /models, in answers, and on bills.
        aliases: other names that clients may ask for, patterns such as `deepseek-*`.
        lenient: with tools, an earlier assistant turn may lack reasoning_content; the official API refuses that.
        official_quirks: thinking mode ignores temperature and top_p, as the official API does.
        most_output: the largest max_tokens; larger ones are taken as this.
        most_requests: requests at once; the next one is told to come again (503).
        head_seconds: how long a request's head may take to arrive.  body_mib, body_seconds: bounds of its body, and of the time for it.
        wait_seconds: how long a request may wait for its first token; then it is told to come again (503).
        answer_seconds: how long an answer may take; then it ends with finish_reason insufficient_system_resource.
        send_seconds: how long a client may leave its connection full; then it counts as gone.
        keep_alive_seconds: after so long without a token a sign of life is sent.
        stop_seconds: how long answers under way may still take once the service is told to stop.
    """

    name: str
    aliases: tuple[str, ...] = ()
    lenient: bool = True
    official_quirks: bool = False
    most_output: int = 393216
    most_requests: int = 256
    head_seconds: float = 20.0
    body_mib: float = 32.0
    body_seconds: float = 30.0
    wait_seconds: float = 600.0
    answer_seconds: float = 3600.0
    send_seconds: float = 60.0
    keep_alive_seconds: float = 10.0
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("most_output", "most_requests", "head_seconds", "body_mib", "body_seconds", "wait_seconds", "answer_seconds", "send_seconds",
                     "keep_alive_seconds", "stop_seconds"):
            if not 0 < getattr(self, name) < 2**40:
                raise UserError("--" + name.replace("_", "-"), getattr(self, name), "a number above 0")
        if not self.name.strip() or not self.name.isprintable():
            raise UserError("--name", self.name, "a printable name")

    @property
    def body_bytes(self) -> int:
        """The largest body."""
        return int(self.body_mib * 2**20)

    def serves(self, model: str) -> bool:
        """Whether a client that asks for `model` means ours."""
        return model == self.name or any(fnmatchcase(model, alias) for alias in self.aliases)
