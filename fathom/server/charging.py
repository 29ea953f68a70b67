"""The rules of charging, without a database.

`Books` is the working set of one transaction: the accounts and open meters that a batch of operations is about. Operations change it in
the order in which they came, and what they changed is then written (transaction.py). The rules:

- begin holds back what the prompt and one token of output cost at most; too little left is 402 before anything is computed.
- record takes the price of everything used so far, less what was taken before, from the account: granted first, then topped up, then, for
  a postpaid account, on its invoice. The price is rounded once, on the request's totals, so it doesn't matter how often is recorded.
- What can't be paid isn't charged, not even in part: that record is refused as a whole, its tokens are not handed out, and the request
  ends with what was paid before. So no balance is ever negative and nothing is ever written off; a rest smaller than one
  flush may stay on the account.
- finish makes the one ledger row. Its money is what was taken, never worked out anew.
- withdraw is for a request that was let in and then not served: no row, nothing held, and its id is free again. One that a killed server
  had begun to serve stays open instead, for whoever asks again.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from fathom.prices import dollars
from fathom.server.keys import Key
from fathom.server.metering import STATUSES, Begin, Closed, Finish, LedgerRow, MeterRow, Operation, Record, Resume, Usage, Withdraw
from fathom.server.refusals import OutOfBalance, Refusal, Revoked, Taken, TooMany

MINUTE = timedelta(seconds=60)


@dataclass
class AccountState:
    """An account's money."""

    granted: int
    topped_up: int
    held: int
    postpaid: bool

    @property
    def free(self) -> int:
        """What isn't held."""
        return self.granted + self.topped_up - self.held


@dataclass
class Traffic:
    """What a key has under way, and what it started in the last minute. oldest: its first start therein."""

    running: int = 0
    requests: int = 0
    tokens: int = 0
    oldest: datetime | None = None


