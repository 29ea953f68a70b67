"""Small functions in two versions, clean and with one well-known defect, for code review. The clean one differs as little as it can.

Both versions must be beyond dispute: the clean ones avoid every class of the list, not only their own, and each bad one has exactly one.
"""
from __future__ import annotations

import random
from dataclasses import dataclass
from string import Template

CLASSES = {
    "injection": "a query or command is put together from a user's text in a way that lets the text become part of the command",
    "default": "a default argument that is shared between calls is changed",
    "path": "a user's file name can lead outside the intended folder",
    "unpickle": "data from outside is turned into objects in a way that can run code",
    "swallow": "every error is caught and silently dropped",
    "random": "a secret is made with a predictable random generator",
    "leak": "a resource stays open, or a lock stays held, when an error occurs in between",
    "closure": "functions made in a loop all see the loop variable's last value",
    "mutate": "a collection is changed while it is being iterated over",
    "identity": "values are compared by identity where equality is meant",
    "empty": "an empty list makes it fail with an exception that nobody asked for",
    "assert": "input is checked by a statement that disappears when Python runs with optimisation",
    "timing": "secrets are compared in a way whose duration tells how much of them is right",
    "race": "a check and the action that relies on it can be separated by another process",
    "alias": "several entries of a table turn out to be one and the same object",
}


@dataclass(frozen=True)
class Defect:
    """kind: of CLASSES.  names: the function may have.  good, bad: source with `$name` and placeholders for the drawn `words`."""

    kind: str
    names: tuple[str, ...]
    good: str
    bad: str
    words: dict[str, tuple[str, ...]]

    def text(self, name: str, *, bad: bool, rng: random.Random) -> str:
        """The function's source."""
        words = {key: rng.choice(values) for key, values in self.words.items()}
        return Template((self.bad if bad else self.good).strip("\n")).substitute(words, name=name) + "\n\n"


