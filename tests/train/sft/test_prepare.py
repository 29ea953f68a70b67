"""From a recipe to a store: whole conversations, sides that don't share a question, the same bytes each time."""
import json

import pytest

from fathom.errors import UserError
from fathom.text import Tokenizer
from fathom.train.data.store import TokenStore
from fathom.train.sft import prepare as prepare_module
from fathom.train.sft.exchange import words_of
from fathom.train.sft.prepare import check_conversations, prepare
from tests.train import tiny
from tests.train.sft import small

CONFIG = tiny.config(max_position_embeddings=4096)
PLAIN = [{"length": 256}]  # stages without a lesson


def quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.pretrained(tmp_path_factory.mktemp("base")).checkpoints()[-1][1]


def decoded(folder, name):
    """The conversations of a split, as text."""
    tokenizer, store = Tokenizer.load(folder), TokenStore(folder, name)
    return [tokenizer.decode([~i if i < 0 else i for i in store[n].tolist()]) for n in range(len(store))]


def own(folder, count, content="hi"):
    file = folder / "own.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"{content} {n}"}, {"role": "assistant", "content": f"ho {n}"}]} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_store_of_whole_conversations(tmp_path, base):
    summary = prepare(small.recipe(base), CONFIG, tmp_path / "s", quiet)
    stores = {name: TokenStore(tmp_path / "s", name) for name in ("train", "train-echo", "held_out")}
    assert summary.conversations == 80 and summary.held_out == 40
    for name, store in stores.items():
        texts = decoded(tmp_path / "s", name)
        assert len(texts) == 40
        for text in texts:
            assert text.startswith("<｜begin▁of▁sentence｜>") and text.endswith("<｜end▁of▁sentence｜>")
        shortest = 256 if name == "train-echo" else 384  # that stage's rows hold any of them
        assert all(len(store[i]) <= shortest + 1 for i in range(len(store)))
    assert 0 < summary.learned < summary.tokens == stores["train"].num_tokens + stores["train-echo"].num_tokens
    assert Tokenizer.load(tmp_path / "s").encode("x = 1") == Tokenizer.load(base).encode("x = 1")


def test_a_lesson_has_its_own_kinds_and_no_other_stage_has_its_conversations(tmp_path, base):
    prepare(small.recipe(base, stage=[{"length": 100, "kinds": ["echo"]}, {"start": 0.3, "length": 90, "kinds": ["lists", "echo"]},
                                      {"start": 0.6, "length": 384}], conversations={"kinds": ["greetings"]}), CONFIG, tmp_path / "s", quiet)
    echoes, mixed, rest = ("\n".join(decoded(tmp_path / "s", name)) for name in ("train-echo", "train-lists-echo", "train"))
    assert "Sure: " in echoes and "Hello" not in echoes + mixed and "Sure: " not in rest and "Hello" in rest
    assert any(word in mixed for word in ("Sorted: ", "Reversed: ", "The first")) and "Sure: " in mixed and "Sorted: " not in echoes
    assert set(decoded(tmp_path / "s", "train-echo")).isdisjoint(decoded(tmp_path / "s", "train-lists-echo"))
    assert all("Hello" in text or "goodbye" in text.lower() or "welcome" in text for text in decoded(tmp_path / "s", "held_out"))


@pytest.mark.parametrize(("conversations", "kinds", "said"), [
    ({}, ["echoes"], "stage.kinds"), ({"generated": 0, "paths": ["own.jsonl"]}, ["echo"], "nothing is generated"),
])
def test_a_lesson_that_cant_be_given_is_refused(base, conversations, kinds, said):
    with pytest.raises(UserError, match=said):
        check_conversations(small.recipe(base, conversations=conversations, stage=[{"kinds": kinds}, {"start": 0.5}]))


def test_no_question_is_on_both_sides(tmp_path, base):
    prepare(small.recipe(base, conversations={"generated": 300}), CONFIG, tmp_path / "s", quiet)
    def questions(name):
        parts = [turn.partition("<｜Assistant｜>")[0] for text in decoded(tmp_path / "s", name) for turn in text.split("<｜User｜>")[1:]]
        return {words_of(part) for part in parts}

    trained, kept = questions("train"), questions("held_out")
    assert len(kept) > 100 and not trained & kept


