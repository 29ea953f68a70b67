"""An evaluation from options to reports: choose the probes, begin or continue a run, ask, judge, write.

Everything lands in one folder: eval.sqlite (all runs' requests and answers) and, per run, report.html, report.json and, where
there is a heat map and matplotlib, needle.png. Evaluating again with the same options continues an unfinished run of them.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from fathom.errors import UserError
from fathom.eval import choices, pools, summary, webreport
from fathom.eval.client import Endpoint, chat_url
from fathom.eval.console import Watch, print_comparison, print_summary
from fathom.eval.items import Kind
from fathom.eval.pools import Probe
from fathom.eval.runner import LocalModel, Model, Opened, run_probes
from fathom.eval.store import Run, Store
from fathom.prices import Price, load_prices
from fathom.report import plots

OpenLocal = Callable[[Path], Opened]


@dataclass(frozen=True)
class Options:
    """What a run is made of; command.py says what each is. Exactly one of endpoint and local, unless runs are only compared."""

    endpoint: str | None = None
    model: str | None = None
    key: str = field(default="", repr=False)
    local: Path | None = None
    full: bool = False
    dimensions: tuple[str, ...] = ()
    seed: int | None = None
    context: int = choices.DEFAULT_CONTEXT
    long_context: int | None = None
    humaneval: Path | None = None
    mbpp: Path | None = None
    repeats: int | None = None
    concurrency: int = 8
    out: Path = Path("runs/eval")
    resume: bool = True
    compare: tuple[str, ...] = ()
    prices: tuple[Path, ...] = ()
    price_model: str | None = None
    temperature: float | None = choices.TEMPERATURE
    max_tokens: int | None = None
    thinking_room: int | None = None
    timeout: float = 600.0
    attempts: int = 8
    extra: Mapping[str, Any] = field(default_factory=dict)
    proxy: str | None = None
    sandbox: str = "bubblewrap"


def evaluate(options: Options, *, open_local: OpenLocal | None = None, console: Console | None = None,
             kinds: Mapping[str, Kind] | None = None) -> dict[str, Any] | None:
    """Runs or continues an evaluation and writes its reports; with nothing to ask, only compares.

    Args:
        open_local: opens a checkpoint folder.
        console: where to print.  kinds: in place of the built-in ones.

    Returns the run's summary, or None when runs were only compared. Raises UserError on whatever the user can mend.
    """
    check(options)
    console = console or Console()
    store = Store(options.out / "eval.sqlite")
    try:
        others = [load_report(name, store, options) for name in options.compare]
        if options.endpoint is None and options.local is None:
            print_comparison(others, console)
            write_reports(options.out / "comparison", others[0], others[1:], console)
            return None
        if options.price_model:  # a price that was asked for must be there before anything is spent
            load_prices(options.prices).at(options.price_model, datetime.now(UTC))
        store.claim()
        kinds = dict(kinds or pools.built_in())
        files = _file_probes(options, kinds)
        sandbox = _sandbox(options, [*choose_probes(options, kinds, 0), *files], kinds)
        model = _model(options, open_local)
        try:
            run = _begin(options, model.name, files, store, kinds, console)
            probes = [*choose_probes(options, kinds, run.seed), *files]
            threads = model.at_once + 1 if isinstance(model, LocalModel) else options.concurrency  # one judges while the others ask
            with Watch(probes, console) as watch:
                complete = run_probes(probes, model, store, run.id, kinds, concurrency=threads, max_tokens=options.max_tokens,
                                      sandbox=sandbox, tell=watch.tell)
        except KeyboardInterrupt:
            console.print(f"Stopped. The same command continues in {options.out}.", highlight=False, markup=False, soft_wrap=True)
            raise
        finally:
            model.close()
        if complete:
            store.finish(run.id, _now().isoformat(timespec="seconds"))
        result = summary.summarise(store, run.id, price_of(options, run))
        print_summary(result, console, others)
        write_reports(options.out / run.id, result, others, console)
        return result
    finally:
        store.close()


def check(options: Options) -> None:
    """Refuses what can't work together, before anything is opened. Raises UserError."""
    if options.endpoint is not None and options.local is not None:
        raise UserError("--local", options.local, "can't be given together with --endpoint", "choose one")
    if options.endpoint is None and options.local is None and not options.compare:
        remedy = "give --endpoint URL --model NAME, or --local DIR, or runs to --compare"
        raise UserError("fathom eval", None, "nothing to evaluate", remedy)
    if options.endpoint is not None:
        chat_url(options.endpoint)
        if not options.model:
            raise UserError("--model", None, "an endpoint needs the model's name", "GET /models of the endpoint lists them")
    least = {"--concurrency": (options.concurrency, 1), "--repeats": (options.repeats, 1), "--attempts": (options.attempts, 1),
             "--max-tokens": (options.max_tokens, 1), "--thinking-room": (options.thinking_room, 0), "--seed": (options.seed, 0)}
    for name, (value, low) in least.items():
        if value is not None and value < low:
            raise UserError(name, value, f"at least {low}")
    if options.timeout <= 0:
        raise UserError("--timeout", options.timeout, "more than 0 seconds")
    if options.temperature is not None and not 0 <= options.temperature <= 2:
        raise UserError("--temperature", options.temperature, "0 to 2")


