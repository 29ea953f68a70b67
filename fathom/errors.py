"""The one exception for what a user can get wrong.

The command line prints it as one line and exits with 2; the server turns it into a 4xx. Everything else that is raised is
our own bug and keeps its traceback. So a message must stand alone: which field or file, what was there, what is allowed,
what to do about it.
"""
from __future__ import annotations


class UserError(ValueError):
    """A wrong input: names the thing, its value, what is allowed and the remedy.

    Args:
        field: the setting, argument, file or request field at fault, as the user spells it.
        value: what was found there; `None` when there is nothing to show.
        allowed: what would have been accepted, in words; may be empty.
        remedy: what to do now, in words; may be empty.
    """

    def __init__(self, field: str, value: object = None, allowed: str = "", remedy: str = "") -> None:
        self.field, self.value, self.allowed, self.remedy = field, value, allowed, remedy
        super().__init__(self.one_line())

    def __reduce__(self) -> tuple:
        return type(self), (self.field, self.value, self.allowed, self.remedy)  # survives process pools

    def one_line(self) -> str:
        """The message without line breaks, long values shortened."""
        parts = [" ".join(self.field.split())]
        if self.value is not None:
            shown = " ".join(str(self.value).split())
            parts.append(f"= {shown if len(shown) <= 120 else shown[:117] + '...'}")
        text = " ".join(parts)
        if self.allowed:
            text += f": {' '.join(self.allowed.split())}"
        if self.remedy:
            text += f"; {' '.join(self.remedy.split())}"
        return text
