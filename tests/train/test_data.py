"""Documents, duplicates, the held-out split and the store."""
import json
import random
import shutil
from collections import Counter

import numpy as np
import pytest

from fathom.config.recipe import DataRecipe
from fathom.errors import UserError
from fathom.text import Tokenizer
from fathom.train.data import prepare as prepare_module
from fathom.train.data.counter import draw, draw_unit, permutation
from fathom.train.data.duplicates import NearDuplicates, content_hash, normalise, shingles
from fathom.train.data.find import STDLIB, find_documents
from fathom.train.data.prepare import prepare
from fathom.train.data.store import TokenStore
from tests.train import tiny


def quiet(*_: object) -> None:
    pass


def find(*paths, **changes):
    skipped = Counter()
    return list(find_documents(DataRecipe(paths=tuple(map(str, paths)), **changes), skipped)), +skipped


# ---- numbers without a generator


def test_draws_are_fixed_and_look_random():
    assert [int(x) for x in draw(1, 2)] == [int(x) for x in draw(1, 2)] == [int(draw(1, np.arange(3))[2])]
    assert int(draw(0)[0]) == 16294208416658607535  # splitmix64's first output for seed 0: the constants are the published ones
    values = draw_unit(7, np.arange(20000))
    assert abs(values.mean() - 0.5) < 0.01 and abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03
    assert draw(1, 2)[0] != draw(2, 1)[0]
    assert sorted(permutation(100, 3, 1)) == list(range(100))
    assert list(permutation(100, 3, 1)) != list(permutation(100, 3, 2))


# ---- finding


def test_what_is_no_text_is_counted_with_its_reason(tmp_path):
    files = {"a.py": b"x = 1\n", "b.txt": "käse\n".encode(), "sub/c.md": b"\xef\xbb\xbfwith a mark", "binary.py": b"a\0b",
             "latin.py": b"\xe9t\xe9", "empty.py": b" \n", "huge.py": b"x" * 2000, "photo.png": b"\x89PNG", "skip_me.py": b"x",
             "out/d.py": b"x", ".git/e.py": b"x"}
    for name, content in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    documents, skipped = find(tmp_path / "data", max_file_bytes=1000, exclude=("skip_*", "out"))
    assert [d.name for d in documents] == ["data/a.py", "data/b.txt", "data/sub/c.md"]
    assert [d.text() for d in documents] == ["x = 1\n", "käse\n", "with a mark"]
    assert skipped == {"binary": 1, "not UTF-8": 1, "empty": 1, "larger than 1,000 bytes": 1, "other suffix": 1, "excluded by name": 1,
                       "hidden or excluded folder": 2}


def test_a_line_of_jsonl_is_a_document(tmp_path):
    rows = [json.dumps({"text": "erster ❤"}), json.dumps({"content": "second"}), json.dumps("third"), "",
            json.dumps({"title": "no text"}), "{broken", json.dumps({"text": 3}),
            '{"text": "\\ud800"}', '{"text": "nul \\u0000 inside"}', json.dumps({"text": " "})]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    documents, skipped = find(tmp_path / "rows.jsonl")
    assert [d.text() for d in documents] == ["erster ❤", "second", "third", "nul \0 inside"]
    assert [d.name for d in documents] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:3", "rows.jsonl:9"]
    assert skipped == {"line without a text": 5}


def test_one_file_is_taken_whatever_its_suffix(tmp_path):
    (tmp_path / "notes.odd").write_text("text")
    assert [d.text() for d in find(tmp_path / "notes.odd")[0]] == ["text"]


def test_a_circle_of_links_ends(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f.py").write_text("x = 1")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(find(tmp_path)[0]) == 1


def test_the_standard_library_comes_without_tests_and_packages():
    documents, _ = find(STDLIB)
    names = [d.name for d in documents]
    assert any(name.endswith("/argparse.py") for name in names) and all(name.endswith(".py") for name in names)
    assert not any("/test/" in name or "/tests/" in name or "site-packages" in name for name in names)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--data"):
        find()


# ---- near-duplicates


def nonsense(seed: int, words: int = 300) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(words))


