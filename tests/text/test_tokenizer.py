"""Text to ids and back; control ids never come from text; files that transformers reads; errors that name the file."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fathom.errors import UserError
from fathom.text import SPECIAL_TOKENS, StreamDecoder, Tokenizer, special, train_tokenizer

from .conftest import sources

SPEC_8 = """<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜latest_reminder｜>
<think> </think> ｜DSML｜ <｜action｜> <｜query｜> <｜authority｜> <｜domain｜> <｜title｜> <｜read_url｜> <｜extracted_url｜>
<｜fim▁begin｜> <｜fim▁hole｜> <｜fim▁end｜>""".split()

spellings = st.sampled_from(SPEC_8)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
snippets = st.sampled_from(["  ", "\n    ", "\r\n", "\t", "0123456789", "<", "｜", "é", "🙂", "\x00"])
tricky = st.lists(texts | spellings | snippets, max_size=12).map("".join)


def test_the_inventory_is_that_of_the_spec():
    assert list(SPECIAL_TOKENS) == SPEC_8
    assert re.fullmatch("<｜begin▁of▁sentence｜>", special.BOS) and "\uff5c" in special.BOS and "\u2581" in special.BOS


def test_control_ids_come_first_in_order(tokenizer):
    assert [tokenizer.control_id(token) for token in SPEC_8] == list(range(len(SPEC_8)))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 1)
    assert tokenizer.control_ids == frozenset(range(len(SPEC_8)))


@settings(max_examples=300, deadline=None)
@given(text=tricky)
def test_text_round_trips_and_never_yields_control_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.control_ids.isdisjoint(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_a_lone_surrogate_becomes_a_replacement_character(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.encode_batch(["a\udfff"]) == [tokenizer.encode("a\ufffd")]


def test_spellings_stay_text_even_if_the_training_text_is_full_of_them():
    learned = train_tokenizer(["".join(SPEC_8) * 20, "<think></think>" * 500] * 5, 1000)
    for spelling in SPEC_8:
        ids = learned.encode(f"a{spelling}b")
        assert learned.control_ids.isdisjoint(ids) and learned.decode(ids) == f"a{spelling}b"


@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_foreign_tokenizer_with_a_way_into_a_control_token_cannot_be_tricked(tokenizer, ignore_merges):
    definition = json.loads(json.dumps(tokenizer._definition))
    vocab, merges = definition["model"]["vocab"], definition["model"]["merges"]
    vocab["<z"], vocab["<z>"] = len(vocab), len(vocab) + 1
    merges += [["<", "z"], ["<z", ">"]]
    definition["model"]["ignore_merges"] = ignore_merges  # then a piece that is in the vocabulary is taken whole
    definition["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True}
    assert Tokenizer(definition).encode("<z>") == [vocab["<z>"]]  # the way is there
    definition["added_tokens"].append({"id": vocab["<z>"], "content": "<z>", "special": False})  # and "special" is not what protects
    strict = Tokenizer(definition)
    assert strict.encode("<z>") == [vocab["<z"], vocab[">"]]
    assert strict.encode_with_controls("<z>") == [vocab["<z>"]]


def test_of_two_control_tokens_that_begin_alike_the_longer_is_meant(tokenizer):
    definition = json.loads(json.dumps(tokenizer._definition))
    size = tokenizer.vocab_size
    definition["added_tokens"] += [{"id": size, "content": "<q>"}, {"id": size + 1, "content": "<q>r"}]
    assert Tokenizer(definition).encode_with_controls("<q><q>r") == [size, size + 1]


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.tuples(tricky, st.just(False)) | st.tuples(spellings, st.just(True)), max_size=8))
def test_parts_are_plain_text_between_control_ids(tokenizer, pieces):
    ids = tokenizer.encode_parts(pieces)
    assert tokenizer.decode(ids) == "".join(text for text, _ in pieces)
    assert [i for i in ids if i in tokenizer.control_ids] == [tokenizer.control_id(text) for text, control in pieces if control]


def test_where_plain_parts_are_cut_does_not_matter(tokenizer):
    text = "def sample(x):\n    return 12345"
    for at in range(len(text)):
        assert tokenizer.encode_parts([(text[:at], False), (text[at:], False)]) == tokenizer.encode(text)


def test_a_control_part_must_be_a_control_token(tokenizer):
    with pytest.raises(UserError, match="no control token <nope>"):
        tokenizer.encode_parts([("<nope>", True)])


def test_batches_equal_single_texts(tokenizer):
    some = sources()[:5] + ["", "<｜User｜>"]
    assert tokenizer.encode_batch(some) == [tokenizer.encode(text) for text in some]


def test_decoding_what_a_model_may_sample(tokenizer):
    assert tokenizer.decode([tokenizer.vocab_size + 5, -1]) == "\ufffd\ufffd"  # rows beyond the vocabulary
    assert tokenizer.decode([0, *tokenizer.encode("x"), 1]) == f"{special.BOS}x{special.EOS}"
    assert tokenizer.decode([0, *tokenizer.encode("x"), 1], skip_control=True) == "x"


# ---- streaming


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_stream_gives_the_whole_text_and_never_half_a_character(tokenizer, data):
    text = data.draw(tricky)
    ids = tokenizer.encode(text)
    decoder, shown = StreamDecoder(tokenizer), ""
    while ids:
        n = data.draw(st.integers(1, len(ids)))
        shown += decoder.feed(ids[:n])
        assert text.startswith(shown)  # no replacement character while the rest is still coming
        ids = ids[n:]
    assert shown + decoder.finish() == text


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_ids_stream_to_what_they_decode_to(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, 300), max_size=30))  # control ids and single bytes: mostly broken UTF-8
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.feed(i) for i in ids]) + decoder.finish() == tokenizer.decode(ids)
    assert decoder.feed(tokenizer.encode("again")) == "again"


def test_broken_bytes_show_at_once_but_unfinished_ones_wait(tokenizer):
    first, second = tokenizer.encode("é")[:2] if len(tokenizer.encode("é")) > 1 else (None, None)
    assert first is not None, "the small vocabulary should hold no é"
    decoder = StreamDecoder(tokenizer)
    assert decoder.feed(first) == ""
    assert decoder.feed(second) == "é"
    assert decoder.feed(second) == "\ufffd"  # a continuation byte that continues nothing
    assert decoder.feed(first) == "" and decoder.finish() == "\ufffd"


# ---- training


def test_training_is_deterministic_whatever_the_order_and_the_threads(tokenizer, tmp_path):
    code = ("import sys, pathlib; from fathom.text import train_tokenizer\n"
            "files = sorted(pathlib.Path('fathom/text').glob('*.py')); order = reversed(files) if sys.argv[2] == 'back' else files\n"
            "train_tokenizer((f.read_text() for f in order), 800).save(sys.argv[1])")
    root = Path(__file__).parents[2]
    for name, order, threads in (("a", "forth", "1"), ("b", "back", "3")):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), order], check=True, cwd=root,
                       env={"PYTHONHASHSEED": name == "a" and "1" or "2", "RAYON_NUM_THREADS": threads, "PATH": ""})
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()


def test_pieces_suit_code(tokenizer):
    def cut(text: str) -> list[str]:
        pre = tokenizer._bpe.pre_tokenizer.pre_tokenize_str(text)
        return [text[start:end] for _, (start, end) in pre]

    assert cut("x = 1234567") == ["x", " =", " ", "123", "456", "7"]
    assert cut("def f(a):\n        return a\n") == ["def", " f", "(a", "):\n       ", " return", " a", "\n"]
    assert cut("a\n\n    b") == ["a", "\n\n   ", " b"]
    assert cut("self._name") == ["self", "._", "name"]
    assert cut("end  \n") == ["end", "  \n"]


def test_long_runs_take_linear_time(tokenizer):
    for text in (" " * 200_000, "a" * 200_000, "\n " * 100_000, "(\n " * 60_000, "<｜User" * 30_000):
        assert tokenizer.decode(tokenizer.encode(text)) == text  # a quadratic path here would run into the test's time limit


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(UserError, match=r"vocab_size = 100: at least 274"):
        train_tokenizer(["text"], 100)


def test_little_text_gives_a_smaller_vocabulary():
    assert train_tokenizer([], 5000).vocab_size == 274
    assert train_tokenizer(["aa aa aa"], 5000).vocab_size < 290


# ---- files


@settings(max_examples=60, deadline=None)
@given(text=tricky)
def test_saved_tokenizers_load_in_transformers_with_the_same_ids(hf, tokenizer, text):
    assert tokenizer.encode_with_controls(text) == hf.encode(text, add_special_tokens=False) == hf.encode(text)
    assert hf.decode(tokenizer.encode_with_controls(text)) == text


@pytest.fixture(scope="module")
def hf(tokenizer, tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save(folder)
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def test_transformers_knows_the_special_tokens(hf, tokenizer):
    assert (hf.bos_token_id, hf.eos_token_id, hf.pad_token_id) == (0, 1, 1)
    assert len(hf) == tokenizer.vocab_size


def test_save_and_load_keep_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    text = "def f(): return '<think>'\n"
    for path in (tmp_path / "new" / "folder", tmp_path / "new" / "folder" / "tokenizer.json"):
        again = Tokenizer.load(path)
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode_with_controls(text) == tokenizer.encode_with_controls(text)
    again.save(tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]  # no drafts left


def test_a_failed_save_leaves_the_old_files(tokenizer, tmp_path, monkeypatch):
    tokenizer.save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left on device.*free some space"):
        train_tokenizer(["other text"], 300).save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_limit_on_length_in_the_file_is_not_obeyed(tokenizer):
    definition = {**tokenizer._definition, "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}}
    assert Tokenizer(definition).encode("one two three four") == tokenizer.encode("one two three four")


@pytest.mark.parametrize(("content", "said"), [
    (None, "no such file"),
    (b"\xff\xfe", "damaged"),
    (b'{"model": ', "damaged"),
    (b"[1]", "a JSON object"),
    (b"{}", "lacks `model.vocab`"),
    (b'{"added_tokens": [], "model": {"type": "WordPiece", "vocab": {}}}', "byte-level BPE"),
])
def test_missing_and_damaged_files_are_named(tmp_path, content, said):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        Tokenizer.load(tmp_path)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "said"), [
    (lambda d: d.update(normalizer={"type": "NFC"}), "normalizer"),
    (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "works on bytes"),
    (lambda d: d["added_tokens"].pop(1), "no control token <｜end▁of▁sentence｜>"),
    (lambda d: d["added_tokens"][5].update(lstrip=True), "swallow"),
    (lambda d: d["added_tokens"].append({"id": 3}), "`id` and `content`"),
    (lambda d: d["model"]["vocab"].pop("A"), "256 bytes"),
    (lambda d: d["model"]["merges"].append(["nowhere", "else"]), "out of vocabulary"),
])
def test_what_would_break_the_laws_is_refused(tokenizer, tmp_path, change, said):
    definition = json.loads(json.dumps(tokenizer._definition))
    change(definition)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)
