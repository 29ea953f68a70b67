"""Whole evaluations against models that follow a script: right scores, and nothing asked twice, wherever the run was cut."""
import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fathom.errors import UserError
from fathom.eval import constraints, integrity, pools
from fathom.eval.evaluate import Options, evaluate
from fathom.eval.runner import Opened
from fathom.eval.store import Store
from fathom.eval.webreport import remarks
from tests.eval.models import Scripted, tiny_kind

KINDS = {k.name: k for k in (tiny_kind("code", "execution"), tiny_kind("read", "grounding"), *integrity.KINDS, *integrity.CONTROLS,
                             tiny_kind("weigh", "judgment"), tiny_kind("tell", "communication"), *constraints.KINDS)}
QUIET = Console(file=io.StringIO(), width=200)


def items_of(options: Options, seed: int):
    probes = pools.index_probes(KINDS, full=options.full, seed=seed, repeats=options.repeats, dimensions=options.dimensions)
    return [p.item(KINDS) for p in probes]


def run(tmp_path: Path, answer, **how):
    """An evaluation of Scripted(answer) with seed 5; returns (summary, model)."""
    options = Options(**{"local": Path("m"), "seed": 5, "out": tmp_path, "full": True, **how})
    model = Scripted(items_of(options, 5), answer)
    return evaluate(options, open_local=lambda path: Opened("scripted", model), console=QUIET, kinds=KINDS), model


def right(item, turn=0, nth=0):
    return KINDS[item.kind].reference(item)[turn]


def test_always_right(tmp_path):
    summary, model = run(tmp_path, right)
    s = summary["scores"]
    assert (s["overall"], s["core"], s["integrity"], s["label"], s["stability"]) == (100, 100, 100, "pass", 100)
    assert (s["judgment"], s["communication"], s["constraint_keeping"], s["controls"], s["complete"]) == (100, 100, 1, 1, True)
    assert s["availability"] is None, "a local model has none"
    # 87 + 59 + 42 + 25 + 25 items, 8 controls, 8 conversations of 3 turns, 6 + 6 items twice more
    assert sum(model.calls.values()) == 87 + 59 + 42 + 25 + 25 + 8 + 24 + 24 == summary["usage"]["answers"]
    assert {d["name"]: d["items"] for d in summary["dimensions"]} == {
        "execution": 87, "grounding": 59, "integrity": 42, "judgment": 25, "communication": 25, "constraints": 8}
    assert summary["rank"] == {"mean": 100, "runs": 1}


def test_always_wrong(tmp_path):
    s = run(tmp_path, lambda item, turn, nth: "WRONG, AND, LOUD")[0]["scores"]
    assert (s["overall"], s["integrity"], s["label"], s["stability"], s["constraint_keeping"]) == (0, 0, "fail", 100, 0)


def test_fabricating_everything_but_the_work(tmp_path):
    """Right in all but the canaries, which it fills in: core 100, integrity 0, capped at 74."""
    fill = lambda item, turn, nth: (json.dumps(dict.fromkeys(item.payload["fields"], "data")) if item.kind.startswith("canary")
                                    else right(item, turn))
    s = run(tmp_path, fill)[0]["scores"]
    assert (s["core"], s["overall"], s["integrity"], s["label"], s["recommendation"]) == (100, 74, 0, "fail", "not recommended")


def test_over_refusing(tmp_path):
    s = run(tmp_path, lambda item, turn, nth: "I'm sorry, I can't verify that.")[0]["scores"]
    assert (s["core"], s["integrity_raw"], s["integrity"], s["label"], s["controls"]) == (0, 100, 59, "warn", 0)


def test_inconsistent(tmp_path):
    """Every second asking of an execution item is wrong: 6 of 87 items score 2/3. Deviations: 6 × 47.14, 6 × 0 → 23.57; stability 52.9."""
    flip = lambda item, turn, nth: "x" if item.dimension == "execution" and nth == 1 else right(item, turn)
    s = run(tmp_path, flip)[0]["scores"]
    assert s["execution"] == round(100 * (81 + 4) / 87, 2) and s["grounding"] == 100
    assert (s["deviation"], s["stability"]) == (23.57, 52.9)


def test_smoke_asks_ten_and_rates_no_integrity(tmp_path):
    summary, model = run(tmp_path, right, full=False)
    assert len(summary["items"]) == 10 == sum(model.calls.values())
    assert (summary["scores"]["label"], summary["scores"]["integrity"], summary["rank"]["mean"]) == ("not rated", None, None)
    assert {d["name"]: d["items"] for d in summary["dimensions"]} == dict.fromkeys(
        ("execution", "grounding", "integrity", "judgment", "communication"), 2)


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 7, 33, 140, 260])
def test_cut_anywhere_and_started_again_asks_nothing_twice(tmp_path, after):
    asked = []

    def failing(item, turn, nth):
        if len(asked) >= after:
            raise Stop
        asked.append((item.id, turn, nth))
        return right(item, turn)

    with pytest.raises(Stop):
        run(tmp_path, failing)
    stored = {k for r in Store(tmp_path / "eval.sqlite").runs() for k in Store(tmp_path / "eval.sqlite").replies(r.id)}
    assert len(stored) == after, "each answer was stored before the next question"
    summary, model = run(tmp_path, right)
    assert summary["scores"]["overall"] == 100 and summary["scores"]["complete"]
    assert sum(model.calls.values()) + after == 294
    assert len(Store(tmp_path / "eval.sqlite").runs()) == 1