def judge(texts, threshold=0.8):
    judged = NearDuplicates(threshold, lambda i: texts[i])
    return [judged.original_of(i, text) for i, text in enumerate(texts)]


def test_shingles_are_those_of_the_bytes():
    """The doubling scheme hashes every window of 24 bytes: equal windows anywhere give equal hashes, different ones don't."""
    a, b = nonsense(1, 50), nonsense(2, 50)
    middle = "x" * 200 + nonsense(3, 40)
    shared = set(shingles(a + middle)) & set(shingles(b + middle))
    assert len(shared) >= len(set(shingles(middle))) > 20
    assert len(set(shingles(a)) & set(shingles(b))) == 0
    windows = {normalise(a)[i:i + 24] for i in range(len(normalise(a)) - 23)}
    assert 0.1 * len(windows) < len(shingles(a)) < 0.45 * len(windows)  # a quarter


def test_copies_go_and_the_first_stays():
    text = nonsense(1)
    edited = text.replace(text[500:505], "ZZZZZ")
    respaced = text.replace(" ", "\n   ")
    assert judge([text, nonsense(2), edited, respaced, text, nonsense(3)]) == [None, None, 0, 0, 0, None]
    assert judge([edited, text]) == [None, 0]


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_the_threshold_is_jaccard_similarity(share):
    """Documents with a known share of common text fall on the right side of the threshold, however many strangers there are."""
    strangers = [nonsense(100 + i) for i in range(30)]
    pairs = []
    for seed in range(20):
        common = nonsense(1000 + seed, int(400 * share))
        rest = 400 - int(400 * share)
        pairs += [common + " " + nonsense(2000 + seed, rest), common + " " + nonsense(3000 + seed, rest)]
    found = judge(strangers + pairs)
    expected = [None] * 30 + [x for i in range(20) for x in ((None, 30 + 2 * i) if share > 0.9 else (None, None))]
    assert found == expected


def test_short_documents_are_compared_too():
    assert judge(["ab", "ab ", "ac", "x", "ab"]) == [None, 0, None, None, 0]


# ---- the store


def test_tokens_are_the_documents_exactly(tmp_path):
    recipe = tiny.recipe(tiny.write_documents(tmp_path / "data"))
    summary = prepare(recipe, tiny.config(), tmp_path / "store", quiet)
    tokenizer = Tokenizer.load(tmp_path / "store")
    train, held_out = TokenStore(tmp_path / "store", "train"), TokenStore(tmp_path / "store", "held_out")
    texts = {p.read_text(encoding="utf-8") for p in (tmp_path / "data").iterdir()}
    for store in (train, held_out):
        for i in range(len(store)):
            ids = store[i].tolist()
            assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
            assert tokenizer.decode(ids[1:-1]) in texts
            texts.remove(tokenizer.decode(ids[1:-1]))
    assert not texts
    assert [tokenizer.decode(held_out[i].tolist()[1:-1]).encode() for i in range(len(held_out))] == held_out.texts()
    assert (summary.training_tokens, summary.held_out_tokens) == (train.num_tokens, held_out.num_tokens)
    assert summary.held_out_bytes == sum(map(len, held_out.texts()))


def held_out_texts(folder, tmp_path, name, **data):
    recipe = tiny.recipe(folder, data={"paths": [str(folder)], "held_out": 0.3, **data})
    prepare(recipe, tiny.config(), tmp_path / name, quiet)
    return set(TokenStore(tmp_path / name, "held_out").texts())


