"""API keys."""
from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Limits:
    """What a key may do at most; None for no limit. concurrency: requests at once; the others in any 60 seconds."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Key:
    """A key without its secret. prefix: how it is shown and logged, such as sk-Ab3dE9xK."""

    id: int
    prefix: str
    name: str
    account_id: int
    account: str
    limits: Limits
    created: datetime
    revoked: datetime | None = None
