"""The run's page: one HTML file with numbers, charts, a comparison and every transcript; works from a disk, offline (fathom.report)."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from fathom.eval import choices
from fathom.report import bars, card, escape, heat_map, json_data, lines, page, table, tile, tiles
from fathom.report.charts import short

TONES = {"pass": "good", "warn": "warn", "fail": "bad", "not rated": ""}
STYLE = """
.filters { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr)); gap:8px; margin:8px 0; }
.filters select, .filters input { width:100%; }
.kinds { column-gap:32px; margin:0; }
details.item { border-bottom:1px solid var(--line); padding:6px 0; } details.item > summary { line-height:1.4; }
"""
FILTERS = """
<div class="filters">
<select id="f-dimension" aria-label="dimension"><option value="">all dimensions</option></select>
<select id="f-kind" aria-label="kind"><option value="">all kinds</option></select>
<select id="f-result" aria-label="result"><option value="">all results</option><option>passed</option><option>partly</option>
<option>failed</option><option>unanswered</option></select>
<input id="f-text" type="search" placeholder="search text" aria-label="search text">
</div>
<p class="soft small" id="count" aria-live="polite"></p>
<div id="list"></div>
<p><button id="more" type="button" hidden>Show more</button></p>
<noscript><p>The list of items needs JavaScript; everything above doesn't.</p></noscript>
"""


def render(summary: Mapping[str, Any], others: Sequence[Mapping[str, Any]] = ()) -> str:
    """The HTML document of a summary (summary.summarise), compared with `others`."""
    run = summary["run"]
    parts = [_head(summary), _tiles(summary), f'<div class="grid">{_dimensions(summary)}{_integrity(summary)}</div>', _kinds(summary)]
    parts += [_grids(summary), f'<div class="grid">{_lengths(summary)}{_usage(summary)}</div>']
    if others:
        note = "Runs with the same seed asked the same items and compare one by one; others only in the mean."
        parts.append(card("Comparison", comparison_table([summary, *others]), note))
    parts += [card("Items", FILTERS), json_data("items", summary["items"])]
    script = resources.files("fathom.eval").joinpath("report.js").read_text(encoding="utf-8")
    return page(f"YZ Index: {run['model']}", "\n".join(filter(None, parts)), scripts=[script], styles=[STYLE])


def number(value: Any, unit: str = "") -> str:
    """A number as the page shows it; None is "not rated"."""
    return "not rated" if value is None else f"{value:g}{unit}" if isinstance(value, int) else f"{value:.2f}{unit}"


def _head(summary: Mapping[str, Any]) -> str:
    run, scores = summary["run"], summary["scores"]
    seed, when = run["seed"], run["started"][:16].replace("T", " ")
    place = "of a local checkpoint" if run["endpoint"] == "local" else f"at {run['endpoint']}"
    where = f"{run['mode']} run {place}, {when} UTC, seed {seed}, run {run['id']}"
    warning = "" if scores["complete"] else ('<p class="bad"><b>Incomplete:</b> some items have no answer and count as wrong. '
                                             "Start the same command again to ask them.</p>")
    warning += "".join(f'<p class="soft">{escape(text)}</p>' for text in remarks(summary))
    if run["settings"].get("sandbox") == "limits":
        warning += '<p class="warn">Generated code ran behind the weaker walls (--sandbox limits).</p>'
    return f"<h1>YZ Index of {escape(run['model'])}</h1><p class=\"soft\">{escape(where)}</p>{warning}"


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the scores right, one sentence each."""
    found = []
    if refused := summary["refused"]:
        found.append(f"{refused} item{'s were' if refused != 1 else ' was'} not taken, as longer than the model's context or for another reason that "
                     "its transcript gives; canaries among them are no probes, the others count as wrong.")
    if limit := summary["run"]["settings"].get("max_tokens"):
        found.append(f"No answer had more than {limit:,} tokens (--max-tokens), whatever its item grants.")
    return found


def _tiles(summary: Mapping[str, Any]) -> str:
    s, cost, rank = summary["scores"], summary["cost"], summary["rank"]
    verdict = "integrity" if s["label"] == "not rated" else f"integrity: {s['recommendation']}"
    found = [tile(number(s["overall"]), "overall", TONES[s["label"]]), tile(number(s["core"]), "core"),
             tile(s["label"], verdict, TONES[s["label"]]), tile(number(s["stability"]), "stability"),
             tile(number(s["availability"], " %") if s["availability"] is not None else "not rated", "availability"),
             tile(number(s["value"]), "value, 0–100")]
    if s["points_per_dollar"] is not None:
        found.append(tile(f"{s['points_per_dollar']:.1f}", "points per US$ (1M tokens, 3 in : 1 out)"))
    if s["constraint_keeping"] is not None:
        found.append(tile(f"{s['constraint_keeping']:.3f}", "constraint keeping, 0–1"))
    if rank["mean"] is not None:
        found.append(tile(number(rank["mean"]), f"rank: mean of {rank['runs']} run{'s' if rank['runs'] != 1 else ''}"))
    if cost:
        found.append(tile(f"US$ {cost['dollars']}", f"cost of this run ({cost['price']})"))
    return tiles(*found)


