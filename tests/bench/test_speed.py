"""`fathom bench` on a small model: real processes, rounds, medians, the CSV and the plots."""
import csv
import json
import os
from pathlib import Path

import pytest

from fathom.bench import quiet
from fathom.bench.speed import Case, median_row, run_cases
from fathom.cli import main
from fathom.config import config_to_dict
from fathom.errors import UserError
from tests.oracle import tiny_config


def row(prefill: float, decode: float | str, peak: float) -> dict[str, object]:
    return {"side": "reference", "prefill_tokens_per_second": prefill, "decode_tokens_per_second": decode, "peak_gb": peak, "clean_samples": 3,
            "rejected_samples": 1}


def test_rounds_become_one_row() -> None:
    assert median_row([row(100, 9, 0.5), row(300, 7, 0.6), row(200, 8, 0.4)]) == row(200, 8, 0.6) | {"clean_samples": 9, "rejected_samples": 3}
    assert median_row([row(100, "", 0.5), row(300, "", 0.5)]) == row(200, "", 0.5) | {"clean_samples": 6, "rejected_samples": 2}


def test_sides_take_turns_for_so_many_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(tiny_config())))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "--model", str(tmp_path), "--side", "reference", "--side", "transformers", "--context", "64", "--alone", "96", "--decode", "2",
              "--samples", "1", "--budget", "1", "--rounds", "2", "--out", str(tmp_path / "out" / "speed.csv")])
    assert ended.value.code == 0
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("side ")]
    assert told == 2 * ["reference", "transformers", "reference"]
    with (tmp_path / "out" / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["side"], r["context"]) for r in rows] == [("reference", "64"), ("transformers", "64"), ("reference", "96")]
    assert all(float(r["prefill_tokens_per_second"]) > 0 and float(r["decode_tokens_per_second"]) > 0 and float(r["peak_gb"]) > 0 for r in rows)
    assert all(int(r["clean_samples"]) + int(r["rejected_samples"]) >= 2 for r in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"speed.csv", "speed-prefill.png", "speed-decode.png"}


@pytest.mark.parametrize(("case", "rounds", "field"), [
    (Case("reference", "bench-130m", "bf16", 64, 1), 0, "rounds"), (Case("vllm", "bench-130m", "bf16", 64, 1), 1, "side"),
    (Case("llama.cpp", "bench-130m", "bf16", 64, 1), 1, "side"), (Case("native", "bench-130m", "bf16", 1 << 20, 1), 1, "context"),
])
def test_what_cannot_be_measured_is_refused(case: Case, rounds: int, field: str) -> None:
    with pytest.raises(UserError) as refused:
        run_cases([case], print, rounds=rounds)
    assert refused.value.field == field


def test_a_prompt_may_nearly_fill_the_context(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(tiny_config(max_position_embeddings=128))))
    [row] = run_cases([Case("reference", str(tmp_path), "bf16", 119, 1, samples=50, budget=5.0, decode=2)], lambda row: None)
    assert float(row["decode_tokens_per_second"]) > 0


def test_others_on_the_same_cores_disturb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On cores that this process may not use anybody may do anything."""
    ticks = os.sysconf("SC_CLK_TCK")
    busy = {"cpu0": 0, "cpu1": 0}

    def work(core: str, share: float) -> None:
        busy[core] += round(share * 100 * ticks)
        lines = [f"cpu  {sum(busy.values())} 0 0 9 9 0 0 0 0 0", *(f"{name} {n} 0 0 9 9 0 0 0 0 0" for name, n in busy.items()), "intr 5 6"]
        (tmp_path / "stat").write_text("\n".join(lines))
        clock[0] += 100

    clock = [0.0]
    monkeypatch.setattr(quiet, "STAT", tmp_path / "stat")
    monkeypatch.setattr(quiet.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1})
    work("cpu0", 1)
    for core, share, clean in (("cpu0", 1.0, 1), ("cpu1", 0.05, 1), ("cpu1", 0.5, 0)):
        timing = quiet.quiet_median(lambda c=core, s=share: work(c, s), samples=1, budget=0, warm_up=0)
        assert (timing.clean, timing.rejected) == (clean, 1 - clean), core