def test_the_same_recipe_gives_the_same_bytes_and_another_seed_others(tmp_path, base):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(small.recipe(base, seed=seed), CONFIG, tmp_path / name, quiet)
    files = {name: {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "abc"}
    assert files["a"] == files["b"] and files["a"]["train.tokens"] != files["c"]["train.tokens"]


def test_a_long_conversation_loses_its_last_questions_and_none_is_cut(tmp_path, base):
    long = prepare(small.recipe(base, conversations={"turns": 8}, stage=[{"length": 900}]), CONFIG, tmp_path / "long", quiet)
    short = prepare(small.recipe(base, conversations={"turns": 8}, stage=[{"length": 150}]), CONFIG, tmp_path / "short", quiet)
    assert long.conversations == 40 and 30 < short.conversations <= 40 and short.conversations + short.held_out + short.too_long == 80
    for name in ("train", "held_out"):
        whole, fitting = decoded(tmp_path / "long", name), decoded(tmp_path / "short", name)
        assert max(text.count("<｜User｜>") for text in whole) > max(text.count("<｜User｜>") for text in fitting) >= 1
        assert all(text.endswith("<｜end▁of▁sentence｜>") for text in fitting)


def test_rows_too_short_for_any_conversation_are_refused_and_nothing_is_left(tmp_path, base):
    with pytest.raises(UserError, match="stage.length"):
        prepare(small.recipe(base, stage=[{"length": 8}]), CONFIG, tmp_path / "s", quiet)
    assert not list(tmp_path.iterdir())


def test_your_own_come_beside_the_generated_ones_or_alone(tmp_path, base):
    path = own(tmp_path, 60)
    both = prepare(small.recipe(base, conversations={"paths": [path]}), CONFIG, tmp_path / "both", quiet)
    alone = prepare(small.recipe(base, conversations={"paths": [path], "generated": 0}, stage=PLAIN), CONFIG, tmp_path / "alone", quiet)
    assert both.own == alone.own == 60 and alone.conversations + alone.held_out == 60 and both.conversations + both.held_out == 60 + 40 * 3
    assert not any(text.endswith(">hi<｜end▁of▁sentence｜>") for text in decoded(tmp_path / "both", "train-echo"))
    train, kept = decoded(tmp_path / "alone", "train"), decoded(tmp_path / "alone", "held_out")
    assert 1 <= len(kept) < 20 and not set(train) & set(kept) and all("hi" in text for text in train + kept)
    assert set(kept) <= set(decoded(tmp_path / "both", "held_out"))


def test_one_of_your_own_that_is_longer_than_a_row_is_left_out_and_counted(tmp_path, base):
    path = own(tmp_path, 10, content="hi " * 300)
    summary = prepare(small.recipe(base, conversations={"paths": [path]}), CONFIG, tmp_path / "s", quiet)
    assert summary.own == 0 and summary.too_long == 10 and "10 longer than a row" in summary.lines()[1]


def test_two_of_your_own_are_enough(tmp_path, base):
    path = own(tmp_path, 2)
    summary = prepare(small.recipe(base, conversations={"paths": [path], "generated": 0}, stage=PLAIN), CONFIG, tmp_path / "s", quiet)
    assert (summary.conversations, summary.held_out) == (1, 1)
    with pytest.raises(UserError, match="at least two conversations"):
        check_conversations(small.recipe(base, conversations={"paths": [own(tmp_path, 1)], "generated": 0}, stage=PLAIN))
    with pytest.raises(UserError, match="at least two conversations"):
        check_conversations(small.recipe(base, conversations={"generated": 0}, stage=PLAIN))


def test_an_unknown_kind_is_refused_with_those_that_exist(base):
    with pytest.raises(UserError) as error:
        check_conversations(small.recipe(base, conversations={"kinds": ["greeting"]}))
    assert error.value.field == "conversations.kinds" and "greetings" in error.value.allowed


def test_a_half_made_store_is_made_again(tmp_path, base, monkeypatch):
    prepare(small.recipe(base), CONFIG, tmp_path / "good", quiet)
    real = prepare_module.write_store

    def dies(folder, name, *args, **kwargs):
        if name == "held_out":
            raise KeyboardInterrupt
        real(folder, name, *args, **kwargs)

    monkeypatch.setattr(prepare_module, "write_store", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(small.recipe(base), CONFIG, tmp_path / "s", quiet)
    assert not (tmp_path / "s").exists()
    monkeypatch.undo()
    prepare(small.recipe(base), CONFIG, tmp_path / "s", quiet)
    for file in (tmp_path / "good").iterdir():
        assert (tmp_path / "s" / file.name).read_bytes() == file.read_bytes()