TABLES = {"table": ("users", "orders", "books", "tickets"), "column": ("name", "city", "code")}
DEFECTS = (
    Defect("injection", ("find_rows", "search_table", "lookup_entry"), '''
def $name(connection, $column):
    query = "SELECT id FROM $table WHERE $column = ?"
    return connection.execute(query, ($column,)).fetchall()
''', '''
def $name(connection, $column):
    query = f"SELECT id FROM $table WHERE $column = '{$column}'"
    return connection.execute(query).fetchall()
''', TABLES),
    Defect("injection", ("search_notes", "grep_log", "find_in_archive"), '''
def $name(words):
    done = subprocess.run(["grep", "-F", "-e", words, "$file"], capture_output=True, text=True)
    return done.stdout.splitlines()
''', '''
def $name(words):
    done = subprocess.run(f"grep -F -e \'{words}\' $file", shell=True, capture_output=True, text=True)
    return done.stdout.splitlines()
''', {"file": ("notes.txt", "events.log", "archive.txt")}),
    Defect("default", ("collect_tags", "add_label", "remember"), '''
def $name($item, found=None):
    found = [] if found is None else found
    found.append($item.strip())
    return found
''', '''
def $name($item, found=[]):
    found.append($item.strip())
    return found
''', {"item": ("tag", "label", "word")}),
    Defect("default", ("count_visit", "note_event", "register_hit"), '''
def $name($key, counts=None):
    counts = dict(counts or {})
    counts[$key] = counts.get($key, 0) + 1
    return counts
''', '''
def $name($key, counts={}):
    counts[$key] = counts.get($key, 0) + 1
    return counts
''', {"key": ("page", "event", "city")}),
    Defect("path", ("read_upload", "load_attachment", "open_report"), '''
def $name(file_name):
    folder = Path("/srv/$folder").resolve()
    path = (folder / file_name).resolve()
    if not path.is_relative_to(folder):
        raise PermissionError(file_name)
    return path.read_text(encoding="utf-8")
''', '''
def $name(file_name):
    folder = Path("/srv/$folder").resolve()
    path = folder / file_name
    if not path.exists():
        raise FileNotFoundError(file_name)
    return path.read_text(encoding="utf-8")
''', {"folder": ("uploads", "reports", "files")}),
    Defect("unpickle", ("read_message", "decode_job", "receive_order"), '''
def $name($data):
    order = json.loads($data)
    return order["$field"]
''', '''
def $name($data):
    order = pickle.loads($data)
    return order["$field"]
''', {"data": ("body", "payload", "blob"), "field": ("id", "kind", "amount")}),
    Defect("unpickle", ("parse_setting", "read_value", "literal_of"), '''
def $name($source):
    return ast.literal_eval($source)
''', '''
def $name($source):
    return eval($source, {})
''', {"source": ("text", "field", "expression")}),
    Defect("swallow", ("save_profile", "store_result", "write_entry"), '''
def $name(store, key, $value):
    try:
        store.put(key, $value)
    except ConnectionError:
        logger.exception("could not store %s", key)
        raise
''', '''
def $name(store, key, $value):
    try:
        store.put(key, $value)
    except Exception:
        pass
''', {"value": ("value", "profile", "result")}),
    Defect("random", ("new_token", "make_session_key", "reset_code"), '''
def $name():
    letters = string.ascii_letters + string.digits
    return "".join(secrets.choice(letters) for _ in range($length))
''', '''
def $name():
    letters = string.ascii_letters + string.digits
    return "".join(random.choice(letters) for _ in range($length))
''', {"length": ("24", "32", "40")}),
    Defect("leak", ("count_lines", "first_line", "header_of"), '''
def $name(server_side_path):
    with open(server_side_path, encoding="utf-8") as file:
        return file.readline().split("$separator")
''', '''
def $name(server_side_path):
    file = open(server_side_path, encoding="utf-8")
    fields = file.readline().split("$separator")
    file.close()
    return fields
''', {"separator": (",", ";", "|")}),
    Defect("leak", ("update_balance", "book_seat", "move_stock"), '''
def $name(lock, ledger, key, amount):
    with lock:
        ledger[key] = ledger[key] $sign int(amount)
''', '''
def $name(lock, ledger, key, amount):
    lock.acquire()
    ledger[key] = ledger[key] $sign int(amount)
    lock.release()
''', {"sign": ("+", "-")}),
    Defect("closure", ("make_handlers", "build_callbacks", "buttons_for"), '''
def $name(labels):
    handlers = []
    for $label in labels:
        handlers.append(lambda event, $label=$label: f"{event}: {$label}")
    return handlers
''', '''
def $name(labels):
    handlers = []
    for $label in labels:
        handlers.append(lambda event: f"{event}: {$label}")
    return handlers
''', {"label": ("label", "name", "title")}),
    Defect("mutate", ("drop_expired", "remove_blank", "purge"), '''
def $name(entries):
    for $entry in list(entries):
        if not $entry.strip():
            entries.remove($entry)
    return entries
''', '''
def $name(entries):
    for $entry in entries:
        if not $entry.strip():
            entries.remove($entry)
    return entries
''', {"entry": ("entry", "line", "text")}),
    Defect("mutate", ("forget_users", "clear_stale", "evict"), '''
def $name(last_seen, now):
    for $key in [k for k, t in last_seen.items() if now - t > $age]:
        del last_seen[$key]
''', '''
def $name(last_seen, now):
    for $key, t in last_seen.items():
        if now - t > $age:
            del last_seen[$key]
''', {"key": ("key", "user", "session"), "age": ("3600", "86400", "600")}),
    Defect("identity", ("is_admin", "may_edit", "has_role"), '''
def $name(account):
    return account.role == "$role"
''', '''
def $name(account):
    return account.role is "$role"
''', {"role": ("admin", "editor", "owner")}),
    Defect("identity", ("is_large_order", "hits_limit", "same_size"), '''
def $name(order):
    return order.units == $limit
''', '''
def $name(order):
    return order.units is $limit
''', {"limit": ("1000", "500", "4096")}),
    Defect("empty", ("average_score", "mean_price", "typical_wait"), '''
def $name($values):
    if not $values:
        return None
    return sum($values) / len($values)
''', '''
def $name($values):
    total = sum($values)
    return total / len($values)
''', {"values": ("scores", "prices", "waits")}),
    Defect("empty", ("latest_entry", "top_bid", "newest"), '''
def $name($entries):
    return max($entries, key=lambda e: e.$field, default=None)
''', '''
def $name($entries):
    return max($entries, key=lambda e: e.$field)
''', {"entries": ("entries", "bids", "posts"), "field": ("time", "amount", "number")}),
    Defect("assert", ("set_quantity", "set_age", "set_discount"), '''
def $name(record, value):
    if not 0 <= value <= $most:
        raise ValueError(f"{value} is not between 0 and $most")
    record.value = value
''', '''
def $name(record, value):
    assert 0 <= value <= $most, f"{value} is not between 0 and $most"
    record.value = value
''', {"most": ("99", "120", "500")}),
    Defect("timing", ("check_token", "verify_key", "key_matches"), '''
def $name(sent, expected_$what):
    return hmac.compare_digest(sent.encode(), expected_$what.encode())
''', '''
def $name(sent, expected_$what):
    return sent.encode() == expected_$what.encode()
''', {"what": ("token", "key", "signature")}),
    Defect("race", ("create_marker", "claim_job", "take_slot"), '''
def $name(server_side_path, worker):
    try:
        with open(server_side_path, "x", encoding="utf-8") as file:
            file.write(f"$word {worker}")
    except FileExistsError:
        return False
    return True
''', '''
def $name(server_side_path, worker):
    if os.path.exists(server_side_path):
        return False
    with open(server_side_path, "w", encoding="utf-8") as file:
        file.write(f"$word {worker}")
    return True
''', {"word": ("claimed by", "owner", "taken by")}),
    Defect("alias", ("empty_board", "blank_grid", "zero_table"), '''
def $name(rows, columns):
    return [[$fill] * columns for _ in range(rows)]
''', '''
def $name(rows, columns):
    return [[$fill] * columns] * rows
''', {"fill": ("0", "None", '"."')}),
)
