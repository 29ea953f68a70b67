"""A run as one plain value: scores, tables, cost and transcripts, ready for the terminal, JSON and HTML. Read from the store.

Numbers are rounded here, once, for people; None means not rated. A transcript keeps the beginning and the end of a long message and
says how much it leaves out: the whole stands in the store, and the item can be made again from kind, level and seed.
"""
from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fathom import __version__
from fathom.eval import choices
from fathom.eval.scores import LABELS, Outcome, Scores, rank_mean, score_run, shown
from fathom.eval.store import Reply, Run, Store
from fathom.prices import NANO, Price, dollars

FORMAT = 1
KEEP_CHARS = 1500  # of each end of a long message


def summarise(store: Store, run_id: str, price: Price | None = None) -> dict[str, Any]:
    """Everything there is to say about a run, as plain JSON. `price`: the row that held on the run's day, if known."""
    run, outcomes, replies = store.run(run_id), store.outcomes(run_id), store.replies(run_id)
    scores = scores_of(store, run, outcomes, price)
    details = {(row["item"]): row for row in store.items(run_id)}
    said = {key: verdict.detail for key, verdict in store.verdicts(run_id).items()}
    return {
        "format": FORMAT, "fathom": __version__, "choices": run.settings.get("choices", choices.VERSION),
        "run": {"id": run.id, "model": run.model, "endpoint": run.endpoint, "mode": run.mode, "seed": run.seed, "started": run.started,
                "finished": run.finished, "settings": run.settings},
        "scores": shown_scores(scores),
        "rank": _rank(store, run, price),
        "dimensions": [_dimension(name, scores, outcomes) for name in scores.dimensions],
        "refused": len({o.item_id for o in outcomes if o.refused}),
        "usage": _usage(store, run_id, replies),
        "cost": _cost(replies.values(), price),
        "grids": [grid for kind in ("needle", "grounding") if (grid := _grid(kind, outcomes, details))],
        "lengths": _lengths(outcomes, details),
        "items": [_item(store, run_id, o, details[o.item_id], replies, said.get((o.item_id, o.repeat), "no answer")) for o in outcomes],
    }


def scores_of(store: Store, run: Run, outcomes: Sequence[Outcome], price: Price | None) -> Scores:
    """The run's exact scores."""
    succeeded, failed = store.attempt_counts(run.id)
    return score_run(outcomes, succeeded=succeeded, failed=failed, price=price.blended(*choices.VALUE_MIX) if price else None)


def shown_scores(scores: Scores) -> dict[str, Any]:
    """The numbers as people read them: two decimals, half up."""
    return {
        "overall": shown(scores.overall), "core": shown(scores.core), "integrity": shown(scores.integrity),
        "integrity_raw": shown(scores.integrity_raw), "label": scores.label, "recommendation": LABELS[scores.label],
        "controls": shown(scores.controls), "stability": shown(scores.stability, 1), "deviation": shown(scores.deviation),
        "availability": shown(scores.availability), "value": shown(scores.value), "points_per_dollar": shown(scores.points_per_dollar),
        "constraint_keeping": shown(scores.constraint_keeping, 3), "complete": scores.complete,
        **{name: shown(d.score) for name, d in scores.dimensions.items() if name != "integrity"},
    }


def _rank(store: Store, run: Run, price: Price | None) -> dict[str, Any]:
    """The rolling mean: this run and the complete full ones of the model before it that were asked alike."""
    alike = lambda r: [r.settings.get(name) for name in ("choices", "context", "max_tokens")]
    overalls = []
    for other in store.runs(run.model):
        if other.mode == "full" and other.finished and alike(other) == alike(run):
            overall = scores_of(store, other, store.outcomes(other.id), price).overall
            overalls += [] if overall is None else [overall]
        if other.id == run.id:
            break
    return {"mean": shown(rank_mean(overalls)), "runs": min(len(overalls), choices.RANK_RUNS)}