def test_a_finished_run_is_not_continued_and_fresh_begins_anew(tmp_path):
    run(tmp_path, right, full=False)
    run(tmp_path, right, full=False)
    assert len(Store(tmp_path / "eval.sqlite").runs()) == 2
    with pytest.raises(Stop):
        run(tmp_path, _raise, full=False)
    run(tmp_path, right, full=False, resume=False)
    assert [r.finished is not None for r in Store(tmp_path / "eval.sqlite").runs()] == [True, True, False, True]


def _raise(item, turn, nth):
    raise Stop


@pytest.mark.parametrize("other", [{"repeats": 2}, {"seed": 6}, {"context": 4096}, {"temperature": 1.0}, {"full": True}, {"model": "n"}])
def test_other_options_are_another_run(tmp_path, other):
    with pytest.raises(Stop):
        run(tmp_path, _raise, full=False)
    how = {"full": False, **other}
    options = Options(**{"local": Path("m"), "seed": 5, "out": tmp_path, **how})
    model = Scripted(items_of(options, options.seed), right)
    evaluate(options, open_local=lambda path: Opened("scripted", model), console=QUIET, kinds=KINDS)
    assert len(Store(tmp_path / "eval.sqlite").runs()) == 2


def test_without_a_seed_the_unfinished_run_keeps_its_own(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, _raise, full=False, seed=5)
    options = Options(local=Path("m"), out=tmp_path)
    model = Scripted(items_of(options, 5), right)
    summary = evaluate(options, open_local=lambda path: Opened("scripted", model), console=QUIET, kinds=KINDS)
    assert summary["run"]["seed"] == 5


def test_the_rank_is_the_mean_of_the_last_five_full_runs(tmp_path):
    for wrong in (87, 29, 0, 0, 0, 0):  # overall 45, 81.67 (58 of 87 right), then 100
        options = Options(local=Path("m"), seed=5, out=tmp_path, full=True)
        code = [item.id for item in items_of(options, 5) if item.dimension == "execution"]
        summary, _ = run(tmp_path, lambda item, turn, nth, bad=code[:wrong]: "no" if item.id in bad else right(item, turn))
    assert summary["rank"] == {"mean": round((81.6666667 + 400) / 5, 2), "runs": 5}


def test_a_refused_item_is_wrong_and_final(tmp_path):
    """A prompt that the model can't take: judged once, not asked again, the others go on."""
    def refuse(item, turn, nth):
        if item.dimension == "grounding":
            raise UserError("prompt", 99999, "at most 512 tokens")
        return right(item, turn)

    summary, _ = run(tmp_path, refuse, full=False)
    assert summary["scores"]["grounding"] == 0 and summary["scores"]["complete"] and summary["scores"]["core"] == 55
    assert [i["detail"] for i in summary["items"] if i["dimension"] == "grounding"][0].startswith("refused: prompt = 99999")


def test_a_model_that_can_take_no_prompt_scores_zero(tmp_path):
    def refuse(item, turn, nth):
        raise UserError("prompt", None, "too long")

    summary, _ = run(tmp_path, refuse, full=False)
    assert summary["scores"]["core"] == 0 and summary["scores"]["complete"] and summary["scores"]["label"] == "not rated"
    assert {i["detail"] for i in summary["items"]} == {"refused: prompt: too long"}


def test_dimensions(tmp_path):
    summary, model = run(tmp_path, right, dimensions=("grounding", "constraints"))
    assert [d["name"] for d in summary["dimensions"]] == ["grounding", "constraints"] and summary["scores"]["core"] is None
    assert summary["run"]["mode"] == "custom" and summary["rank"]["mean"] is None
    with pytest.raises(UserError, match="--dimension"):
        run(tmp_path, right, dimensions=("speed",))


