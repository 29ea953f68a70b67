"""Price tables: TOML files of dated rows, the shipped one below and the operator's on top.

A price belongs to a model and holds from a day until the next row of that model: what a request cost is decided by when it was
asked, so an old bill can be computed again after any number of price changes. A row is never edited, a new one is added; the
operator's file may replace a shipped row by giving the same model and day.

    [[price]]
    model = "deepseek-v4-pro"
    from = 2026-04-24            # a TOML date; the row holds from 00:00 UTC
    cached = 0.145               # US$ per million input tokens found in the cache
    input = 1.74                 # … other input tokens
    output = 3.48                # … output tokens
    source = "where the figure comes from"
    aliases = ["v4-pro"]         # other names for the model (optional)

    unlisted = "deepseek-v4-flash"  # at the top of a file: whose rows a model without rows of its own pays (optional)
"""
from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

from fathom.errors import UserError
from fathom.prices import money

KEYS = ("model", "from", "cached", "input", "output", "source", "aliases")


@dataclass(frozen=True)
class Price:
    """One row. cached, input, output: nano-dollars per million tokens.  since: first day (UTC) on which it holds."""

    model: str
    since: date
    cached: int
    input: int
    output: int
    source: str = ""
    aliases: tuple[str, ...] = ()

    def cost(self, *, hit: int, miss: int, output: int) -> int:
        """Nano-dollars for a request of `hit` + `miss` input tokens and `output` tokens; rounded once (money.cost)."""
        return money.cost(hit=hit, miss=miss, output=output, cached_price=self.cached, input_price=self.input, output_price=self.output)

    def blended(self, input_parts: int = 3, output_parts: int = 1) -> int:
        """Nano-dollars per million tokens of a mix of uncached input and output, the usual single figure of comparisons."""
        parts = input_parts + output_parts
        return (2 * (self.input * input_parts + self.output * output_parts) + parts) // (2 * parts)

    def key(self) -> str:
        """Names the row in a ledger: model@day."""
        return f"{self.model}@{self.since.isoformat()}"


@dataclass(frozen=True)
class PriceTable:
    """Rows of any number of models, in the order of (model, day). unlisted: whose rows `charged` takes for other models, "" for nobody's."""

    rows: tuple[Price, ...]
    unlisted: str = ""

    def at(self, model: str, day: date | datetime) -> Price:
        """The row of `model` (a name or an alias, in any case) that holds on `day`.

        A datetime must carry its zone and is taken to UTC. Raises UserError for a model without a row, naming the nearest, and
        for a day before the model's first row.
        """
        when = utc_day(day)
        mine = [row for row in self.rows if model.casefold() in (row.model.casefold(), *(a.casefold() for a in row.aliases))]
        if not mine:
            near = difflib.get_close_matches(model, self.names(), 1, 0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(self.models())
            raise UserError("model", model, f"has no price row, known: {known}", f"{hint}add a [[price]] row to a price file")
        held = [row for row in mine if row.since <= when]
        if not held:
            first = min(row.since for row in mine)
            raise UserError("model", model, f"has no price before {first.isoformat()}", "add an earlier [[price]] row to a price file")
        return max(held, key=lambda row: row.since)

    def charged(self, model: str, day: date | datetime) -> Price:
        """What a service takes for `model` on `day`: its own row or, for a model that isn't listed, such as one trained here, the row of
        `unlisted`. Raises UserError as `at` does.
        """
        listed = model.casefold() in (name.casefold() for name in self.names())
        return self.at(model if listed or not self.unlisted else self.unlisted, day)

    def models(self) -> tuple[str, ...]:
        """Every model's own name, once."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def names(self) -> tuple[str, ...]:
        """Names and aliases."""
        return tuple(dict.fromkeys(name for row in self.rows for name in (row.model, *row.aliases)))

    def over(self, other: PriceTable) -> PriceTable:
        """Both tables; where they share model and day, this one's row, and this one's `unlisted` if it has one."""
        merged = {(row.model, row.since): row for row in (*other.rows, *self.rows)}
        return PriceTable(tuple(merged[key] for key in sorted(merged)), self.unlisted or other.unlisted)


def load_prices(paths: Iterable[str | Path] = ()) -> PriceTable:
    """The shipped table with the operator's files on top, the last file topmost.

    Raises UserError on a missing or malformed file, an unknown or missing key, a bad amount, a row given twice in one file, or an
    `unlisted` that has no rows.
    """
    shipped = resources.files("fathom.prices").joinpath("shipped.toml").read_text(encoding="utf-8")
    table = parse_prices(shipped, "shipped.toml")
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("prices", path, f"cannot be read: {error}", "give a TOML file with [[price]] rows") from None
        table = parse_prices(text, str(path)).over(table)
    if table.unlisted.casefold() not in ("", *(name.casefold() for name in table.names())):
        raise UserError("prices: unlisted", table.unlisted, f"has no price row, known: {', '.join(table.models())}")
    return table


def parse_prices(text: str, name: str) -> PriceTable:
    """The rows of one TOML text; `name` stands in the errors."""
    try:
        data = tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise UserError("prices", name, f"is not TOML: {error}") from None
    if set(data) - {"price", "unlisted"} or not isinstance(data.get("price", []), list):
        extra = ", ".join(sorted(set(data) - {"price", "unlisted"})) or "price = …"
        raise UserError("prices", name, "holds [[price]] rows, perhaps unlisted = MODEL, and nothing else", f"remove {extra}")
    unlisted = data.get("unlisted", "")
    if not isinstance(unlisted, str):
        raise UserError(f"{name}: unlisted", unlisted, "the name of a model that has price rows")
    rows = [_row(entry, f"{name}, price {i + 1}") for i, entry in enumerate(data.get("price", []))]
    seen: set[tuple[str, date]] = set()
    for row in rows:
        if (row.model, row.since) in seen:
            raise UserError("prices", name, f"{row.key()} stands there twice", "keep one of the two rows")
        seen.add((row.model, row.since))
    return PriceTable(tuple(sorted(rows, key=lambda row: (row.model, row.since))), unlisted.strip())


def _row(entry: Any, where: str) -> Price:
    if not isinstance(entry, dict):
        raise UserError("prices", where, "is not a table", "write it as a [[price]] row")
    for key in entry:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}: {key}", entry[key], f"unknown key, known: {', '.join(KEYS)}", hint)
    for key in ("model", "from", "input", "output"):
        if key not in entry:
            raise UserError(where, None, f"lacks {key}", "every row has model, from, input and output")
    model, since, aliases = entry["model"], entry["from"], entry.get("aliases", [])
    if not isinstance(model, str) or not model.strip():
        raise UserError(f"{where}: model", model, "a name")
    if not isinstance(since, date) or isinstance(since, datetime):
        raise UserError(f"{where}: from", since, "a TOML date without quotes, such as 2026-04-24")
    if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
        raise UserError(f"{where}: aliases", aliases, "a list of names")
    amount = lambda key: money.parse_dollars(entry[key], f"{where}: {key}")
    given, output = amount("input"), amount("output")
    cached = amount("cached") if "cached" in entry else given  # no discount unless one is named
    return Price(model, since, cached, given, output, str(entry.get("source", "")), tuple(aliases))


def utc_day(day: date | datetime) -> date:
    """The UTC day of a date (as it is) or of a datetime with a zone. A naive datetime is our own bug (ValueError)."""
    if not isinstance(day, datetime):
        return day
    if day.tzinfo is None:
        raise ValueError("a price depends on the time zone; give a datetime that has one")
    return day.astimezone(UTC).date()
