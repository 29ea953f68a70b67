"""The verb: what it prints is what was computed, and what it refuses."""
import dataclasses
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from fathom.config import preset
from fathom.errors import UserError
from fathom.plan.chips import load_chips
from fathom.plan.command import plan_command
from fathom.plan.step import Micro, step_memory
from fathom.plan.summary import summary


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(plan_command())
    return lambda *args: CliRunner().invoke(app, list(args), env={"COLUMNS": "100"})


def test_json_holds_the_published_figures(run):
    pro = json.loads(run("v4-pro", "--json").stdout)
    assert round(pro["parameters"]["without_mtp"] / 1e9, 1) == 1573.0
    assert round(pro["parameters"]["active"] / 1e9) == 49 and "embedding" in pro["parameters"]["active_counting"]
    assert round(pro["weights"]["fp16"]["total"] / 1e12, 1) == 3.2
    assert round(pro["state"]["cache"] / 1e9, 1) == 5.3 and round(pro["v32"]["cache"] / 1e9, 1) == 50.4
    assert round(pro["flops"]["of_v32"], 3) == 0.265
    flash = json.loads(run("v4-flash", "--json").stdout)
    assert round(flash["parameters"]["without_mtp"] / 1e9, 2) == 284.33
    assert round(flash["state"]["cache"] / 1e9, 1) == 3.7 and round(flash["flops"]["of_v32"], 3) == 0.099


def test_tables_show_the_same_figures(run):
    out = run("v4-pro").stdout
    for figure in ("1,573.00 B", "48.85 B", "3.20 TB", "5,031 B", "5.28 GB", "50.40 GB", "10.5%", "26.5%", "18.71 MB", "4.56 MB"):
        assert figure in out, figure
    assert "V3.2" not in run("nano").stdout  # a comparison with a model ten thousand times its size says nothing


def test_context_and_precision_act(run):
    short, long = (json.loads(run("v4-flash", "--json", "--context", n).stdout) for n in ("1000", "100000"))
    assert short["state"]["cache"] < long["state"]["cache"] and short["flops"]["token"]["total"] < long["flops"]["token"]["total"]
    wide = json.loads(run("v4-flash", "--json", "--context", "1000", "--precision", "bf16").stdout)
    assert wide["state"]["cache"] > short["state"]["cache"] and wide["weights"] == short["weights"]


@pytest.mark.parametrize("context", [0, -5, 1048577])
def test_impossible_context(context):
    with pytest.raises(UserError, match="context.*1048576"):
        summary(preset("v4-pro"), "v4-pro", context=context)


def test_a_folder_serves_as_model(run, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**_nano_dict(), "hidden_size": 512}))
    data = json.loads(run(str(tmp_path), "--json").stdout)
    assert data["parameters"]["by_part"]["embedding"] == 512 * 4096
    assert isinstance(run("v5-ultra").exception, UserError)


def _nano_dict():
    from fathom.config import config_to_dict
    return config_to_dict(preset("nano"))


def test_no_torch_is_loaded():
    code = "import sys, fathom.plan.command; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]


def test_help_shows_an_example(run):
    assert "fathom plan v4-pro" in run("--help").stdout


def test_serving_plan_and_its_files(run, tmp_path):
    made = run("v4-flash", "--chip", "h800", "--chip", "b200", "--users", "16", "--html", str(tmp_path / "p.html"), "--json", "--top", "3")
    data = json.loads(made.stdout)
    assert len(data["options"]) == 3 and {o["chip"] for o in data["options"]} <= {"h800", "b200"} and data["break_even"]
    requests = [o["costs"]["request"] for o in data["options"]]
    assert requests == sorted(requests) and data["chips"]["h800"]["sources"]["price"]
    assert "What it takes to serve v4-flash" in (tmp_path / "p.html").read_text()
    shown = run("v4-flash", "--chip", "h800", "--users", "16").stdout
    assert "Cheapest request first" in shown and "Why others fail" in shown and "experts" in shown and "Estimates among the figures" in shown


def test_a_refusal_is_a_user_error(run):
    refused = run("v4-pro", "--chip", "h200", "--devices", "8", "--precision", "fp16").exception
    assert isinstance(refused, UserError) and "GB a device more" in str(refused) and "in all" in str(refused)


def test_training_plan(run):
    data = json.loads(run("v4-pro", "--chip", "h800", "--train-tokens", "33e12", "--batch", "94.4e6", "--days", "90", "--json").stdout)
    assert data["flops"] == pytest.approx(9.67e24, rel=1e-3) and data["options"][0]["days"] <= 90
    assert "Why others fail" in run("v4-pro", "--chip", "h800", "--train-tokens", "33e12", "--days", "90").stdout
    late = run("v4-pro", "--chip", "m3-ultra", "--train-tokens", "33e12", "--days", "1").exception
    assert isinstance(late, UserError) and "days" in str(late)


def test_own_chips_and_prices(run, tmp_path):
    (tmp_path / "c.toml").write_text("[h200]\nprice = 0.35\n")
    (tmp_path / "p.toml").write_text("[[price]]\nmodel = 'mine'\nfrom = 2026-01-01\ninput = 1\noutput = 2\n")
    plain = json.loads(run("v4-pro", "--chip", "h200", "--json").stdout)
    files = ("--chips", str(tmp_path / "c.toml"), "--prices", str(tmp_path / "p.toml"))
    own = json.loads(run("v4-pro", "--chip", "h200", *files, "--json").stdout)
    assert own["options"][0]["costs"]["output"] == pytest.approx(plain["options"][0]["costs"]["output"] / 10)
    assert "mine" in [b["model"] for b in own["break_even"]]


