"""API keys: made, found, limited, revoked; and how a secret is recognised without being kept.

A secret is "sk-" and 51 letters and digits. The first eight name the key: they are stored, shown and logged ("sk-Ab3dE9xK"), and an
incoming secret is looked up by them. The other 43 are 256 random bits; of the whole secret only a salted BLAKE2b hash is stored, and
compared in constant time. A fast hash is right here, a password hash would be wrong: nobody can try 2²⁵⁶ secrets however fast the hash
is, and every request pays for it. The salt makes equal secrets in two databases look different. A secret is shown once, by `create`.

Every function takes a connection and leaves the transaction to its caller.
"""
from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from fathom.errors import UserError
from fathom.server.database import from_stored, to_stored
from fathom.server.tables import accounts, keys

ALPHABET = string.ascii_letters + string.digits
SCHEME, SHOWN, HIDDEN = "sk-", 8, 43  # 62⁴³ > 2²⁵⁶


@dataclass(frozen=True)
class Limits:
    """What a key may do at most; None for no limit. concurrency: requests at once; the others in any 60 seconds."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not 1 <= value < 2**31:
                raise UserError(name.replace("_", "-"), value, "a whole number from 1, or none for no limit",
                                "revoke the key if it shall do nothing")


@dataclass(frozen=True)
class Key:
    """A key without its secret. prefix: how it is shown and logged, such as sk-Ab3dE9xK."""

    id: int
    prefix: str
    name: str
    account_id: int
    account: str
    limits: Limits
    created: datetime
    revoked: datetime | None = None


@dataclass(frozen=True)
class NewKey:
    """A key just made. secret: to be shown to its owner, now; it can't be found out again, and isn't part of any printed form."""

    key: Key
    secret: str = field(repr=False)


def create(connection: Connection, name: str, account_id: int, limits: Limits, at: datetime) -> NewKey:
    """Makes a key for an account. Raises UserError where `name` isn't a name."""
    require_name("name", name)
    while True:
        secret = SCHEME + "".join(secrets.choice(ALPHABET) for _ in range(SHOWN + HIDDEN))
        prefix = secret[: len(SCHEME) + SHOWN]
        if connection.execute(select(keys.c.id).where(keys.c.prefix == prefix)).first() is None:
            break
    salt = secrets.token_bytes(16)
    connection.execute(keys.insert().values(account_id=account_id, prefix=prefix, name=name, salt=salt, hash=hashed(secret, salt),
                                            created=to_stored(at), **vars(limits)))
    return NewKey(_one(connection, keys.c.prefix == prefix), secret)


def hashed(secret: str, salt: bytes) -> bytes:
    """The 32 bytes that are stored for a secret."""
    return hashlib.blake2b(secret.encode("utf-8"), digest_size=32, salt=salt, person=b"fathom api key").digest()


def authenticate(connection: Connection, secret: str) -> Key | None:
    """The key that a secret opens; None for a malformed, unknown or revoked one."""
    body = secret[len(SCHEME):]
    if not secret.startswith(SCHEME) or len(body) != SHOWN + HIDDEN or not (body.isascii() and body.isalnum()):
        return None
    row = connection.execute(_all().add_columns(keys.c.salt, keys.c.hash).where(keys.c.prefix == secret[: len(SCHEME) + SHOWN])).first()
    if row is None or not hmac.compare_digest(hashed(secret, row.salt), row.hash) or row.revoked is not None:
        return None
    return _key(row)


def every(connection: Connection, account_id: int | None = None) -> list[Key]:
    """All keys, revoked ones too, oldest first; of one account if given."""
    query = _all().order_by(keys.c.id)
    return [_key(row) for row in connection.execute(query if account_id is None else query.where(keys.c.account_id == account_id))]


def by_id(connection: Connection, ids: set[int]) -> dict[int, Key]:
    """Some keys as they are now."""
    return {row.id: _key(row) for row in connection.execute(_all().where(keys.c.id.in_(sorted(ids))))}


def find(connection: Connection, name: str) -> Key:
    """The key of a prefix, or the one key of a name that isn't revoked. Raises UserError for none and for several."""
    found = [key for key in every(connection) if name in (key.prefix, key.name)]
    exact = [key for key in found if key.prefix == name] or [key for key in found if key.revoked is None] or found
    if len(exact) == 1:
        return exact[0]
    if len(name) > len(SCHEME) + SHOWN and name.startswith(SCHEME):  # a secret: not to be repeated on a screen
        raise UserError("key", name[: len(SCHEME) + SHOWN] + "…", "no such prefix or name", "give the prefix alone; fathom keys list shows it")
    if exact:
        raise UserError("key", name, f"names several keys: {', '.join(key.prefix for key in exact)}", "give a prefix")
    raise UserError("key", name, "no such prefix or name", "fathom keys list shows them")


def revoke(connection: Connection, key: Key, at: datetime) -> Key:
    """Ends a key, for ever; its account and its money stay. A second time does nothing."""
    connection.execute(keys.update().where(keys.c.id == key.id, keys.c.revoked.is_(None)).values(revoked=to_stored(at)))
    return _one(connection, keys.c.id == key.id)


def limit(connection: Connection, key: Key, limits: Limits) -> Key:
    """Gives a key other limits; they hold from the next request on."""
    connection.execute(keys.update().where(keys.c.id == key.id).values(**vars(limits)))
    return _one(connection, keys.c.id == key.id)


def require_name(what: str, name: str) -> None:
    """Raises UserError for what can't be shown on one line, and for what looks like a secret."""
    if not name.strip() or len(name) > 200 or not name.isprintable() or name != name.strip():
        raise UserError(what, name, "1 to 200 printable characters, none of them a space at an end")
    if name.startswith(SCHEME):
        raise UserError(what, None, f"may not begin with {SCHEME}, as keys do", "give another name")


def _all() -> Select[Any]:
    return select(*(column for column in keys.c if column.name not in ("salt", "hash")), accounts.c.name.label("account")).join(accounts)


def _one(connection: Connection, where: Any) -> Key:
    return _key(connection.execute(_all().where(where)).one())


def _key(row: Row[Any]) -> Key:
    limits = Limits(row.concurrency, row.requests_per_minute, row.tokens_per_minute)
    revoked = None if row.revoked is None else from_stored(row.revoked)
    return Key(row.id, row.prefix, row.name, row.account_id, row.account, limits, from_stored(row.created), revoked)
