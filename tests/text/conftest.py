"""One small tokenizer for the whole room, trained on the room's own sources."""
from pathlib import Path

import pytest

import fathom.text
from fathom.text import Tokenizer, train_tokenizer


def sources() -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(Path(fathom.text.__file__).parent.glob("*.py"))]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(sources(), 1500)