def test_calibrate_uses_what_was_measured(tmp_path):
    measured = dataclasses.replace(load_chips()["xeon"], id="here", name="measured", memory=9e11)
    app = typer.Typer()
    app.command()(plan_command(lambda: measured))
    saved = tmp_path / "here.toml"
    data = json.loads(CliRunner().invoke(app, ["v4-flash", "--calibrate", "--save-chip", str(saved), "--json"]).stdout)
    assert data["options"][0]["chip"] == "here" and data["chips"]["here"]["memory"] == 9e11
    again = json.loads(CliRunner().invoke(app, ["v4-flash", "--chips", str(saved), "--chip", "here", "--json"]).stdout)
    assert again["options"] == data["options"]


def test_calibrate_without_anything_to_measure_with(run):
    assert "calibrate" in str(run("nano", "--calibrate").exception)
    assert "only with --calibrate" in str(run("nano", "--save-chip", "x.toml").exception)


@pytest.mark.needs("module:matplotlib")
def test_plot(run, tmp_path):
    run("v4-flash", "--chip", "h800", "--plot", str(tmp_path / "cost.png"))
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_a_training_step(run):
    data = json.loads(run("nano", "--micro-batch", "8x512", "--precision", "bf16", "--json").stdout)
    assert data["bytes"] == step_memory(preset("nano"), Micro(512, 8, "bf16"))
    assert "peak" in run("nano", "--micro-batch", "8x512", "--precision", "fp32").stdout
    assert "ROWSxLENGTH" in str(run("nano", "--micro-batch", "many", "--precision", "fp32").exception)
    assert "fp32 or bf16" in str(run("nano", "--micro-batch", "8x512", "--precision", "official").exception)


@pytest.mark.parametrize("arguments, field, says", [
    (["--batch", "1e6"], "batch", "add --train-tokens"), (["--days", "3"], "days", "add --train-tokens"),
    (["--chip", "h200", "--length", "5"], "length", "add --train-tokens"),
    (["--train-tokens", "1e12", "--users", "3"], "users", "a training plan is asked for"),
    (["--train-tokens", "1e12", "--html", "x.html"], "html", "a serving plan"),
    (["--train-tokens", "1e12", "--context", "4096"], "context", "leave it out"),
    (["--micro-batch", "8x512", "--chip", "h200"], "chip", "a step's memory is asked for"),
    (["--train-tokens", "1e12", "--micro-batch", "8x512"], "micro-batch", "leave --train-tokens out"),
])
def test_an_option_that_would_be_ignored_is_refused(run, arguments, field, says):
    refused = run("v4-pro", *arguments).exception
    assert isinstance(refused, UserError) and refused.field == field and says in str(refused)


@pytest.mark.parametrize("arguments", [["--users", "3"], ["--devices", "16"], ["--top", "1"], ["--hit", "0"], ["--speed", "10"], ["--price", "1"]])
def test_any_option_of_a_service_asks_for_a_serving_plan(run, arguments):
    assert "options" in json.loads(run("v4-flash", *arguments, "--json").stdout)


@pytest.mark.parametrize("arguments, says", [
    (["--users", "0"], "users"), (["--speed", "-1"], "speed"), (["--wait", "0"], "wait"), (["--wait", "nan"], "wait"), (["--price", "-1"], "price"),
    (["--price", "nan"], "price"),
])
def test_impossible_wishes(run, arguments, says):
    refused = run("v4-flash", *arguments).exception
    assert isinstance(refused, UserError) and refused.field == says


@pytest.mark.needs("module:matplotlib")
def test_files_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "x")
    for arguments in (["--html", inside], ["--plot", inside + ".png"], ["--plot", str(tmp_path / "x.xyz")]):
        refused = run("v4-flash", *arguments).exception
        assert isinstance(refused, UserError) and refused.field == arguments[0][2:], refused
    assert run("v4-flash", "--html", str(tmp_path / "new" / "p.html")).exit_code == 0 and (tmp_path / "new" / "p.html").is_file()


def test_a_price_of_ones_own(run):
    """It is the chip's price everywhere: in the costs, the sources and what is said to be an estimate."""
    data = json.loads(run("v4-flash", "--chip", "h200", "--devices", "8", "--price", "2", "--json").stdout)
    assert data["options"][0]["costs"]["hour"] == 16 and data["chips"]["h200"]["sources"]["price"] == "--price"
    assert "price" not in data["chips"]["h200"]["estimates"] and "price" not in run("v4-flash", "--price", "2").stdout.splitlines()[-1]


def test_json_is_json_also_where_a_price_brings_nothing(run, tmp_path):
    (tmp_path / "p.toml").write_text("[[price]]\nmodel = 'gift'\nfrom = 2026-01-01\ninput = 0\noutput = 0\n")
    data = json.loads(run("v4-flash", "--prices", str(tmp_path / "p.toml"), "--json").stdout, parse_constant=lambda name: pytest.fail(name))
    gift = next(row for row in data["break_even"] if row["model"] == "gift")
    assert gift["load"] is None and gift["income"] == 0


def test_defaults_of_a_steps_memory_and_a_short_model(run, tmp_path):
    assert json.loads(run("nano", "--micro-batch", "2x64", "--json").stdout)["precision"] == "bf16"
    (tmp_path / "config.json").write_text(json.dumps({**_nano_dict(), "max_position_embeddings": 1024}))
    assert json.loads(run(str(tmp_path), "--train-tokens", "1e9", "--batch", "1e6", "--precision", "bf16", "--json").stdout)["length"] == 1024
    assert "length" in str(run(str(tmp_path), "--train-tokens", "1e9", "--length", "4096", "--precision", "bf16").exception)
