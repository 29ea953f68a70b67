"""Which probes a run asks: from a mode, a seed and a context length to a list of (kind, level, seed).

A dimension's pool goes round its kinds in turn and, within a kind, round its levels, so that any number of items is spread evenly. An
item's seed is made from the run's seed and the item's place in its kind: runs with one seed ask the same, other seeds share nothing.
Items are made when they are asked; a million-token document is never held for longer than its turn.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fathom.errors import UserError
from fathom.eval import choices, communication, constraints, grounding, integrity, judgment, longcontext
from fathom.eval.items import Item, Kind, item_id

SEED_STEP = 1_000_000  # run seeds are this far apart, so that no two runs share an item


@dataclass(frozen=True)
class Probe:
    """One item of a run, not yet made. repeats: how often it is asked.  ready: an item that no generator makes (a user's file)."""

    id: str
    dimension: str
    kind: str
    level: int
    seed: int
    repeats: int = 1
    ready: Item | None = None

    def item(self, kinds: Mapping[str, Kind]) -> Item:
        """The item itself."""
        return self.ready or kinds[self.kind].generate(self.seed, self.level)


def built_in() -> dict[str, Kind]:
    """Every kind that Fathom has, by name, in the order in which pools go round them."""
    from fathom.eval import execution

    groups = (execution.KINDS, grounding.KINDS, integrity.KINDS, integrity.CONTROLS, judgment.KINDS, communication.KINDS, constraints.KINDS,
              longcontext.KINDS)
    kinds = {kind.name: kind for group in groups for kind in group}
    assert len(kinds) == sum(len(group) for group in groups), "two kinds share a name"
    return kinds


def index_probes(kinds: Mapping[str, Kind], *, full: bool, seed: int, context: int = choices.DEFAULT_CONTEXT,
                 dimensions: Sequence[str] = (), repeats: int | None = None) -> list[Probe]:
    """The probes of a smoke (2 per dimension) or a full run (choices.FULL, with controls and constraint keeping).

    Args:
        kinds: as `built_in` gives them.  seed: of the run, >= 0.
        context: longest document, nominal tokens; grounding levels above it are left out.
        dimensions: only these; empty for all.  repeats: how often repeated items are asked (None: choices.REPEATS if full, else 1).

    Raises UserError on a dimension or a context that doesn't exist.
    """
    known = (*choices.FULL, "constraints") if full else tuple(choices.FULL)
    for name in dimensions:
        if name not in known:
            raise UserError("--dimension", name, f"one of {', '.join(known)}")
    if not choices.SMALLEST_CONTEXT <= context <= choices.LARGEST_CONTEXT:
        raise UserError("--context", context, f"{choices.SMALLEST_CONTEXT} to {choices.LARGEST_CONTEXT} tokens")
    times = (choices.REPEATS if full else 1) if repeats is None else repeats
    probes: list[Probe] = []
    for name, count in choices.FULL.items():
        mine = [k for k in kinds.values() if k.dimension == name and not is_control(k.name)]
        if (dimensions and name not in dimensions) or not mine:
            continue
        again = choices.REPEATED if name in choices.CORE_WEIGHTS else 0
        probes += _round(mine, count if full else choices.SMOKE_PER_DIMENSION, seed, context, full, again, times)
    if full and (not dimensions or "integrity" in dimensions):
        probes += _round([k for k in kinds.values() if is_control(k.name)], choices.CONTROL_ITEMS, seed, context, full)
    if full and (not dimensions or "constraints" in dimensions):
        probes += _round([k for k in kinds.values() if k.dimension == "constraints"], choices.CONSTRAINT_ITEMS, seed, context, full)
    return probes


def long_context_probes(kinds: Mapping[str, Kind], *, seed: int, context: int, samples: int = choices.NEEDLE_SAMPLES) -> list[Probe]:
    """The heat map (needle: every depth × every length up to `context`) and some of each other long-context kind per length."""
    if not longcontext.LENGTHS[0] <= context <= choices.LARGEST_CONTEXT:
        raise UserError("--long-context", context, f"{longcontext.LENGTHS[0]} to {choices.LARGEST_CONTEXT} tokens")
    probes = []
    levels = [level for level, tokens in zip(longcontext.LEVELS, longcontext.LENGTHS) if tokens <= context]
    for kind in (k for k in kinds.values() if k.dimension == "long_context"):
        grid = kind.name == "needle"
        count = samples * len(longcontext.DEPTHS) if grid else choices.LONG_ITEMS_PER_LENGTH
        probes += [_probe(kind, level, seed * SEED_STEP + i) for level in levels for i in range(count)]
    return probes


def is_control(kind: str) -> bool:
    """Whether a kind is a control for over-refusal rather than a canary."""
    return any(kind == control.name for control in integrity.CONTROLS)


def _round(kinds: Sequence[Kind], count: int, seed: int, context: int, full: bool, again: int = 0, times: int = 1) -> list[Probe]:
    """`count` probes going round kinds and levels; the first `again` of them are asked `times` times."""
    probes = []
    for i in range(count if kinds else 0):
        kind, turn = kinds[i % len(kinds)], i // len(kinds)
        levels = kind.levels
        if kind.dimension == "grounding":
            levels = tuple(level for level in levels if grounding.LENGTHS[level - 1] <= context)
        level = levels[turn % len(levels)] if full else choices.smoke_level(levels)
        probes.append(_probe(kind, level, seed * SEED_STEP + turn, times if i < again else 1))
    return probes


def _probe(kind: Kind, level: int, seed: int, repeats: int = 1) -> Probe:
    return Probe(item_id(kind.name, level, seed), kind.dimension, kind.name, level, seed, repeats)
