"""Chips: every shipped figure says where it comes from; the operator's file lies on top figure by figure; nonsense is named."""
import pytest

from fathom.errors import UserError
from fathom.plan.chips import EFFICIENCIES, FIGURES, chip_toml, find_chip, load_chips


def test_the_chips_of_the_contract_are_there():
    chips = load_chips()
    assert {"h800", "h200", "b200", "ascend-910b", "ascend-910c", "ascend-950pr", "ascend-950dt", "epyc", "xeon", "m3-ultra"} <= set(chips)
    for chip in chips.values():
        figures = {*FIGURES, *(f"flops.{f}" for f in chip.flops), "efficiency"}
        assert set(chip.sources) == figures and chip.estimates <= figures, chip.id
        assert all(len(text) > 3 for text in chip.sources.values()), chip.id
        assert chip.flops["fp32"] <= chip.rate("bf16") / chip.efficiency.compute <= chip.rate("fp8") / chip.efficiency.compute


def test_a_missing_format_is_computed_in_the_next_wider_one():
    chips = load_chips()
    assert chips["h200"].computes_in("fp4") == "fp8" and chips["b200"].computes_in("fp4") == "fp4"
    assert chips["ascend-910b"].computes_in("fp8") == "bf16" and chips["epyc"].computes_in("fp16") == "fp32", "bf16 is no wider"


def test_a_price_alone_corrects_a_price(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("[h200]\nprice = 1.25\n")
    before, after = load_chips()["h200"], load_chips([mine])["h200"]
    assert after.price == 1.25 and after.sources["price"] == str(mine) and "price" not in after.estimates
    assert after.memory == before.memory and after.flops == before.flops and after.efficiency == before.efficiency


def test_a_chip_written_and_read_is_the_same(tmp_path):
    for chip in load_chips().values():
        (tmp_path / "one.toml").write_text(chip_toml(chip))
        assert load_chips([tmp_path / "one.toml"])[chip.id] == chip


COMPLETE = "name = 'n'\n" + "".join(f"{f} = 1\n" for f in FIGURES) + "flops.fp32 = 1\nefficiency = { " + ", ".join(
    f"{e} = 0.5" for e in EFFICIENCIES) + " }\n"


@pytest.mark.parametrize("text, says", [
    ("[new]\nname = 'x'\nmemory = 1\n", "lacks bandwidth"),
    (f"[new]\n{COMPLETE}".replace("flops.fp32 = 1\n", ""), "lacks flops.fp32"),
    ("[h200]\nmemmory = 1\n", "did you mean memory"),
    ("[h200]\nflops.fp6 = 1\n", "unknown key"),
    ("[h200]\nprice = -1\n", "price"),
    ("[h200]\nmemory = 0\n", "above 0"),
    ("[h200]\nprice = 'cheap'\n", "price"),
    ("[h200]\nprice = { value = 1, source = 'a', estimate = 'b' }\n", "exactly one of source and estimate"),
    ("[h200]\nefficiency = { compute = 0.5 }\n", "exactly compute"),
    ("[h200]\ndomain = 1.5\n", "whole number"),
    ("h200 = 3\n", r"under \[h200\]"),
    ("[h200\n", "not TOML"),
])
def test_nonsense_is_named(tmp_path, text, says):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(UserError, match=says):
        load_chips([tmp_path / "mine.toml"])


def test_an_efficiency_beyond_the_datasheet_is_refused(tmp_path):
    (tmp_path / "mine.toml").write_text(f"[new]\n{COMPLETE}")
    assert load_chips([tmp_path / "mine.toml"])["new"].rate("fp4") == 0.5
    (tmp_path / "mine.toml").write_text(f"[new]\n{COMPLETE}".replace("compute = 0.5", "compute = 1.5"))
    with pytest.raises(UserError, match="at most 1"):
        load_chips([tmp_path / "mine.toml"])


def test_unknown_chip_and_missing_file():
    with pytest.raises(UserError, match="did you mean h200"):
        find_chip(load_chips(), "h20")
    with pytest.raises(UserError, match="cannot be read"):
        load_chips(["/nowhere/chips.toml"])