def choose_probes(options: Options, kinds: Mapping[str, Kind], seed: int) -> list[Probe]:
    """The generated probes of a run with this seed: the index (less what --dimension leaves out), then long context if asked for."""
    probes = pools.index_probes(kinds, full=options.full, seed=seed, context=options.context, dimensions=options.dimensions,
                                repeats=options.repeats)
    if options.long_context is not None:
        probes += pools.long_context_probes(kinds, seed=seed, context=options.long_context)
    return probes


def _begin(options: Options, name: str, files: list[Probe], store: Store, kinds: Mapping[str, Kind], console: Console) -> Run:
    """The unfinished run of the same options, or a new one with its items written down."""
    settings = {"context": options.context, "dimensions": sorted(options.dimensions), "long_context": options.long_context,
                "repeats": options.repeats, "temperature": options.temperature, "max_tokens": options.max_tokens,
                "thinking_room": options.thinking_room, "extra": dict(options.extra), "files": [probe.id for probe in files],
                "sandbox": options.sandbox, "choices": choices.VERSION}
    mode = "custom" if options.dimensions else "full" if options.full else "smoke"
    endpoint = "local" if options.endpoint is None else chat_url(options.endpoint).partition("?")[0]
    if options.resume:
        for run in reversed(store.runs(name)):
            same = (run.endpoint, run.mode, run.settings) == (endpoint, mode, json.loads(json.dumps(settings)))
            if same and run.finished is None and options.seed in (None, run.seed):
                console.print(f"Continuing run {run.id}: {len(store.replies(run.id))} answers are there.", highlight=False, markup=False)
                return run
    began = _now()
    seed = int(began.strftime("%Y%m%d")) if options.seed is None else options.seed
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:40] or "model"
    taken = {run.id for run in store.runs()}
    plain = f"{began:%Y%m%d-%H%M%S}-{slug}-{mode}"
    run_id = next(i for n in range(1, 1000) if (i := plain if n == 1 else f"{plain}-{n}") not in taken)
    run = Run(run_id, name, endpoint, mode, seed, began.isoformat(timespec="seconds"), settings)
    probes = [*choose_probes(options, kinds, seed), *files]
    askings = sum(probe.repeats for probe in probes)
    console.print(f"Run {run.id}: {len(probes)} items, {askings} askings, seed {seed}.", highlight=False, markup=False)
    store.add_run(run, probes, (probe.item(kinds) for probe in probes))
    return run