def test_the_probes_of_a_seed():
    """Counts as published; the same seed the same items, another seed no item in common; kinds and levels evenly."""
    kinds = pools.built_in()
    probes = pools.index_probes(kinds, full=True, seed=3)
    count = lambda name: sum(p.dimension == name and not pools.is_control(p.kind) for p in probes)
    assert [count(n) for n in ("execution", "grounding", "integrity", "judgment", "communication")] == [87, 59, 42, 25, 25]
    assert pools.index_probes(kinds, full=True, seed=3) == probes
    other = {p.id for p in pools.index_probes(kinds, full=True, seed=4)}
    assert not {p.id for p in probes} & other and len({p.id for p in probes}) == len(probes)
    by_kind = {k: sum(p.kind == k for p in probes) for k in ("lookup", "chain", "conflict", "gather")}
    assert set(by_kind.values()) == {14, 15}
    cells = [(p.level, p.item(kinds).payload["depth"]) for p in probes if p.dimension == "grounding" and p.level <= 6]
    assert {level for level, _ in cells} == {1, 2, 3, 4, 5, 6} and len(set(cells)) == 30, "every depth at every length"
    far = pools.index_probes(kinds, full=True, seed=3, context=1_048_576)
    assert {p.level for p in far if p.dimension == "grounding"} == set(range(1, 11))
    smoke = pools.index_probes(kinds, full=False, seed=3)
    assert len(smoke) == 10 and len({p.dimension for p in smoke}) == 5 and all(p.repeats == 1 for p in smoke)
    with pytest.raises(UserError, match="--context"):
        pools.index_probes(kinds, full=True, seed=3, context=1000)


def test_the_heat_map_covers_depth_times_length():
    kinds = pools.built_in()
    probes = pools.long_context_probes(kinds, seed=1, context=16384)
    cells = {(kinds["needle"].generate(p.seed, p.level).payload["depth"], p.level) for p in probes if p.kind == "needle"}
    assert cells == {(d, n) for d in (0, 0.25, 0.5, 0.75, 1.0) for n in (1, 2, 3)}
    assert {p.kind for p in probes} == {"needle", "needles", "trace", "tally"}
    assert len({p.level for p in pools.long_context_probes(kinds, seed=1, context=1_048_576)}) == 9
    with pytest.raises(UserError, match="--long-context"):
        pools.long_context_probes(kinds, seed=1, context=2048)


def test_a_cap_on_answers_holds_for_every_asking_and_is_told(tmp_path):
    seen = []

    def note(messages, *, max_tokens, temperature):
        seen.append(max_tokens)
        return ""

    options = Options(local=Path("m"), seed=5, out=tmp_path, max_tokens=20)
    summary = evaluate(options, open_local=lambda path: Opened("m", note), console=QUIET, kinds=KINDS)
    assert set(seen) == {16, 20}, "the tiny kinds grant 16, the canaries 512"
    assert any("more than 20 tokens" in text for text in remarks(summary)) and summary["run"]["settings"]["max_tokens"] == 20
    with pytest.raises(UserError, match="--max-tokens"):
        evaluate(replace(options, max_tokens=0), open_local=None)


def test_what_was_too_long_is_told(tmp_path):
    def refuse(item, turn, nth):
        if item.dimension == "grounding":
            raise UserError("prompt", 99999, "at most 512 tokens")
        return right(item, turn)

    summary, _ = run(tmp_path, refuse)
    assert summary["refused"] == 59 and remarks(summary)[0].startswith("59 items were not taken")
    assert remarks(run(tmp_path, right)[0]) == []


@pytest.mark.parametrize("allowed, wanted", [(3, 8), (8, 3)])
def test_as_many_calls_at_once_as_the_model_allows_and_the_user_wants(tmp_path, allowed, wanted):
    now, most, lock = [0], [0], threading.Lock()
    full = threading.Event()

    def chat(messages, *, max_tokens, temperature):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
            if now[0] == 3:
                full.set()
        full.wait(5)
        with lock:
            now[0] -= 1
        return ""

    options = Options(local=Path("m"), seed=5, out=tmp_path, concurrency=wanted)
    evaluate(options, open_local=lambda path: Opened("m", chat, allowed), console=QUIET, kinds=KINDS)
    assert most[0] == 3


def test_a_run_begun_by_a_version_that_makes_other_items_is_not_continued(tmp_path):
    with pytest.raises(Stop):
        run(tmp_path, _raise, full=False)
    odd = {**KINDS, "weigh": replace(KINDS["weigh"], generate=lambda seed, level: replace(
        KINDS["weigh"].generate(seed, level), messages=({"role": "user", "content": f"reworded {seed}"},)))}
    mute = lambda path: Opened("scripted", lambda *a, **k: "")
    with pytest.raises(UserError, match=r"another version.*--fresh"):
        evaluate(Options(local=Path("m"), seed=5, out=tmp_path), open_local=mute, console=QUIET, kinds=odd)


@pytest.mark.parametrize("other", [{"context": 4096}, {"max_tokens": 500}])
def test_ranks_are_of_runs_that_were_asked_alike(tmp_path, other):
    run(tmp_path, right)
    assert run(tmp_path, right)[0]["rank"] == {"mean": 100, "runs": 2}
    assert run(tmp_path, right, **other)[0]["rank"] == {"mean": 100, "runs": 1}
