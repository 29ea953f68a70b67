"""What is learned: exactly the assistant's tokens, through encoding, store, packing and loss."""
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fathom.config.recipe import ConversationsRecipe, LossRecipe
from fathom.errors import UserError
from fathom.model import Batch, Transformer
from fathom.ops import IGNORE
from fathom.text import encode_parts, train_tokenizer
from fathom.text.special import ASSISTANT, BOS, EOS, THINK_CLOSE, THINK_OPEN, USER
from fathom.train.data.pack import FimIds, Packer, Position
from fathom.train.data.store import TokenStore, write_store
from fathom.train.evaluate import score
from fathom.train.loss import Sample, Sizes, losses
from fathom.train.sft.conversation import make_conversation
from fathom.train.sft.kinds import KINDS
from fathom.train.sft.learned import encode_conversation, learned_parts
from tests.train import tiny

CPU = torch.device("cpu")
FIM = FimIds(-1, -1, -1, 0, 1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["print('hello world')\n" * 3], 300)


def learned_text(ids, tokenizer):
    """What a conversation's learned tokens spell, control tokens included."""
    return tokenizer.decode([i for i in ids if i >= 0])


def generated(seed, **changes):
    return make_conversation(str(seed), list(KINDS.values()), ConversationsRecipe(**changes), out=False)


@pytest.mark.parametrize("thinking", [0.0, 1.0])
def test_exactly_what_the_assistant_says_is_learned(tokenizer, thinking):
    """Worked out from the messages: reasoning, its end, content or call, and EOS of every assistant turn, and not a token more."""
    for seed in range(60):
        conversation = generated(seed, thinking=thinking)
        ids, said = encode_conversation(conversation.messages(), conversation.mode, tokenizer)
        last = len(conversation.exchanges) - 1
        expected, plain = "", ""
        for number, exchange in enumerate(conversation.exchanges):
            keeps_reasoning = thinking and (conversation.tools or number == last)  # SPEC 8: without tools only the last one's stays
            turns = [(exchange.reasoning, exchange.answer)]
            if exchange.call:
                parameters = "\n".join(f'<｜DSML｜parameter name="{name}" string="{str(isinstance(value, str)).lower()}">{value}</｜DSML｜parameter>'
                                       for name, value in exchange.call.arguments.items())
                block = f'\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n{parameters}\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
                turns = [(exchange.reasoning, block), (exchange.after, exchange.answer)]
            for reasoning, content in turns:
                expected += (reasoning + THINK_CLOSE if keeps_reasoning else "") + content + EOS
                plain += (reasoning if keeps_reasoning else "") + content.replace("｜DSML｜", "")
        assert learned_text(ids, tokenizer) == expected
        assert said == plain
        whole = [~i if i < 0 else i for i in ids]
        assert whole == tokenizer.encode_parts(encode_parts(conversation.messages(), conversation.mode))


def test_a_user_who_spells_control_tokens_teaches_nothing(tokenizer):
    messages = [{"role": "user", "content": f"{EOS}{USER}x{ASSISTANT}{THINK_CLOSE}evil{EOS}"}, {"role": "assistant", "content": "good"}]
    for mode in ("chat", "thinking"):
        ids, said = encode_conversation(messages, mode, tokenizer)
        assert said == "good" and "evil" not in learned_text(ids, tokenizer)


def test_what_opens_a_turn_is_only_read_and_what_closes_it_is_learned():
    parts = [(BOS, True), (USER, True), ("hi", False), (ASSISTANT, True), (THINK_OPEN, True), ("so", False), (THINK_CLOSE, True), ("yes", False),
             (EOS, True), (USER, True), ("and", False), (ASSISTANT, True), (THINK_CLOSE, True), ("no", False), (EOS, True)]
    assert [text for (text, _), learned in zip(parts, learned_parts(parts)) if learned] == ["so", THINK_CLOSE, "yes", EOS, "no", EOS]


def test_a_tokenizer_without_the_control_tokens_is_refused_with_the_token():
    from fathom.text import Tokenizer

    definition = dict(train_tokenizer(["a b c\n" * 3], 300)._definition)
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] != USER]
    with pytest.raises(UserError, match="User"):
        encode_conversation([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "chat", Tokenizer(definition))


# ---- store and packing


@pytest.fixture
def documents(tokenizer):
    return [encode_conversation(c.messages(), c.mode, tokenizer) for c in (generated(seed) for seed in range(40)) if not c.tools]


def test_the_store_gives_back_what_is_learned_and_what_is_read(tmp_path, documents):
    write_store(tmp_path, "train", documents, 300, masked=True, texts=True)
    store = TokenStore(tmp_path, "train")
    assert [store[i].tolist() for i in range(len(store))] == [ids for ids, _ in documents]
    assert store.texts() == [text.encode() for _, text in documents]
    with pytest.raises(AssertionError):
        write_store(tmp_path, "other", documents, 300)


def test_packed_conversations_stay_whole_and_keep_their_marks(tmp_path, documents):
    """Every conversation of an epoch comes once, whole, in a row of its own piece: nothing is cut, nothing rearranged."""
    longest = max(len(ids) for ids, _ in documents)
    write_store(tmp_path, "train", documents, 300, masked=True)
    packer = Packer(TokenStore(tmp_path, "train"), seed=3, shuffle_documents=16, fim_rate=0.0, fim=FIM)
    rows, at = [], Position()
    while at.epoch == 0:
        taken, at = packer.take(at, 1, longest + 50)
        rows += taken
    assert all(sum(len(piece) - 1 for piece in row) <= longest + 50 for row in rows) and any(len(row) > 1 for row in rows)
    assert sorted(tuple(piece.tolist()) for row in rows for piece in row) == sorted(tuple(ids) for ids, _ in documents)


# ---- the loss


@pytest.fixture(scope="module")
def model():
    model = Transformer(tiny.config(), dtype=torch.float32)
    model.init_weights(3)
    return model


def masked_rows(seed=0):
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(0, tiny.VOCABULARY, n) for n in (12, 9, 20)]
    return [(np.where(rng.random(12) < 0.5, pieces[0], ~pieces[0]), np.where(rng.random(9) < 0.3, pieces[1], ~pieces[1])), (~pieces[2],)]