def _dimensions(summary: Mapping[str, Any]) -> str:
    rows = [(d["name"].replace("_", " "), d["score"], number(d["score"])) for d in summary["dimensions"]]
    note = f"core = 0.55 × execution + 0.45 × grounding; {' and '.join(choices.SIDE_LISTS)} are side lists."
    return card("Dimensions", bars(rows), note)


def _integrity(summary: Mapping[str, Any]) -> str:
    s = summary["scores"]
    tone = TONES[s["label"]]
    text = {"pass": "Invents nothing, or little.", "warn": "Some inventions, or silence where it could have answered.",
            "fail": f"Invents sources or data: the overall score is capped at {choices.CAP_ON_FAIL}.0.",
            "not rated": f"Fewer than {choices.MIN_PROBES} canaries were asked."}[s["label"]]
    rows = [("canaries passed", s["integrity_raw"], number(s["integrity_raw"]))]
    if s["controls"] is not None:
        rows.append(("controls answered", 100 * s["controls"], f"{100 * s['controls']:.0f} %"))
    return card("Integrity", f'<p><b class="{tone}">{escape(s["label"])}</b> {escape(text)}</p>' + bars(rows),
                "Controls are the same questions with the answer in the text; who refuses them too isn't honest but silent.")


def _kinds(summary: Mapping[str, Any]) -> str:
    blocks = []
    for d in summary["dimensions"]:
        rows = [(f"{kind['name']} ({kind['askings']})", kind["score"], number(kind["score"])) for kind in d["kinds"]]
        blocks.append(f"<div><h3>{escape(d['name'].replace('_', ' '))}</h3>{bars(rows)}</div>")
    return card("By kind", f'<div class="grid kinds">{"".join(blocks)}</div>', "In brackets: how often a question of the kind was asked.")


def _grids(summary: Mapping[str, Any]) -> str:
    titles = {"needle": "One needle: depth × length", "grounding": "Grounding: depth × length"}
    made = [card(titles[g["name"]], heat_map([f"{100 * d:.0f} %" for d in g["depths"]], [short(n) for n in g["lengths"]], g["cells"],
                                             "depth", "tokens"), "Percent right; lengths are nominal tokens.") for g in summary["grids"]]
    return f'<div class="grid">{"".join(made)}</div>' if made else ""


def _lengths(summary: Mapping[str, Any]) -> str:
    series = [(entry["kind"], [tuple(p) for p in entry["points"]]) for entry in summary["lengths"] if len(entry["points"]) > 1]
    if not series:
        return ""
    return card("Score by length", lines(series, "nominal tokens", "score", log_x=True, y_range=(0.0, 100.0)))


def _usage(summary: Mapping[str, Any]) -> str:
    u = summary["usage"]
    rows = [("answers", f"{u['answers']:,}"), ("attempts", f"{u['attempts']:,}"),
            *((f"of these {name}", f"{n:,}") for name, n in sorted(u["troubles"].items())),
            ("seconds per answer, median", number(u["seconds_median"])), ("seconds per answer, 95 of 100 below", number(u["seconds_p95"])),
            ("prompt tokens", f"{u['prompt_tokens']:,}"), ("of these cached", f"{u['cached_tokens']:,}"),
            ("completion tokens", f"{u['completion_tokens']:,}"), ("answers cut off by the limit", f"{u['cut_off']:,}")]
    return card("Requests", table(["", ""], rows, numeric=(1,)), "Tokens as the endpoint reports them.")


def comparison_rows(summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """(column names, rows) of runs side by side; the first is the one the others are compared with."""
    names = [f"{s['run']['model']} ({s['run']['mode']}, {s['run']['started'][:10]})" for s in summaries]
    keys = ["overall", "core", *dict.fromkeys(d["name"] for s in summaries for d in s["dimensions"]), "label", "stability", "availability",
            "value", "constraint_keeping"]
    rows = []
    for key in dict.fromkeys(keys):
        values = [s["scores"].get(key) for s in summaries]
        if all(v is None for v in values):
            continue
        texts = [v if isinstance(v, str) else "–" if v is None else f"{v:.2f}" for v in values]
        if isinstance(values[0], float):
            texts[1:] = [t if not isinstance(v, float) else f"{t} ({v - values[0]:+.2f})" for t, v in zip(texts[1:], values[1:])]
        rows.append(["integrity label" if key == "label" else key.replace("_", " "), *texts])
    same = [_agreement(summaries[0], other) for other in summaries[1:]]
    if any(same):
        rows.append(["same items: better / worse", "", *same])
    odd = {s["choices"] for s in summaries}
    if len(odd) > 1:
        rows.append(["choices version (differs!)", *(str(s["choices"]) for s in summaries)])
    return ["", *names], rows


def _agreement(first: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """On the items that both runs asked: how many the other does better and worse."""
    mine = {(i["id"], i["repeat"]): i["score"] for i in first["items"]}
    pairs = [(mine[i["id"], i["repeat"]], i["score"]) for i in other["items"] if (i["id"], i["repeat"]) in mine]
    return f"{sum(b > a for a, b in pairs)} / {sum(b < a for a, b in pairs)} of {len(pairs)}" if pairs else ""


def comparison_table(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as HTML."""
    columns, rows = comparison_rows(summaries)
    return table(columns, rows, numeric=range(1, len(columns)))
