"""Price tables: the day decides, the operator's file wins, mistakes are named."""
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from fathom.errors import UserError
from fathom.prices import Price, load_prices, parse_dollars
from fathom.prices.table import parse_prices

LAUNCH = date(2026, 4, 24)

TWO_DATES = """
[[price]]
model = "m"
from = 2026-01-01
cached = 0.1
input = 1
output = 2
[[price]]
model = "m"
from = 2026-02-01
input = 0.5
output = 1
"""


@pytest.mark.parametrize("model, cached, given, output", [
    ("deepseek-v4-pro", "0.145", "1.74", "3.48"), ("deepseek-v4-flash", "0.028", "0.14", "0.28"), ("gpt-4-turbo", "10", "10", "30"),
])
def test_published_prices(model, cached, given, output):
    row = load_prices().at(model, LAUNCH)
    assert (row.cached, row.input, row.output) == tuple(map(parse_dollars, (cached, given, output)))
    assert row.source


def test_the_day_decides():
    table = parse_prices(TWO_DATES, "t")
    assert table.at("m", date(2026, 1, 31)).input == parse_dollars(1)
    assert table.at("m", date(2026, 2, 1)).input == parse_dollars("0.5")
    with pytest.raises(UserError, match="no price before 2026-01-01"):
        table.at("m", date(2025, 12, 31))


def test_times_are_taken_to_utc():
    table = parse_prices(TWO_DATES, "t")
    east = timezone(timedelta(hours=9))
    assert table.at("m", datetime(2026, 2, 1, 8, 59, tzinfo=east)).since == date(2026, 1, 1)  # still January in UTC
    assert table.at("m", datetime(2026, 2, 1, 0, 0, tzinfo=UTC)).since == date(2026, 2, 1)
    with pytest.raises(ValueError, match="zone"):
        table.at("m", datetime(2026, 2, 1))


def test_cached_defaults_to_the_input_price():
    assert parse_prices(TWO_DATES, "t").at("m", date(2026, 3, 1)).cached == parse_dollars("0.5")


def test_the_operators_file_wins_and_adds(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text('[[price]]\nmodel = "deepseek-v4-pro"\nfrom = 2026-04-24\ninput = 9\noutput = 9\n'
                    '[[price]]\nmodel = "own"\nfrom = 2026-01-01\ninput = 0\noutput = 0\n')
    table = load_prices([mine])
    assert table.at("deepseek-v4-pro", LAUNCH).input == parse_dollars(9)
    assert table.at("own", LAUNCH).cost(hit=5, miss=5, output=5) == 0
    assert table.at("deepseek-v4-flash", LAUNCH).input == parse_dollars("0.14")


def test_names_aliases_and_case():
    table = load_prices()
    assert table.at("V4-Pro", LAUNCH) is table.at("deepseek-v4-pro", LAUNCH)
    with pytest.raises(UserError, match="deepseek-v4-flash"):
        table.at("deepseek-v4-flsh", LAUNCH)


def test_a_model_without_rows_is_charged_as_the_unlisted_one(tmp_path):
    table = load_prices()
    assert table.charged("my-run", LAUNCH) == table.at("deepseek-v4-flash", LAUNCH)
    assert table.charged("V4-PRO", LAUNCH) == table.at("deepseek-v4-pro", LAUNCH)
    mine = tmp_path / "mine.toml"
    mine.write_text('unlisted = "own"\n[[price]]\nmodel = "own"\nfrom = 2026-05-01\ninput = 1\noutput = 2\n')
    table = load_prices([mine])
    assert table.charged("my-run", date(2026, 5, 1)).key() == "own@2026-05-01"
    with pytest.raises(UserError, match="no price before 2026-05-01"):  # never silently another's price
        table.charged("own", LAUNCH)
    with pytest.raises(UserError, match="model = my-run"):
        parse_prices(TWO_DATES, "t").charged("my-run", LAUNCH)
    mine.write_text('unlisted = "nobody"')
    with pytest.raises(UserError, match="unlisted = nobody"):
        load_prices([mine])


def test_row_arithmetic():
    row = Price("m", LAUNCH, parse_dollars("0.145"), parse_dollars("1.74"), parse_dollars("3.48"))
    assert row.cost(hit=1000, miss=2000, output=500) == 5_365_000
    assert row.blended() == parse_dollars("2.175")  # (3 × 1.74 + 3.48) / 4
    assert row.key() == "m@2026-04-24"


@pytest.mark.parametrize("text, says", [
    ("[[price]", "not TOML"),
    ("x = 1", "nothing else"),
    ("price = 3", "nothing else"),
    ("unlisted = 3", "unlisted = 3"),
    ('[[price]]\nmodel = "m"\nfrom = 2026-01-01\noutput = 1', "lacks input"),
    ('[[price]]\nmodel = "m"\nfrom = 2026-01-01\ninput = 1\noutpt = 1', "did you mean output"),
    ('[[price]]\nmodel = "m"\nfrom = "2026-01-01"\ninput = 1\noutput = 1', "date without quotes"),
    ('[[price]]\nmodel = "m"\nfrom = 2026-01-01\ninput = -1\noutput = 1', "input"),
    ('[[price]]\nmodel = ""\nfrom = 2026-01-01\ninput = 1\noutput = 1', "a name"),
    ('[[price]]\nmodel = "m"\nfrom = 2026-01-01\ninput = 1\noutput = 1\naliases = "x"', "list of names"),
    (TWO_DATES + TWO_DATES, "twice"),
])
def test_mistakes_are_named(text, says):
    with pytest.raises(UserError, match=says):
        parse_prices(text, "file.toml")


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_prices([tmp_path / "none.toml"])
