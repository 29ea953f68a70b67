"""`fathom bench` on a small model: real processes, rounds, medians, the CSV and the plots."""
import csv
import json
from pathlib import Path

import pytest

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
              "--samples", "1", "--budget", "5", "--rounds", "2", "--out", str(tmp_path / "out" / "speed.csv")])
    assert ended.value.code == 0
    told = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("side ")]
    assert told == 2 * ["reference", "transformers", "reference"]
    with (tmp_path / "out" / "speed.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["side"], r["context"]) for r in rows] == [("reference", "64"), ("transformers", "64"), ("reference", "96")]
    assert all(float(r["prefill_tokens_per_second"]) > 0 and float(r["decode_tokens_per_second"]) > 0 and float(r["peak_gb"]) > 0 for r in rows)
    assert all(int(r["clean_samples"]) + int(r["rejected_samples"]) >= 2 for r in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"speed.csv", "speed-prefill.png", "speed-decode.png"}


@pytest.mark.parametrize(("side", "rounds", "field"), [("reference", 0, "rounds"), ("vllm", 1, "side"), ("llama.cpp", 1, "side")])
def test_what_cannot_be_measured_is_refused(side: str, rounds: int, field: str) -> None:
    with pytest.raises(UserError) as refused:
        run_cases([Case(side, "bench-130m", "bf16", 64, 1)], print, rounds=rounds)
    assert refused.value.field == field