@dataclass
class Books:
    """The working set. keys and traffic: of the keys that begin something.  closed: ledger rows, those made here among them."""

    server: str
    generation: int
    accounts: dict[int, AccountState]
    meters: dict[str, MeterRow]
    closed: dict[str, LedgerRow]
    keys: Mapping[int, Key] = field(default_factory=dict)
    traffic: dict[int, Traffic] = field(default_factory=dict)

    def apply(self, operation: Operation) -> MeterRow | Closed | None:
        """Carries out one operation, or raises a Refusal (or ValueError for our own mistake) and changes nothing."""
        match operation:
            case Begin():
                return self._begin(operation)
            case Resume():
                return self._resume(operation)
            case Record():
                return self._record(self._mine(operation.request_id), operation.usage)
            case Finish():
                return self._finish(operation)
            case Withdraw():
                return self._withdraw(operation)

    def _begin(self, op: Begin) -> MeterRow:
        running = self.meters.get(op.request_id)
        if running is not None and (running.started, running.key_id, running.generation) == (op.at, op.key.id, self.generation):
            return running  # the same operation again, after a commit whose answer was lost
        if running is not None or op.request_id in self.closed:
            raise _taken(op.request_id, billed=running is None)
        key, account = self.keys.get(op.key.id, op.key), self.accounts[op.key.account_id]
        if key.revoked is not None:
            raise Revoked("key", key.prefix, "was revoked", "use another key")
        traffic = self.traffic.setdefault(key.id, Traffic())
        check_limits(key, traffic, op)
        held = 0 if account.postpaid else op.price.cost(hit=op.cached_tokens, miss=op.prompt_tokens - op.cached_tokens, output=1)
        if held > account.free and not account.postpaid:
            raise OutOfBalance("balance", f"US$ {dollars(max(account.free, 0), 6)}",
                               f"doesn't cover a prompt of {op.prompt_tokens} tokens, US$ {dollars(held, 6)}", "top up the account")
        account.held += held
        meter = MeterRow(op.request_id, key.id, key.account_id, op.model, Usage(), op.price, 0, 0, 0, op.at, held, self.server, self.generation)
        self.meters[op.request_id] = meter
        traffic.running, traffic.requests, traffic.tokens = traffic.running + 1, traffic.requests + 1, traffic.tokens + op.prompt_tokens
        return meter

    def _resume(self, op: Resume) -> MeterRow:
        meter, row = self.meters.get(op.request_id), self.closed.get(op.request_id)
        if (meter or row) is None or (meter or row).key_id != op.key.id:
            raise Refusal("request", op.request_id, "isn't one that this key left unfinished", "ask it as a new request")
        if meter is None:
            raise _taken(op.request_id, billed=True)
        self.meters[op.request_id] = replace(meter, server=self.server, generation=self.generation)
        return self.meters[op.request_id]

    def _record(self, meter: MeterRow, usage: Usage) -> MeterRow:
        if not usage.covers(meter.usage):
            raise ValueError(f"{meter.request_id}: {usage} after {meter.usage}")
        account = self.accounts[meter.account_id]
        due = meter.price.cost(hit=usage.hit, miss=usage.miss, output=usage.output) - meter.cost
        if due > account.free + meter.held and not account.postpaid:
            raise OutOfBalance("balance", f"US$ {dollars(account.free + meter.held, 6)}",
                               f"doesn't cover the next US$ {dollars(due, 6)} of this request", "top up the account")
        granted = min(account.granted, due)
        topped_up = min(account.topped_up, due - granted)
        account.granted, account.topped_up, account.held = account.granted - granted, account.topped_up - topped_up, account.held - meter.held
        self.meters[meter.request_id] = replace(
            meter, usage=usage, held=0, granted=meter.granted + granted, topped_up=meter.topped_up + topped_up,
            invoiced=meter.invoiced + due - granted - topped_up)
        return self.meters[meter.request_id]

    def _finish(self, op: Finish) -> Closed:
        if op.status not in STATUSES:
            raise ValueError(f"{op.status!r} is not a status")
        if op.request_id in self.closed:
            return Closed(self.closed[op.request_id])
        meter, status, unpaid = self._mine(op.request_id), op.status, None
        if op.usage is not None:
            try:
                meter = self._record(meter, op.usage)
            except OutOfBalance as refused:
                status, unpaid = "balance", refused
        self.accounts[meter.account_id].held -= meter.held
        own = {name: value for name, value in vars(meter).items() if name not in ("held", "server", "generation")}
        row = LedgerRow(**own, finished=max(op.at, meter.started), status=status)
        del self.meters[op.request_id]
        self.closed[op.request_id] = row
        if meter.key_id in self.traffic:
            self.traffic[meter.key_id].running -= 1
        return Closed(row, unpaid)

    def _withdraw(self, op: Withdraw) -> None:
        meter = self.meters.get(op.request_id)
        if meter is None or meter.generation != self.generation:
            return  # the same operation again, after a commit whose answer was lost
        if meter.key_id in self.traffic:
            self.traffic[meter.key_id].running -= 1
        if meter.usage == Usage():
            self.accounts[meter.account_id].held -= meter.held
            del self.meters[op.request_id]
        else:
            self.meters[op.request_id] = replace(meter, generation=self.generation - 1)

    def _mine(self, request_id: str) -> MeterRow:
        if request_id in self.closed:
            raise _taken(request_id, billed=True)
        if request_id not in self.meters:
            raise ValueError(f"{request_id} was never begun")
        return self.meters[request_id]


def check_limits(key: Key, traffic: Traffic, op: Begin) -> None:
    """Raises TooMany where one more request would pass a limit of the key."""
    limits = key.limits
    wait = 1 if traffic.oldest is None else max(1, 1 + (traffic.oldest + MINUTE - op.at) // timedelta(seconds=1))
    if limits.concurrency is not None and traffic.running >= limits.concurrency:
        raise TooMany("concurrency", traffic.running, f"requests at once are what key {key.prefix} may have", "wait for one of them to end")
    if limits.requests_per_minute is not None and traffic.requests >= limits.requests_per_minute:
        raise TooMany("requests per minute", traffic.requests, f"the limit of key {key.prefix} is {limits.requests_per_minute}",
                      f"try again in {wait} s", wait)
    if limits.tokens_per_minute is not None and traffic.tokens + op.prompt_tokens > limits.tokens_per_minute:
        raise TooMany("tokens per minute", traffic.tokens + op.prompt_tokens, f"the limit of key {key.prefix} is {limits.tokens_per_minute}",
                      f"try again in {wait} s" if op.prompt_tokens <= limits.tokens_per_minute else "send a shorter prompt", wait)


def _taken(request_id: str, billed: bool) -> Taken:
    said = "was used by a request that is billed" if billed else "is the id of a request under way"
    return Taken("request", request_id, said, "give every request an id of its own", billed)
