"""Keys: shown once, kept as a hash, found by prefix, refused when anything about them is wrong."""
from __future__ import annotations

import logging

import pytest
from sqlalchemy import text

from fathom.errors import UserError
from fathom.server.accounts import Accounts, Limits
from fathom.server.keys import ALPHABET, hashed
from tests.server.databases import accounts, cluster, url  # noqa: F401  (fixtures)


def test_a_secret_opens_its_key_and_nothing_else_does(accounts: Accounts) -> None:  # noqa: F811
    new, other = accounts.create_key("alice"), accounts.create_key("bob")
    assert accounts.authenticate(new.secret) == new.key and accounts.authenticate(other.secret) == other.key
    last = ALPHABET[(ALPHABET.index(new.secret[-1]) + 1) % len(ALPHABET)]
    for wrong in ("", "sk-", new.key.prefix, new.secret[:-1], new.secret + "x", new.secret[:-1] + last, new.secret.swapcase(), " " + new.secret,
                  new.key.prefix + other.secret[11:], "ü" * 54, "sk-" + "ü" * 51, "sk-" + "\0" * 51, "sk-" + "' OR 1=1 --".ljust(51)):
        assert accounts.authenticate(wrong) is None, wrong


def test_a_secret_is_nowhere_but_in_the_answer(accounts: Accounts, tmp_path, caplog) -> None:  # noqa: F811
    caplog.set_level(logging.DEBUG)
    new = accounts.create_key("alice")
    accounts.authenticate(new.secret)
    accounts.authenticate(new.secret[:-1] + "_")
    hidden = new.secret[len(new.key.prefix):]
    assert hidden not in repr(new) + str(new) + caplog.text
    with accounts.engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM keys")).all()
    assert hidden not in repr(rows) and new.secret.encode() not in b"".join(v for v in map(_bytes, rows[0]) if v)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or hidden.encode() not in file.read_bytes()
    with pytest.raises(UserError) as said:  # somebody pastes the whole secret where the prefix belongs
        accounts.revoke(new.secret)
    assert hidden not in str(said.value)


def _bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def test_equal_secrets_have_unequal_hashes() -> None:
    assert hashed("sk-x", b"a" * 16) != hashed("sk-x", b"b" * 16) and len(hashed("sk-x", b"a" * 16)) == 32


def test_revoked_is_revoked_and_the_account_goes_on(accounts: Accounts) -> None:  # noqa: F811
    first = accounts.create_key("alice")
    accounts.credit("alice", "grant", granted=5)
    second = accounts.create_key("alice-2", account="alice")
    gone = accounts.revoke("alice")
    assert gone.revoked is not None and accounts.revoke(gone.prefix).revoked == gone.revoked  # a second time changes nothing
    assert accounts.authenticate(first.secret) is None
    assert accounts.authenticate(second.secret) == second.key and accounts.balance(second.key.account_id).granted == 5


def test_limits_change_one_by_one(accounts: Accounts) -> None:  # noqa: F811
    from dataclasses import replace
    new = accounts.create_key("alice", limits=Limits(concurrency=2, tokens_per_minute=100))
    changed = accounts.limit("alice", lambda limits: replace(limits, concurrency=None, requests_per_minute=7))
    assert changed.limits == Limits(None, 7, 100) and accounts.authenticate(new.secret).limits == changed.limits
    for wrong in (0, -1, 2**31):
        with pytest.raises(UserError, match="requests-per-minute"):
            Limits(requests_per_minute=wrong)


@pytest.mark.parametrize("name", ["", " ", "a\nb", " a", "a ", "x" * 201, "sk-alice", "a\x1b[31m"])
def test_names_that_cannot_be(accounts: Accounts, name: str) -> None:  # noqa: F811
    with pytest.raises(UserError, match="name"):
        accounts.create_key(name)
    with pytest.raises(UserError, match="account"):
        accounts.create_key("fine", account=name or " ")
    assert accounts.keys() == [] and accounts.balances() == {}


def test_names_that_mean_several_or_none(accounts: Accounts) -> None:  # noqa: F811
    accounts.create_key("k", account="a")
    second = accounts.create_key("k", account="a")
    with pytest.raises(UserError, match="several keys"):
        accounts.revoke("k")
    accounts.revoke(second.key.prefix)
    assert accounts.find_key("k").revoked is None  # the one that is left
    with pytest.raises(UserError, match="key = nobody"):
        accounts.find_key("nobody")
    with pytest.raises(UserError, match="is an account already"):
        accounts.create_key("a")
    with pytest.raises(UserError, match="is prepaid"):
        accounts.create_key("x", account="a", postpaid=True)