def test_held_out_depends_on_the_content_alone(tmp_path):
    """Adding documents and renaming them moves none from one side to the other."""
    before = held_out_texts(tiny.write_documents(tmp_path / "a", 12), tmp_path, "s1")
    assert 0 < len(before) < 12
    more = tiny.write_documents(tmp_path / "b", 30)
    for number, path in enumerate(sorted(more.iterdir(), reverse=True)):
        path.rename(more / f"moved{number}.py")
    after = held_out_texts(more, tmp_path, "s2")
    assert before < after and all(text in after or text not in before for text in after)
    training = {p.read_bytes() for p in (tmp_path / "a").iterdir()} - before
    assert not training & after


def test_no_near_copy_crosses_the_split(tmp_path):
    folder = tiny.write_documents(tmp_path / "a", 12, lines=40)
    for path in sorted(folder.iterdir()):
        (folder / f"z_{path.name}").write_text(path.read_text(encoding="utf-8") + "# one more line\n", encoding="utf-8")
    held_out = held_out_texts(folder, tmp_path, "s")
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert summary["near_duplicates"] == 12 and not any(b"one more line" in text for text in held_out)


def test_one_long_document_is_cut_in_two(tmp_path):
    tiny.write_documents(tmp_path / "a", 1, lines=50)
    (held_out,) = held_out_texts(tmp_path / "a", tmp_path, "s", held_out=0.1)
    whole = next((tmp_path / "a").iterdir()).read_bytes()
    assert whole.endswith(held_out) and 0.05 < len(held_out) / len(whole) < 0.15


def test_a_half_made_store_is_made_again(tmp_path, monkeypatch):
    recipe = tiny.recipe(tiny.write_documents(tmp_path / "data"))
    prepare(recipe, tiny.config(), tmp_path / "good", quiet)
    real = prepare_module.write_store

    def dies(folder, name, *args, **kwargs):
        if name == "held_out":
            raise KeyboardInterrupt
        real(folder, name, *args, **kwargs)

    monkeypatch.setattr(prepare_module, "write_store", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, tiny.config(), tmp_path / "store", quiet)
    assert not (tmp_path / "store").exists()
    monkeypatch.undo()
    prepare(recipe, tiny.config(), tmp_path / "store", quiet)
    for file in (tmp_path / "good").iterdir():
        assert (tmp_path / "store" / file.name).read_bytes() == file.read_bytes()
    shutil.rmtree(tmp_path / "data")
    prepare(recipe, tiny.config(), tmp_path / "store", quiet)  # there: the documents aren't needed any more


@pytest.mark.parametrize(("files", "said"), [({}, "no document found (empty)"), ({"a.bin": b"x"}, "1 other suffix"),
                                             ({"a.py": b"\0"}, "1 binary"), ({"a.py": b"one line"}, "one line")])
def test_nothing_to_train_on_is_said_with_reasons(tmp_path, files, said):
    (tmp_path / "data").mkdir()
    for name, content in files.items():
        (tmp_path / "data" / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        prepare(tiny.recipe(tmp_path / "data"), tiny.config(), tmp_path / "store", quiet)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_must_fit_the_model(tmp_path):
    data = tiny.write_documents(tmp_path / "data")
    prepare(tiny.recipe(data), tiny.config(), tmp_path / "store", quiet)
    taken = tiny.recipe(data, tokenizer={"path": str(tmp_path / "store")})
    prepare(taken, tiny.config(), tmp_path / "again", quiet)
    assert (tmp_path / "again" / "train.tokens").read_bytes() == (tmp_path / "store" / "train.tokens").read_bytes()
    with pytest.raises(UserError, match="vocab_size = 280"):
        prepare(taken, tiny.config(vocab_size=280), tmp_path / "small", quiet)
    with pytest.raises(UserError, match="bos_token_id"):
        prepare(taken, tiny.config(bos_token_id=5), tmp_path / "other", quiet)


def test_content_hash_ignores_white_space_only():
    assert content_hash("a  b\n") == content_hash("a b") != content_hash("ab")
