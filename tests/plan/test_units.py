"""Numbers as people read them: nothing in powers of ten, nothing rounded away."""
import pytest

from fathom.plan.units import bytes_text, count_text, money_text, time_text, tokens_text


@pytest.mark.parametrize("value, text", [
    (0, "$0.00"), (8.2e-05, "$0.000082"), (0.0013, "$0.0013"), (0.05, "$0.05"), (0.1, "$0.10"), (2.866, "$2.87"), (1234.4, "$1,234"),
    (18.2e6, "$18.2 M"),
])
def test_money(value, text):
    assert money_text(value) == text


@pytest.mark.parametrize("value, text", [(4096, "4,096"), (94.4e6, "94.4 M"), (33e12, "33 T"), (1.5e9, "1.5 B")])
def test_tokens(value, text):
    assert tokens_text(value) == text


def test_the_rest():
    assert [time_text(s) for s in (2e-5, 0.0032, 4.1, 600, 7300, 20 * 86400)] == ["20 µs", "3.2 ms", "4.1 s", "10 min", "2.03 h", "20 days"]
    assert [bytes_text(n) for n in (584, 5.28e9, 3.2e12)] == ["584 B", "5.28 GB", "3.20 TB"] and count_text(284.33e9) == "284.33 B"