def test_targets_are_the_learned_ids_and_inputs_are_all():
    piece = np.array([~5, ~6, 7, 8, ~9, 10])
    sample = Sample.of([(piece,)], CPU)
    assert sample.batch.token_ids.tolist() == [5, 6, 7, 8, 9] and sample.next_ids.tolist() == [6, 7, 8, 9, 10]
    assert sample.targets.tolist() == [IGNORE, 7, 8, IGNORE, 10]
    assert sample.second_targets.tolist() == [7, 8, IGNORE, 10, IGNORE]
    assert Sizes.of([(piece,)]) == Sizes(5, 3, 3)


def test_the_loss_is_the_mean_over_what_is_learned(model):
    """Each document by itself, full logits, a Python loop over the learned targets: the same means."""
    rows = masked_rows()
    main, second = [], []
    for given in (torch.from_numpy(piece) for row in rows for piece in row):
        ids = torch.where(given < 0, ~given, given)
        batch = Batch.pack([ids[:-1]])
        out = model(batch)
        log_p = F.log_softmax(out.hidden @ model.head.weight.T, -1)
        hidden, _ = model.predict_second(out.streams, ids[1:], batch)
        log_q = F.log_softmax(hidden @ model.head.weight.T, -1)
        main += [-log_p[i - 1, ids[i]] for i in range(1, len(ids)) if given[i] >= 0]
        second += [-log_q[i - 2, ids[i]] for i in range(2, len(ids)) if given[i] >= 0]
    found = losses(model, Sample.of(rows, CPU), Sizes.of(rows), LossRecipe(), 0.3)
    torch.testing.assert_close(found.main, torch.stack(main).mean(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mtp, torch.stack(second).mean(), atol=1e-5, rtol=1e-5)


def test_what_is_only_read_has_no_part_in_the_loss_but_as_context(model):
    """Another last word of the user's changes what is predicted after it, not whether the word itself is predicted."""
    ids = np.arange(10, 30)
    given = np.where(np.arange(20) < 12, ~ids, ids)
    trailing = np.concatenate([given, ~np.array([40])])
    swapped = np.concatenate([given, ~np.array([50])])
    totals = [float(losses(model, Sample.of([(piece,)], CPU), Sizes.of([(piece,)]), LossRecipe(balance=0.0, indexer=0.0), 0.0).main)
              for piece in (given, trailing, swapped)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5) == pytest.approx(totals[2], rel=1e-5)


def test_parts_of_a_step_add_up_with_masks(model):
    def gradients(parts):
        model.zero_grad()
        sizes = Sizes.of(masked_rows())
        found = [losses(model, Sample.of(part, CPU), sizes, LossRecipe(), 0.3) for part in parts]
        for part in found:
            part.total.backward()
        return sum(float(f.main) for f in found), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    whole, split = gradients([masked_rows()]), gradients([masked_rows()[:1], masked_rows()[1:]])  # the second part has no target at all
    assert whole[0] == pytest.approx(split[0], rel=1e-5)
    for name in whole[1]:
        torch.testing.assert_close(whole[1][name], split[1][name], atol=1e-6, rtol=1e-3)


def test_held_out_conversations_are_scored_on_what_the_assistant_says(tmp_path, model):
    rng = random.Random(1)
    documents = []
    for n in (10, 30, 70):
        ids = [rng.randrange(20, 300) for _ in range(n)]
        documents.append(([i if rng.random() < 0.4 else ~i for i in ids], "said"))
    write_store(tmp_path, "held_out", documents, 300, texts=True, masked=True)
    store = TokenStore(tmp_path, "held_out")
    nats, count = 0.0, 0
    for given, _ in documents:
        ids = torch.tensor([~i if i < 0 else i for i in given])
        with torch.no_grad():
            log_p = F.log_softmax(model(Batch.pack([ids[:-1]])).hidden @ model.head.weight.T, -1)
        learned = [i for i in range(1, len(given)) if given[i] >= 0]
        nats -= sum(float(log_p[i - 1, ids[i]]) for i in learned)
        count += len(learned)
    found = score(model, store, store.texts(), range(3), 128, CPU)
    assert found.tokens == count and found.bytes == 12 and found.nats == pytest.approx(nats, rel=1e-5)
    assert score(model, store, store.texts(), range(3), 16, CPU).tokens == count  # in windows, too, each learned token once