def _dimension(name: str, scores: Scores, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    seen = lambda o: name != "integrity" or (o.answered and not o.refused)
    mine = [o for o in outcomes if o.dimension == name and seen(o)]
    total = scores.dimensions[name]
    rated = name != "integrity" or scores.integrity is not None
    return {"name": name, "score": shown(total.score) if rated else None, "items": total.items, "passed": total.passed,
            "unanswered": total.unanswered, "kinds": _groups(mine, lambda o: o.kind), "levels": _groups(mine, lambda o: o.level)}


def _groups(outcomes: Sequence[Outcome], key: Any) -> list[dict[str, Any]]:
    groups: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(key(outcome), []).append(outcome)
    return [{"name": name, "score": shown(100 * sum(o.score for o in group) / len(group)), "askings": len(group)}
            for name, group in (sorted(groups.items()))]


def _usage(store: Store, run_id: str, replies: Mapping[Any, Reply]) -> dict[str, Any]:
    """Tokens as reported by the endpoint, seconds per answer, and what became of the attempts."""
    seconds = sorted(r.seconds for r in replies.values())
    attempts = store.attempts(run_id)
    troubles: dict[str, int] = {}
    for attempt in attempts:
        if attempt["error"]:
            name = f"HTTP {attempt['status']}" if attempt["status"] else attempt["error"].split(":")[0]
            troubles[name] = troubles.get(name, 0) + 1
    total = lambda name: sum(getattr(r, name) or 0 for r in replies.values())
    return {"answers": len(replies), "attempts": len(attempts), "troubles": troubles, "prompt_tokens": total("prompt_tokens"),
            "cached_tokens": total("cached_tokens"), "completion_tokens": total("completion_tokens"),
            "reported": sum(r.completion_tokens is not None for r in replies.values()),
            "seconds_median": shown(statistics.median(seconds), 3) if seconds else None,
            "seconds_p95": shown(seconds[int(0.95 * (len(seconds) - 1))], 3) if seconds else None,
            "cut_off": sum(r.finish == "length" for r in replies.values())}


def _cost(replies: Any, price: Price | None) -> dict[str, Any] | None:
    """What the reported tokens cost, each request rounded as a bill would; None without a price or without counts."""
    counted = [r for r in replies if r.prompt_tokens is not None and r.completion_tokens is not None]
    if price is None or not counted:
        return None
    nano = sum(price.cost(hit=min(r.cached_tokens or 0, r.prompt_tokens), miss=r.prompt_tokens - min(r.cached_tokens or 0, r.prompt_tokens),
                          output=r.completion_tokens) for r in counted)
    places = 2 if nano >= 10 * NANO else 4 if nano >= NANO // 100 else 6
    return {"nano_dollars": nano, "dollars": dollars(nano, places), "price": price.key(), "requests": len(counted), "source": price.source}


def _grid(name: str, outcomes: Sequence[Outcome], details: Mapping[str, Any]) -> dict[str, Any] | None:
    """Mean score by depth and length, of the needle's items or of all grounding items."""
    cells: dict[tuple[float, int], list[float]] = {}
    for o in outcomes:
        payload = details[o.item_id]["payload"]
        if (o.kind if name == "needle" else o.dimension) == name and "depth" in payload:
            cells.setdefault((payload["depth"], payload["tokens"]), []).append(o.score)
    if not cells:
        return None
    depths, lengths = sorted({d for d, _ in cells}), sorted({n for _, n in cells})
    mean = lambda values: sum(values) / len(values) if values else None
    return {"name": name, "depths": depths, "lengths": lengths, "cells": [[mean(cells.get((d, n), [])) for n in lengths] for d in depths]}


def _lengths(outcomes: Sequence[Outcome], details: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean score by length: of all grounding together, and of each long-context kind."""
    groups: dict[str, dict[int, list[float]]] = {}
    for o in outcomes:
        tokens = details[o.item_id]["payload"].get("tokens")
        if o.dimension in ("grounding", "long_context") and tokens:
            name = o.kind if o.dimension == "long_context" else o.dimension
            groups.setdefault(name, {}).setdefault(tokens, []).append(o.score)
    return [{"kind": kind, "points": [[n, 100 * sum(v) / len(v)] for n, v in sorted(by.items())]} for kind, by in groups.items()]


def _item(store: Store, run_id: str, outcome: Outcome, row: Mapping[str, Any], replies: Mapping[Any, Reply],
          detail: str) -> dict[str, Any]:
    """One asking with its transcript."""
    turns = []
    turn = 0
    while (request := store.request(run_id, (outcome.item_id, outcome.repeat, turn))) is not None:
        reply = replies.get((outcome.item_id, outcome.repeat, turn))
        asked = request["messages"] if turn == 0 else request["messages"][-1:]
        turns.append({"asked": [[m["role"], cut(m["content"])] for m in asked], "answer": None if reply is None else cut(reply.text),
                      "reasoning": cut(reply.reasoning) if reply else "", "finish": reply.finish if reply else "",
                      "seconds": shown(reply.seconds, 2) if reply else None})
        turn += 1
    return {"id": outcome.item_id, "dimension": outcome.dimension, "kind": outcome.kind, "level": outcome.level, "seed": row["seed"],
            "repeat": outcome.repeat, "score": shown(outcome.score, 3), "passed": outcome.passed, "answered": outcome.answered,
            "detail": detail, "tokens": row["payload"].get("tokens"), "turns": turns}


def cut(text: str) -> str:
    """A long text's beginning and end, with how much lies between."""
    if len(text) <= 2 * KEEP_CHARS + 200:
        return text
    return f"{text[:KEEP_CHARS]}\n\n[… {len(text) - 2 * KEEP_CHARS:,} characters left out …]\n\n{text[-KEEP_CHARS:]}"
