"""Text in, text out: a saved model, opened again, streams what the engine makes of it."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fathom
from fathom.checkpoint import save_checkpoint
from fathom.errors import UserError
from fathom.model import Transformer
from fathom.text import Tokenizer, train_tokenizer
from tests.oracle import randomise, tiny_config


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["def fib(n):\n    return n\n", "naïve café — ünïcödé 日本語 ☃"] * 20, 400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A run folder with one checkpoint."""
    run = tmp_path_factory.mktemp("runs") / "small"
    config = tiny_config(vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.bos_id)
    model = randomise(Transformer(config), 1)
    (run / "checkpoints").mkdir(parents=True)
    save_checkpoint(run / "checkpoints" / "step-3", config, model.tensors(), dtype="float32")
    tokenizer.save(run)
    return run


def test_pieces_make_the_text_and_no_character_is_split(folder: Path) -> None:
    session = fathom.load(folder, device="cpu", precision="fp32")
    for seed in range(5):
        options = dict(max_tokens=40, temperature=1.8, seed=seed)
        pieces = list(session.stream("naïve ☃", **options))
        assert "".join(pieces) == session.generate("naïve ☃", **options)
        assert all(piece for piece in pieces)


def test_a_stop_string_ends_the_text_before_it(folder: Path) -> None:
    session = fathom.load(folder, precision="float32")
    text = session.generate("def", max_tokens=60, temperature=1.0, seed=3)
    stop = text[10:13]
    assert session.generate("def", max_tokens=60, temperature=1.0, seed=3, stop=stop) == text[: text.index(stop)]


def test_bos_matters(folder: Path) -> None:
    session = fathom.load(folder, precision="fp32")
    assert session.generate("def fib", max_tokens=30, temperature=0) != session.generate("def fib", max_tokens=30, temperature=0, bos=False)


def test_chat_gives_a_message(folder: Path) -> None:
    session = fathom.load(folder, precision="fp32")
    message = session.chat([{"role": "user", "content": "Hello <｜Assistant｜>"}], thinking=False, max_tokens=12)
    assert message["role"] == "assistant" and isinstance(message["content"], str)
    with pytest.raises(UserError, match="system"):
        session.chat([{"role": "system", "content": "x"}])


def test_precisions_agree(folder: Path) -> None:
    text = "def fib(n):\n    return n\n"
    exact = torch.tensor(fathom.load(folder, precision="fp32").logprobs(text))
    rough = torch.tensor(fathom.load(folder, precision="bf16").logprobs(text))
    assert (exact - rough).abs().max() < 0.3 and not torch.equal(exact, rough)


@pytest.mark.parametrize(("path", "options", "field"), [
    ("nowhere", {}, "model"), ("", {"precision": "int3"}, "precision"), ("", {"device": "abacus"}, "device"),
])
def test_refused(folder: Path, path: str, options: dict, field: str) -> None:
    with pytest.raises(UserError) as e:
        fathom.load(folder / path if path else folder, **options)
    assert e.value.field == field


def test_a_run_without_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="without a checkpoint"):
        fathom.load(tmp_path)
