"""What an account has left."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Balance:
    """Nano-dollars. held: of the total, set aside for prompts under way.  postpaid: the account goes on at zero, and is invoiced."""

    granted: int
    topped_up: int
    held: int = 0
    postpaid: bool = False

    def api(self) -> dict[str, Any]:
        """The body of GET /user/balance (SPEC 9)."""
        raise NotImplementedError
