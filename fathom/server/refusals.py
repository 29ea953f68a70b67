"""What the accounts refuse, each with the HTTP status that says so.

A Refusal is a UserError: the command line prints it as one line, the server answers `status` with it. None of them shows a secret.
"""
from __future__ import annotations

from fathom.errors import UserError


class Refusal(UserError):
    """A request that isn't served. status: the HTTP status of the answer.  code: `error.code` in the answer's body."""

    status = 400
    code = "refused"


class OutOfBalance(Refusal):
    """The balance doesn't cover what is asked, or what was just generated (then that part isn't charged and must not be handed out)."""

    status, code = 402, "insufficient_balance"


class TooMany(Refusal):
    """A limit of the key is reached. retry_after: seconds after which the same request may pass, at least 1."""

    status, code = 429, "rate_limit_reached"

    def __init__(self, field: str, value: object, allowed: str, remedy: str, retry_after: int = 1) -> None:
        super().__init__(field, value, allowed, remedy)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple:
        return type(self), (self.field, self.value, self.allowed, self.remedy, self.retry_after)


class Taken(Refusal):
    """The request id is in use, or was billed already. billed: whether a ledger row exists."""

    status, code = 409, "request_id_taken"

    def __init__(self, field: str, value: object, allowed: str, remedy: str, billed: bool = False) -> None:
        super().__init__(field, value, allowed, remedy)
        self.billed = billed

    def __reduce__(self) -> tuple:
        return type(self), (self.field, self.value, self.allowed, self.remedy, self.billed)


class BooksClosed(Refusal):
    """The accounts can't be written: database gone, disk full, or another server took over. Nothing may be handed out."""

    status, code = 503, "accounts_unavailable"


class Revoked(Refusal):
    """The key was revoked after it was authenticated."""

    status, code = 401, "invalid_api_key"