def _file_probes(options: Options, kinds: dict[str, Kind]) -> list[Probe]:
    """The problems of the user's HumanEval and MBPP files; each file is a dimension of its own, outside the core."""
    probes = []
    for name, path in (("humaneval", options.humaneval), ("mbpp", options.mbpp)):
        if path is not None:
            from fathom.eval import userfiles

            items = userfiles.load(path, name)
            kinds[name] = userfiles.KINDS[name]
            probes += [Probe(item.id, name, name, item.level, item.seed, ready=item) for item in items]
    return probes


def _sandbox(options: Options, probes: list[Probe], kinds: Mapping[str, Kind]) -> Any:
    """The sandbox, if anything needs one. Raises UserError (before anything is asked) where it can't be had."""
    if not any(kinds[probe.kind].needs_sandbox for probe in probes):
        return None
    from fathom.sandbox import Sandbox

    try:
        return Sandbox(options.sandbox)
    except UserError as error:
        remedy = "install bubblewrap, or accept weaker walls with --sandbox limits, or leave execution out with --dimension"
        raise UserError("--sandbox", options.sandbox, f"can't contain generated code here ({error.one_line()})", remedy) from None


def _model(options: Options, open_local: OpenLocal | None) -> Model:
    if options.local is not None:
        if open_local is None:
            raise UserError("--local", options.local, "needs a session to open it")
        opened = open_local(options.local)
        opened = opened._replace(at_once=min(opened.at_once, options.concurrency))
        return LocalModel(opened, options.model, options.temperature, options.thinking_room or 0)
    assert options.endpoint is not None and options.model is not None, "check saw to it"
    room = choices.THINKING_ROOM if options.thinking_room is None else options.thinking_room
    return Endpoint(options.endpoint, options.model, options.key, concurrency=options.concurrency, timeout=options.timeout,
                    attempts=options.attempts, temperature=options.temperature, room=room, extra=options.extra, proxy=options.proxy)


def price_of(options: Options, run: Run) -> Price | None:
    """The price row of the run's day; None where the tables don't know the model and nobody named one."""
    table = load_prices(options.prices)
    day = datetime.fromisoformat(run.started)
    if options.price_model:
        return table.at(options.price_model, day)
    try:
        return table.at(run.model, day)
    except UserError:
        if options.prices:  # a table was given for this: a missing row is a mistake
            raise
        return None


def load_report(name: str, store: Store, options: Options) -> dict[str, Any]:
    """A summary to compare with: a report.json, a folder with one, or the id of a run in the store. Raises UserError."""
    path = Path(name)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        if any(run.id == name for run in store.runs()):
            run = store.run(name)
            return summary.summarise(store, name, price_of(options, run))
        known = ", ".join(run.id for run in store.runs()[-5:])
        raise UserError("--compare", name, "a report.json, its folder, or the id of a run" + (f" (last: {known})" if known else ""))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found = data["format"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError("--compare", path, f"is not a report of fathom eval ({type(error).__name__})") from None
    if found != summary.FORMAT:
        raise UserError("--compare", path, f"has format {found}, this version reads {summary.FORMAT}")
    return data


def write_reports(folder: Path, result: Mapping[str, Any], others: list[dict[str, Any]], console: Console) -> None:
    """report.json, report.html and the heat map's needle.png; says where they are."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
        (folder / "report.html").write_text(webreport.render(result, others), encoding="utf-8")
    except OSError as error:
        raise UserError("--out", folder, f"can't be written: {error}", "free some space or give another folder") from None
    console.print(f"Report: {folder / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    for grid in (g for g in result["grids"] if g["name"] == "needle"):
        depths, lengths = [f"{100 * d:.0f} %" for d in grid["depths"]], [f"{n // 1024}K" for n in grid["lengths"]]
        try:
            plots.heat_plot(folder / "needle.png", depths, lengths, grid["cells"], title=f"One needle, {result['run']['model']}",
                            row_label="depth", column_label="nominal tokens")
        except UserError as error:
            console.print(f"No needle.png: {error.one_line()}", highlight=False, markup=False)


def _now() -> datetime:
    return datetime.now(UTC)
