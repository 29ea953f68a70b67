"""fathom keys, bill and price as a person uses them: real processes, what they print, what they refuse."""
from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fathom.cli import main
from fathom.server.accounts import Accounts, Usage
from fathom.server.metering import Begin, Finish
from tests.server.databases import accounts, cluster, url  # noqa: F401  (fixtures)

# ruff: noqa: F811  (fixtures are arguments of the same name)

PRO, FLASH = "deepseek-v4-pro", "deepseek-v4-flash"


def fathom(*arguments: object, code: int = 0, **environment: str) -> str:
    """What the command printed; on an error its one line."""
    done = subprocess.run([sys.executable, "-m", "fathom.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "service"


@pytest.fixture
def traffic(folder: Path) -> Path:
    """Three requests on two days by two keys, at two models' prices; alice pays, the team is invoiced."""
    moment = datetime(2026, 4, 30, 23, tzinfo=UTC)
    with Accounts.open(folder, now=lambda: moment) as opened:
        alice, team = opened.create_key("alice").key, opened.create_key("team", postpaid=True).key
        opened.credit("alice", "grant", granted=3_000_000)
        opened.credit("alice", "top-up", topped_up=10**9)
        for i, (key, model, usage) in enumerate([(alice, PRO, Usage(1000, 2000, 500, 120)), (team, FLASH, Usage(0, 10_000, 1000)),
                                                 (alice, FLASH, Usage(0, 1_000_000, 1, 1))]):
            price = opened.prices.at(model, moment)
            opened.submit(Begin(f"r{i}", key, model, price, usage.hit + usage.miss, 0, moment)).result()
            opened.submit(Finish(f"r{i}", key.account_id, "stop", moment + timedelta(hours=i), usage)).result()
    return folder


def test_a_keys_life(folder: Path) -> None:
    made = fathom("keys", "create", "alice", "--grant", "5", "--top-up", "0.25", "--concurrency", 8, "--folder", folder)
    secret = made.splitlines()[0]
    assert re.fullmatch(r"sk-[A-Za-z0-9]{51}", secret) and "only time" in made
    with Accounts.open(folder, serving=False) as opened:
        key = opened.authenticate(secret)
    assert key.limits.concurrency == 8
    listed = fathom("keys", "list", "--folder", folder)
    assert secret[11:] not in listed and key.prefix in listed and re.search(r"alice +alice +8 +5\.00 +0\.25 ", listed)
    (row,) = json.loads(fathom("keys", "list", "--json", "--folder", folder))
    assert (row["key"], row["granted"], row["topped_up"], row["concurrency"], row["tokens_per_minute"]) == (key.prefix, "5.00", "0.25", 8, None)
    assert "concurrency unlimited, requests per minute 60" in fathom(
        "keys", "limits", "alice", "--concurrency", "none", "--requests-per-minute", 60, "--folder", folder)
    for _ in range(2):
        assert "US$ 20.250000 topped up" in fathom("keys", "top-up", "alice", 20, "--reference", "inv-17", "--folder", folder)
    assert "US$ 6.000000 granted" in fathom("keys", "grant", key.prefix, "1.0", "--note", "sorry", "--folder", folder)
    assert "US$ 0.250000 topped up" in fathom("keys", "correct", "alice", "--topped-up=-20", "--note", "bounced", "--folder", folder)
    history = fathom("keys", "history", "alice", "--folder", folder)
    assert [line.split()[2] for line in history.splitlines()[1:-1]] == ["grant", "top-up", "top-up", "grant", "correction"]
    assert len(json.loads(fathom("keys", "history", "alice", "--json", "--folder", folder))) == 5
    second = json.loads(fathom("keys", "create", "laptop", "--account", "alice", "--json", "--folder", folder))
    assert second["granted"] == "6.00" and second["secret"].startswith(second["key"])
    assert second["key"] in fathom("keys", "revoke", "alice", "--folder", folder)
    assert "revoked 20" in fathom("keys", "list", "--folder", folder)
    with Accounts.open(folder, serving=False) as opened:
        assert opened.authenticate(secret) is None and opened.authenticate(second["secret"]) is not None


def test_a_bill(traffic: Path, tmp_path: Path) -> None:
    """5.365 + 0.14028 thousandths of a dollar for alice, 1.68 for the team: by hand."""
    shown = fathom("bill", "--folder", traffic)
    lines = [line.split() for line in shown.splitlines()[1:]]
    assert sorted((line[0], line[3], line[-2], line[-1]) for line in lines[:-1]) == [
        ("2026-04-30", PRO, "0.000000", "0.005365"), ("2026-05-01", FLASH, "0.000000", "0.140000"), ("2026-05-01", FLASH, "0.001680", "0.001680")]
    assert lines[-1][0] == "total" and lines[-1][-2:] == ["0.001680", "0.147045"]
    data = json.loads(fathom("bill", "--by", "account", "--json", "--folder", traffic))
    assert {row["account"]: row["cost"] for row in data["rows"]} == {"alice": "0.14536528", "team": "0.00168"}
    assert data["total"]["cost"] == "0.14704528" and data["total"]["invoiced"] == "0.00168"
    rows = list(csv.DictReader(io.StringIO(fathom("bill", "--by", "month", "--by", "key", "--csv", "-", "--folder", traffic))))
    assert sorted((row["day"], row["name"], row["cost_usd"]) for row in rows) == [
        ("2026-04", "alice", "0.005365000"), ("2026-05", "alice", "0.140000280"), ("2026-05", "team", "0.001680000")]
    fathom("bill", "--by", "request", "--csv", tmp_path / "all.csv", "--folder", traffic)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [(row["request"], row["hit"], row["reasoning"], row["price"], row["granted_usd"], row["cost_usd"]) for row in rows] == [
        ("r0", "1000", "120", f"{PRO}@2026-04-24", "0.003000000", "0.005365000"),
        ("r1", "0", "0", f"{FLASH}@2026-04-24", "0.000000000", "0.001680000"),
        ("r2", "0", "1", f"{FLASH}@2026-04-24", "0.000000000", "0.140000280")]
    for narrowed, cost in ((("--month", "2026-04"), "0.005365"), (("--since", "2026-05-01", "--key", "alice"), "0.14000028"),
                           (("--until", "2026-04-29"), "0.00"), (("--account", "team"), "0.00168")):
        assert json.loads(fathom("bill", *narrowed, "--json", "--folder", traffic))["total"]["cost"] == cost
    assert "r2" in fathom("bill", "--by", "request", "--folder", traffic)
    assert len(fathom("bill", "--by", "request", "--json", "--folder", traffic).splitlines()) == 3
    assert "0.14704528" not in fathom("keys", "refund", "r2", "--note", "a mistake", "--folder", traffic)
    assert json.loads(fathom("bill", "--json", "--folder", traffic))["total"]["cost"] == "0.14704528"  # the ledger stays as it was


def test_check_finds_a_balance_that_was_tampered_with(traffic: Path) -> None:
    fathom("bill", "--check", "--folder", traffic)
    with sqlite3.connect(traffic / "accounts.sqlite") as raw:
        raw.execute("UPDATE accounts SET topped_up = topped_up + 1 WHERE name = 'alice'")
    raw.close()
    assert "account alice: topped_up is" in fathom("bill", "--check", "--folder", traffic, code=2)


def test_the_same_traffic_at_other_prices(traffic: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(f'[[price]]\nmodel = "{PRO}"\nfrom = 2026-06-01\ncached = 0\ninput = 1\noutput = 2\n[[price]]\nmodel = "own"\nfrom = 2026-01-01\n'
                    "input = 0.0000005\noutput = 0\n")
    data = json.loads(fathom("price", "--prices", mine, "--day", "2026-06-02", "--json", "--folder", traffic))
    assert data["traffic"] == {"requests": 3, "hit": 1000, "miss": 1_012_000, "output": 1501, "reasoning": 121} and data["billed"] == "0.14704528"
    cost = {(row["price"], row["table"]): row["cost"] for row in data["prices"]}
    assert cost[(f"{PRO}@2026-04-24", "shipped")] == "1.76624848"  # (1000·0.145 + 1 012 000·1.74 + 1501·3.48) / 10⁶
    assert cost[(f"{FLASH}@2026-04-24", "shipped")] == "0.14212828"
    assert cost[("gpt-4-turbo@2023-11-06", "shipped")] == "10.17503"  # 1 013 000·10 + 1501·30
    assert cost[(f"{PRO}@2026-06-01", str(mine))] == "1.015002"
    assert cost[("own@2026-01-01", str(mine))] == "0.000000507"  # 1.5, 5 and 500 nano-dollars: each request is rounded
    assert {row["price"]: row["of"] for row in data["prices"]}["gpt-4-turbo@2023-11-06"] == 1.0
    shown = fathom("price", "--tokens", "90000,10000,2000", "--folder", tmp_path / "none")
    assert re.search(r"gpt-4-turbo@2023-11-06 .* 10\.00 +10\.00 +30\.00 +1\.060000 +100\.0 %", shown)
    assert re.search(rf"{PRO}@2026-04-24 .* 0\.037410 +3\.5 %", shown) and not (tmp_path / "none").exists()
    only = json.loads(fathom("price", "--tokens", "1,1,1", "--model", "V4-Flash", "--json"))
    assert [row["price"] for row in only["prices"]] == [f"{FLASH}@2026-04-24", "gpt-4-turbo@2023-11-06"]


def test_beside_a_running_server_and_on_a_url(accounts: Accounts, tmp_path: Path, url: str | None) -> None:
    """The command works on the server's database while it is open, named by an option or by the environment."""
    where = {"FATHOM_DATABASE": url} if url else {}
    fathom("keys", "create", "alice", "--grant", "1", "--folder", tmp_path / "service", **where)
    (key,) = accounts.keys()
    assert accounts.balance(key.account_id).granted == 10**9
    if url:
        fathom("keys", "grant", "alice", "1", "--database", url, "--folder", tmp_path / "elsewhere")
        assert accounts.balance(key.account_id).granted == 2 * 10**9


@pytest.mark.parametrize(("command", "said"), [
    ("keys create ''", "name = "),
    ("keys create sk-x", "may not begin with sk-"),
    ("keys create alice", "is an account already"),
    ("keys create a --grant -1", "--grant"),
    ("keys create a --concurrency 0", "concurrency = 0"),
    ("keys create a --concurrency many", "--concurrency = many"),
    ("keys revoke nobody", "key = nobody"),
    ("keys limits nobody", "key = nobody"),
    ("keys top-up nobody 1", "key = nobody"),
    ("keys grant alice free", "amount = free"),
    ("keys grant alice 0", "amount"),
    ("keys grant alice 1e-10", "amount"),
    ("keys correct alice --granted=-5", "takes more than there is"),
    ("keys refund nothing", "request = nothing"),
    ("keys refund r0 1", "can be given back"),
    ("keys history nobody", "key = nobody"),
    ("bill --since april", "--since = april"),
    ("bill --month 2026-13", "--month = 2026-13"),
    ("bill --month 2026-04 --since 2026-04-01", "stands for --since"),
    ("bill --since 2026-05-01 --until 2026-04-01", "--until"),
    ("bill --by week", "--by = week"),
    ("bill --by request --by day", "--by = request"),
    ("bill --key nobody", "nobody"),
    ("bill --csv /nowhere/x.csv", "--csv = /nowhere/x.csv"),
    ("bill --settle -1", "--settle"),
    ("bill --database nonsense", "not a database URL"),
    ("price --tokens 1,2", "--tokens = 1,2"),
    ("price --tokens 1,2,3 --month 2026-04", "stands for the ledger"),
    ("price --model gpt-5", "model = gpt-5"),
    ("price --prices /nowhere.toml", "prices = /nowhere.toml"),
    ("price --beside nobody --model v4-pro", "model = nobody"),
])
def test_a_users_mistake_is_one_line(traffic: Path, command: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(command), "--folder", str(traffic)])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and said in line and len(line.strip().splitlines()) == 1, line
