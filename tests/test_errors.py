"""UserError says everything in one line, whatever was put into it."""
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fathom.errors import UserError


def test_names_the_thing_its_value_what_is_allowed_and_the_remedy():
    error = UserError("head_dim", 513, "a multiple of 64", "change it in config.json")
    assert str(error) == "head_dim = 513: a multiple of 64; change it in config.json"
    assert (error.field, error.value, error.allowed, error.remedy) == ("head_dim", 513, "a multiple of 64", "change it in config.json")
    assert isinstance(error, ValueError)


def test_parts_that_are_not_known_are_left_out():
    assert str(UserError("data")) == "data"
    assert str(UserError("data", allowed="at least one file")) == "data: at least one file"
    assert str(UserError("data", "/tmp/x", remedy="name another folder")) == "data = /tmp/x; name another folder"


@pytest.mark.parametrize("value", [0, False, "", [], 0.0])
def test_a_false_value_is_still_a_value(value):
    assert str(UserError("layers", value, "at least 1")).startswith("layers =")


texts = st.text(max_size=300)


@given(field=texts, value=st.one_of(st.none(), st.integers(), texts, st.lists(texts)), allowed=texts, remedy=texts)
def test_one_line_whatever_goes_in(field, value, allowed, remedy):
    line = UserError(field, value, allowed, remedy).one_line()
    assert len(line.splitlines()) <= 1
    assert str(UserError(field, value, allowed, remedy)) == line


def test_a_long_value_is_shortened_and_kept():
    error = UserError("prompt", "x" * 5000, "at most 4096 tokens")
    assert len(str(error)) < 200 and "..." in str(error) and len(error.value) == 5000


@given(value=st.one_of(st.none(), st.integers(), texts))
def test_survives_a_process_pool(value):
    error = UserError("port", value, "free", "choose another")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is UserError and str(twin) == str(error) and twin.value == value
